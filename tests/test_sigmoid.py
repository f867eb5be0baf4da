"""Sigmoid attention against full matrices in float64, its laws, and its estimate by features."""

from __future__ import annotations

import importlib
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

import rfx
from rfx._xp import to_numpy
from rfx.attention.sigmoid import sigmoid_attention
from rfx.diagnostics import relative_error
from rfx.features import Universal
from rfx.kernels.logistic import Logistic, falling
from rfx.testing import ArrayLibrary, assert_agrees, cases
from tests.conftest import LIBRARIES

COMPILER = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
EAGER = pytest.mark.parametrize("lib", [x for x in LIBRARIES if x.library != "jax"], ids=str)
"""JAX compiles each call anew for each shape; what it computes is tested compiled."""


def pairs(q: np.ndarray, k: np.ndarray, is_causal: bool, mask: Any) -> np.ndarray:
    """Which pairs count, (..., Hq, t, s), as numbers."""
    t, s = q.shape[-2], k.shape[-2]
    keep = np.ones(k.shape[:-1], bool) if mask is None else np.broadcast_to(mask, k.shape[:-1])
    if q.ndim > 2:
        keep = np.repeat(keep, q.shape[-3] // k.shape[-3], axis=-2)
    seen = keep[..., None, :] & np.ones((t, 1), bool)
    return np.tril(seen, s - t) if is_causal else seen


def wide(array: np.ndarray, q: np.ndarray) -> np.ndarray:
    return array if q.ndim < 3 else np.repeat(array, q.shape[-3] // array.shape[-3], axis=-3)


def weights(q, k, *, bias=None, scale=None, is_causal=False, mask=None) -> np.ndarray:
    seen = pairs(q, k, is_causal, mask)
    q, k = (np.nan_to_num(a.astype(np.float64)) for a in (q, wide(k, q)))
    if bias is None:
        bias = -np.log(np.maximum(seen.sum(axis=-1, keepdims=True), 1))
    elif np.ndim(bias):
        bias = np.asarray(bias)[:, None, None]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return expit(scale * q @ np.swapaxes(k, -1, -2) + bias) * seen


def oracle(q, k, v, **options) -> np.ndarray:
    return weights(q, k, **options) @ np.nan_to_num(wide(v, q).astype(np.float64))


def inputs(*batch: int, t: int = 20, s: int = 20, d: int = 4, e: int = 3, heads: int | None = None):
    rng = np.random.default_rng(90)
    query = batch if heads is None else (*batch[:-1], heads)
    shapes = ((*query, t, d), (*batch, s, d), (*batch, s, e))
    return tuple(rng.standard_normal(shape) for shape in shapes)


# Agreement


@EAGER
@pytest.mark.parametrize("case", cases(), ids=str)
def test_it_is_the_sum_over_full_matrices(lib: ArrayLibrary, case: Any) -> None:
    q, k, v = case.arrays(91)
    mask = np.random.default_rng(92).random(k.shape[:-1]) < 0.7
    for is_causal in (False, True)[: 1 + case.causal]:
        for keep in (None, mask):
            out = sigmoid_attention(
                *map(lib.convert, (q, k, v)),
                is_causal=is_causal,
                mask=None if keep is None else lib.convert(keep),
            )
            assert_agrees(out, oracle(q, k, v, is_causal=is_causal, mask=keep), scale=8.0)


@EAGER
def test_blocks_add_up_to_the_whole(lib: ArrayLibrary, monkeypatch: Any) -> None:
    monkeypatch.setattr("rfx.ops.pairs._BLOCK", 8)
    q, k, v = inputs(2, t=20, s=29, heads=4)
    mask = np.random.default_rng(93).random((2, 29)) < 0.6
    for options in ({}, {"is_causal": True}):
        out = sigmoid_attention(*map(lib.convert, (q, k, v)), mask=lib.convert(mask), **options)
        assert_agrees(out, oracle(q, k, v, mask=mask, **options), scale=8.0)


@EAGER
def test_bias_and_scale_are_those_given(lib: ArrayLibrary) -> None:
    q, k, v = inputs(2, heads=4)
    each = np.asarray([0.5, -1.0, -3.0, 0.0])
    for bias in (-2.0, 0, np.float32(1.5), np.asarray(-0.3), each):
        given = lib.convert(bias) if isinstance(bias, np.ndarray) else bias
        out = sigmoid_attention(*map(lib.convert, (q, k, v)), bias=given, scale=0.7)
        assert_agrees(out, oracle(q, k, v, bias=bias, scale=0.7), scale=8.0)


@EAGER
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(lib: ArrayLibrary, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    q, k, v = (lib.convert(a, dtype) for a in inputs(2))
    out = sigmoid_attention(q, k, v, is_causal=True)
    assert out.dtype == v.dtype
    assert_agrees(out, oracle(*map(to_numpy, (q, k, v)), is_causal=True), scale=8.0)


def test_the_function_is_logistic_and_finite_everywhere(lib: ArrayLibrary) -> None:
    u = np.asarray([-1e30, -300.0, -79.0, -20.0, -1e-3, 0.0, 0.5, 15.0, 79.0, 1e30])
    want = expit(-np.clip(u, -80.0, 80.0))
    got = to_numpy(falling(lib.convert(u.astype(np.float32))))
    np.testing.assert_allclose(got, want, rtol=2e-5)  # of exp(79), whose argument is rounded
    np.testing.assert_allclose(Logistic(bias=-1.0, scale=0.5)(u[3:8]), expit(0.5 * u[3:8] - 1.0))


# Gradients


def gradients(q, k, v, g, **options) -> list[np.ndarray]:
    """Of Σ out · g by q, k, v and the bias of each head, for one key head."""
    w = weights(q, k, **options)
    k, v = (np.nan_to_num(wide(a, q).astype(np.float64)) for a in (k, v))
    inner = (g @ np.swapaxes(v, -1, -2)) * w * (1.0 - w)
    scale = q.shape[-1] ** -0.5
    shared = (np.swapaxes(a, -1, -2) @ b for a, b in ((scale * inner, q), (w, g)))
    each = (a.sum(axis=-3, keepdims=True) for a in shared)
    return [scale * inner @ k, *each, inner.sum(axis=(-2, -1))]


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_gradients_are_those_of_the_formula_and_pass_by_what_is_masked(name: str) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(1, heads=2))
    g = np.random.default_rng(94).standard_normal((2, 20, 3)).astype(np.float32)
    q[0, 3] = 0.0  # where the logit is the bias itself
    bias = np.asarray([0.0, -1.5], dtype=np.float32)
    mask = np.arange(20) != 5
    k[:, 5], v[:, 5] = np.nan, np.nan
    want = gradients(q, k, v, g, bias=bias, is_causal=True, mask=mask)

    def loss(q: Any, k: Any, v: Any, bias: Any, mask: Any, g: Any) -> Any:
        return (sigmoid_attention(q, k, v, bias=bias, is_causal=True, mask=mask) * g).sum()

    if name == "jax":
        jax = importlib.import_module("jax")
        arrays = [jax.numpy.asarray(a) for a in (q, k, v, bias, mask, g)]
        found = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*arrays)
    else:
        torch = importlib.import_module("torch")
        leaves = [torch.tensor(a, requires_grad=True) for a in (q, k, v, bias)]
        found = torch.autograd.grad(loss(*leaves, torch.tensor(mask), torch.tensor(g)), leaves)
    for have, wanted in zip(found, want, strict=True):
        assert_agrees(have, wanted, scale=16.0)


@COMPILER
def test_it_compiles_whole_and_maps_over_a_batch() -> None:
    torch = importlib.import_module("torch")
    q, k, v = (torch.tensor(a, dtype=torch.float32) for a in inputs(2))
    mask = torch.arange(20) < 15

    def call(q: Any, k: Any, v: Any) -> Any:
        return sigmoid_attention(q, k, v, is_causal=True, mask=mask)

    want = call(q, k, v)
    compiled = torch.compile(call, fullgraph=True, backend="eager")
    assert_agrees(compiled(q, k, v), to_numpy(want))
    assert_agrees(torch.func.vmap(call)(q, k, v), to_numpy(want))


def test_gradients_of_huge_logits_are_finite() -> None:
    torch = importlib.import_module("torch")
    for size in (30.0, 1e4, 1e18):
        leaves = [torch.tensor(a * size, dtype=torch.float32) for a in inputs(1)[:2]]
        leaves = [a.requires_grad_() for a in (*leaves, torch.tensor(inputs(1)[2]).float())]
        out = sigmoid_attention(*leaves)
        found = torch.autograd.grad(out.sum(), leaves)
        assert all(torch.isfinite(a).all() for a in (out, *found))


# Laws


@EAGER
@pytest.mark.parametrize("is_causal", [False, True])
def test_padding_changes_nothing(lib: ArrayLibrary, is_causal: bool) -> None:
    q, k, v = inputs(2)
    want = sigmoid_attention(q, k, v, is_causal=is_causal)
    for before, after in ((0, 7), (5, 0), (4, 3)):
        width = [(0, 0), (before, after), (0, 0)]
        padded = [np.pad(a, width, constant_values=np.nan) for a in (q, k, v)]
        mask = np.pad(np.ones(20, dtype=bool), (before, after))
        out = sigmoid_attention(
            *map(lib.convert, padded), mask=lib.convert(mask), is_causal=is_causal
        )
        assert_agrees(to_numpy(out)[:, before : before + 20], want)


def test_steps_give_what_one_call_gives_and_the_future_is_not_seen() -> None:
    q, k, v = inputs(2)
    want = sigmoid_attention(q, k, v, is_causal=True)
    for i in (0, 7, 18):
        rows = slice(0, i + 1)
        step = sigmoid_attention(q[:, i : i + 1], k[:, rows], v[:, rows], is_causal=True)
        np.testing.assert_allclose(step[:, 0], want[:, i], atol=1e-14)
        two = sigmoid_attention(q[:, i : i + 2], k[:, : i + 2], v[:, : i + 2], is_causal=True)
        np.testing.assert_allclose(two, want[:, i : i + 2], atol=1e-14)
    k[:, 8:], v[:, 8:] = 50.0, -50.0
    np.testing.assert_allclose(sigmoid_attention(q, k, v, is_causal=True)[:, :8], want[:, :8])


def test_weights_add_up_to_about_one_by_default() -> None:
    q, k, _ = inputs(2, t=300, s=300)
    for is_causal in (False, True):
        total = sigmoid_attention(q, 0.0 * k, np.ones_like(k), is_causal=is_causal)
        n = np.arange(1, 301)[:, None] if is_causal else 300
        np.testing.assert_allclose(total, np.broadcast_to(n / (n + 1), total.shape))


@EAGER
def test_what_sees_nothing_gives_zeros_and_empty_lengths_work(lib: ArrayLibrary) -> None:
    q, k, v = map(lib.convert, inputs(2))
    nothing = lib.convert(np.zeros(20, dtype=bool))
    for is_causal in (False, True):
        assert (to_numpy(sigmoid_attention(q, k, v, mask=nothing, is_causal=is_causal)) == 0).all()
    assert sigmoid_attention(q[:, :0, :], k, v).shape == (2, 0, 3)
    assert (to_numpy(sigmoid_attention(q, k[:, :0, :], v[:, :0, :])) == 0).all()


def test_memory_is_linear_in_the_length() -> None:
    peaks = []
    for length in (1024, 4096):
        q, k, v = (a.astype(np.float32) for a in inputs(t=length, s=length))
        tracemalloc.start()
        sigmoid_attention(q, k, v, is_causal=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 12e6  # one matrix of all pairs has 67 MB


# The estimate


def drawn(q: Any, k: Any, bias: float, *, m: int, limit: float = 2.0, seed: int = 0) -> Any:
    function = Logistic(bias=bias, scale=q.shape[-1] ** -0.5)
    spec = Universal(m, function=function, limit=limit, tolerance=0.02 * expit(bias))
    return spec.fit(q, k, seed=seed)


@EAGER
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_estimate_is_the_sum_over_the_estimated_kernel(
    lib: ArrayLibrary, is_causal: bool
) -> None:
    q, k, v = (0.3 * a for a in inputs(2, t=20, s=29, heads=4))
    mask = np.random.default_rng(95).random((2, 29)) < 0.7
    phi = drawn(q, k, -3.0, m=16)
    both = [rfx.gram(q[i::2], k, features=phi) for i in (0, 1)]  # of every other query head
    gram = np.stack([both[head % 2][head // 2] for head in range(4)])
    for keep in (None, mask):
        hidden = np.ones_like(mask) if keep is None else keep
        args = (q, *(np.where(hidden[..., None], a, np.nan) for a in (k, v)))
        out = sigmoid_attention(
            *map(lib.convert, args),
            features=phi.to_like(lib.convert(q)),
            is_causal=is_causal,
            mask=None if keep is None else lib.convert(keep),
        )
        seen = pairs(q, k, is_causal, keep)
        assert_agrees(out, (gram * seen) @ wide(v, q), scale=64.0)


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_estimate_takes_empty_lengths(is_causal: bool) -> None:
    q, k, v = (0.3 * a for a in inputs(2, t=20, s=29))
    call = {"features": drawn(q, k, -3.0, m=16), "is_causal": is_causal}
    assert sigmoid_attention(q[:, :0], k, v, **call).shape == (2, 0, 3)
    assert sigmoid_attention(q[:, :0], k[:, :0], v[:, :0], **call).shape == (2, 0, 3)
    if not is_causal:
        assert np.array_equal(
            sigmoid_attention(q, k[:, :0], v[:, :0], **call), np.zeros((2, 20, 3))
        )


def test_the_estimate_nears_the_exact_sum_where_logits_are_small() -> None:
    rng = np.random.default_rng(96)
    q, k, v = rng.standard_normal((3, 4, 200, 8))
    q, k = 0.6 * q, 0.6 * k
    exact = sigmoid_attention(q, k, v)
    errors = []
    for m in (64, 1024, 16384):
        found = sigmoid_attention(q, k, v, features=drawn(q, k, -math.log(200), m=m, limit=4.0))
        errors.append(float(relative_error(found, exact).mean()))
    uniform = float(relative_error(v.mean(axis=-2, keepdims=True) + 0.0 * v, exact).mean())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.5 * uniform


# Refusals


def test_refusals_name_the_fix() -> None:
    q, k, v = inputs(2)
    phi = drawn(q, k, -3.0, m=16)
    other = rfx.features.Positive(num_features=8).draw(4, seed=0, like=q)
    neuron = Universal(16, function=Logistic(), bias=True).fit(q, k, seed=0)
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ValueError, "`scale` must be positive", {"scale": 0.0}),
        (TypeError, "`bias` must be a number or an array", {"bias": "log"}),
        (TypeError, "`bias` must be a number", {"bias": True}),
        (ValueError, "`bias` must be finite", {"bias": math.inf}),
        (ValueError, r"`bias` must have shape \(\) or \(2,\)", {"bias": np.zeros(3)}),
        (TypeError, "`bias` must hold real floating", {"bias": np.zeros(2, dtype=int)}),
        (ValueError, "`mask` must have shape", {"mask": np.ones(3, dtype=bool)}),
        (ValueError, "must be a map of the logistic function", {"features": other}),
        (ValueError, "must be a map of the logistic function", {"features": neuron}),
        (ValueError, "`bias` must be left out with `features`", {"features": phi, "bias": 0.0}),
        (ValueError, "`scale` must be left out with `features`", {"features": phi, "scale": 1.0}),
        (TypeError, "`features` must be a drawn map", {"features": phi.spec}),
    ]
    for kind, message, options in refused:
        with pytest.raises(kind, match=message):
            sigmoid_attention(q, k, v, **options)
    with pytest.raises(ValueError, match="at least as many keys as queries"):
        sigmoid_attention(q, k[:, :5], v[:, :5], is_causal=True)
    with pytest.raises(ValueError, match=r"`bias` must have shape \(\), got"):
        sigmoid_attention(q[0], k[0], v[0], bias=np.zeros(1))
    for given in ({"bias": "no"}, {"scale": math.nan}):
        with pytest.raises((TypeError, ValueError), match=next(iter(given))):
            Logistic(**given)
