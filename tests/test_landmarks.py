"""Attention through landmarks: against an oracle, exact at all landmarks, and never divergent."""

from __future__ import annotations

import importlib
import json
import tracemalloc
from functools import partial
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import rfx
from rfx._xp import to_numpy
from rfx.attention.landmarks import KMeans, Leverage, Rule, SegmentMeans, Uniform
from rfx.cli import main
from rfx.ops.inverse import least_squares, solve
from rfx.testing import ArrayLibrary, assert_agrees
from tests.conftest import LIBRARIES, refusal

EAGER = pytest.mark.parametrize("lib", [x for x in LIBRARIES if x.library != "jax"], ids=str)
"""JAX compiles each call anew for each shape; what it computes is tested compiled."""

KINDS = ("skyformer", "nystrom", "soft", "soft normalised")
RULES = (Uniform, SegmentMeans, KMeans, Leverage)
GAUSSIAN = rfx.kernels.Gaussian(bandwidth=2.0)


def attend(kind: str, q: Any, k: Any, v: Any, **options: Any) -> Any:
    """Any of the attentions; SOFT takes its queries for keys, of which the mask is."""
    if kind.startswith("soft"):
        options.pop("query_mask", None)
        return rfx.soft_attention(k, v, normalize=kind != "soft", **options)
    return getattr(rfx, f"{kind}_attention")(q, k, v, **options)


def compiled(lib: ArrayLibrary, kind: str, **options: Any) -> Any:
    """The attention as a function of queries, keys and values; compiled in JAX."""
    call = partial(attend, kind, **options)
    return importlib.import_module("jax").jit(call) if lib.library == "jax" else call


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    difference = x[..., :, None, :] - y[..., None, :, :]
    return np.exp(-0.5 * (difference**2).sum(axis=-1) / x.shape[-1] ** 0.5)


def softmax(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    weights = np.exp(x @ np.swapaxes(y, -1, -2) / x.shape[-1] ** 0.5)
    return weights / weights.sum(axis=-1, keepdims=True)


def means(x: np.ndarray, num: int) -> np.ndarray:
    n = x.shape[-2]
    sizes = [n // num] * (num - n % num) + [n // num + 1] * (n % num)
    ends = np.cumsum([0, *sizes])
    parts = [x[..., a:b, :].mean(axis=-2) for a, b in pairwise(ends)]
    return np.stack(parts, axis=-2)


def picked(x: np.ndarray, num: int, seed: int = 0) -> np.ndarray:
    return x[..., np.argsort(np.random.default_rng(seed).random(x.shape[-2]))[:num], :]


def oracle(
    kind: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, num: int, ridge: float
) -> np.ndarray:
    """By full matrices in float64, without masks, each method with its own rule."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    if q.ndim > 2:
        k, v = (np.repeat(a, q.shape[-3] // a.shape[-3], axis=-3) for a in (k, v))
    eye = ridge * np.eye(num)
    if kind == "nystrom":
        a, b = means(q, num), means(k, num)
        middle = softmax(a, b)
        turned = np.swapaxes(middle, -1, -2)
        inverse = np.linalg.inv(turned @ middle + eye) @ turned
        return softmax(q, b) @ inverse @ softmax(a, k) @ v
    if kind == "skyformer":
        z = picked(np.concatenate([q, k], axis=-2), num)
        return gaussian(q, z) @ np.linalg.inv(gaussian(z, z) + eye) @ gaussian(z, k) @ v
    z = means(k, num)
    matrix = gaussian(k, z) @ np.linalg.inv(gaussian(z, z) + eye) @ gaussian(z, k)
    if kind == "soft normalised":
        root = matrix.sum(axis=-1) ** -0.5
        matrix = root[..., :, None] * matrix * root[..., None, :]
    return matrix @ v


def inputs(*batch: int, t: int = 21, s: int = 21, d: int = 4, e: int = 4, seed: int = 70):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((*batch, n, w)) for n, w in ((t, d), (s, d), (s, e)))


# Agreement


@EAGER
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inverse", ["iteration", "decomposition"])
def test_agrees_with_the_oracle(lib: ArrayLibrary, kind: str, inverse: str) -> None:
    for batch in ((), (2,), (2, 2)):
        q, k, v = inputs(*batch, t=21 if kind.startswith("soft") else 30, e=3)
        want = oracle(kind, q, k, v, num=6, ridge=0.01)
        args = [lib.convert(a) for a in (q, k, v)]
        out = attend(kind, *args, landmarks=6, ridge=0.01, inverse=inverse)
        assert type(out) is type(args[2])
        assert out.dtype == args[2].dtype
        assert_agrees(out, want, scale=1e3)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_with_the_oracle(lib: ArrayLibrary, kind: str) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    out = compiled(lib, kind, landmarks=6, ridge=0.01)(*map(lib.convert, (q, k, v)))
    assert_agrees(out, oracle(kind, q, k, v, num=6, ridge=0.01), scale=200.0)


@EAGER
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(lib: ArrayLibrary, kind: str, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    q, k, v = (lib.convert(a, dtype) for a in inputs(2))
    out = attend(kind, q, k, v, landmarks=15, ridge=1e-3)
    assert out.dtype == v.dtype
    want = oracle(kind, *map(to_numpy, (q, k, v)), num=15, ridge=1e-3)
    assert_agrees(out, want, scale=200.0)


@EAGER
@pytest.mark.parametrize("kind", KINDS[:2])
def test_grouped_queries_agree_with_the_oracle(lib: ArrayLibrary, kind: str) -> None:
    q, _, _ = inputs(2, 4)
    _, k, v = inputs(2, 2, seed=71)
    q, k, v = (a.astype(np.float32) for a in (q, k, v))
    out = attend(kind, *map(lib.convert, (q, k, v)), landmarks=6, ridge=0.01)
    assert_agrees(out, oracle(kind, q, k, v, num=6, ridge=0.01), scale=200.0)
    mask = np.ones((2, 2, 21), dtype=bool)
    out = attend(
        kind, *map(lib.convert, (q, k, v)), landmarks=6, ridge=0.01, mask=lib.convert(mask)
    )
    assert_agrees(out, oracle(kind, q, k, v, num=6, ridge=0.01), scale=200.0)


def target(kind: str, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    if kind == "nystrom":
        return softmax(q, k) @ v
    matrix = gaussian(q if kind == "skyformer" else k, k)
    if kind == "soft normalised":
        root = matrix.sum(axis=-1) ** -0.5
        matrix = root[..., :, None] * matrix * root[..., None, :]
    return matrix @ v


@pytest.mark.parametrize("kind", KINDS)
def test_all_landmarks_are_exact_on_real_activations(activations, kind: str) -> None:
    with np.load(activations / "minilm_n384.npz") as data:
        q, k, v = (data[f"{name}0"][:2, :150].astype(np.float64) for name in "qkv")
    call = {"ridge": 0.0, "inverse": "decomposition"}
    out = attend(kind, q, k, v, landmarks=300 if kind == "skyformer" else 150, **call)
    assert np.abs(out - target(kind, q, k, v)).max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_more_landmarks_are_nearer_to_the_target(kind: str) -> None:
    q, k, v = inputs(4, t=120, s=120, d=3)
    q, k = 0.7 * q, 0.7 * k
    errors = []
    for num in (4, 16, 60):
        out = attend(kind, q, k, v, landmarks=num, ridge=1e-9)
        errors.append(rfx.diagnostics.relative_error(out, target(kind, q, k, v)).mean())
    assert errors[0] > 2 * errors[1] > 8 * errors[2]
    assert errors[2] < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_the_normalised_matrix_is_positive_with_norm_at_most_1(kind: str) -> None:
    q, k, _ = inputs(t=40, s=40)
    matrix = attend(kind, q, k, np.eye(40), landmarks=20, ridge=0.0)
    if kind.startswith("soft"):
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
        assert np.linalg.eigvalsh(matrix).min() > -1e-9
    if kind == "soft normalised":
        assert np.linalg.norm(matrix, 2) < 1.0 + 1e-6
    if kind == "nystrom":
        np.testing.assert_allclose(matrix.sum(axis=-1), 1.0, atol=1e-6)


# Laws


@EAGER
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_padded_equals_unpadded(lib: ArrayLibrary, kind: str, rule: type[Rule]) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    call = {"landmarks": rule(6), "ridge": 0.01}
    want = attend(kind, q, k, v, **call)
    for before, after in ((0, 9), (5, 0), (4, 3)):
        width = [(0, 0), (before, after), (0, 0)]
        padded = [np.pad(a, width, constant_values=np.nan) for a in (q, k, v)]
        mask = lib.convert(np.pad(np.ones(21, dtype=bool), (before, after)))
        out = attend(kind, *map(lib.convert, padded), mask=mask, query_mask=mask, **call)
        assert_agrees(to_numpy(out)[:, before : before + 21], want, scale=500.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_heads_and_batches_do_not_meet(kind: str, rule: type[Rule]) -> None:
    q, k, v = inputs(2, 3)
    rng = np.random.default_rng(72)
    options = {"landmarks": rule(6), "ridge": 0.01}
    mask = rng.random((2, 3, 21)) < 0.6
    query_mask = rng.random((2, 3, 21)) < 0.6
    out = attend(kind, q, k, v, mask=mask, query_mask=query_mask, **options)
    alone = attend(
        kind, q[1, 2], k[1, 2], v[1, 2], mask=mask[1, 2], query_mask=query_mask[1, 2], **options
    )
    np.testing.assert_allclose(out[1, 2], alone, atol=1e-9)


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_fewer_visible_tokens_than_landmarks_are_all_landmarks(
    lib: ArrayLibrary, kind: str
) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    mask = np.arange(21) < 4
    k[:, 4:], v[:, 4:] = np.nan, np.nan
    q_ = np.where(mask[:, None], q, np.float32(np.nan))
    mask_ = lib.convert(mask)
    args = [lib.convert(a) for a in (q_, k, v)]
    few = (a[:, :4] for a in (q, k, v))
    want = attend(kind, *few, landmarks=8 if kind == "skyformer" else 4, ridge=0.3)
    out = attend(kind, *args, landmarks=12, ridge=0.3, mask=mask_, query_mask=mask_)
    assert_agrees(to_numpy(out)[:, :4], want, scale=500.0)


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_queries_with_nothing_to_see_give_zeros(lib: ArrayLibrary, kind: str) -> None:
    q, k, v = (lib.convert(a.astype(np.float32)) for a in inputs(2))
    for rule in RULES:
        nothing = lib.convert(np.zeros(21, dtype=bool))
        out = attend(kind, q, k, v, landmarks=rule(12), mask=nothing)
        assert (to_numpy(out) == 0).all()


# Rules


def test_segments_differ_in_length_by_one() -> None:
    x = np.random.default_rng(73).standard_normal((2, 23, 3))
    for num in (1, 5, 22, 23):
        found = SegmentMeans(num).choose(x)
        np.testing.assert_allclose(found.points, means(x, num), atol=1e-12)
        masked = SegmentMeans(num).choose(x, np.ones(23, dtype=bool))
        np.testing.assert_allclose(masked.points, means(x, num), atol=1e-12)


@EAGER
@pytest.mark.parametrize("rule", [Uniform(7, seed=3), Leverage(7, seed=3)])
def test_drawn_landmarks_are_different_visible_tokens(lib: ArrayLibrary, rule: Rule) -> None:
    x = np.random.default_rng(74).standard_normal((3, 40, 2)).astype(np.float32)
    mask = np.random.default_rng(75).random((3, 40)) < 0.5
    for keep in (None, mask):
        found = rule.choose(lib.convert(x), None if keep is None else lib.convert(keep))
        for i, points in enumerate(to_numpy(found.points)):
            match = (points[:, None, :] == x[i][None, :, :]).all(axis=-1)
            assert (match.sum(axis=-1) == 1).all()
            assert match.any(axis=0).sum() == 7
            assert keep is None or keep[i][match.any(axis=0)].all()


def test_seeds_choose_and_decide() -> None:
    x = np.arange(100.0)[:, None]
    same = [Uniform(9, seed=1).choose(x).points for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert set(same[0][:, 0]) != set(Uniform(9, seed=2).choose(x).points[:, 0])


def test_centres_of_clusters_are_the_means_of_what_is_nearest_to_them() -> None:
    x = np.random.default_rng(76).standard_normal((3, 100, 2))
    mask = np.arange(100) % 4 != 0
    found = KMeans(5, seed=1, iterations=60).choose(x, mask).points
    for centres, points in zip(found, x[:, mask], strict=True):
        nearest = ((points[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=-1)
        want = [points[nearest == i].mean(axis=0) for i in range(5)]
        np.testing.assert_allclose(centres, want, atol=1e-12)


def test_leverage_finds_the_rare() -> None:
    """Of 200 tokens 5 stand alone; uniform landmarks find one in ten of them."""
    x = 0.01 * np.random.default_rng(77).standard_normal((200, 4))
    x[100:105] = 9.0 * np.concatenate([np.eye(4), -np.ones((1, 4))])
    found = dict.fromkeys(("uniform", "leverage"), 0)
    for seed in range(20):
        for name, rule in (("uniform", Uniform(20, seed)), ("leverage", Leverage(20, seed))):
            found[name] += int((np.abs(rule.choose(x).points).max(axis=-1) > 5).sum())
    assert found["uniform"] < 25
    assert found["leverage"] > 70


# The inverse


def rank_deficient(dtype: str, n: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(78)
    points = np.tile(rng.standard_normal((n // 2, 8)), (2, 1))  # every point twice
    smooth = rng.standard_normal((n, 2))
    low = rng.random((n, 5))
    a = np.stack([gaussian(points, points), gaussian(smooth, smooth), low @ low.T])
    x = rng.standard_normal((n, 3))
    return a.astype(dtype), (a @ x).astype(dtype), a


@EAGER
@pytest.mark.parametrize("inverse", ["iteration", "decomposition"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rank_deficient_systems_do_not_diverge(lib: ArrayLibrary, inverse: str, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} holds no {dtype} by default")
    a, b, exact = rank_deficient(dtype)
    for function in (solve, least_squares):
        out = to_numpy(function(lib.convert(a), lib.convert(b), ridge=0.0, inverse=inverse))
        out = out.astype(np.float64)
        residual = np.linalg.norm(exact @ out - b, axis=(-2, -1)) / np.linalg.norm(b, axis=(-2, -1))
        limits = {"float32": (1e-4, 1e-2), "float64": (1e-8, 1e-4)}[dtype]
        assert (residual < limits[function is least_squares]).all()
        assert np.abs(out).max() < 100.0


@EAGER
@pytest.mark.parametrize("inverse", ["iteration", "decomposition"])
def test_matrices_that_are_not_positive_or_not_finite_stay_apart(
    lib: ArrayLibrary, inverse: str
) -> None:
    rng = np.random.default_rng(79)
    a = np.stack([np.eye(8)] * 5)
    a[1] = 1.0 - 2.0 * np.eye(8)  # eigenvalues −2 and 6
    a[2, 3, 4] = np.nan
    a[3] = 0.0
    a[4] = -np.eye(8)
    b = rng.standard_normal((5, 8, 2)).astype(np.float32)
    a_, b_ = lib.convert(a.astype(np.float32)), lib.convert(b)
    out = to_numpy(solve(a_, b_, ridge=0.0, inverse=inverse))
    np.testing.assert_allclose(out[0], b[0], rtol=1e-4)
    assert np.isnan(out[2]).all()
    assert np.isfinite(out[[0, 1, 3, 4]]).all()


@EAGER
def test_the_two_inverses_agree_with_a_ridge(lib: ArrayLibrary) -> None:
    a, b, exact = rank_deficient("float32")
    want = np.linalg.solve(exact + 0.01 * np.eye(64), b.astype(np.float64))
    for inverse in ("iteration", "decomposition"):
        out = solve(lib.convert(a), lib.convert(b), ridge=0.01, inverse=inverse)
        assert_agrees(out, want, scale=5e3)


# Numerics


@EAGER
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "norm"),
    [("float32", 100.0), ("float32", 1e4), ("float16", 65504.0), ("bfloat16", 1e18)],
)
def test_large_inputs_stay_finite(lib: ArrayLibrary, kind: str, dtype: str, norm: float) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    rng = np.random.default_rng(80)
    points = np.clip(norm * rng.standard_normal((2, 2, 40, 8)), -norm, norm)
    points[:, :, 20:] = points[:, :, :20]  # twice, with the rounding of a large norm
    points[:, 1, 10:15] = 1e-3
    q, k = (lib.convert(a, dtype) for a in points)
    v = lib.convert(rng.standard_normal((2, 40, 3)), dtype)
    for rule in (Uniform(30), SegmentMeans(30)):
        out = to_numpy(attend(kind, q, k, v, landmarks=rule))
        assert np.isfinite(out).all()
        assert np.abs(out).max() < 1e4


@EAGER
@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_head(lib: ArrayLibrary, kind: str) -> None:
    for inverse in ("iteration", "decomposition"):
        q, k, v = (a.astype(np.float32) for a in inputs(3))
        k[1, 4, 2] = np.nan
        args = map(lib.convert, (q, k, v))
        out = to_numpy(attend(kind, *args, landmarks=8, inverse=inverse))
        assert np.isfinite(out[[0, 2]]).all()
        assert np.isnan(out[1]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_linear(kind: str) -> None:
    peaks = []
    for length in (2048, 8192):
        x = np.random.default_rng(81).standard_normal((1, length, 8)).astype(np.float32)
        tracemalloc.start()
        attend(kind, x, x, x, landmarks=32)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4.5 * peaks[0]
    assert peaks[1] < 0.1 * 8192**2 * 4


# Gradients and transformations


def loss(out):
    return (out * out).sum() + out[..., 0].sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inverse", ["iteration", "decomposition"])
def test_torch_gradients_are_those_of_finite_differences(kind: str, inverse: str) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a).requires_grad_() for a in inputs(2, t=9, s=9, d=2, e=2))
    mask = torch.arange(9) != 3
    rules = (Uniform(3), SegmentMeans(3), KMeans(3)) if inverse == "iteration" else (Uniform(3),)
    for rule in rules:

        def call(q, k, v, rule=rule):
            return attend(kind, q, k, v, landmarks=rule, mask=mask, inverse=inverse, ridge=0.01)

        assert torch.autograd.gradcheck(call, (q, k, v), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (q, k, v), fast_mode=True)


def test_gradients_of_masked_tokens_are_zero_even_if_they_hold_nan() -> None:
    torch = pytest.importorskip("torch")
    for kind in KINDS:
        for rule in RULES:
            arrays = list(inputs(2))
            keep = np.arange(21) % 3 != 0
            for array in arrays[1:]:
                array[:, ~keep] = np.nan
            q, k, v = (torch.asarray(a).requires_grad_() for a in arrays)
            mask = torch.asarray(keep)
            out = attend(kind, q, k, v, landmarks=rule(5), mask=mask, query_mask=mask)
            loss(out[:, mask]).backward()
            for leaf in (k, v) if kind.startswith("soft") else (q, k, v):
                assert torch.isfinite(leaf.grad).all(), (kind, rule)
            assert (k.grad[:, ~mask] == 0).all()
            assert (v.grad[:, ~mask] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_jax_transformations_go_through(kind: str) -> None:
    jax = pytest.importorskip("jax")
    torch = pytest.importorskip("torch")
    arrays = [a.astype(np.float32) for a in inputs(2)]
    mask = np.arange(21) != 3

    def call(q, k, v, mask):
        return attend(kind, q, k, v, landmarks=Uniform(5), mask=mask, ridge=0.01)

    def both(*args):
        gradient = jax.grad(lambda q, k, v: loss(call(q, k, v, args[3])), (0, 1, 2))
        return call(*args), gradient(*args[:3])

    args = [jax.numpy.asarray(a)[None] for a in arrays]
    out, found = jax.jit(jax.vmap(both, in_axes=(0, 0, 0, None)))(*args, mask)
    leaves = [torch.asarray(a).requires_grad_() for a in arrays]
    want = call(*leaves, torch.asarray(mask))
    loss(want).backward()
    assert_agrees(out[0], to_numpy(want), scale=500.0)
    for mine, leaf in zip(found, leaves, strict=True):
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert_agrees(
            mine[0], to_numpy(gradient), scale=5e3, size=1.0 + float(gradient.abs().max())
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS[:2])
def test_torch_compile_takes_it_as_one_graph(kind: str) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a, dtype=torch.float32) for a in inputs(2))

    def call(q, k, v):
        return attend(kind, q, k, v, landmarks=6, ridge=0.01)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_agrees(compiled(q, k, v), to_numpy(call(q, k, v)), scale=500.0)


# Refusals


@pytest.mark.parametrize(
    ("kind", "options", "error", "sentence"),
    [
        ("skyformer", {"landmarks": 43}, ValueError, "at most the number of queries and keys, got"),
        ("nystrom", {"landmarks": 22}, ValueError, "at most the number of queries, got 22 landmar"),
        ("soft", {"landmarks": 22}, ValueError, "number of tokens, got 22 landmarks and 21 tokens"),
        *[(kind, {"is_causal": True}, ValueError, "causal landmarks are not") for kind in KINDS],
        ("soft", {"landmarks": 0}, ValueError, "`landmarks` must be at least 1, got 0"),
        ("soft", {"landmarks": True}, TypeError, "must be an int or a rule, got True; pass for ex"),
        ("nystrom", {"landmarks": "all"}, TypeError, "must be an int or a rule, got 'all'"),
        ("nystrom", {"ridge": -0.1}, ValueError, "`ridge` must be finite and at least 0, got -0.1"),
        ("nystrom", {"ridge": np.nan}, ValueError, "`ridge` must be finite and at least 0"),
        ("skyformer", {"ridge": "1"}, TypeError, "`ridge` must be a number, got '1'"),
        ("skyformer", {"kernel": "rbf"}, TypeError, "`kernel` must be a record of rfx.kernels"),
        ("skyformer", {"inverse": "svd"}, ValueError, "one of iteration, decomposition, got 'svd'"),
        ("skyformer", {"mask": np.ones((2, 21, 21)) > 0}, ValueError, "`mask` must have shape"),
        ("nystrom", {"query_mask": np.ones(9) > 0}, ValueError, "`query_mask` must have shape"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(kind, options, error, sentence) -> None:
    q, k, v = inputs(2)
    with pytest.raises(error, match=sentence) as caught:
        attend(kind, q, k, v, **({"landmarks": 6} | options))
    assert "\n" not in str(caught.value)


def test_soft_attention_refuses_grouped_queries() -> None:
    q, v = np.zeros((4, 9, 3)), np.zeros((2, 9, 3))
    with pytest.raises(ValueError, match="must have equal batch axes, heads and lengths"):
        rfx.soft_attention(q, v, landmarks=3)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Uniform(0), ValueError, "`num` must be at least 1"),
        (lambda: Uniform(3, seed=-1), ValueError, "`seed` must be at least 0, got -1"),
        (lambda: KMeans(3, seed=0.5), TypeError, "`seed` must be an int, got 0.5"),
        (lambda: KMeans(3, iterations=0), ValueError, "`iterations` must be at least 1"),
        (lambda: Leverage(3, ridge=0.0), ValueError, "`ridge` must be positive"),
        (lambda: Leverage(3, kernel=2), TypeError, "`kernel` must be a record"),
        (lambda: SegmentMeans(2.5), TypeError, "`num` must be an int, got 2.5"),
    ],
)
def test_rules_refuse_in_a_sentence(make, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        make()


def test_explain_says_that_portable_code_runs() -> None:
    q, k, v = inputs(2)
    found = rfx.explain(rfx.skyformer_attention, q, k, v, landmarks=4)
    assert str(found).startswith("skyformer_attention on numpy arrays runs portable code")


# rfx reproduce landmarks


def test_reproduced_errors_are_those_of_the_oracle(tmp_path) -> None:
    out = tmp_path / "out.json"
    argv = ["reproduce", "landmarks", "--quick", "--seeds", "1", "--json", str(out)]
    assert main([*argv, "--plot", str(tmp_path / "a.png")]) == 0
    found = json.loads(out.read_text())
    with resources.files("rfx").joinpath("data/sample.npz").open("rb") as file:
        archive = np.load(file)
        q, k, v = (archive[f"{name}0"].astype(np.float64) for name in "qkv")
    rows = {(r["column"], r["landmarks"]): r for r in found["rows"] if r["part"] == "errors"}
    for column, kind in (("nystrom", "nystrom"), ("skyformer, uniform", "skyformer"),
                         ("soft, means", "soft")):  # fmt: skip
        estimate, exact = oracle(kind, q, k, v, num=16, ridge=1e-3), target(kind, q, k, v)
        want = rfx.diagnostics.relative_error(estimate, exact)
        np.testing.assert_allclose(rows[column, 16]["errors"][0], want, rtol=1e-2)
    assert found["claims"][0]["held"]
    assert "largest difference from the target: nystrom" in found["claims"][0]["text"]


def test_reproduce_refuses_causal_and_short_files(capsys, tmp_path) -> None:
    argv = ["reproduce", "landmarks", "--quick", "--data", str(tmp_path)]
    argv += ["--plot", str(tmp_path / "a.png")]
    short = dict.fromkeys(("q", "k", "v"), np.ones((2, 20, 4)))
    np.savez(tmp_path / "causal.npz", **short)
    assert "holds only files that are causal by their name" in refusal(argv, capsys)
    (tmp_path / "causal.npz").rename(tmp_path / "short.npz")
    assert "has 20 tokens, too few for 32 landmarks" in refusal(argv, capsys)
