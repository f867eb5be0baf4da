"""Which code runs is decided by the array, can be asked, and can be forced."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx import dispatch
from rfx.dispatch import FastPath
from rfx.testing import ArrayLibrary, assert_agrees

PATHS = {"numpy": "numpy-fused", "torch": "torch-fused", "jax": "jax-scan"}


def problem(lib: ArrayLibrary):
    rng = np.random.default_rng(50)
    arrays = [lib.convert(a) for a in rng.standard_normal((3, 2, 40, 4)).astype(np.float32)]
    phi = rfx.features.Positive(num_features=16).draw(4, seed=0, like=arrays[0])
    return arrays, phi


@pytest.mark.parametrize("is_causal", [False, True])
def test_explain_names_the_path_of_the_arrays_library(lib: ArrayLibrary, is_causal: bool) -> None:
    arrays, phi = problem(lib)
    found = rfx.explain(rfx.linear_attention, *arrays, features=phi, is_causal=is_causal)
    assert found.library == lib.library
    assert found.op == ("causal" if is_causal else "bidirectional")
    assert found.implementation == PATHS.get(lib.library, "portable")
    assert found.implementation in str(found)


def test_explain_says_so_where_there_is_one_implementation(lib: ArrayLibrary) -> None:
    arrays, phi = problem(lib)
    assert rfx.explain(rfx.gram, *arrays[:2], features=phi).op is None
    assert "portable" in str(rfx.explain(rfx.kernel_attention, *arrays))


def test_explain_checks_arguments_as_the_call_does(lib: ArrayLibrary) -> None:
    (q, k, v), phi = problem(lib)
    with pytest.raises(ValueError, match="same length"):
        rfx.explain(rfx.linear_attention, q, k, v[:, 1:, :], features=phi)
    with pytest.raises(TypeError, match=r"must be rfx\.linear_attention"):
        rfx.explain(len, q)


def serving(arrays: list, call: dict) -> list[str]:
    """The fast paths that would take a call."""
    op, args, options = rfx.linear_attention.plan(*arrays, **call)
    options.pop("implementation")
    paths = dispatch.load(rfx.explain(rfx.linear_attention, *arrays, **call).library)
    return [
        p.name
        for p in paths
        if p.op == op.name and p.refusal(*args, by_name=True, **options) is None
    ]


@pytest.mark.parametrize("is_causal", [False, True])
def test_fast_paths_agree_with_the_portable_body(lib: ArrayLibrary, is_causal: bool) -> None:
    arrays, phi = problem(lib)
    call = {"features": phi, "is_causal": is_causal, "chunk_size": 16, "return_state": True}
    want, state = rfx.linear_attention(*arrays, implementation="portable", **call)
    with rfx.options(implementation="portable"):
        again, _ = rfx.linear_attention(*arrays, **call)
    for name in serving(arrays, call):
        got, other = rfx.linear_attention(*arrays, implementation=name, **call)
        assert_agrees(got, np.asarray(want), scale=16.0)
        assert_agrees(other.numerator, np.asarray(state.numerator), scale=16.0)
    assert_agrees(again, np.asarray(want))


def test_a_forced_path_leaves_other_ops_alone() -> None:
    x = np.random.default_rng(51).standard_normal((40, 4))
    phi = rfx.features.Trigonometric(num_features=16).draw(4, seed=0, like=x)
    want = rfx.gram(x, x, features=phi)
    with rfx.options(implementation="numpy-threads"):
        assert_agrees(rfx.gram(x, x, features=phi), want)
        found = rfx.explain(rfx.linear_attention, x, x, x, features=phi)
    assert found.implementation == "numpy-threads"


def test_a_path_that_is_not_there_cannot_be_forced(lib: ArrayLibrary) -> None:
    arrays, phi = problem(lib)
    with pytest.raises(ValueError, match="known are portable"):
        rfx.linear_attention(*arrays, features=phi, implementation="warp-drive")
    with rfx.options(implementation="warp-drive"), pytest.raises(ValueError, match="warp-drive"):
        rfx.linear_attention(*arrays, features=phi)
    with pytest.raises(TypeError, match="must be a string"), rfx.options(implementation=3):
        pass


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch):
    def register(*paths: FastPath) -> None:
        monkeypatch.setitem(dispatch._loaded, "numpy", paths)

    return register


def numpy_problem():
    x = np.zeros((1, 4, 2))
    return x, rfx.features.Positive(num_features=4).draw(2, seed=0, like=x)


def test_a_refusal_is_a_sentence_and_the_next_path_runs(registered) -> None:
    def marked(features, query, key, value, mask, carry, *, chunk_size):
        return query + 7.0, carry

    shy = FastPath(
        "bidirectional", "numpy", "shy", marked, ("cpu",), lambda *a, **k: "it is shy today"
    )
    remote = FastPath("bidirectional", "numpy", "remote", marked, ("cuda",))
    willing = FastPath("bidirectional", "numpy", "willing", marked, ("cpu",))
    x, phi = numpy_problem()
    registered(shy, remote, willing)
    assert (rfx.linear_attention(x, x, x, features=phi) == 7.0).all()
    found = rfx.explain(rfx.linear_attention, x, x, x, features=phi)
    assert found.implementation == "willing"
    assert found.reasons == (
        "shy refused: it is shy today",
        "remote refused: remote serves cuda, but the arrays are on cpu",
    )
    with pytest.raises(ValueError, match="it is shy today"):
        rfx.linear_attention(x, x, x, features=phi, implementation="shy")
    registered(shy)
    assert (rfx.linear_attention(x, x, x, features=phi) == 0.0).all()


def test_an_exception_in_a_path_propagates(registered) -> None:
    def broken(*args, **kwargs):
        raise ZeroDivisionError("inside")

    registered(FastPath("bidirectional", "numpy", "broken", broken, ("cpu",)))
    x, phi = numpy_problem()
    with pytest.raises(ZeroDivisionError, match="inside"):
        rfx.linear_attention(x, x, x, features=phi)


def test_every_backend_folder_is_registered() -> None:
    folders = {p.name for p in (Path(__file__).parents[1] / "backends").glob("rfx_*")}
    folders.remove("rfx_numba")  # what two of them share
    assert {e.value.partition(":")[0] for e in entry_points(group="rfx.backends")} == folders


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_numpy_users_import_no_framework() -> None:
    code = """
import sys, numpy as np, rfx
x = np.zeros((1, 8, 4))
phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=x)
rfx.linear_attention(x, x, x, features=phi, is_causal=True)
rfx.gram(x, x, features=phi)
print([m for m in ("torch", "jax", "cupy", "scipy", "matplotlib", "rich") if m in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_importing_rfx_costs_at_most_60_ms_more_than_numpy() -> None:
    code = """
import time
import numpy
start = time.perf_counter()
import rfx
print(time.perf_counter() - start)
"""
    # The least of several: other tests run beside this one.
    assert any(float(run(code)) < 0.060 for _ in range(12))


def test_libraries_lists_what_is_here() -> None:
    found = {library.name: library for library in rfx.libraries()}
    assert found["numpy"].version == np.__version__
    for name, path in PATHS.items():
        assert found[name].problem is None
        assert path in {p.name for p in found[name].fast_paths}
        assert any("cpu" in device.lower() for device in found[name].devices)


@pytest.mark.parametrize("name", ["features", "kernels", "projections"])
def test_names_that_are_imported_on_demand_are_listed_and_found(name: str) -> None:
    code = f"""
import rfx
package = rfx.{name}
assert dir(package) == sorted(package.__all__), dir(package)
for each in package.__all__:
    getattr(package, each)
try:
    package.Nothing
except AttributeError as error:
    print(error)
"""
    assert run(code).strip() == f"module 'rfx.{name}' has no attribute 'Nothing'"
