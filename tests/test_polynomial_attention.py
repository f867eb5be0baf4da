"""Attention by polynomials: against dense oracles, exact windows, scalings and statistics."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.attention import scaling
from rfx.attention.based import based_attention
from rfx.attention.fastmax import fastmax_attention
from rfx.attention.polysketch import polysketch_attention
from rfx.attention.schoenbat import schoenbat_attention
from rfx.attention.window import WindowState
from rfx.features import Maclaurin, PolySketch, Positive, Taylor
from rfx.kernels import DotProduct, Softmax
from rfx.testing import ArrayLibrary, assert_agrees, z_score
from tests.conftest import LIBRARIES

EAGER = pytest.mark.parametrize("lib", [x for x in LIBRARIES if x.library != "jax"], ids=str)
"""JAX compiles each call anew for each shape; what it computes is tested compiled."""

D, W = 4, 5
KINDS = {
    "fastmax 1": (fastmax_attention, Taylor(1, 0.2), {}),
    "fastmax 2": (fastmax_attention, Taylor(2, 1.0), {}),
    "schoenbat": (schoenbat_attention, Maclaurin(32, DotProduct("inv"), radius=0.7), {}),
    "polysketch": (polysketch_attention, PolySketch(36), {}),
    "polysketch window": (polysketch_attention, PolySketch(36), {"window": W}),
    "based": (based_attention, Taylor(2, kernel=Softmax()), {"window": W}),
    "based, positive": (based_attention, Positive(48), {"window": W}),
}
"""What attends, its map and its options."""

BOTH_WAYS = tuple(kind for kind, (_, _, options) in KINDS.items() if "window" not in options)
WINDOWS = tuple(kind for kind in KINDS if kind not in BOTH_WAYS)
COMPILED = ("fastmax 2", "polysketch window", "based, positive")
"""What stands for all where a compiler takes seconds: each way through the ops."""


def drawn(kind: str, like: Any) -> rfx.features.DrawnMap:
    return KINDS[kind][1].draw(D, seed=90, like=like)


def attend(kind: str, q: Any, k: Any, v: Any, *, is_causal: bool = True, **options: Any) -> Any:
    """Any of the attentions, with its map drawn; `based_attention` is always causal."""
    function, _, own = KINDS[kind]
    if function is not based_attention:
        own = own | {"is_causal": is_causal}
    options = own | options
    if "features" not in options:
        options["features"] = drawn(kind, q)
    return function(q, k, v, **options)


def standard(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / centred.std(axis=-1, keepdims=True)


def points_of(kind: str, x: np.ndarray) -> np.ndarray:
    """Queries or keys as the features take them."""
    if kind.startswith("based"):
        return x
    return standard(x) / (np.sqrt(D) if kind == "schoenbat" else 1.0)


def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x @ np.swapaxes(y, -1, -2)


def far_weights(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """φ(x)·φ(y): the polynomial itself, or a product of random features written out."""
    if kind == "fastmax 1":
        return 1.0 + 0.2 * inner(x, y)
    if kind in ("fastmax 2", "based"):
        s = inner(x, y) * (1.0 if kind == "fastmax 2" else D**-0.5)
        return 1.0 + s + s**2 / 2.0
    return reference.gram(x, y, features=drawn(kind, x))


def near_weights(kind: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    s = inner(x, y) * D**-0.5
    return s**4 if kind.startswith("polysketch") else np.exp(s)


def oracle(
    kind: str,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    is_causal: bool = True,
    mask: np.ndarray | None = None,
    window: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """By the full matrix of weights in float64, and how much its rows cancel."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    if q.ndim > 2:
        k, v = (np.repeat(a, q.shape[-3] // a.shape[-3], axis=-3) for a in (k, v))
    x, y = points_of(kind, q), points_of(kind, k)
    weights = far_weights(kind, x, y)
    t, s = q.shape[-2], k.shape[-2]
    age = np.arange(t)[:, None] + s - t - np.arange(s)
    if window is None:
        window = KINDS[kind][2].get("window", 0)
    if window:
        weights = np.where(age < window, near_weights(kind, x, y), weights)
    if is_causal:
        weights = np.where(age >= 0, weights, 0.0)
    if mask is not None:
        kept = mask[..., None, :]
        if kept.ndim > 2 and kept.shape[-3] > 1:
            kept = np.repeat(kept, q.shape[-3] // kept.shape[-3], axis=-3)
        weights = np.where(kept, weights, 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    nothing = total == 0.0
    out = np.where(nothing, 0.0, weights @ v / np.where(nothing, 1.0, total))
    size = np.abs(weights).sum(axis=-1, keepdims=True) / np.where(nothing, 1.0, np.abs(total))
    return out, np.maximum(size, 1.0)


def close(actual: Any, want: tuple[np.ndarray, np.ndarray] | np.ndarray, factor: float = 100.0):
    """Within roundings, which a signed denominator magnifies."""
    exact, spread = want if isinstance(want, tuple) else (want, 1.0)
    assert_agrees(actual, exact, scale=factor * spread**2, size=3.0)


def inputs(*batch: int, t: int = 23, s: int | None = None, e: int = 3, seed: int = 91) -> Any:
    rng = np.random.default_rng(seed)
    s = t if s is None else s
    return tuple(rng.standard_normal((*batch, n, w)) for n, w in ((t, D), (s, D), (s, e)))


# Agreement


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_oracle(lib: ArrayLibrary, kind: str) -> None:
    for batch in ((), (2,), (2, 2)):
        q, k, v = inputs(*batch, t=14, s=23)
        args = [lib.convert(a) for a in (q, k, v)]
        out = attend(kind, *args)
        assert type(out) is type(args[2])
        assert out.dtype == args[2].dtype
        close(out, oracle(kind, q, k, v))
        if kind in BOTH_WAYS:
            close(attend(kind, *args, is_causal=False), oracle(kind, q, k, v, is_causal=False))


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_with_the_oracle(lib: ArrayLibrary, kind: str) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    out = attend(kind, *map(lib.convert, (q, k, v)), chunk_size=8)
    close(out, oracle(kind, q, k, v))


@EAGER
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(lib: ArrayLibrary, kind: str, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    q, k, v = (lib.convert(a, dtype) for a in inputs(2))
    out = attend(kind, q, k, v)
    assert out.dtype == v.dtype
    close(out, oracle(kind, *map(to_numpy, (q, k, v))))


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_grouped_queries_and_masks_agree_with_the_oracle(lib: ArrayLibrary, kind: str) -> None:
    q, _, _ = inputs(2, 4)
    _, k, v = inputs(2, 2, seed=92)
    rng = np.random.default_rng(93)
    for shape in ((2, 2, 23), (2, 1, 23), (23,)):
        mask = rng.random(shape) < 0.6
        hidden = np.broadcast_to(~mask, k.shape[:-1])[..., None]
        k_, v_ = (np.where(hidden, np.nan, a) for a in (k, v))
        args = map(lib.convert, (q, k_, v_))
        want = oracle(kind, q, np.where(hidden, k + 1, k), v, mask=mask)
        close(attend(kind, *args, mask=lib.convert(mask)), want)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(WINDOWS),
    t=st.integers(1, 30),
    more=st.integers(0, 20),
    window=st.integers(1, 40),
    chunk=st.integers(1, 35),
    seed=st.integers(0, 99),
)
def test_any_lengths_windows_and_chunks_agree_with_the_oracle(
    kind: str, t: int, more: int, window: int, chunk: int, seed: int
) -> None:
    q, k, v = inputs(2, t=t, s=t + more, seed=seed)
    mask = np.random.default_rng(seed).random((2, t + more)) < 0.8
    out = attend(kind, q, k, v, window=window, chunk_size=chunk, mask=mask)
    close(out, oracle(kind, q, k, v, window=window, mask=mask), factor=1e3)


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_over_everything_is_exact_attention(kind: str) -> None:
    q, k, v = inputs(2)
    phi = drawn(kind, q)
    x, y = (a.copy() if kind.startswith("based") else standard(a) for a in (q, k))
    want = rfx.kernel_attention(x, y, v, kernel=phi.kernel, is_causal=True)
    close(attend(kind, q, k, v, window=23), want)
    assert np.abs(attend(kind, q, k, v, window=3) - want).max() > 0.01


def test_a_window_of_what_the_features_are_is_no_window() -> None:
    q, k, v = inputs(2)
    phi = Taylor(2).draw(D, seed=0, like=q)
    want = rfx.linear_attention(q, k, v, features=phi, is_causal=True)
    for window in (1, 7, 30):
        close(based_attention(q, k, v, features=phi, window=window), want)


@EAGER
def test_a_map_fitted_for_each_head_takes_older_keys(lib: ArrayLibrary) -> None:
    """It moves points before it makes features of them, of either side by arrays of its own."""
    q, _, _ = inputs(4, seed=105)
    _, k, v = inputs(2, seed=106)
    k = k + 1.0
    args = [lib.convert(a) for a in (q, k, v)]
    phi = rfx.features.named("dense", num_features=64).fit(*args[:2], seed=0)
    assert phi.moves("key")
    assert phi.heads == 2
    x, y = q, np.repeat(k, 2, axis=0)
    far, age = reference.gram(x, y, features=phi), np.arange(23)[:, None] - np.arange(23)
    weights = np.where(age < W, np.exp(inner(x, y) * D**-0.5), far) * (age >= 0)
    want = weights @ np.repeat(v, 2, axis=0) / weights.sum(axis=-1, keepdims=True)
    close(based_attention(*args, features=phi, window=W), want, factor=1e4)


def test_by_default_based_has_the_taylor_map_of_softmax() -> None:
    q, k, v = inputs(2)
    close(based_attention(q, k, v, window=W), oracle("based", q, k, v))
    phi = Taylor(2).draw(D, seed=0, like=q)
    out = based_attention(q, k, v, features=phi, kernel=Softmax(), window=W)
    close(out, oracle("based", q, k, v))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_fastmax_is_the_dense_polynomial(order: int) -> None:
    q, k, v = inputs(2, 2, t=40)
    s = 0.5 * inner(standard(q), standard(k))
    weights = sum(s**n / [1.0, 1.0, 2.0, 6.0][n] for n in range(order + 1))
    spread = np.abs(weights).sum(axis=-1, keepdims=True) / np.abs(
        weights.sum(axis=-1, keepdims=True)
    )
    want = weights @ v / weights.sum(axis=-1, keepdims=True)
    close(fastmax_attention(q, k, v, order=order, scale=0.5), (want, spread))
    if order == 2:
        s = inner(standard(q), standard(k))
        weights = 1.0 + s + s**2 / 2.0
        want = weights @ v / weights.sum(axis=-1, keepdims=True)
        close(fastmax_attention(q, k, v), want)


def test_denominators_of_odd_order_may_be_negative_and_are_kept_so() -> None:
    q = np.asarray([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
    k = np.asarray([[-1.0, 1.0, 0.0, 0.0], [-2.0, 2.0, 0.0, 0.0]])
    v = np.asarray([[1.0], [3.0]])
    out = fastmax_attention(q, k, v, order=1)  # s = −4 for the first query, 0 for the second
    np.testing.assert_allclose(out, [[2.0], [2.0]], rtol=1e-12)
    phi = Taylor(1, 0.25).draw(4, seed=0, like=q)  # 1 + s = 0 for the first
    points = (scaling.standardize(q), scaling.standardize(k))
    assert rfx.diagnostics.weak_denominators(*points, features=phi) == 0.5
    assert np.isfinite(fastmax_attention(q, k, v, features=phi)).all()


# Polynomial sketches


def test_sketched_weights_are_too_large_by_the_variance_of_the_inner_sketch() -> None:
    rng = np.random.default_rng(94)
    x, y = (standard(rng.standard_normal((6, 8))) for _ in range(2))
    spec = PolySketch(64, degree=4)
    grams = []
    for seed in range(400):
        grams.append(rfx.gram(x, y, features=spec.draw(8, seed=seed, like=x)))
    excess = np.asarray(grams) - spec.kernel(x, y)
    assert (z_score(excess, np.zeros((6, 6)), floor=1e-12) > -4.0).all()
    assert (excess.mean(axis=0) > 0.0).mean() > 0.9
    inner_variance = spec.maps[0].variance(x, y)
    score = z_score(excess, inner_variance, floor=1e-12)
    assert (np.abs(score) < 5.0).all()


def test_a_sketch_spreads_attention_to_unrelated_keys_and_a_window_takes_that_back() -> None:
    """One key is the query, 30 are orthogonal to it: exactly all weight is on the first."""
    rng = np.random.default_rng(95)
    q = np.zeros((1, 16))
    q[0, :2] = 4.0, -4.0
    others = np.zeros((30, 16))
    others[:, 2:] = rng.standard_normal((30, 14))
    others -= others.mean(axis=-1, keepdims=True) * (np.arange(16) > 1) * 16 / 14
    k = np.concatenate([others, q])
    v = np.concatenate([np.zeros((30, 1)), np.ones((1, 1))])
    shares = []
    for window in (None, 8, 31):
        own = []
        for seed in range(20):
            phi = PolySketch(64).draw(16, seed=seed, like=q)
            options = {"features": phi, "window": window, "is_causal": True}
            own.append(polysketch_attention(q, k, v, **options)[0, 0])
        shares.append(np.mean(own))
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.95
    np.testing.assert_allclose(shares[2], 1.0, rtol=1e-12)


def test_polysketch_may_leave_points_as_they_are() -> None:
    q, k, v = inputs(2)
    phi = drawn("polysketch", q)
    want = rfx.linear_attention(q, k, v, features=phi)
    close(polysketch_attention(q, k, v, features=phi, layer_norm=False), want)
    want = polysketch_attention(standard(q), standard(k), v, features=phi, layer_norm=False)
    close(polysketch_attention(q, k, v, features=phi), want)


# Laws


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_padded_equals_unpadded(lib: ArrayLibrary, kind: str) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    want = attend(kind, q, k, v)
    for before, after in ((0, 9), (5, 0), (4, 3)):
        width = [(0, 0), (before, after), (0, 0)]
        q_ = np.pad(q, width)
        k_, v_ = (np.pad(a, width, constant_values=np.nan) for a in (k, v))
        mask = lib.convert(np.pad(np.ones(23, dtype=bool), (before, after)))
        out = attend(kind, *map(lib.convert, (q_, k_, v_)), mask=mask)
        close(to_numpy(out)[:, before : before + 23], want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_does_not_matter(kind: str) -> None:
    q, k, v = inputs(2)
    want = attend(kind, q, k, v)
    for array in (q, k, v):
        array[:, 15:] = 7.0 * array[:, 15:] + 2.0
    np.testing.assert_allclose(attend(kind, q, k, v)[:, :15], want[:, :15], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_and_batches_do_not_meet(kind: str) -> None:
    q, k, v = inputs(2, 3)
    mask = np.random.default_rng(96).random((2, 3, 23)) < 0.7
    out = attend(kind, q, k, v, mask=mask)
    alone = attend(kind, q[1, 2], k[1, 2], v[1, 2], mask=mask[1, 2])
    np.testing.assert_allclose(out[1, 2], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_the_order_of_keys_does_not_matter(kind: str) -> None:
    q, k, v = inputs(2)
    order = np.random.default_rng(97).permutation(23)
    out = attend(kind, q, k[:, order], v[:, order], is_causal=False)
    close(out, attend(kind, q, k, v, is_causal=False))


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_split_and_resume_and_step_by_step_equal_one_call(lib: ArrayLibrary, kind: str) -> None:
    q, k, v = inputs(2)
    mask = np.random.default_rng(98).random((2, 23)) < 0.8
    phi = drawn(kind, lib.convert(q))
    want = oracle(kind, q, k, v, mask=mask)
    outs, state = [], None
    for start, stop in ((0, 3), (3, 16), (16, 17), (17, 18), (18, 23)):
        parts = (lib.convert(a[:, start:stop]) for a in (q, k, v))
        options = {"mask": lib.convert(mask[:, start:stop]), "initial_state": state}
        out, state = attend(kind, *parts, features=phi, return_state=True, **options)
        outs.append(to_numpy(out))
    close(np.concatenate(outs, axis=-2), want)
    length = state.older.length if kind in WINDOWS else state.length
    assert isinstance(state, WindowState) == (kind in WINDOWS)
    assert int(length) == 23


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_window_state_holds_the_last_keys(kind: str) -> None:
    q, k, v = inputs(2, t=3)
    _, state = attend(kind, q, k, v, return_state=True)
    assert (state.present == [False, False, True, True, True]).all()
    np.testing.assert_array_equal(state.value[:, 2:], v)
    assert np.isinf(state.older.log_scale).all()
    q, k, v = inputs(2, t=9)
    _, state = attend(kind, q, k, v, return_state=True)
    assert state.present.all()
    np.testing.assert_array_equal(state.value, v[:, 4:])
    assert np.isfinite(state.older.log_scale).all()


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_see_gives_zeros_and_empty_lengths_work(lib: ArrayLibrary, kind: str) -> None:
    q, k, v = (lib.convert(a.astype(np.float32)) for a in inputs(2))
    nothing = lib.convert(np.zeros(23, dtype=bool))
    out, state = attend(kind, q, k, v, mask=nothing, return_state=True)
    assert (to_numpy(out) == 0).all()
    none = [a[:, :0, :] for a in (q, k, v)]
    out, state = attend(kind, *none, initial_state=state, return_state=True)
    assert tuple(out.shape) == (2, 0, 3)
    out = attend(kind, none[0], k, v)
    assert tuple(out.shape) == (2, 0, 3)
    if kind in BOTH_WAYS:
        out = attend(kind, q, *none[1:], is_causal=False)
        assert (to_numpy(out) == 0).all()
        assert tuple(out.shape) == (2, 23, 3)


# Numerics


@EAGER
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "norm"), [("float32", 300.0), ("float16", 65504.0), ("bfloat16", 1e18)]
)
def test_large_inputs_stay_finite(lib: ArrayLibrary, kind: str, dtype: str, norm: float) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    rng = np.random.default_rng(99)
    q, k = np.clip(norm * rng.standard_normal((2, 2, 40, D)), -norm, norm)
    k[1, 10:15] = 1e-3
    k[1, 15:18] = 5.0  # equal coordinates
    q, k, v = (lib.convert(a, dtype) for a in (q, k, rng.standard_normal((2, 40, 3))))
    out = to_numpy(attend(kind, q, k, v))
    assert np.isfinite(out).all()
    if kind in ("fastmax 2", "polysketch", *WINDOWS):  # averages
        assert np.abs(out).max() < 1.01 * np.abs(to_numpy(v)).max()


def test_old_keys_whose_features_grow_steeply_agree_with_the_oracle() -> None:
    """Logs of a feature rise by hundreds in a chunk, of which some queries see the low ones."""
    q, k, v = inputs(2, t=60)
    k = k / np.linalg.norm(k, axis=-1, keepdims=True) * np.linspace(40.0, 1.0, 60)[:, None]
    mask = (np.arange(60) < 10) | (np.arange(60) > 19)
    want = oracle("based, positive", q, k, v, mask=mask)
    for dtype in (np.float64, np.float32):
        arrays = (a.astype(dtype) for a in (q, k, v))
        out = attend("based, positive", *arrays, mask=mask, chunk_size=32)
        assert np.abs(out[:, 15:20]).max() > 0.1
        close(out, want, factor=1e4)


@pytest.mark.parametrize("kind", WINDOWS)
def test_nan_stays_with_those_who_may_see_it(kind: str) -> None:
    q, k, v = inputs(3, t=40)
    k[1, 20, 2] = np.nan
    out = attend(kind, q, k, v, chunk_size=8)
    assert np.isfinite(out[[0, 2]]).all()
    assert np.isfinite(out[1, :16]).all()
    assert np.isnan(out[1, 20:25]).all()


@pytest.mark.parametrize("kind", WINDOWS)
def test_memory_is_linear(kind: str) -> None:
    peaks = []
    for length in (2048, 8192):
        x = np.random.default_rng(81).standard_normal((1, length, D)).astype(np.float32)
        phi = drawn(kind, x)
        tracemalloc.start()
        attend(kind, x, x, x, features=phi)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4.5 * peaks[0]
    assert peaks[1] < 0.05 * 8192**2 * 4


# Gradients and transformations


def loss(out):
    return (out * out).sum() + out[..., 0].sum()


@pytest.mark.parametrize("kind", ["fastmax 2", "schoenbat", *WINDOWS])
def test_torch_gradients_are_those_of_finite_differences(kind: str) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a).requires_grad_() for a in inputs(2, t=9))
    mask = torch.arange(9) != 3
    phi = drawn(kind, q)

    def call(q, k, v):
        return attend(kind, q, k, v, features=phi, mask=mask, chunk_size=4)

    assert torch.autograd.gradcheck(call, (q, k, v), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_masked_tokens_are_zero_even_if_they_hold_nan(kind: str) -> None:
    torch = pytest.importorskip("torch")
    arrays = list(inputs(2))
    keep = np.arange(23) % 3 != 0
    for array in arrays[1:]:
        array[:, ~keep] = np.nan
    q, k, v = (torch.asarray(a).requires_grad_() for a in arrays)
    mask = torch.asarray(keep)
    loss(attend(kind, q, k, v, mask=mask)).backward()
    for leaf in (q, k, v):
        assert torch.isfinite(leaf.grad).all()
    assert (k.grad[:, ~mask] == 0).all()
    assert (v.grad[:, ~mask] == 0).all()


@pytest.mark.parametrize("kind", COMPILED)
def test_jax_transformations_go_through_and_agree_with_the_oracle(kind: str) -> None:
    jax = pytest.importorskip("jax")
    torch = pytest.importorskip("torch")
    arrays = [a.astype(np.float32) for a in inputs(2, t=14)]
    mask = np.arange(14) != 3
    args = [jax.numpy.asarray(a)[None] for a in arrays]
    phi = drawn(kind, args[0])

    def both(q, k, v, mask):
        def call(q, k, v):
            out = attend(kind, q, k, v, mask=mask, features=phi, chunk_size=8)
            return loss(out), out

        (_, out), found = jax.value_and_grad(call, (0, 1, 2), has_aux=True)(q, k, v)
        return out, found

    out, found = jax.jit(jax.vmap(both, in_axes=(0, 0, 0, None)))(*args, mask)
    leaves = [torch.asarray(a).requires_grad_() for a in arrays]
    want = attend(kind, *leaves, mask=torch.asarray(mask))
    loss(want).backward()
    exact, spread = oracle(kind, *arrays, mask=mask)
    close(out[0], (exact, spread))
    spread = float(spread.max())
    for mine, leaf in zip(found, leaves, strict=True):
        size = 1.0 + float(leaf.grad.abs().max())
        assert_agrees(mine[0], to_numpy(leaf.grad), scale=1e3 * spread**2, size=size)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", COMPILED[:2])
def test_torch_compile_takes_it_as_one_graph(kind: str) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a, dtype=torch.float32) for a in inputs(2))
    phi = drawn(kind, q)

    def call(q, k, v):
        return attend(kind, q, k, v, features=phi)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    close(compiled(q, k, v), to_numpy(call(q, k, v)))


# Random Maclaurin features and scaling


@pytest.mark.parametrize("series", ["exp", "inv", "logi", "trigh", "sqrt"])
def test_schoenbat_nears_the_attention_of_its_kernel(series: str) -> None:
    q, k, v = inputs(2, t=60)
    kernel = DotProduct(series)
    x, y = (standard(a) / np.sqrt(D) for a in (q, k))
    t = inner(x, y) * D**-0.5
    weights = {
        "exp": np.exp(t),
        "inv": 1.0 / (1.0 - t),
        "logi": 1.0 - np.log(1.0 - t),
        "trigh": np.sinh(t) + np.cosh(t),
        "sqrt": 2.0 - np.sqrt(1.0 - t),
    }[series]
    exact = weights @ v / weights.sum(axis=-1, keepdims=True)
    uniform = rfx.diagnostics.uniform_attention(q, k, v)
    errors = []
    for m in (64, 4096):
        phi = Maclaurin(m, kernel, radius=D**-0.25).draw(D, seed=1, like=q)
        out = schoenbat_attention(q, k, v, features=phi)
        errors.append(rfx.diagnostics.relative_error(out, exact).mean())
    assert errors[1] < 0.3 * errors[0]
    assert errors[1] < 0.1 * rfx.diagnostics.relative_error(uniform, exact).mean()


def test_trigh_is_exp() -> None:
    q, k, v = inputs(2)
    outs = []
    for series in ("exp", "trigh"):
        phi = Maclaurin(64, DotProduct(series)).draw(D, seed=1, like=q)
        outs.append(schoenbat_attention(q, k, v, features=phi))
    np.testing.assert_array_equal(*outs)


def test_a_small_denominator_is_not_raised() -> None:
    """Features whose sum is far below 1, which a floor of 1 would turn into small outputs."""
    q, k, v = inputs(2, t=40)
    phi = Maclaurin(64, DotProduct((1e-6, 1e-6))).draw(D, seed=1, like=q)
    large = Maclaurin(64, DotProduct((1.0, 1.0))).draw(D, seed=1, like=q)
    want = schoenbat_attention(q, k, v, features=large)
    close(schoenbat_attention(q, k, v, features=phi), want, factor=1e4)


@EAGER
def test_statistics_are_those_of_visible_points(lib: ArrayLibrary) -> None:
    rng = np.random.default_rng(100)
    x = 3.0 + 2.0 * rng.standard_normal((3, 2, 15, D))
    for shape in ((3, 2, 15), (3, 1, 15), (15,)):
        mask = rng.random(shape) < 0.6
        wide = np.broadcast_to(mask, x.shape[:-1])
        found = scaling.measure(
            lib.convert(np.where(wide[..., None], x, np.nan)), mask=lib.convert(mask)
        )
        for head in range(2):
            points = x[:, head][wide[:, head]]
            np.testing.assert_allclose(to_numpy(found.mean)[head], points.mean(axis=0), rtol=1e-5)
            np.testing.assert_allclose(
                to_numpy(found.variance)[head], points.var(axis=0), rtol=1e-5
            )
            assert to_numpy(found.count)[head] == len(points)
    flat = scaling.measure(lib.convert(x[0, 0]))
    assert tuple(flat.mean.shape) == (D,)
    assert tuple(flat.count.shape) == ()
    np.testing.assert_allclose(to_numpy(flat.variance), x[0, 0].var(axis=0), rtol=1e-5)


def test_running_statistics_are_combined_and_nothing_is_written_to() -> None:
    rng = np.random.default_rng(101)
    x = rng.standard_normal((2, 40, D)) * 3.0 + 1.0
    parts = [scaling.measure(part) for part in (x[:, :7], x[:, 7:10], x[:, 10:])]
    before = [np.array(a) for a in parts[0]]
    whole = scaling.combine(scaling.combine(parts[0], parts[1]), parts[2])
    for mine, want in zip(whole, scaling.measure(x), strict=True):
        np.testing.assert_allclose(mine, want, rtol=1e-12)
    for mine, want in zip(parts[0], before, strict=True):
        np.testing.assert_array_equal(mine, want)
    running = parts[0]
    for _ in range(200):
        running = scaling.combine(running, parts[2], momentum=0.1)
    np.testing.assert_allclose(running.mean, parts[2].mean, rtol=1e-6)
    np.testing.assert_allclose(running.variance, parts[2].variance, rtol=1e-6)
    kept = scaling.combine(parts[0], parts[2], momentum=0.0)
    np.testing.assert_array_equal(kept.mean, parts[0].mean)


def test_running_statistics_have_no_gradient_and_those_of_a_batch_have() -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(inputs(2)[0]).requires_grad_()
    found = scaling.measure(x)
    assert found.mean.requires_grad
    assert not scaling.combine(found, found).variance.requires_grad


@EAGER
def test_schoenbat_trains_with_the_batch_and_infers_with_what_was_measured(
    lib: ArrayLibrary,
) -> None:
    rng = np.random.default_rng(102)
    q, k, v = inputs(3, 2, seed=103)
    k = k * 5.0 + 2.0
    mask, query_mask = (rng.random((3, 1, 23)) < 0.7 for _ in range(2))
    phi = drawn("schoenbat", lib.convert(q))
    hidden = ~mask[..., None]
    args = [lib.convert(a) for a in (q, np.where(hidden, np.nan, k), np.where(hidden, np.nan, v))]
    masks = {"mask": lib.convert(mask), "query_mask": lib.convert(query_mask)}
    out = schoenbat_attention(*args, features=phi, statistics="batch", **masks)
    own = (
        scaling.measure(args[0], mask=masks["query_mask"]),
        scaling.measure(args[1], mask=masks["mask"]),
    )
    again = schoenbat_attention(*args, features=phi, statistics=own, **masks)
    np.testing.assert_array_equal(to_numpy(again), to_numpy(out))
    points = []
    for x, keep in ((q, query_mask), (k, mask)):
        seen = np.broadcast_to(keep, x.shape[:-1])
        mean, variance = (
            np.stack([f(x[:, h][seen[:, h]], axis=0) for h in range(2)])[:, None]
            for f in (np.mean, np.var)
        )
        scaled = (x - mean) / np.sqrt(variance + 1e-5)
        points.append(scaled / np.linalg.norm(scaled, axis=-1, keepdims=True))
    want = rfx.linear_attention(*points, v, features=drawn("schoenbat", q), mask=mask)
    rows = np.broadcast_to(query_mask, q.shape[:-1])
    close(to_numpy(out)[rows], want[rows], factor=1e4)


def test_padded_queries_do_not_reach_the_statistics_of_a_batch() -> None:
    torch = pytest.importorskip("torch")
    arrays = list(inputs(2))
    keep = np.arange(23) < 17
    for array in arrays:
        array[:, ~keep] = np.nan
    q, k, v = (torch.asarray(a).requires_grad_() for a in arrays)
    masks = dict.fromkeys(("mask", "query_mask"), torch.asarray(keep))
    phi = drawn("schoenbat", q)
    out = schoenbat_attention(q, k, v, features=phi, statistics="batch", **masks)
    loss(out[:, :17]).backward()
    cut = [leaf.detach()[:, :17].requires_grad_() for leaf in (q, k, v)]
    want = schoenbat_attention(*cut, features=phi, statistics="batch")
    loss(want).backward()
    close(out[:, :17].detach(), want.detach().numpy())
    for leaf, mine in zip((q, k, v), cut, strict=True):
        close(leaf.grad[:, :17], mine.grad.numpy(), factor=1e4)
        assert (leaf.grad[:, 17:] == 0).all()


def test_running_statistics_serve_causal_attention_and_states() -> None:
    q, k, v = inputs(2)
    phi = drawn("schoenbat", q)
    call = {"features": phi, "statistics": (scaling.measure(q), scaling.measure(k))}
    call |= {"gain": 2.0, "power": 0.5}
    want = schoenbat_attention(q, k, v, is_causal=True, **call)
    state, outs = None, []
    for rows in (slice(0, 10), slice(10, 23)):
        parts = (a[:, rows] for a in (q, k, v))
        options = {"is_causal": True, "initial_state": state, "return_state": True}
        out, state = schoenbat_attention(*parts, **options, **call)
        outs.append(out)
    close(np.concatenate(outs, axis=-2), want)


@pytest.mark.parametrize(
    "options",
    [{"is_causal": True}, {"return_state": True}, {"initial_state": object()}],
)
def test_statistics_of_the_batch_are_refused_where_they_would_tell_the_future(options) -> None:
    q, k, v = inputs(2)
    with pytest.raises(ValueError, match="would tell a query of later tokens; pass running"):
        schoenbat_attention(q, k, v, features=drawn("schoenbat", q), statistics="batch", **options)


def test_scaled_points_are_in_the_unit_ball_of_every_series() -> None:
    rng = np.random.default_rng(104)
    x = np.concatenate([rng.standard_normal((20, D)) * 10.0**n for n in range(-20, 20)])
    x = np.concatenate([x, np.ones((1, D)), np.zeros((1, D))])
    for dtype in (np.float32, np.float64):
        scaled = scaling.pre_scale(x.astype(dtype))
        norms = np.linalg.norm(scaled.astype(np.float64), axis=-1)
        np.testing.assert_allclose(norms[:-2], 1.0, rtol=1e-6)
        assert (scaled[-2:] == 0.0).all()
        for series in ("inv", "logi", "sqrt"):
            DotProduct(series)(scaled, scaled)  # refuses points outside


@EAGER
def test_post_scale_is_a_real_power_of_either_sign(lib: ArrayLibrary) -> None:
    x = np.asarray([[-4.0, -1.0, 0.0, 2.5]], dtype=np.float32)
    power = np.asarray([0.5, 1.3, 0.7, 2.0], dtype=np.float32)
    gain = np.asarray([3.0], dtype=np.float32)
    out = scaling.post_scale(lib.convert(x), gain=lib.convert(gain), power=lib.convert(power))
    assert_agrees(out, 3.0 * np.sign(x) * np.abs(x) ** power)
    same = scaling.post_scale(lib.convert(x))
    np.testing.assert_array_equal(to_numpy(same), x)


def test_points_without_coordinates_are_left_to_the_map() -> None:
    none = np.zeros((2, 5, 0))
    assert scaling.pre_scale(none).shape == (2, 5, 0)
    with pytest.raises(ValueError, match="was drawn for dim="):
        polysketch_attention(none, none, V[:, :5], features=PHI["polysketch"])


def test_post_scale_is_applied_and_has_gradients() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a).requires_grad_() for a in inputs(2, t=9))
    gain = torch.asarray(1.5, dtype=torch.float64).requires_grad_()
    power = torch.asarray([0.7, 1.0, 2.0], dtype=torch.float64).requires_grad_()
    phi = drawn("schoenbat", q)

    def call(q, k, v, gain, power):
        options = {"statistics": "batch", "gain": gain, "power": power}
        return schoenbat_attention(q, k, v, features=phi, **options)

    assert torch.autograd.gradcheck(call, (q, k, v, gain, power), fast_mode=True)
    plain = schoenbat_attention(q, k, v, features=phi, statistics="batch").detach()
    want = 1.5 * plain.sign() * plain.abs() ** power.detach()
    assert torch.allclose(call(q, k, v, gain, power), want)
    zeros = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    scaling.post_scale(zeros, gain=gain, power=power).sum().backward()
    assert torch.isfinite(zeros.grad).all()
    assert torch.isfinite(power.grad).all()


# Refusals


Q, K, V = inputs(2)
PHI = {kind: drawn(kind, Q) for kind in KINDS}
STATE = {kind: attend(kind, Q, K, V, return_state=True)[1] for kind in ("fastmax 2", "based")}
STATS = scaling.measure(Q)


@pytest.mark.parametrize(
    ("function", "options", "error", "sentence"),
    [
        (fastmax_attention, {"order": 0}, ValueError, "`order` must be at least 1, got 0"),
        (fastmax_attention, {"scale": -1.0}, ValueError, "`scale` must be positive"),
        (fastmax_attention, {"order": 2, "features": PHI["based"]}, ValueError, "beside `features"),
        (fastmax_attention, {"features": Taylor()}, TypeError, "must be a drawn map"),
        (fastmax_attention, {"mask": np.ones(4) > 0}, ValueError, "`mask` must have shape"),
        (polysketch_attention, {"features": 3}, TypeError, "must be a drawn map, got 3"),
        (
            polysketch_attention,
            {"features": PHI["polysketch"], "window": 4},
            ValueError,
            "needs causal attention; pass is_causal=True",
        ),
        (
            polysketch_attention,
            {"features": PHI["polysketch"], "window": 0, "is_causal": True},
            ValueError,
            "`window` must be at least 1, got 0",
        ),
        (based_attention, {"window": 2.5}, TypeError, "`window` must be an int, got 2.5"),
        (based_attention, {"kernel": "softmax"}, TypeError, "must be a record of rfx.kernels"),
        (based_attention, {"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1"),
        (based_attention, {"implementation": "fast"}, ValueError, "cannot run op 'windowed'"),
        (based_attention, {"initial_state": STATE["fastmax 2"]}, TypeError, "be a WindowState, go"),
        (
            based_attention,
            {"features": PHI["based"], "initial_state": STATE["based"], "window": 9},
            ValueError,
            "window keys of shape .* `window` is fixed by the call that made it",
        ),
        (
            based_attention,
            {"features": PHI["based, positive"], "initial_state": STATE["based"], "window": W},
            ValueError,
            "was made with another map",
        ),
        (
            schoenbat_attention,
            {"statistics": "tokens"},
            TypeError,
            "must be 'token', 'batch', None",
        ),
        (
            schoenbat_attention,
            {"statistics": STATS},
            TypeError,
            "or a tuple of the statistics of q",
        ),
        (
            schoenbat_attention,
            {"statistics": (STATS, 1)},
            TypeError,
            "must be what rfx.scaling.mea",
        ),
        (
            schoenbat_attention,
            {"statistics": (STATS, scaling.measure(Q[0]))},
            ValueError,
            r"variance of shape \(2, 4\), for the heads and coordinates of `key`, got \(4,\)",
        ),
        (schoenbat_attention, {"power": 0.0}, ValueError, "`power` must be positive"),
        (
            schoenbat_attention,
            {"power": np.zeros(3)},
            ValueError,
            "`power` must be positive, since",
        ),
        (
            schoenbat_attention,
            {"gain": np.ones(4)},
            ValueError,
            "`gain` must broadcast to the outp",
        ),
        (schoenbat_attention, {"gain": "x"}, TypeError, "`gain` must be a number or an array"),
        (schoenbat_attention, {"query_mask": np.ones(9) > 0}, ValueError, "`query_mask` must have"),
        (
            schoenbat_attention,
            {"statistics": None},
            ValueError,
            r"must have points with scale \|x\|² below 1",
        ),
    ],
)
def test_mistakes_are_refused_in_a_sentence(function, options, error, sentence) -> None:
    if function is schoenbat_attention:
        options = {"features": PHI["schoenbat"]} | options
    with pytest.raises(error, match=sentence) as caught:
        function(Q, K, V, **options)
    assert "\n" not in str(caught.value)


def test_more_queries_than_keys_are_refused_with_a_window() -> None:
    with pytest.raises(ValueError, match="as many keys as queries, got t=23 and s=20"):
        based_attention(Q, K[:, :20], V[:, :20])


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: scaling.combine(STATS, 2), TypeError, "`new` must be what rfx.scaling.measure"),
        (
            lambda: scaling.combine(STATS, STATS, momentum=2.0),
            ValueError,
            "between 0 and 1, got 2.0",
        ),
        (
            lambda: scaling.combine(STATS, STATS, momentum="a"),
            TypeError,
            "must be a number, got 'a'",
        ),
        (lambda: scaling.combine(STATS, scaling.measure(Q[0])), ValueError, "same heads and coord"),
        (lambda: scaling.measure(Q[0, 0]), ValueError, "`x` must have shape"),
        (lambda: scaling.post_scale(Q, gain=np.nan), ValueError, "`gain` must be finite"),
        (lambda: scaling.post_scale(Q, gain=None), TypeError, "must be a number or an array, got"),
        (
            lambda: scaling.post_scale(Q, power=np.full(Q.shape[-1], np.nan)),
            ValueError,
            "`power` must be positive",
        ),
        (lambda: scaling.standardize(Q, epsilon=0.0), ValueError, "`epsilon` must be positive"),
        (lambda: scaling.standardize(3.0), TypeError, "`x` must be an array"),
    ],
)
def test_scalings_refuse_in_a_sentence(call, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        call()


def test_explain_names_the_op() -> None:
    found = rfx.explain(based_attention, Q, K, V)
    assert (found.function, found.op, found.implementation) == (
        "based_attention", "windowed", "portable",
    )  # fmt: skip
    assert rfx.explain(fastmax_attention, Q, K, V, is_causal=True).op == "causal"
    call = {"features": PHI["polysketch"], "is_causal": True}
    assert rfx.explain(polysketch_attention, Q, K, V, **call).op == "causal"
    assert rfx.explain(polysketch_attention, Q, K, V, window=3, **call).op == "windowed"
    assert (
        rfx.explain(schoenbat_attention, Q, K, V, features=PHI["schoenbat"]).op == "bidirectional"
    )
