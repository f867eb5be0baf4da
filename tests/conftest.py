"""Fixtures shared by the tests: the array libraries of this machine, and a drawn map for each."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx.cli import main
from rfx.testing import ArrayLibrary, array_libraries, drawn


def xla_flags() -> str:
    """What makes XLA compile fast: compiling is most of the time that JAX takes here.

    And the newer emitters of fused loops are most of that. XLA aborts at a flag that it does not
    know, so older versions are spared this one.
    """
    flags = "--xla_backend_optimization_level=0"
    known = importlib.util.find_spec("jaxlib") and importlib.metadata.version("jaxlib")
    if known and tuple(map(int, known.split(".")[:2])) >= (0, 6):
        flags += " --xla_cpu_use_fusion_emitters=false"
    return flags


os.environ.setdefault("XLA_FLAGS", xla_flags())  # read by XLA at the first array of JAX
# Read when torch is imported. Threads that spin while they wait take the cores of other workers.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
LIBRARIES = array_libraries()


def one_name_per_form() -> tuple[str, ...]:
    """A map for each way in which attention works: what stands for all where time is short.

    They differ in whether features have one log a row, and in whether they are more than an
    exponential. Of exponential maps it is one with placed points and arrays of its own for either
    side.
    """
    found: dict[tuple[bool, bool], str] = {}
    for name, spec in zip(rfx.features.NAMES, rfx.features.ALL, strict=True):
        phi = drawn(spec, 4, like=np.zeros(1))
        plain = phi.query(np.ones((1, 4))).value is None
        found.setdefault((phi.scale_per_feature, plain), name)
    return tuple({"favor+": "dense"}.get(name, name) for name in found.values())


def one_spec_per_class() -> tuple[rfx.features.Spec, ...]:
    """A spec for each class of drawn maps: what stands for all where every map is compiled anew.

    Each map runs on each library in test_matrix.py.
    """
    found = {type(drawn(spec, 4, like=np.zeros(1))): spec for spec in reversed(rfx.features.ALL)}
    return tuple(found.values())


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence of a command that must fail with exit code 2 and print nothing else."""
    try:
        code = main(argv)
    except SystemExit as exit:  # argparse leaves this way
        code = exit.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("rfx: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("rfx: error: ").rstrip("\n")


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
