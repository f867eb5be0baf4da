"""Sparsefinder: rules against pairs counted by hand, its attention, its fit and its experiment."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from rfx._xp import to_numpy
from rfx.attention import supports
from rfx.attention.entmax import entmax_attention
from rfx.attention.sparsefinder import sparsefinder_attention
from rfx.attention.supports import Bins, Clusters, Distance, Projection, Rule
from rfx.cli import inputs as files
from rfx.cli.reproduce import sparsefinder as experiment
from rfx.cli.reproduce.experiment import Request
from rfx.testing import ArrayLibrary, assert_agrees
from tests.conftest import LIBRARIES
from tests.test_entmax import bisected

EAGER = pytest.mark.parametrize("lib", [x for x in LIBRARIES if x.library != "jax"], ids=str)
"""JAX compiles each call anew for each shape; what it computes is tested compiled."""

R = 3


def inputs(*batch: int, t: int = 21, s: int = 21, d: int = 4, e: int = 3, seed: int = 110):
    rng = np.random.default_rng(seed)
    return tuple(1.5 * rng.standard_normal((*batch, n, w)) for n, w in ((t, d), (s, d), (s, e)))


def projection(heads: int | None = None, d: int = 4, seed: int = 111) -> Projection:
    rng = np.random.default_rng(seed)
    own = () if heads is None else (heads,)
    shapes = ((*own, d, R), (*own, d, R), (*own, R))
    return Projection(*(0.5 * rng.standard_normal(shape) for shape in shapes))


def rules(heads: int | None = None) -> dict[str, Rule]:
    rng = np.random.default_rng(112)
    own = () if heads is None else (heads,)
    made = projection(heads)
    edges = np.sort(rng.standard_normal((*own, R, 4)), axis=-1)
    centres = rng.standard_normal((*own, 6, R))
    return {
        "distance": Distance(made, 1.2),
        "bins": Bins(made, edges),
        "two bins": Bins(made, edges, shared=2),
        "clusters": Clusters(made, centres),
        "two clusters": Clusters(made, centres, nearest=2),
    }


def host(array: Any, head: int) -> np.ndarray:
    return array[head] if array.ndim > 2 else array


def matches(rule: Rule, x: np.ndarray, y: np.ndarray, head: int) -> bool:
    """Whether one rule predicts one pair, literally."""
    made = rule.projection
    assert made is not None
    shift = made.shift[head] if made.shift.ndim > 1 else made.shift
    a, b = x @ host(made.query, head) + shift, y @ host(made.key, head)
    if isinstance(rule, Distance):
        return bool(np.linalg.norm(a - b) <= rule.threshold)
    if isinstance(rule, Bins):
        edges = host(rule.edges, head)
        same = [
            np.searchsorted(e, p) == np.searchsorted(e, r)
            for e, p, r in zip(edges, a, b, strict=True)
        ]
        return sum(same) >= rule.shared
    assert isinstance(rule, Clusters)
    centres = host(rule.centres, head)
    nearest = [
        set(np.argsort([np.linalg.norm(p - c) for c in centres])[: rule.nearest]) for p in (a, b)
    ]
    return bool(nearest[0] & nearest[1])


def predicted(rule, q, k, window, global_tokens, is_causal, mask) -> np.ndarray:
    """Pair by pair: q (B, Hq, t, d), k (B, H, s, d), mask (B, H, s)."""
    (batch, heads, t, _), (groups, s) = q.shape, k.shape[1:3]
    found = np.zeros((batch, heads, t, s), bool)
    for b in range(batch):
        for h in range(heads):
            g = h // (heads // groups)
            first = np.flatnonzero(mask[b, g])[:global_tokens]
            for i in range(t):
                place = i + s - t
                for j in range(s):
                    if not mask[b, g, j] or (is_causal and j > place):
                        continue
                    found[b, h, i, j] = (
                        (rule is not None and matches(rule, q[b, h, i], k[b, g, j], h))
                        or (window is not None and abs(place - j) <= window)
                        or j in first
                        or place in first
                    )
    return found


# Prediction


@EAGER
@pytest.mark.parametrize("heads", [None, 4])
@pytest.mark.parametrize("name", [*rules(), "none"])
def test_predictions_are_those_of_each_pair(lib: ArrayLibrary, heads: int, name: str) -> None:
    rule = rules(heads).get(name)
    q, _, _ = inputs(1, 4, t=9)
    _, k, _ = inputs(1, 2, s=13, seed=113)
    mask = np.random.default_rng(114).random((1, 2, 13)) < 0.8
    for window, tokens, is_causal in ((None, 0, False), (0, 2, True), (2, 0, True), (1, 5, False)):
        want = predicted(rule, q, k, window, tokens, is_causal, mask)
        call: dict[str, Any] = {"window": window, "global_tokens": tokens, "is_causal": is_causal}
        out = supports.predicted_pairs(
            lib.convert(q), lib.convert(k), rule=rule, mask=lib.convert(mask), **call
        )
        np.testing.assert_array_equal(to_numpy(out), want)
    assert name == "none" or 0.02 < want.mean() < 0.98


@EAGER
@pytest.mark.parametrize("name", [*rules(), "none"])
@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_attention_is_over_the_predicted_pairs(lib: ArrayLibrary, name: str, alpha: float) -> None:
    rule = rules(4).get(name)
    q, _, _ = inputs(2, 4, t=13)
    _, k, v = inputs(2, 2, s=21, seed=115)
    wide_k, wide_v = (np.repeat(a, 2, axis=-3) for a in (k, v))
    scores = q @ np.swapaxes(wide_k, -1, -2) * 0.5
    for is_causal in (False, True):
        call: dict[str, Any] = {"rule": rule, "window": 1, "is_causal": is_causal}
        call["global_tokens"] = 2
        pairs = supports.predicted_pairs(q, k, **call)
        want = bisected(np.where(pairs, scores, -np.inf), alpha) @ wide_v
        out = sparsefinder_attention(*map(lib.convert, (q, k, v)), alpha=alpha, **call)
        assert type(out) is type(lib.convert(v))
        assert_agrees(out, want, scale=20.0)


@pytest.mark.parametrize("name", rules())
def test_blocks_of_queries_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, t=40, s=50)
    call: dict[str, Any] = {"rule": rules()[name], "window": 2, "global_tokens": 3}
    whole = [sparsefinder_attention(q, k, v, is_causal=c, **call) for c in (False, True)]
    monkeypatch.setattr("rfx.attention.entmax._MOST", 16)
    parts = [sparsefinder_attention(q, k, v, is_causal=c, **call) for c in (False, True)]
    np.testing.assert_allclose(parts, whole, atol=1e-12)


def test_all_pairs_and_all_of_the_support_are_exact() -> None:
    q, k, v = inputs(2, 2)
    for alpha in (1.5, 2.0):
        want = entmax_attention(q, k, v, alpha=alpha)
        everything: dict[str, Any] = {"rule": Distance(projection(), 1e6), "alpha": alpha}
        np.testing.assert_allclose(sparsefinder_attention(q, k, v, **everything), want, atol=1e-12)
        exact = supports.exact_pairs(q, k, alpha=alpha)
        window = int(max(abs(i - j) for _, _, i, j in zip(*np.nonzero(exact), strict=True)))
        out = sparsefinder_attention(q, k, v, rule=None, window=window, alpha=alpha)
        np.testing.assert_allclose(out, want, atol=1e-12)
        missed = sparsefinder_attention(q, k, v, rule=None, window=window // 2, alpha=alpha)
        assert np.abs(missed - want).max() > 0.1


@EAGER
@pytest.mark.parametrize("name", rules())
def test_padding_changes_nothing(lib: ArrayLibrary, name: str) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    call: dict[str, Any] = {"rule": rules()[name], "window": 1, "global_tokens": 2}
    want = sparsefinder_attention(q, k, v, **call)
    for before, after, fill in ((0, 6, np.nan), (5, 0, np.inf), (4, 3, np.nan)):
        width = [(0, 0), (before, after), (0, 0)]
        padded = [np.pad(a, width, constant_values=fill) for a in (k, v)]
        padded = [np.pad(q, width), *padded]
        mask = lib.convert(np.pad(np.ones(21, bool), (before, after)))
        out = sparsefinder_attention(*map(lib.convert, padded), mask=mask, **call)
        assert_agrees(to_numpy(out)[:, before : before + 21], want, scale=20.0)


@EAGER
@pytest.mark.parametrize("name", rules())
def test_the_future_is_not_seen(lib: ArrayLibrary, name: str) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    call: dict[str, Any] = {"rule": rules()[name], "window": 2, "is_causal": True}
    want = sparsefinder_attention(q, k, v, **call)
    for array in (q, k, v):
        array[:, 14:] = 7.0
    out = sparsefinder_attention(*map(lib.convert, (q, k, v)), **call)
    assert_agrees(to_numpy(out)[:, :14], want[:, :14], scale=20.0)


@EAGER
@pytest.mark.parametrize("name", rules())
def test_nan_is_never_hidden(lib: ArrayLibrary, name: str) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    call: dict[str, Any] = {"rule": rules()[name], "window": None}
    clean = sparsefinder_attention(q, k, v, **call)
    q[0, 3] = np.nan
    k[1, 5] = np.nan
    out = to_numpy(sparsefinder_attention(*map(lib.convert, (q, k, v)), **call))
    assert np.isnan(out[0, 3]).all()
    assert np.isnan(out[1]).all()
    rest = np.arange(21) != 3
    assert_agrees(out[0, rest], clean[0, rest], scale=20.0)


def test_a_threshold_or_window_beyond_all_numbers_predicts_all(lib: ArrayLibrary) -> None:
    q, k, _ = (lib.convert(a, lib.dtypes[-1]) for a in inputs(2))
    for options in (
        {"rule": Distance(None, 1e200), "window": None},
        {"rule": None, "window": 10**30},
    ):
        assert to_numpy(supports.predicted_pairs(q, k, **options)).all()


def test_queries_with_nothing_predicted_give_zeros() -> None:
    q, k, v = inputs(2)
    far = Distance(None, 1e-6)
    assert (sparsefinder_attention(q, k, v, rule=far, window=None) == 0.0).all()
    np.testing.assert_allclose(sparsefinder_attention(q, k, v, rule=far, window=0), v)


def test_rules_in_compiled_functions_with_gradients() -> None:
    torch = pytest.importorskip("torch")
    jax = pytest.importorskip("jax")
    arrays = [a.astype(np.float32) for a in inputs(2, 2)]
    mask = np.arange(21) % 5 != 3

    def calls(q, k, v, mask):
        options: dict[str, Any] = {"window": 1, "global_tokens": 2, "mask": mask}
        return [sparsefinder_attention(q, k, v, rule=r, **options) for r in rules(2).values()]

    def loss(q, k, v, mask):
        return sum((out**2).sum() for out in calls(q, k, v, mask))

    leaves = [torch.asarray(a).requires_grad_() for a in arrays]
    loss(*leaves, torch.asarray(mask)).backward()
    found = jax.jit(jax.grad(loss, (0, 1, 2)))(*map(jax.numpy.asarray, arrays), mask)
    for mine, leaf in zip(found, leaves, strict=True):
        assert_agrees(mine, leaf.grad.numpy(), scale=500.0)
    kept = [torch.asarray(a[0, 0, :6]).double().requires_grad_() for a in arrays]
    assert torch.autograd.gradcheck(
        lambda q, k, v: sparsefinder_attention(q, k, v, rule=rules()["bins"]), kept, fast_mode=True
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_compile_takes_it_as_one_graph() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a, dtype=torch.float32) for a in inputs(2))
    three = [rules()[name] for name in ("distance", "two bins", "two clusters")]

    def call(q, k, v):
        options: dict[str, Any] = {"is_causal": True, "global_tokens": 2}
        return torch.stack([sparsefinder_attention(q, k, v, rule=r, **options) for r in three])

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_agrees(compiled(q, k, v), to_numpy(call(q, k, v)), scale=20.0)


@EAGER
def test_rules_may_hold_arrays_of_the_points_library(lib: ArrayLibrary) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    made = projection()
    own = Projection(*(lib.convert(a) for a in (made.query, made.key, made.shift)))
    edges = np.asarray([[-1.0, 0.0, 1.0]] * R)
    want = sparsefinder_attention(q, k, v, rule=Bins(made, edges))
    args = [lib.convert(a) for a in (q, k, v)]
    out = sparsefinder_attention(*args, rule=Bins(own, lib.convert(edges)))
    assert_agrees(out, want, scale=20.0)
    if lib.library != "numpy":
        with pytest.raises(TypeError, match=f"holds arrays of {lib.library}, but query is one of"):
            sparsefinder_attention(q, k, v, rule=Distance(own))


# Measures


@EAGER
def test_recall_and_sparsity_count_pairs(lib: ArrayLibrary) -> None:
    rng = np.random.default_rng(116)
    pairs, exact, visible = (rng.random((3, 7, 9)) < p for p in (0.4, 0.3, 0.8))
    exact[1], visible[2] = False, False
    got = to_numpy(supports.recall(lib.convert(pairs), lib.convert(exact)))
    want = (pairs & exact).sum(axis=(1, 2)) / np.maximum(exact.sum(axis=(1, 2)), 1)
    np.testing.assert_allclose(got, np.where([False, True, False], 1.0, want), rtol=1e-6)
    got = to_numpy(supports.sparsity(lib.convert(pairs), lib.convert(visible)))
    want = 1.0 - (pairs & visible).sum(axis=(1, 2)) / np.maximum(visible.sum(axis=(1, 2)), 1)
    np.testing.assert_allclose(got, np.where([False, False, True], 0.0, want), atol=1e-6)
    np.testing.assert_allclose(
        to_numpy(supports.sparsity(lib.convert(pairs))), 1.0 - pairs.mean(axis=(1, 2)), atol=1e-6
    )


@EAGER
def test_exact_pairs_are_those_with_a_weight(lib: ArrayLibrary) -> None:
    q, _, _ = inputs(2, 4)
    _, k, _ = inputs(2, 2, seed=117)
    mask = np.random.default_rng(118).random((2, 2, 21)) < 0.7
    for alpha in (1.0, 1.5, 2.0):
        call: dict[str, Any] = {"alpha": alpha, "is_causal": True, "scale": 0.8}
        identity = np.broadcast_to(np.eye(21), (2, 2, 21, 21))
        want = entmax_attention(q, k, identity, mask=mask, **call) > 0.0
        out = supports.exact_pairs(*map(lib.convert, (q, k)), mask=lib.convert(mask), **call)
        np.testing.assert_array_equal(to_numpy(out), want)
    seen = supports.visible_pairs(*map(lib.convert, (q, k)), mask=lib.convert(mask), is_causal=True)
    wide = np.repeat(mask, 2, axis=1)[..., None, :] & np.tri(21, dtype=bool)
    np.testing.assert_array_equal(to_numpy(seen), wide)


# Fits


def planted(n: int = 200, seed: int = 119) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys of 16 axes: angles decide, and one axis is large that no query looks at."""
    rng = np.random.default_rng(seed)
    q, k = 0.3 * rng.standard_normal((2, 2, n, 16))
    for side in (q, k):
        angle = 2.0 * np.pi * rng.random((2, n))
        side[..., 0], side[..., 1] = 6.0 * np.cos(angle), 6.0 * np.sin(angle)
    q[..., 2] = 0.0
    k[..., 2] = 10.0 * rng.standard_normal((2, n))
    return q, k


def found_of(made: Projection | None, q: np.ndarray, k: np.ndarray) -> float:
    """Recall of the nearest fifth of all pairs, mean over heads."""
    a, b = (q, k) if made is None else made.apply(q, k)
    distance = ((a[:, :, None] - b[:, None]) ** 2).sum(axis=-1)
    limit = np.quantile(distance, 0.2, axis=(1, 2))[:, None, None]
    return float(supports.recall(distance <= limit, supports.exact_pairs(q, k)).mean())


def test_a_fitted_projection_finds_the_support_of_other_tokens() -> None:
    q, k = planted()
    fit = supports.fit_projection(q[:, :100], k[:, :100], num_axes=2, seed=0)
    q, k = q[:, 100:], k[:, 100:]
    assert found_of(fit, q, k) > 0.95
    assert found_of(None, q, k) < 0.65
    assert found_of(projection(d=16).on_host(), q, k) < 0.4
    at_one = supports.predicted_pairs(q, k, rule=Distance(fit), window=None)
    assert float(supports.sparsity(at_one).mean()) > 0.6
    assert float(supports.recall(at_one, supports.exact_pairs(q, k)).mean()) > 0.98


def test_fitting_helps_on_recorded_activations() -> None:
    data = files.read(None, 5, (0, 4, 8))
    q, k = data.query.astype(float), data.key.astype(float)
    made = {steps: supports.fit_projection(q[:, :96], k[:, :96], steps=steps) for steps in (1, 300)}
    found = {steps: found_of(m, q[:, 96:], k[:, 96:]) for steps, m in made.items()}
    assert found[300] > found[1] + 0.2


def test_fits_depend_on_the_seed_and_the_visible_alone() -> None:
    q, k = planted(40)
    call: dict[str, Any] = {"num_axes": 3, "steps": 20, "is_causal": True}
    one, same = (supports.fit_projection(q, k, seed=4, **call) for _ in range(2))
    np.testing.assert_array_equal(one.query, same.query)
    other = supports.fit_projection(q, k, seed=5, **call)
    assert np.abs(one.query - other.query).max() > 1e-6
    mask = np.arange(40) < 33
    call["is_causal"] = False
    k_ = np.where(mask[:, None], k, np.nan)
    masked = supports.fit_projection(q, k_, mask=mask, **call)
    cut = supports.fit_projection(q, k[:, :33], **call)
    # The places that are drawn are numbered by other lengths, so that only the start is the same.
    assert np.isfinite(masked.query).all()
    call["steps"] = 1
    masked = supports.fit_projection(q, k_, mask=mask, **call)
    cut = supports.fit_projection(q, k[:, :33], **call)
    np.testing.assert_allclose(masked.query, cut.query, atol=0.1)


def test_fits_take_batches_grouped_heads_and_single_heads() -> None:
    q, k = planted(30)
    q4 = np.stack([np.concatenate([q, q]), np.concatenate([q, q])])  # (2, 4, 30, 16)
    k2 = np.stack([k, k])
    made = supports.fit_projection(q4, k2, num_axes=2, steps=5)
    assert made.query.shape == (4, 16, 2)
    assert made.shift.shape == (4, 2)
    alone = supports.fit_projection(q[0], k[0], num_axes=2, steps=5)
    assert alone.heads is None
    for rule in (
        Bins.fit(q4, k2, projection=made, num=4),
        Clusters.fit(q4, k2, projection=made, num=4),
    ):
        assert supports.predicted_pairs(q4, k2, rule=rule).shape == (2, 4, 30, 30)
    assert Bins.fit(q[0], k[0], projection=alone, num=4).edges.shape == (2, 3)
    assert Clusters.fit(q[0], k[0], projection=None, num=4).centres.shape == (4, 16)


def test_a_head_without_a_choice_is_left_at_its_start() -> None:
    q = np.zeros((2, 9, 4))
    q[1] = np.random.default_rng(120).standard_normal((9, 4))
    made = supports.fit_projection(q, 9.0 * q, num_axes=2, steps=9)
    assert np.isfinite(made.query).all()


def test_bins_are_evenly_filled_and_clusters_are_those_of_k_means() -> None:
    q, k = planted(100)
    made = supports.fit_projection(q, k, num_axes=2, steps=2)
    rule = Bins.fit(q, k, projection=made, num=5)
    left, right = rule.codes(q, k)
    both = np.concatenate([left, right], axis=1)
    for bin_ in range(5):
        np.testing.assert_allclose((both == bin_).mean(axis=1), 0.2, atol=0.01)
    mask = np.arange(100) < 60
    masked = Bins.fit(q, np.where(mask[:, None], k, np.nan), projection=made, num=5, mask=mask)
    cut = Bins.fit(q, k[:, :60], projection=made, num=5)
    np.testing.assert_allclose(masked.edges, cut.edges)
    centres = Clusters.fit(q, k, projection=made, num=3, seed=1).centres
    for h in range(2):
        points = np.concatenate([a[h] for a in made.apply(q, k)])
        own = ((points[:, None] - centres[h]) ** 2).sum(axis=-1).argmin(axis=-1)
        want = [points[own == i].mean(axis=0) for i in range(3)]
        np.testing.assert_allclose(centres[h], want, atol=1e-6)


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"rule": 3}, TypeError, "`rule` must be a rule of rfx.supports or None, got 3"),
        ({"window": -1}, ValueError, "`window` must be at least 0, got -1"),
        ({"window": 1.5}, TypeError, "`window` must be an int, got 1.5"),
        ({"global_tokens": True}, TypeError, "`global_tokens` must be an int, got True"),
        ({"alpha": 3}, ValueError, "`alpha` must be 1.0"),
        ({"rule": Distance(projection(d=5))}, ValueError, "of dim=5, but query has d=4"),
        ({"rule": Distance(projection(3))}, ValueError, "is of 3 heads, but query has 2"),
        ({"rule": Bins(None, np.zeros((3, 2)))}, ValueError, "is for 3 axes, but there are 4"),
        (
            {"rule": Clusters(None, np.zeros((3, 5, 4)))},
            ValueError,
            "`centres` of `rule` is for 3 heads, but query has 2",
        ),
        ({"is_causal": True}, ValueError, "at least as many keys as queries, got t=21 and s=9"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(options, error, sentence) -> None:
    q, k, v = inputs(2, s=9)
    with pytest.raises(error, match=sentence):
        sparsefinder_attention(q, k, v, **({"rule": None} | options))


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Projection(np.ones((4, 2)), np.ones((4, 3))), ValueError, "must both have shape"),
        (
            lambda: Projection(np.ones((4, 2)), np.ones((4, 2)), np.ones(3)),
            ValueError,
            r"`shift` must have shape \(2,\)",
        ),
        (lambda: Distance(np.ones((4, 2))), TypeError, "must be an rfx.supports.Projection"),
        (lambda: Distance(None, 0.0), ValueError, "`threshold` must be positive"),
        (lambda: Bins(None, np.ones(3)), ValueError, r"`edges` must have shape \(axes, bins - 1\)"),
        (lambda: Bins(None, np.ones((2, 3)), shared=3), ValueError, "at most the 2 axes"),
        (lambda: Bins(None, np.full((2, 3), np.nan)), ValueError, "`edges` must be finite"),
        (lambda: Clusters(None, np.ones((0, 3))), ValueError, "to each of the clusters"),
        (lambda: Clusters(None, np.full((2, 3), np.inf)), ValueError, "`centres` must be finite"),
        (
            lambda: Projection(np.ones((4, 2)), np.full((4, 2), np.nan)),
            ValueError,
            "`key` must be finite",
        ),
        (
            lambda: Projection(np.ones((4, 2)), np.ones((4, 2)), np.full(2, np.nan)),
            ValueError,
            "`shift` must be finite",
        ),
        (lambda: Clusters(None, np.ones(3)), ValueError, "`centres` must have shape"),
        (lambda: Clusters(None, np.ones((2, 3)), nearest=3), ValueError, "at most the 2 clusters"),
        (
            lambda: supports.fit_projection(np.ones((4, 2)), np.ones((4, 2)), num_axes=3),
            ValueError,
            "`num_axes` must be at most d=2, got 3",
        ),
        (
            lambda: supports.fit_projection(np.ones((4, 2)), np.ones((4, 2)), num_axes=1, seed=-1),
            ValueError,
            "`seed` must be at least 0, got -1",
        ),
        (
            lambda: Clusters.fit(
                np.ones((4, 2)), np.ones((4, 2)), projection=None, num=2, seed=0.5
            ),
            TypeError,
            "`seed` must be an int, got 0.5",
        ),
        (
            lambda: supports.fit_projection(np.full((4, 2), np.nan), np.ones((4, 2)), num_axes=1),
            ValueError,
            "`query` must be finite",
        ),
        (
            lambda: Bins.fit(np.ones((4, 2)), np.full((4, 2), np.inf), projection=None, num=2),
            ValueError,
            "`key` must be finite",
        ),
        (
            lambda: Bins.fit(np.ones((4, 2)), np.ones((0, 2)), projection=None, num=2),
            ValueError,
            "`key` must have tokens to fit a rule to",
        ),
        (lambda: supports.recall(np.ones((2, 2)), np.ones((2, 2))), TypeError, "must be a bool"),
        (
            lambda: supports.recall(np.ones((2, 2)) > 0, np.ones((3, 3)) > 0),
            ValueError,
            r"shapes that broadcast, got \(3, 3\) and \(2, 2\)",
        ),
        (
            lambda: supports.sparsity(np.ones((2, 2)) > 0, np.ones((3, 3)) > 0),
            ValueError,
            r"shapes that broadcast, got \(2, 2\) and \(3, 3\)",
        ),
    ],
)
def test_rules_that_cannot_be_are_refused(make, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        make()


# The experiment


@pytest.fixture(scope="module")
def outcome():
    return experiment.measure(Request(1, True, ()), lambda text: None)


@pytest.mark.parametrize("split", ["alternate", "halves"])
def test_the_experiment_measures_what_it_says(outcome, split: str) -> None:
    data = files.read(None, 0, None)
    half = data.query.shape[-2] // 2
    judged = slice(half, None) if split == "halves" else slice(1, None, 2)
    q, k, v = (a[..., judged, :] for a in (data.query, data.key, data.value))
    exact = supports.exact_pairs(q, k)
    rows = [r for r in outcome.rows if r["split"] == split]
    row = next(r for r in rows if r["method"] == "window" and r["setting"] == 4)
    near = np.abs(np.subtract.outer(np.arange(half), np.arange(half))) <= 4
    np.testing.assert_allclose(row["sparsity"], [1.0 - near.mean()] * 12, rtol=1e-5)
    want = (exact & near).sum(axis=(1, 2)) / exact.sum(axis=(1, 2))
    np.testing.assert_allclose(row["recall"], want, rtol=1e-5)
    scores = q @ np.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5
    full, cut = bisected(scores, 1.5) @ v, bisected(np.where(near, scores, -np.inf), 1.5) @ v
    error = np.linalg.norm(cut - full, axis=(1, 2)) / np.linalg.norm(full, axis=(1, 2))
    np.testing.assert_allclose(row["error"], error, rtol=1e-3)
    uniform = next(r for r in rows if r["method"] == "uniform")
    np.testing.assert_allclose(uniform["exact_sparsity"], 1.0 - exact.mean(axis=(1, 2)), rtol=1e-5)


def test_the_experiment_draws_and_tells_what_it_finds(outcome) -> None:
    figure = importlib.import_module("matplotlib.figure").Figure()
    outcome.plot(figure)
    assert len(figure.axes) == 4
    random = [r for r in outcome.rows if r["method"] == "random"]
    for row in random:  # each query has its own position besides
        assert np.mean(row["recall"]) == pytest.approx(1.0 - np.mean(row["sparsity"]), abs=0.1)
    texts = {claim.text: claim.held for claim in outcome.claims}
    assert texts["halves: distance finds more than random at every sparsity."] is True


def test_claims_fail_where_an_expectation_is_missed(outcome) -> None:
    rows = [r for r in outcome.rows if r["split"] == "halves"]
    swap = {"distance": "random", "random": "distance"}
    swapped = experiment._found([r | {"method": swap.get(r["method"], r["method"])} for r in rows])
    texts = {claim.text: claim.held for claim in experiment._claims(swapped, "halves")}
    assert texts["halves: distance finds more than random at NO sparsity."] is False
    low = experiment._found(rows)._replace(uniform=0.0)
    (*_, last) = experiment._claims(low, "halves")
    assert "NOT below the 0.00 of uniform" in last.text
    assert last.held is False
