"""Entmax and its attention: against bisection in float64, its gradients and its laws."""

from __future__ import annotations

import importlib
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest

import rfx
from rfx._xp import to_numpy
from rfx.attention.entmax import entmax_attention
from rfx.ops.entmax import entmax
from rfx.testing import ArrayLibrary, assert_agrees
from tests.conftest import LIBRARIES

EAGER = pytest.mark.parametrize("lib", [x for x in LIBRARIES if x.library != "jax"], ids=str)
"""JAX compiles each call anew for each shape; what it computes is tested compiled."""

ALPHAS = (1.0, 1.5, 2.0)


def bisected(z: np.ndarray, alpha: float) -> np.ndarray:
    """By halving the interval in which τ lies, last axis, float64; −inf for what is absent."""
    z = z.astype(np.float64)
    if alpha == 1.0:
        weights = np.exp(z - z.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)
    x = (alpha - 1.0) * z
    high = x.max(axis=-1, keepdims=True)
    low = high - 1.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        total = (np.maximum(x - middle, 0.0) ** (1.0 / (alpha - 1.0))).sum(axis=-1, keepdims=True)
        low, high = np.where(total >= 1.0, middle, low), np.where(total >= 1.0, high, middle)
    return np.maximum(x - low, 0.0) ** (1.0 / (alpha - 1.0))


def oracle(q, k, v, alpha=1.5, scale=None, is_causal=False, mask=None):
    """By full matrices, in float64."""
    q, k, v = (np.asarray(a, dtype=np.float64) for a in (q, k, v))
    seen = np.ones((*k.shape[:-1],), bool) if mask is None else np.broadcast_to(mask, k.shape[:-1])
    k, v = (np.where(seen[..., None], a, 0.0) for a in (k, v))
    if q.ndim > 2:
        groups = q.shape[-3] // k.shape[-3]
        k, v, seen = np.repeat(k, groups, -3), np.repeat(v, groups, -3), np.repeat(seen, groups, -2)
    t, s = q.shape[-2], k.shape[-2]
    seen = np.broadcast_to(seen[..., None, :], (*q.shape[:-1], s))
    if is_causal:
        seen = seen & np.tri(t, s, s - t, dtype=bool)
    scores = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    empty = ~seen.any(axis=-1, keepdims=True)
    weights = bisected(np.where(seen | empty, scores, -np.inf), alpha)
    return np.where(empty, 0.0, weights) @ v


def inputs(*batch: int, t: int = 21, s: int = 21, d: int = 4, e: int = 3, seed: int = 90):
    rng = np.random.default_rng(seed)
    shapes = ((t, d), (s, d), (s, e))
    return tuple(3.0**0.5 * rng.standard_normal((*batch, n, w)) for n, w in shapes)


# The function


@EAGER
@pytest.mark.parametrize("alpha", ALPHAS)
def test_weights_agree_with_bisection(lib: ArrayLibrary, alpha: float) -> None:
    rng = np.random.default_rng(91)
    for spread in (1e-3, 0.1, 1.0, 10.0, 1e4):
        z = spread * rng.standard_normal((3, 17, 63))
        z[0, :, :5] = -np.inf
        z[1, :, 3:9] = z[1, :, 2:3]  # ties
        out = to_numpy(entmax(lib.convert(z), alpha=alpha))
        assert np.abs(out - bisected(z, alpha)).max() < 1e-10
        assert (out[0, :, :5] == 0.0).all()
        np.testing.assert_allclose(out.sum(axis=-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_float32_agrees_with_bisection(lib: ArrayLibrary, alpha: float) -> None:
    z = np.random.default_rng(92).standard_normal((40, 1000)).astype(np.float32)
    for spread in (0.01, 3.0):
        call = partial(entmax, alpha=alpha)
        if lib.library == "jax":
            call = importlib.import_module("jax").jit(call)
        have = call(lib.convert(np.float32(spread) * z))
        assert_agrees(have, bisected(np.float32(spread) * z, alpha), scale=10.0, size=1.0)


@EAGER
def test_any_axis_and_mask(lib: ArrayLibrary) -> None:
    z = np.random.default_rng(93).standard_normal((4, 9, 5))
    mask = np.random.default_rng(94).random((9, 5)) < 0.6
    mask[:, 2] = False  # nothing there
    z[:, ~mask] = np.nan
    want = np.moveaxis(np.where(mask, z, -np.inf), 1, -1)
    empty = ~np.moveaxis(np.broadcast_to(mask, z.shape), 1, -1).any(axis=-1, keepdims=True)
    for alpha in ALPHAS:
        found = to_numpy(entmax(lib.convert(z), alpha=alpha, axis=1, mask=lib.convert(mask)))
        expected = np.where(empty, 0.0, bisected(np.where(empty, 0.0, want), alpha))
        np.testing.assert_allclose(np.moveaxis(found, 1, -1), expected, atol=1e-12)


@EAGER
@pytest.mark.parametrize("alpha", ALPHAS)
def test_extremes(lib: ArrayLibrary, alpha: float) -> None:
    big = 1e30
    z = np.asarray(
        [
            [big, -big, -big],
            [-np.inf, -np.inf, -np.inf],
            [0.0, np.nan, 1.0],
            [-big, -big, -big],
            [-np.inf, 7.0, -np.inf],
        ],
        dtype=np.float32,
    )
    out = to_numpy(entmax(lib.convert(z), alpha=alpha))
    np.testing.assert_allclose(out[0], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(out[1], 0.0)
    assert np.isnan(out[2]).all()
    np.testing.assert_allclose(out[3], 1.0 / 3.0, rtol=1e-6)
    np.testing.assert_allclose(out[4], [0.0, 1.0, 0.0])
    assert entmax(lib.convert(np.zeros((3, 0))), alpha=alpha).shape == (3, 0)
    one = to_numpy(entmax(lib.convert(np.asarray([[5.0]])), alpha=alpha))
    np.testing.assert_array_equal(one, [[1.0]])


@EAGER
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(lib: ArrayLibrary, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    z = lib.convert(np.random.default_rng(95).standard_normal((5, 300)), dtype)
    out = entmax(z)
    assert out.dtype == z.dtype
    assert_agrees(out, bisected(to_numpy(z), 1.5))


def test_the_order_tells_how_many_are_left() -> None:
    z = np.random.default_rng(96).standard_normal((100, 50))
    counts = [float((entmax(z, alpha=a) > 0).sum(axis=-1).mean()) for a in ALPHAS]
    assert counts[0] == 50.0 > counts[1] > 8.0 > 4.0 > counts[2] > 2.0


def jacobian(z: np.ndarray, alpha: float) -> np.ndarray:
    """diag(w) − w wᵀ / Σw with w = p^(2 − α), one row z."""
    p = bisected(z, alpha)
    w = np.where(p > 0.0, p ** (2.0 - alpha), 0.0)
    return np.diag(w) - np.outer(w, w) / w.sum()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_are_exact(alpha: float) -> None:
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    z = np.random.default_rng(97).standard_normal(12)
    z[3] = -np.inf
    want = jacobian(z, alpha)
    row = torch.asarray(z).requires_grad_()
    found = torch.autograd.functional.jacobian(partial(entmax, alpha=alpha), row)
    np.testing.assert_allclose(found.numpy(), want, atol=1e-10)
    have = jax.jit(jax.jacrev(partial(entmax, alpha=alpha)))(jax.numpy.asarray(z, "float32"))
    np.testing.assert_allclose(np.asarray(have), want, atol=3e-6)
    finite = torch.asarray(np.delete(z, 3)).requires_grad_()
    assert torch.autograd.gradcheck(partial(entmax, alpha=alpha), (finite,))
    assert torch.autograd.gradgradcheck(partial(entmax, alpha=alpha), (finite,))


def test_masked_scores_have_no_gradient_even_if_they_hold_nan() -> None:
    torch = pytest.importorskip("torch")
    z = np.random.default_rng(98).standard_normal((3, 8))
    z[:, 2] = np.nan
    mask = np.arange(8) != 2
    mask = np.stack([mask, mask, np.zeros(8, bool)])
    for alpha in ALPHAS:
        row = torch.asarray(z).requires_grad_()
        out = entmax(row, alpha=alpha, mask=torch.asarray(mask))
        (out * torch.arange(8)).sum().backward()
        assert torch.isfinite(row.grad).all()
        assert (row.grad.numpy()[~mask] == 0.0).all()
        assert (row.grad.numpy()[:2] != 0.0).any()


def test_other_orders_are_refused() -> None:
    z = np.zeros(3)
    with pytest.raises(ValueError, match=r"`alpha` must be 1.0 \(softmax\), 1.5 or 2.0 .* got 1.3"):
        entmax(z, alpha=1.3)
    with pytest.raises(TypeError, match="`alpha` must be a number, got '2'"):
        entmax(z, alpha="2")  # type: ignore[arg-type]


# Attention


@EAGER
@pytest.mark.parametrize("alpha", ALPHAS)
def test_attention_agrees_with_the_oracle(lib: ArrayLibrary, alpha: float) -> None:
    rng = np.random.default_rng(99)
    for q_batch, batch, t, s in (((), (), 21, 21), ((2, 4), (2, 2), 13, 30), ((3,), (1,), 9, 21)):
        q = inputs(*q_batch, t=t)[0]
        _, k, v = inputs(*batch, s=s, seed=100)
        mask = rng.random(k.shape[:-1]) < 0.7
        for is_causal in (False, True):
            for keep in (None, mask, mask.reshape(-1, s)[0]):
                call: dict[str, Any] = {"alpha": alpha, "is_causal": is_causal}
                want = oracle(q, k, v, mask=keep, **call)
                call["mask"] = None if keep is None else lib.convert(keep)
                out = entmax_attention(*map(lib.convert, (q, k, v)), **call)
                assert_agrees(out, want, scale=20.0)


def test_attention_in_each_library(lib: ArrayLibrary) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2, 2))
    call = partial(entmax_attention, scale=0.7, is_causal=True)
    if lib.library == "jax":
        call = importlib.import_module("jax").jit(call)
    args = [lib.convert(a) for a in (q, k, v)]
    out = call(*args)
    assert type(out) is type(args[2])
    assert_agrees(out, oracle(q, k, v, scale=0.7, is_causal=True), scale=20.0)


@EAGER
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_attention(lib: ArrayLibrary, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    q, k, v = (lib.convert(a, dtype) for a in inputs(2))
    out = entmax_attention(q, k, v)
    assert out.dtype == v.dtype
    assert_agrees(out, oracle(*map(to_numpy, (q, k, v))), scale=20.0)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, t=50, s=63)
    whole = [entmax_attention(q, k, v, is_causal=c) for c in (False, True)]
    monkeypatch.setattr("rfx.attention.entmax._MOST", 16)
    parts = [entmax_attention(q, k, v, is_causal=c) for c in (False, True)]
    np.testing.assert_allclose(parts, whole, atol=1e-13)


def test_softmax_is_that_of_kernel_attention() -> None:
    q, k, v = inputs(2, 2)
    mask = np.arange(21) % 3 != 0
    call: dict[str, Any] = {"mask": mask, "is_causal": True}
    kernel = rfx.kernel_attention(q, k, v, **call)
    np.testing.assert_allclose(entmax_attention(q, k, v, alpha=1.0, **call), kernel, atol=1e-13)


@EAGER
def test_what_is_masked_is_absent(lib: ArrayLibrary) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    want = entmax_attention(q, k, v)
    padded = [np.pad(a, [(0, 0), (4, 3), (0, 0)], constant_values=np.nan) for a in (k, v)]
    mask = lib.convert(np.pad(np.ones(21, bool), (4, 3)))
    out = entmax_attention(*map(lib.convert, (q, *padded)), mask=mask)
    assert_agrees(out, want, scale=20.0)
    none = entmax_attention(
        *map(lib.convert, (q, *padded)), mask=lib.convert(np.zeros(28, dtype=bool))
    )
    assert (to_numpy(none) == 0.0).all()


@EAGER
def test_the_future_is_not_seen_and_nan_stays_in_its_rows(lib: ArrayLibrary) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    want = entmax_attention(q, k, v, is_causal=True)
    k[:, 15:] = np.nan
    q[:, 3] = np.nan
    out = to_numpy(entmax_attention(*map(lib.convert, (q, k, v)), is_causal=True))
    assert np.isnan(out[:, 15:]).all()
    assert np.isnan(out[:, 3]).all()
    rows = [i for i in range(15) if i != 3]
    assert_agrees(out[:, rows], want[:, rows], scale=20.0)


@EAGER
@pytest.mark.parametrize("norm", [1e2, 1e4, 6e4])
def test_large_scores_pick_the_nearest_key(lib: ArrayLibrary, norm: float) -> None:
    q, k, v = inputs(2)
    dtype = "float16" if "float16" in lib.dtypes else "float32"
    q, k = (np.clip(norm * a, -6e4, 6e4) for a in (q, k))
    q, k, v = (lib.convert(a, dtype) for a in (q, k, v))
    best = to_numpy(q) @ np.swapaxes(to_numpy(k), -1, -2).astype(np.float64)
    want = np.take_along_axis(to_numpy(v), best.argmax(axis=-1)[..., None], axis=-2)
    for alpha in ALPHAS:
        assert_agrees(entmax_attention(q, k, v, alpha=alpha), want)


def test_empty_lengths() -> None:
    q, k, v = inputs(2)
    assert entmax_attention(q[:, :0], k, v).shape == (2, 0, 3)
    assert (entmax_attention(q, k[:, :0], v[:, :0]) == np.zeros((2, 21, 3))).all()


def test_memory_is_linear() -> None:
    peaks = []
    for length in (1024, 8192):
        rng = np.random.default_rng(101)
        q, x = (rng.standard_normal((n, 4)).astype(np.float32) for n in (512, length))
        tracemalloc.start()
        entmax_attention(q, x, x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4 * peaks[0]
    assert peaks[1] < 80e6  # the pairs of 8192 queries would be 268 MB


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradients_of_attention(alpha: float) -> None:
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    q, _, _ = inputs(4, t=7, d=2)
    _, k, v = inputs(2, s=9, d=2, e=2, seed=102)
    mask = np.arange(9) != 3
    k[:, 3] = v[:, 3] = np.nan

    def call(q, k, v, mask):
        return entmax_attention(q, k, v, alpha=alpha, is_causal=True, mask=mask)

    leaves = [torch.asarray(a).requires_grad_() for a in (q, k, v)]
    out = call(*leaves, torch.asarray(mask))
    (out**2).sum().backward()
    assert (leaves[1].grad[:, 3] == 0.0).all()
    kept = [torch.asarray(a).requires_grad_() for a in (q, k[:, mask], v[:, mask])]
    assert torch.autograd.gradcheck(
        lambda q, k, v: entmax_attention(q, k, v, alpha=alpha), kept, fast_mode=True
    )

    def loss(q, k, v):
        return (call(q, k, v, jax.numpy.asarray(mask)) ** 2).sum()

    args = [jax.numpy.asarray(a, "float32")[None] for a in (q, k, v)]
    found = jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2))))(*args)
    for mine, leaf in zip(found, leaves, strict=True):
        assert_agrees(mine[0], leaf.grad.numpy(), scale=300.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_compile_takes_it_as_one_graph() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a, dtype=torch.float32) for a in inputs(2))
    call = partial(entmax_attention, is_causal=True)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_agrees(compiled(q, k, v), to_numpy(call(q, k, v)), scale=20.0)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"alpha": 3.0}, ValueError, r"`alpha` must be 1.0 \(softmax\), 1.5 or 2.0"),
        ({"scale": 0.0}, ValueError, "`scale` must be positive and finite, got 0.0"),
        ({"mask": np.ones(9)}, TypeError, "`mask` must be bool"),
        ({"mask": np.ones(9) > 0}, ValueError, "`mask` must have shape"),
        ({"is_causal": True}, ValueError, "at least as many keys as queries, got t=30 and s=21"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(options, error, sentence) -> None:
    q, k, v = inputs(2, t=30)
    with pytest.raises(error, match=sentence):
        entmax_attention(q, k, v, **options)


def test_it_explains_itself() -> None:
    q, k, v = inputs(2)
    assert "entmax_attention on numpy arrays runs portable code" in str(
        rfx.explain(entmax_attention, q, k, v)
    )
