"""Fixtures shared by the tests: the array libraries of this machine, and a drawn map for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx.testing import ArrayLibrary, array_libraries

LIBRARIES = array_libraries()


def one_name_per_form() -> tuple[str, ...]:
    """The first map of each canonical form: what stands for a family where time is short."""
    found: dict[type, str] = {}
    for name, spec in zip(rfx.features.NAMES, rfx.features.ALL, strict=True):
        drawn = spec.fit(np.ones((3, 4)), np.ones((3, 4)), seed=0)
        found.setdefault(type(drawn), name)
    return tuple(found.values())


@pytest.fixture(params=LIBRARIES, ids=str)
def lib(request: pytest.FixtureRequest) -> ArrayLibrary:
    return request.param


@pytest.fixture(scope="session")
def activations() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data" / "qkv"
    if not folder.is_dir():
        pytest.skip(f"the real activations are not at {folder}")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_240_601)
