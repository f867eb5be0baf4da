"""Fixtures shared by the tests: the array libraries of this machine, and a drawn map for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


from rfx.testing import ArrayLibrary, array_libraries

LIBRARIES = array_libraries()


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
