"""The loops that numba compiles: when they run, and what differs from the other paths."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

import rfx
from rfx import ops, reference
from rfx._xp import to_numpy
from rfx.testing import EPS, ArrayLibrary, assert_agrees

pytest.importorskip("numba")
torch = pytest.importorskip("torch")

CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
PATHS = pytest.mark.parametrize(
    ("path", "is_causal"), list(product(("numpy-numba", "torch-numba"), (False, True)))
)


def problem(path: str, shape: tuple[int, ...] = (2, 100, 8), m: int = 24):
    library = path.partition("-")[0]
    convert = ArrayLibrary(library, library).convert
    arrays = [convert(a, "float32") for a in np.random.default_rng(0).standard_normal((3, *shape))]
    phi = rfx.features.Positive(num_features=m).draw(shape[-1], seed=1, like=arrays[0])
    return arrays, phi


def chosen(arrays, phi, **call) -> tuple[str, tuple[str, ...]]:
    found = rfx.explain(rfx.linear_attention, *arrays, features=phi, **call)
    return found.implementation, found.reasons


@PATHS
def test_long_calls_run_compiled_and_short_ones_do_not(path: str, is_causal: bool) -> None:
    long, phi = problem(path, (8, 512, 64), 256)
    assert chosen(long, phi, is_causal=is_causal)[0] == path
    name, reasons = chosen([a[:, :200] for a in long], phi, is_causal=is_causal)
    assert name == path.replace("numba", "fused")
    assert f"{path} refused: the call is too short to load numba for" in reasons


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_token_runs_compiled(library: str) -> None:
    arrays, phi = problem(library, (2, 1, 8))
    assert chosen(arrays, phi)[0] == f"{library}-numba-step"


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_without_numba_another_path_runs_and_says_why(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr("rfx_numba.refusals.is_installed", lambda: False)
    for shape in ((8, 512, 64), (8, 1, 64)):
        arrays, phi = problem(library, shape, 256)
        name, reasons = chosen(arrays, phi, is_causal=True)
        assert "numba" not in name
        assert any("numba or SciPy is not installed" in reason for reason in reasons)
    with pytest.raises(ValueError, match=r"rfx-features\[numba\]"):
        rfx.linear_attention(*arrays, features=phi, implementation=f"{library}-numba-step")


def test_importing_rfx_and_drawing_a_map_import_no_numba() -> None:
    code = """
import sys, numpy as np, rfx
x = np.zeros((2, 40, 8), np.float32)
phi = rfx.features.Positive(num_features=16).draw(8, seed=0, like=x)
rfx.linear_attention(x, x, x, features=phi)
print("numba" in sys.modules, "scipy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_torch_keeps_calls_with_few_heads() -> None:
    arrays, phi = problem("torch", (1, 4096, 64), 256)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        name, reasons = chosen(arrays, phi, is_causal=True)
        assert name == "torch-fused"
        assert "torch-numba refused: there are too few heads (1) to keep 2 threads busy" in reasons
        torch.set_num_threads(1)
        assert chosen(arrays, phi, is_causal=True)[0] == "torch-numba"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("change", ["float64", "gradient of a step", "float16 values"])
def test_what_it_does_not_serve_is_refused(change: str) -> None:
    (q, k, v), phi = problem("torch", (2, 1, 8) if change == "gradient of a step" else (2, 100, 8))
    path = "torch-numba"
    if change == "float64":
        q, k, v = q.double(), k.double(), v.double()
        phi, why = phi.to_like(q), "float32, and an array is torch.float64"
    elif change == "gradient of a step":
        k, path, why = k.requires_grad_(), "torch-numba-step", "it has no gradient"
    else:
        v, why = v.half(), "float32, and an array is torch.float16"
    call = {"features": phi, "is_causal": True, "implementation": path}
    with pytest.raises(ValueError, match=why):
        rfx.linear_attention(q, k, v, **call)
    with torch.no_grad():
        if change == "gradient of a step":
            assert not rfx.linear_attention(q, k, v, **call).requires_grad


@PATHS
def test_the_number_of_threads_changes_nothing(path: str, is_causal: bool) -> None:
    arrays, phi = problem(path, (5, 300, 16), 40)
    call = {"features": phi, "is_causal": is_causal, "implementation": path}
    found = []
    for threads in (1, 2, 3):
        with rfx.options(threads=threads):
            found.append(to_numpy(rfx.linear_attention(*arrays, **call)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@CAUSAL
def test_arrays_of_any_layout(is_causal: bool) -> None:
    (q, k, v), phi = problem("numpy")
    call = {"features": phi, "is_causal": is_causal, "implementation": "numpy-numba"}
    want = rfx.linear_attention(q, k, v, **call)
    spread = np.zeros((2, 200, 16), np.float32)[:, ::2, ::2]
    spread[...] = q
    fixed = k.swapaxes(0, 1).copy().swapaxes(0, 1)
    fixed.flags.writeable = False
    np.testing.assert_array_equal(rfx.linear_attention(spread, fixed, v, **call), want)
    shared = np.broadcast_to(v[:1], v.shape)
    alone = rfx.linear_attention(q, k, shared.copy(), **call)
    np.testing.assert_array_equal(rfx.linear_attention(q, k, shared, **call), alone)
    crooked = np.frombuffer(b"\0" + q.tobytes(), np.float32, offset=1).reshape(q.shape)
    np.testing.assert_array_equal(rfx.linear_attention(crooked, k, v, **call), want)
    swapped = {n: a.astype(a.dtype.newbyteorder()) for n, a in phi.arrays().items()}
    call["features"] = phi.with_arrays(swapped)
    np.testing.assert_array_equal(rfx.linear_attention(q, k, v, **call), want)


@PATHS
@pytest.mark.parametrize("place", ["query", "key", "value", "masked"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_would(
    path: str, is_causal: bool, place: str, bad: float
) -> None:
    library = path.partition("-")[0]
    arrays, phi = problem("numpy")
    arrays = [a.copy() for a in arrays]
    arrays[{"query": 0, "key": 1, "value": 2, "masked": 1}[place]][1, 60, 3] = bad
    mask = None
    if place == "masked":
        arrays[2][1, 60] = bad
        mask = np.arange(100) != 60
    convert = ArrayLibrary(library, library).convert
    q, k, v = (convert(a) for a in arrays)
    call = {"features": phi.to_like(q), "is_causal": is_causal, "chunk_size": 32}
    call |= {"mask": None if mask is None else convert(mask, "bool"), "return_state": True}
    with np.errstate(all="ignore"):
        want, wanted = rfx.linear_attention(q, k, v, implementation="portable", **call)
        got, state = rfx.linear_attention(q, k, v, implementation=path, **call)
    want, got = to_numpy(want), to_numpy(got)
    for name in ("numerator", "denominator", "log_scale"):
        finite = [np.isfinite(to_numpy(getattr(s, name))) for s in (state, wanted)]
        np.testing.assert_array_equal(*finite, err_msg=name)
    if place == "masked":
        assert np.isfinite(got).all()
    else:
        assert not np.isfinite(got[1, 60]).all()
    # In bad keys the paths agree on which rows are touched at all, chunk by chunk.
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    both = np.isfinite(want)
    np.testing.assert_allclose(got[both], want[both], rtol=1e-4, atol=1e-5)


def test_exp_is_right_to_the_last_places() -> None:
    kernels = importlib.import_module("rfx_numba.kernels")
    x = -np.geomspace(1e-8, 200.0, 50_000).astype(np.float32)
    log, scale = x[None].copy(), np.zeros(len(x), np.float32)
    total = np.empty_like(scale)
    weigh = kernels.compiled("_weigh_keys")
    weigh(log, np.empty(0, np.bool_), scale, total)
    want = np.exp(x.astype(np.float64))
    normal = x >= -87.0
    assert (np.abs(log[0] - want)[normal] <= 2 * EPS["float32"] * want[normal]).all()
    assert (log[0][~normal] == 0.0).all()


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("size", [1.0, 300.0, 1e5, 1e9])
def test_waves_of_small_and_of_large_angles(library: str, paired: bool, size: float) -> None:
    """Large ones leave the polynomials' range; an angle is right to eps times its size anyway."""
    convert = ArrayLibrary(library, library).convert
    x = convert(size * np.random.default_rng(2).standard_normal((3, 171, 5)), "float32")
    spec = rfx.features.Trigonometric(34, kernel=rfx.kernels.Gaussian(), offset=not paired)
    phi = spec.draw(5, seed=3, like=x)
    with rfx.options(implementation=f"{library}-numba"):
        assert ops.features.choose(phi, x, side="query")[1][0] == f"{library}-numba"
        found = to_numpy(phi.query(x).exp())
    log, value = reference.features(phi, x, "query")
    weight = np.abs(to_numpy(phi.query_side.weight))
    angle = np.abs(to_numpy(x)).astype(np.float64) @ weight + 2 * np.pi
    angle = np.concatenate([angle] * (34 // angle.shape[-1]), axis=-1)
    assert found.shape == value.shape
    assert np.abs(found).max() <= (1 + EPS["float32"]) * np.exp(log).max() * np.abs(value).max()
    assert (np.abs(found - np.exp(log) * value) <= EPS["float32"] * (8 + 4 * angle)).all()


def test_features_of_many_points_run_compiled() -> None:
    x = np.zeros((5000, 5), np.float32)
    phi = rfx.features.Trigonometric(1024, kernel=rfx.kernels.Gaussian()).draw(5, seed=0, like=x)
    assert ops.features.choose(phi, x, side="query")[1][0] == "numpy-numba"
    few = ops.features.choose(phi, x[:1000], side="query")[1][0]
    assert few == "numpy-blocks"


def test_without_a_folder_for_a_cache_each_process_compiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numba, caching = (importlib.import_module(n) for n in ("numba", "numba.core.caching"))
    kernels = importlib.import_module("rfx_numba.kernels")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def double(x):
        x *= 2

    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(numba.void(numba.float32[::1]), cache=True)(double)
    x = np.ones(3, np.float32)
    kernels._kernel(numba.void(numba.float32[::1]))(double)(x)
    np.testing.assert_array_equal(x, 2.0)


@CAUSAL
def test_a_value_of_one_column_and_a_map_of_one_feature(is_causal: bool) -> None:
    (q, k, v), phi = problem("numpy", m=1)
    call = {"features": phi, "is_causal": is_causal}
    out = rfx.linear_attention(q, k, v[..., :1], implementation="numpy-numba", **call)
    want = reference.linear_attention(q, k, v[..., :1], **call)
    scale = reference.log_size(q, k, features=phi)
    assert_agrees(out, want, scale=scale, size=float(np.abs(v).max()))


@CAUSAL
def test_chunks_are_as_long_as_small_products_allow(
    monkeypatch: pytest.MonkeyPatch, is_causal: bool
) -> None:
    chunks = importlib.import_module("rfx_numba.chunks")
    monkeypatch.setattr(chunks, "_packs_no_small_products", lambda: True)
    rows = [chunks.rows_at_once(is_causal, *shape) for shape in ((64, 64), (256, 64), (512, 64))]
    assert rows == [56, 56, 30]
    usual = 96 if is_causal else 256
    assert chunks.rows_at_once(is_causal, 1024, 64) == usual
    monkeypatch.setattr(chunks, "_packs_no_small_products", lambda: False)
    assert chunks.rows_at_once(is_causal, 64, 64) == usual


@pytest.mark.parametrize("rows", [1, 24, 56, 96, 256])
@CAUSAL
def test_chunks_of_any_length_agree(
    monkeypatch: pytest.MonkeyPatch, is_causal: bool, rows: int
) -> None:
    attention = importlib.import_module("rfx_numba.attention")
    monkeypatch.setattr(attention, "rows_at_once", lambda *_: rows)
    (q, k, v), phi = problem("numpy", (2, 300, 8))
    call = {"features": phi, "is_causal": is_causal}
    out = rfx.linear_attention(q, k, v, implementation="numpy-numba", chunk_size=300, **call)
    want = reference.linear_attention(q, k, v, **call)
    scale = reference.log_size(q, k, features=phi)
    assert_agrees(out, want, scale=scale, size=float(np.abs(v).max()))


class Labelled(torch.Tensor):
    """A tensor of a class of its own."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracers_and_subclasses_of_tensors_are_left_to_torch() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    (x, y, _), phi = problem("torch", (2, 1, 8))

    def attend(x):
        return rfx.linear_attention(x, x, x, features=phi)

    want = attend(y)
    assert chosen([x] * 3, phi)[0] == "torch-numba-step"
    torch.testing.assert_close(torch.jit.trace(attend, (x,), check_trace=False)(y), want)
    torch.testing.assert_close(make_fx(attend)(x)(y), want)
    named = y.as_subclass(Labelled)
    name, reasons = chosen([named] * 3, phi)
    assert name == "torch-step"
    assert "torch-numba-step refused: it serves plain tensors, and one is a Labelled" in reasons


def test_tensors_with_a_negative_bit() -> None:
    (x, y, v), phi = problem("torch", (2, 1, 8))
    negative = torch.complex(x, y).conj().imag
    assert negative.is_neg()
    got = rfx.linear_attention(negative, negative, v, features=phi)
    torch.testing.assert_close(got, rfx.linear_attention(-y, -y, v, features=phi))


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_state_may_be_emptied_for_one_entry(library: str) -> None:
    """As a server does with a slot of its batch; every path then takes what it is given."""
    arrays, phi = problem("numpy", (3, 40, 8))
    convert = ArrayLibrary(library, library).convert
    q, k, v = (convert(a) for a in arrays)
    phi = phi.to_like(q)
    _, state = rfx.linear_attention(q, k, v, features=phi, return_state=True)
    held = {
        n: to_numpy(getattr(state, n)).copy() for n in ("numerator", "denominator", "log_scale")
    }
    for name, array in held.items():
        array[1] = -np.inf if name == "log_scale" else 0.0
    emptied = dataclasses.replace(state, **{n: convert(a) for n, a in held.items()})
    if library != "jax":
        for name, array in held.items():
            getattr(state, name)[1] = convert(array)[1]
        emptied = state
    token = [a[:, :1] for a in (q, k, v)]
    alone = rfx.linear_attention(*token, features=phi)
    paths = [None, "portable", *(["numpy-step"] if library == "numpy" else [])]
    for mask in (None, convert(np.zeros(1, bool), "bool")):
        call = {"features": phi, "mask": mask, "initial_state": emptied}
        for path in paths:
            out = to_numpy(rfx.linear_attention(*token, implementation=path, **call))
            assert np.isfinite(out).all()
            want = to_numpy(alone)[1] if mask is None else np.zeros((1, 8))
            np.testing.assert_allclose(out[1], want, rtol=1e-5, atol=1e-6)
    none = [a[:, :0] for a in (k, v)]
    out = to_numpy(rfx.linear_attention(q, *none, features=phi, initial_state=emptied))
    assert (out[1] == 0.0).all()
    assert np.isfinite(to_numpy(rfx.merge(emptied, emptied).numerator)).all()


@pytest.mark.parametrize("path", ["numpy-numba", "numpy-numba-step"])
def test_large_keys_of_a_map_without_a_row_term(path: str) -> None:
    """|k|² overflows, and is not asked for."""
    shape = (1, 1, 2) if "step" in path else (1, 40, 2)
    spec = rfx.features.Positive(num_features=16)
    fingerprint = spec.draw(2, seed=1, like=np.zeros(1)).fingerprint
    weight = np.random.default_rng(0).standard_normal((2, 16))
    phi = rfx.features.ExponentialMap.of(
        spec, {"fingerprint": fingerprint, "query_weight": weight}
    ).to_like(np.zeros(1, np.float32))
    k = np.full(shape, 1e20, np.float32)
    out = rfx.linear_attention(0 * k, k, np.ones_like(k), features=phi, implementation=path)
    np.testing.assert_allclose(out, 1.0, rtol=1e-5)


@pytest.mark.parametrize(("path", "rows"), [("numpy-numba", 64), (None, 1)])
def test_a_limit_of_threads_outlives_the_blas_that_numba_brings(
    path: str | None, rows: int
) -> None:
    """By name, and where numba is looked at before it is chosen."""
    code = (
        f"path, rows = {path!r}, {rows}"
        + """
import numpy as np, rfx
from threadpoolctl import threadpool_info, threadpool_limits
x = np.random.default_rng(0).standard_normal((2, 64, 8)).astype(np.float32)
phi = rfx.features.Positive(num_features=16).draw(8, seed=0, like=x)
def now():
    return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}
threadpool_limits(1)
rfx.linear_attention(x[:, :rows], x[:, :rows], x[:, :rows], features=phi, implementation=path)
print(now() == {1})
with rfx.options(threads=3):
    rfx.linear_attention(x, x, x, features=phi, implementation="numpy-numba")
    print(now() == {3})
print(now() == {1})
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("raise ImportError('Numba needs NumPy 2.2 or less.')", "Numba needs NumPy 2.2 or less"),
        ("class config: DISABLE_JIT = 1", "compiles nothing while NUMBA_DISABLE_JIT is set"),
    ],
)
def test_a_numba_that_cannot_be_used_is_passed_over(tmp_path, broken: str, why: str) -> None:
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(broken)
    code = """
import numpy as np, rfx
x = np.ones((2, 1, 8), np.float32)
phi = rfx.features.Positive(num_features=16).draw(8, seed=0, like=x)
rfx.linear_attention(x, x, x, features=phi)
print(rfx.explain(rfx.linear_attention, x, x, x, features=phi))
try:
    rfx.linear_attention(x, x, x, features=phi, implementation="numpy-numba-step")
except RuntimeError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    first, second, *_, last = done.stdout.splitlines()
    assert first.endswith("as 'numpy-step'")
    assert second.startswith("  numpy-numba-step refused: numba")
    assert why in second
    assert why in last
    assert last.endswith("name another implementation, or mend it")
