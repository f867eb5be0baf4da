"""Attention on random graphs: edges by their frequencies, attention and gradients by an oracle."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from rfx._xp import to_numpy
from rfx.attention.entmax import entmax_attention
from rfx.attention.sbm import sbm_attention, sbm_edges
from rfx.ops.edges import Edges, Memberships, attend_edges, draw_edges
from rfx.testing import ArrayLibrary, assert_agrees, z_score
from tests.conftest import LIBRARIES

EAGER = pytest.mark.parametrize("lib", [x for x in LIBRARIES if x.library != "jax"], ids=str)
"""JAX compiles each call anew for each shape; what it computes is tested compiled."""

C = 3


def inputs(*batch: int, t: int = 21, s: int = 21, d: int = 4, e: int = 3, seed: int = 130):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal((*batch, n, w)) for n, w in ((t, d), (s, d), (s, e)))


def centres(heads: int | None = None, d: int = 4, seed: int = 131) -> np.ndarray:
    shape = (C, d) if heads is None else (heads, C, d)
    return np.random.default_rng(seed).standard_normal(shape)


def repeated(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    if like.ndim == 2:
        return array
    return np.repeat(array, like.shape[-3] // array.shape[-3], axis=-3)


def model(q, k, clusters, exploration=0.0):
    """Memberships of both sides, S and P, in float64."""
    sides = [
        1.0 / (1.0 + np.exp(-(x @ np.swapaxes(clusters, -1, -2)))) for x in (q, repeated(k, q))
    ]
    inner = np.exp(clusters @ np.swapaxes(clusters, -1, -2))
    middle = inner / inner.sum(axis=(-2, -1), keepdims=True)
    rate = sides[0] @ middle @ np.swapaxes(sides[1], -1, -2) + exploration
    return *sides, middle, rate


def attention(q, k, v, weight):
    """Σ_j A_ij e^(q_i·k_j / √d) v_j over their sum, A any matrix; and the attention weights."""
    k, v = repeated(k, q), repeated(v, q)
    logits = q @ np.swapaxes(k, -1, -2) / q.shape[-1] ** 0.5
    pair = weight * np.exp(logits - logits.max(axis=-1, keepdims=True))
    total = pair.sum(axis=-1, keepdims=True)
    share = np.where(total > 0.0, pair / np.where(total > 0.0, total, 1.0), 0.0)
    return share @ v, share


# Edges


def test_edges_are_there_as_often_as_their_rates_say() -> None:
    draws, t, s = 4000, 5, 6
    rng = np.random.default_rng(132)
    query, key = rng.random((t, C)), rng.random((s, C))
    query[2] = 0.0  # only by exploration
    key[4, 1] = 0.0
    middle = 4.0 * rng.random((C, C))
    rate = query @ middle @ key.T + 0.05
    rates = Memberships(
        np.broadcast_to(query, (draws, t, C)), middle, np.broadcast_to(key, (draws, s, C)), 0.05
    )
    for first_row, kept in ((None, None), (1, np.arange(s) != 3)):
        seen = np.ones((t, s), bool) if first_row is None else np.tri(t, s, first_row, dtype=bool)
        seen = seen if kept is None else seen & kept
        want = np.where(seen, 1.0 - np.exp(-rate), 0.0)
        found = draw_edges(rates, 7, first_row, kept).to_pairs().astype(float)
        assert 0.02 < want[seen].min() < 0.1
        assert want.max() > 0.95
        z = z_score(found, want, variance=want * (1.0 - want))
        assert np.abs(z[seen]).max() < 4.5
        assert (found[:, ~seen] == 0.0).all()
        # Edges of different pairs are independent.
        varied = want * (1.0 - want) > 0.01
        flat = (found - want)[:, varied]
        flat = flat / flat.std(axis=0)
        both = (flat.T @ flat / draws - np.eye(flat.shape[1])) * draws**0.5
        assert np.abs(both).max() < 5.0


def test_edges_of_attention_have_its_rates() -> None:
    q, k, _ = inputs(2, 3, t=8, s=9)
    clusters = 2.0 * centres(3)
    *_, rate = model(q, k, clusters, 0.01)
    found = np.stack(
        [sbm_edges(q, k, clusters=clusters, seed=seed).to_pairs() for seed in range(600)]
    )
    want = 1.0 - np.exp(-rate)
    assert np.abs(z_score(found.astype(float), want, variance=want * (1.0 - want))).max() < 4.8


def test_time_is_linear_in_the_edges() -> None:
    """Of 20000 by 20000 pairs few are drawn, and only these are ever held."""
    n = 20_000
    rng = np.random.default_rng(133)
    sides = (1e-2 * rng.random((n, C)) for _ in range(2))
    query, key = sides
    rates = Memberships(query, np.full((C, C), 1.0 / C**2), key, 0.0)
    tracemalloc.start()
    edges = draw_edges(rates, 0)
    q, k, v = (rng.standard_normal((n, 4)) for _ in range(3))
    attend_edges(q, k, v, edges, scale=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = query.sum(axis=0) @ rates.middle @ key.sum(axis=0)
    assert abs(len(edges) - expected) < 5.0 * expected**0.5
    assert peak < 2000 * len(edges) < 0.1 * n * n


@EAGER
def test_the_same_seed_draws_the_same_graph_in_every_library(lib: ArrayLibrary) -> None:
    q, k, _ = inputs(2, 2)
    clusters = centres()
    want = sbm_edges(q, k, clusters=clusters, seed=3)
    args = [lib.convert(a) for a in (q, k)]
    found = sbm_edges(*args, clusters=lib.convert(clusters), seed=3)
    np.testing.assert_array_equal(found.to_pairs(), want.to_pairs())
    again = sbm_edges(*args, clusters=lib.convert(clusters), seed=4)
    assert (again.to_pairs() != want.to_pairs()).any()
    assert (want.to_pairs()[0] != want.to_pairs()[1]).any()


def test_pairs_and_edges_are_one_another() -> None:
    pairs = np.random.default_rng(134).random((2, 3, 5, 7)) < 0.3
    edges = Edges.of_pairs(pairs)
    assert len(edges) == pairs.sum()
    np.testing.assert_array_equal(edges.to_pairs(), pairs)
    kept = np.arange(7) != 2
    cut = edges.within(1, kept).to_pairs()
    np.testing.assert_array_equal(cut, pairs & kept & np.tri(5, 7, 1, dtype=bool))


# Attention


@EAGER
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_attention_over_edges_agrees_with_the_oracle(lib: ArrayLibrary, share: float) -> None:
    for q_batch, batch, t, s in (((), (), 21, 17), ((2, 4), (2, 2), 13, 40), ((3,), (1,), 9, 21)):
        q = inputs(*q_batch, t=t)[0]
        _, k, v = inputs(*batch, s=s, seed=135)
        pairs = np.random.default_rng(136).random((*q_batch, t, s)) < share
        pairs[..., 4, :] = False
        want, _ = attention(q, k, v, pairs)
        out = sbm_attention(
            *map(lib.convert, (q, k, v)),
            clusters=lib.convert(centres()),
            edges=Edges.of_pairs(pairs),
        )
        assert type(out) is type(lib.convert(v))
        assert_agrees(out, want, scale=20.0)
        assert (to_numpy(out)[..., 4, :] == 0.0).all()


def test_blocks_of_edges_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(2, t=50, s=63)
    call: dict[str, Any] = {"clusters": 2.0 * centres(), "exploration": 0.2}
    want = sbm_attention(q, k, v, **call)
    monkeypatch.setattr("rfx.ops.edges._PAIRS", 16)
    np.testing.assert_allclose(sbm_attention(q, k, v, **call), want, atol=1e-13)


@EAGER
def test_the_drawn_form_attends_to_what_is_drawn(lib: ArrayLibrary) -> None:
    q, _, _ = inputs(2, 4)
    _, k, v = inputs(2, 2, seed=137)
    clusters = centres(4)
    mask = np.random.default_rng(138).random((2, 2, 21)) < 0.7
    call: dict[str, Any] = {"seed": 5, "is_causal": True, "exploration": 0.1}
    edges = sbm_edges(q, k, clusters=clusters, mask=mask, **call)
    pairs = edges.to_pairs()
    assert not pairs[~np.broadcast_to(np.repeat(mask, 2, 1)[..., None, :], pairs.shape)].any()
    assert not pairs[..., ~np.tri(21, dtype=bool)].any()
    want, _ = attention(q, k, v, pairs)
    k, v = (np.where(mask[..., None], a, np.nan) for a in (k, v))
    arrays = [lib.convert(a) for a in (q, k, v)]
    call |= {"clusters": lib.convert(clusters), "mask": lib.convert(mask)}
    assert_agrees(sbm_attention(*arrays, **call), want, scale=20.0)
    assert_agrees(sbm_attention(*arrays, edges=edges, **call), want, scale=20.0)
    everything = Edges.of_pairs(np.ones(pairs.shape, bool))  # cut to what is visible
    kept = np.repeat(mask, 2, 1)[..., None, :] & np.tri(21, dtype=bool)
    clean = [np.where(mask[..., None], a, 0.0) for a in (k, v)]
    assert_agrees(
        sbm_attention(*arrays, edges=everything, **call), attention(q, *clean, kept)[0], scale=20.0
    )


@EAGER
def test_the_expected_form_has_rates_for_weights(lib: ArrayLibrary) -> None:
    q, _, _ = inputs(2, 4)
    _, k, v = inputs(2, 2, seed=139)
    clusters = centres(4)
    mask = np.random.default_rng(140).random(21) < 0.7
    *_, rate = model(q, k, clusters, 0.01)
    for is_causal in (False, True):
        seen = np.broadcast_to(mask, (21, 21)) & (np.tri(21, dtype=bool) | (not is_causal))
        want, _ = attention(q, k, v, rate * seen)
        padded = [np.where(mask[:, None], a, np.nan) for a in (k, v)]
        out = sbm_attention(
            *map(lib.convert, (q, *padded)),
            clusters=lib.convert(clusters),
            form="expected",
            is_causal=is_causal,
            mask=lib.convert(mask),
        )
        assert_agrees(out, want, scale=20.0)


@EAGER
@pytest.mark.parametrize("form", ["sampled", "expected"])
def test_memberships_may_be_given(lib: ArrayLibrary, form: str) -> None:
    q, k, v = inputs(2)
    clusters = centres()
    query, key, *_ = model(q, k, clusters)
    call: dict[str, Any] = {"form": form, "seed": 2, "exploration": 0.0}
    want = sbm_attention(q, k, v, clusters=clusters, **call)
    arrays = [lib.convert(a) for a in (q, k, v)]
    call |= {"clusters": lib.convert(clusters)}
    out = sbm_attention(*arrays, membership=(lib.convert(query), lib.convert(key)), **call)
    assert_agrees(out, want, scale=20.0)
    mask = np.arange(21) % 3 != 1
    holed = lib.convert(np.where(mask[:, None], key, np.nan))
    kept = {"mask": lib.convert(mask), "membership": (lib.convert(query), holed)}
    want = sbm_attention(q, k, v, clusters=clusters, mask=mask, form=form, seed=2, exploration=0.0)
    assert_agrees(sbm_attention(*arrays, **kept, **call), want, scale=20.0)
    none = tuple(lib.convert(np.zeros_like(a)) for a in (query, key))
    assert (to_numpy(sbm_attention(*arrays, membership=none, **call)) == 0.0).all()


def test_without_clusters_of_its_own_the_expected_form_is_softmax() -> None:
    q, k, v = inputs(2)
    want = entmax_attention(q, k, v, alpha=1.0)
    flat = sbm_attention(q, k, v, clusters=np.zeros((C, 4)), form="expected")
    np.testing.assert_allclose(flat, want, atol=1e-13)


def test_half_precision_and_float32(lib: ArrayLibrary) -> None:
    q, k, v = inputs(2)
    edges = sbm_edges(q, k, clusters=centres(), exploration=0.3)
    for dtype in ("float32",) if lib.library == "jax" else lib.dtypes:
        arrays = [lib.convert(a, dtype) for a in (q, k, v, centres())]
        want, _ = attention(*(to_numpy(a).astype(np.float64) for a in arrays[:3]), edges.to_pairs())
        out = sbm_attention(*arrays[:3], clusters=arrays[3], edges=edges)
        assert out.dtype == arrays[2].dtype
        assert_agrees(out, want, scale=20.0)


@EAGER
def test_padding_keys_changes_nothing(lib: ArrayLibrary) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    clusters = lib.convert(centres().astype(np.float32))
    for form in ("sampled", "expected"):
        call: dict[str, Any] = {"clusters": clusters, "form": form, "exploration": 0.2}
        want = to_numpy(sbm_attention(*map(lib.convert, (q, k, v)), **call))
        padded = [np.pad(a, [(0, 0), (4, 3), (0, 0)], constant_values=np.nan) for a in (k, v)]
        mask = lib.convert(np.pad(np.ones(21, bool), (4, 3)))
        out = sbm_attention(*map(lib.convert, (q, *padded)), mask=mask, **call)
        assert_agrees(out, want, scale=20.0)


@EAGER
def test_large_scores_and_memberships_stay_finite(lib: ArrayLibrary) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    for form in ("sampled", "expected"):
        for size in (1e3, 1e6):
            arrays = [lib.convert(np.float32(size) * a) for a in (q, k)]
            clusters = lib.convert(np.float32(size) * centres().astype(np.float32))
            call: dict[str, Any] = {"clusters": clusters, "form": form, "exploration": 0.0}
            out = to_numpy(sbm_attention(*arrays, lib.convert(v), **call))
            assert np.isfinite(out).all()
            assert np.abs(out).max() <= np.abs(v).max() + 1e-5


def test_no_heads() -> None:
    q, k, v = inputs(0)
    assert sbm_attention(q, k, v, clusters=centres()).shape == (0, 21, 3)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_the_way_for_gradients_leaves_scores_as_they_are(library: str) -> None:
    """However large the rates are, of edges that were drawn before."""
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    convert = {"torch": torch.asarray, "jax": jax.numpy.asarray}[library]
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    pairs = np.random.default_rng(141).random((2, 21, 21)) < 0.5
    membership = tuple(convert(np.full((2, 21, C), 1e5, np.float32)) for _ in range(2))
    if library == "torch":
        membership = tuple(a.requires_grad_() for a in membership)
    call = {"clusters": convert(centres().astype(np.float32)), "membership": membership}
    arrays = (convert(a) for a in (q, k, v))
    out = sbm_attention(*arrays, edges=Edges.of_pairs(pairs), **call)
    assert_agrees(out, attention(*(a.astype(float) for a in (q, k, v)), pairs)[0])


def test_empty_lengths() -> None:
    q, k, v = inputs(2)
    for form in ("sampled", "expected"):
        call: dict[str, Any] = {"clusters": centres(), "form": form}
        assert sbm_attention(q[:, :0], k, v, **call).shape == (2, 0, 3)
        assert (sbm_attention(q, k[:, :0], v[:, :0], **call) == np.zeros((2, 21, 3))).all()


# Gradients


def straight_through(q, k, v, clusters, pairs, pull):
    """Gradients of Σ out · pull: those of the memberships through cut gradients of the pairs."""
    query, key, middle, _ = model(q, k, clusters)
    out, share = attention(q, k, v, pairs)
    of_pairs = share * ((pull @ np.swapaxes(v, -1, -2)) - (out * pull).sum(axis=-1, keepdims=True))
    of_rates = np.where(pairs, np.clip(of_pairs, -1.0, 1.0), 0.0)
    of_query = of_rates @ (key @ np.swapaxes(middle, -1, -2))
    of_key = np.swapaxes(of_rates, -1, -2) @ (query @ middle)
    return of_query, of_key, of_pairs


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_gradients_of_memberships_are_straight_through(library: str) -> None:
    q, k, v = inputs(2)
    clusters = centres()
    query, key, *_ = model(q, k, clusters)
    edges = sbm_edges(q, k, clusters=clusters, exploration=0.1)
    pull = 3.0 * np.random.default_rng(141).standard_normal(v.shape)
    *want, of_pairs = straight_through(q, k, v, clusters, edges.to_pairs(), pull)
    assert np.abs(of_pairs).max() > 1.0  # so that some are cut

    def loss(query, key, arrays, clusters, pull):
        out = sbm_attention(*arrays, clusters=clusters, membership=(query, key), edges=edges)
        return (out * pull).sum()

    if library == "torch":
        torch = pytest.importorskip("torch")
        leaves = [torch.asarray(a).requires_grad_() for a in (query, key)]
        rest = [torch.asarray(a) for a in (q, k, v, clusters, pull)]
        loss(*leaves, rest[:3], *rest[3:]).backward()
        for leaf, gradient in zip(leaves, want, strict=True):
            np.testing.assert_allclose(leaf.grad.numpy(), gradient, atol=1e-12)
    else:
        jax = pytest.importorskip("jax")
        rest = [jax.numpy.asarray(a, "float32") for a in (query, key, q, k, v, clusters, pull)]
        found = jax.jit(jax.grad(loss, (0, 1)))(*rest[:2], rest[2:5], *rest[5:])
        for mine, gradient in zip(found, want, strict=True):
            assert_agrees(mine, gradient, scale=100.0)


def test_gradients_of_the_rest_are_those_of_finite_differences() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a).requires_grad_() for a in inputs(2, t=7, s=9, d=2, e=2))
    clusters = torch.asarray(centres(d=2)).requires_grad_()
    edges = sbm_edges(q.detach(), k.detach(), clusters=clusters.detach(), exploration=0.5)
    given = tuple(torch.rand((2, n, C), dtype=torch.float64) for n in (7, 9))

    def sampled(q, k, v):
        return sbm_attention(q, k, v, clusters=clusters.detach(), membership=given, edges=edges)

    assert torch.autograd.gradcheck(sampled, (q, k, v), fast_mode=True)

    def expected(q, k, v, clusters):
        mask = torch.arange(9) != 3
        return sbm_attention(q, k, v, clusters=clusters, form="expected", mask=mask)

    assert torch.autograd.gradcheck(expected, (q, k, v, clusters), fast_mode=True)


def test_clusters_have_a_gradient_and_masked_keys_have_none() -> None:
    torch = pytest.importorskip("torch")
    arrays = list(inputs(2))
    mask = np.arange(21) % 4 != 1
    arrays[1][:, ~mask] = arrays[2][:, ~mask] = np.nan
    for form in ("sampled", "expected"):
        q, k, v, c = (torch.asarray(a).requires_grad_() for a in (*arrays, centres()))
        out = sbm_attention(
            q, k, v, clusters=c, form=form, mask=torch.asarray(mask), exploration=0.2
        )
        (out**2).sum().backward()
        for leaf in (q, k, v, c):
            assert torch.isfinite(leaf.grad).all()
            assert (leaf.grad != 0.0).any()
        assert (k.grad[:, ~mask] == 0.0).all()
        assert (v.grad[:, ~mask] == 0.0).all()


def test_jax_compiles_both_forms() -> None:
    jax = pytest.importorskip("jax")
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    clusters = centres().astype(np.float32)
    edges = sbm_edges(q, k, clusters=clusters, exploration=0.3)

    def both(q, k, v, clusters):
        sampled = sbm_attention(q, k, v, clusters=clusters, edges=edges)
        return sampled, sbm_attention(q, k, v, clusters=clusters, form="expected")

    found = jax.jit(both)(*map(jax.numpy.asarray, (q, k, v, clusters)))
    for mine, want in zip(found, both(q, k, v, clusters), strict=True):
        assert_agrees(mine, want, scale=50.0)
    arrays = [jax.numpy.asarray(a) for a in (q, k, v, clusters)]
    with pytest.raises(TypeError, match="a compiled function cannot do; draw it before with"):
        jax.jit(lambda q, k, v, c: sbm_attention(q, k, v, clusters=c))(*arrays)


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"clusters": np.ones((3, 5))}, ValueError, r"`clusters` must have shape \(c, d\), or \(2"),
        ({"clusters": np.ones((3, 3, 4))}, ValueError, "`clusters` must have shape"),
        ({"clusters": [1.0]}, TypeError, "`clusters` must be an array"),
        ({"membership": np.ones((2, 21, 3))}, TypeError, "must be a tuple of two arrays, got nda"),
        (
            {"membership": (np.ones((2, 21, 3)), np.ones((2, 20, 3)))},
            ValueError,
            r"`membership of key` must have shape \(2, 21, 3\)",
        ),
        (
            {"membership": (np.ones((2, 21, 3)), -np.ones((2, 21, 3)))},
            ValueError,
            "the memberships of `key` must be finite and at least 0",
        ),
        ({"membership": (np.ones((2, 21, 3)),)}, TypeError, "two arrays, got a tuple of 1; pass"),
        (
            {"membership": (np.full((2, 21, 3), 1e6), np.ones((2, 21, 3)))},
            ValueError,
            r"must be at most 100 on average to draw a graph, got 1e\+06",
        ),
        ({"exploration": 101.0}, ValueError, "must be at most 100 on average"),
        ({"form": "mean"}, ValueError, "`form` must be one of sampled, expected, got 'mean'"),
        ({"exploration": -0.1}, ValueError, "`exploration` must be finite and at least 0"),
        ({"exploration": None}, TypeError, "`exploration` must be a number"),
        ({"seed": 0.5}, TypeError, "`seed` must be an int, got 0.5"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0, got -1"),
        ({"scale": -1.0}, ValueError, "`scale` must be positive"),
        ({"edges": np.ones((21, 21))}, TypeError, "`edges` must be what rfx.sbm_edges returns"),
        ({"edges": Edges.of_pairs(np.ones((3, 21, 21)) > 0)}, ValueError, "draw them again"),
        (
            {"edges": Edges.of_pairs(np.ones((2, 21, 21)) > 0), "form": "expected"},
            ValueError,
            "`edges` must be left out for form='expected'",
        ),
        ({"mask": np.ones(9) > 0}, ValueError, "`mask` must have shape"),
    ],
)
def test_mistakes_are_refused_in_a_sentence(options, error, sentence) -> None:
    q, k, v = inputs(2)
    with pytest.raises(error, match=sentence):
        sbm_attention(q, k, v, **({"clusters": centres()} | options))


def test_nan_that_would_be_drawn_from_is_refused() -> None:
    q, k, v = inputs(2)
    q[0, 3] = np.nan
    with pytest.raises(ValueError, match="the memberships of `query` must be finite"):
        sbm_attention(q, k, v, clusters=centres())
