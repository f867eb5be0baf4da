"""LARA and EVA against their formulas in float64, softmax attention, and their laws."""

from __future__ import annotations

import importlib
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

import rfx
from rfx._xp import to_numpy
from rfx.attention.eva import eva_attention
from rfx.attention.lara import _balance, lara_attention
from rfx.cli.inputs import Inputs
from rfx.cli.reproduce import rivals
from rfx.diagnostics import relative_error
from rfx.testing import ArrayLibrary, assert_agrees, z_score
from tests.conftest import LIBRARIES

COMPILER = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
EAGER = pytest.mark.parametrize("lib", [x for x in LIBRARIES if x.library != "jax"], ids=str)
"""JAX compiles each call anew for each shape; what it computes is tested compiled."""

LAYOUTS = ((8, 4), (4, 4), (4, 8), (2, 8), (3, 9), (6, 2))
BOTH = {
    "lara": partial(lara_attention, num_proposals=6, seed=3),
    "eva": partial(eva_attention, window=4, group_size=2, seed=3),
    "eva, causal": partial(eva_attention, window=4, group_size=8, seed=3, is_causal=True),
}
ALL = pytest.mark.parametrize("attend", BOTH.values(), ids=BOTH)


def inputs(*batch: int, t: int = 21, s: int = 21, d: int = 4, e: int = 3, heads: int | None = None):
    rng = np.random.default_rng(80)
    query = batch if heads is None else (*batch[:-1], heads)
    shapes = ((*query, t, d), (*batch, s, d), (*batch, s, e))
    return tuple(rng.standard_normal(shape) for shape in shapes)


def each_head(oracle: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Any, **options: Any):
    """A function of one head and its mask for every head; grouped queries share keys."""
    keep = np.ones(k.shape[:-1], bool) if mask is None else np.broadcast_to(mask, k.shape[:-1])
    if q.ndim == 2:
        return oracle(q, k, v, keep, **options)
    group = q.shape[-3] // k.shape[-3]
    heads = []
    for place in np.ndindex(q.shape[:-2]):
        own = (*place[:-1], place[-1] // group)
        heads.append(oracle(q[place], k[own], v[own], keep[own], **options))
    return np.stack(heads).reshape(*q.shape[:-1], v.shape[-1])


def log_xi(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return x @ w - 0.5 * (x**2).sum(axis=-1)


def softmax(log: np.ndarray) -> np.ndarray:
    return np.exp(log - logsumexp(log, axis=-1, keepdims=True))


def segment_means(x: np.ndarray, num: int) -> np.ndarray:
    """Of consecutive segments, the longer ones last; 0 for an empty one."""
    sizes = [len(x) // num] * (num - len(x) % num) + [len(x) // num + 1] * (len(x) % num)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    return np.stack([p.mean(axis=0) if len(p) else np.zeros(x.shape[-1]) for p in parts])


def lara(q, k, v, keep, *, num, seed=0, query_keep=None, correction=1.0) -> np.ndarray:
    """Self-normalised importance sampling, density by density."""
    d = q.shape[-1]
    x, y, v = q / d**0.25, k[keep] / d**0.25, v[keep]
    kept = x if query_keep is None else x[query_keep]
    centre = segment_means(kept, num)
    mean = centre + segment_means(y, num)
    w = mean + np.random.default_rng([seed, 0]).standard_normal((num, d))
    out = np.zeros((len(q), v.shape[-1]))
    if not len(y):
        return out
    distance = ((w[:, None] - mean[None]) ** 2).sum(axis=-1)
    balance = np.exp(-0.5 * np.diag(distance) - logsumexp(-0.5 * distance, axis=-1))
    filled = np.arange(num) >= num - len(kept)
    for n, point in enumerate(x):
        share = softmax(np.where(filled, centre @ point, -np.inf))
        alpha = np.maximum(balance + correction * (share - share.mean()), 1e-30)
        log = np.log(alpha) + [
            log_xi(point, w[c]) - 0.5 * w[c] @ w[c] + 0.5 * distance[c, c] for c in range(num)
        ]
        pairs = log[:, None] + np.stack([log_xi(y, w[c]) for c in range(num)])
        out[n] = softmax(pairs.ravel()) @ np.tile(v, (num, 1))
    return out


def eva(q, k, v, keep, *, window: int, group: int, seed: int = 0, is_causal: bool = False):
    """Query by query: keys of the window, segments of its own group, and other groups."""
    n, d = q.shape
    x, y = q / d**0.25, k / d**0.25
    noise = [np.random.default_rng([seed, i]).standard_normal((n, d)) for i in (0, 1)]

    def summary(start: int, size: int, stream: int) -> tuple[float, np.ndarray, np.ndarray] | None:
        rows = np.arange(start, min(start + size, n))
        rows = rows[keep[rows]]
        if not len(rows):
            return None
        mean = y[rows].mean(axis=0)
        w = mean + x[rows].mean(axis=0) + noise[stream][start // size]
        return np.log(len(rows)), mean, softmax(log_xi(y[rows], w)) @ v[rows]

    out = np.zeros((n, v.shape[-1]))
    for i in range(n):
        first, own = i // window * window, i // group * group
        near = range(first, min(first + window, n))
        seen = [(0.0, y[j], v[j]) for j in near if keep[j] and (j <= i or not is_causal)]
        segments = [(start, group, 0) for start in range(0, n, group)]
        if group > window:
            segments += [(start, window, 1) for start in range(own, own + group, window)]
        for start, size, stream in segments:
            is_past, is_later = start + size <= first, start >= first + window
            if (is_past or (is_later and not is_causal)) and start < n:
                found = summary(start, size, stream)
                seen += [] if found is None else [found]
        if seen:
            logs, keys, values = map(np.asarray, zip(*seen, strict=True))
            out[i] = softmax(logs + keys @ x[i]) @ values
    return out


# Agreement


@EAGER
def test_lara_is_its_formula(lib: ArrayLibrary) -> None:
    for batch, t, heads in (((), 21, None), ((2,), 30, None), ((2, 2), 21, 4)):
        q, k, v = inputs(*batch, t=t, heads=heads)
        mask = np.random.default_rng(81).random(k.shape[:-1]) < 0.7
        for keep in (None, mask):
            args = [lib.convert(a) for a in (q, k, v)]
            call = {} if keep is None else {"mask": lib.convert(keep)}
            out = lara_attention(*args, num_proposals=6, seed=3, **call)
            assert type(out) is type(args[2])
            want = each_head(lara, q, k, v, keep, num=6, seed=3)
            assert_agrees(out, want, scale=100.0)


@EAGER
@pytest.mark.parametrize("is_causal", [False, True])
def test_eva_is_its_formula(lib: ArrayLibrary, is_causal: bool) -> None:
    for (window, group), batch in zip(LAYOUTS, ((), (2,), (2, 2)) * 2, strict=True):
        q, k, v = inputs(*batch, heads=4 if len(batch) == 2 else None)
        mask = np.random.default_rng(82).random(k.shape[:-1]) < 0.7
        for keep in (None, mask):
            call = {} if keep is None else {"mask": lib.convert(keep)}
            args = [lib.convert(a) for a in (q, k, v)]
            cut = {"window": window, "group_size": group, "seed": 5, "is_causal": is_causal}
            out = eva_attention(*args, **cut, **call)
            options = {"window": window, "group": group, "seed": 5, "is_causal": is_causal}
            assert_agrees(out, each_head(eva, q, k, v, keep, **options), scale=100.0)


def test_long_sequences_are_worked_on_in_parts(monkeypatch: Any) -> None:
    monkeypatch.setattr("rfx.ops.groups._ROWS", 8)
    monkeypatch.setattr("rfx.attention.lara._CHUNK", 8)
    q, k, v = inputs(2)
    for window, group in LAYOUTS:
        out = eva_attention(q, k, v, window=window, group_size=group)
        want = each_head(eva, q, k, v, None, window=window, group=group)
        np.testing.assert_allclose(out, want, atol=1e-12)
    for options in ({"correction": 0.0}, {"correction": 3.0}):
        out = lara_attention(q, k, v, num_proposals=6, **options)
        want = each_head(lara, q, k, v, None, num=6, **options)
        np.testing.assert_allclose(out, want, atol=1e-11)


@EAGER
@pytest.mark.parametrize("is_causal", [False, True])
def test_groups_of_one_key_are_softmax_attention(lib: ArrayLibrary, is_causal: bool) -> None:
    q, k, v = inputs(2, heads=4)
    mask = np.random.default_rng(83).random((2, 21)) < 0.7
    for keep in (None, mask):
        call = {"is_causal": is_causal, "mask": None if keep is None else lib.convert(keep)}
        args = [lib.convert(a) for a in (q, k, v)]
        want = to_numpy(rfx.kernel_attention(*args, **call)).astype(np.float64)
        for window, group in ((1, 1), (4, 1), (32, 8)):
            out = eva_attention(*args, window=window, group_size=group, **call)
            assert_agrees(out, want, scale=16.0)


def test_the_mixture_of_the_proposals_would_be_exact() -> None:
    """One frequency of Σ_k π_k N(q + k, I) gives softmax attention in the mean."""
    rng = np.random.default_rng(84)
    q, k, v = (a / 2 for a in inputs(s=5))
    x, y = q[0] / 4**0.25, k / 4**0.25
    own = rng.choice(5, size=40_000, p=softmax(y @ x))
    w = x + y[own] + rng.standard_normal((40_000, 4))
    samples = softmax(w @ y.T - 0.5 * (y**2).sum(axis=-1)) @ v
    assert np.abs(z_score(samples, softmax(y @ x) @ v)).max() < 5


@pytest.mark.parametrize("name", ["lara", "eva"])
def test_more_work_is_nearer_to_softmax_attention(name: str) -> None:
    q, k, v = inputs(4, t=256, s=256, d=8, e=8)
    q, k = 0.8 * q, 0.8 * k
    exact = rfx.kernel_attention(q, k, v)
    errors = []
    for n in (8, 32, 128):
        if name == "lara":
            found = [lara_attention(q, k, v, num_proposals=n, seed=i) for i in range(4)]
        else:
            cut = {"window": n, "group_size": 256 // n}
            found = [eva_attention(q, k, v, seed=i, **cut) for i in range(4)]
        errors.append(float(np.mean([relative_error(out, exact) for out in found])))
    assert errors[0] > 1.2 * errors[1] > 1.4 * errors[2]


# Gradients and compilers


def jax_outputs(call: Any, arrays: list[np.ndarray]) -> tuple[Any, Any]:
    jax = importlib.import_module("jax")
    ours = [jax.numpy.asarray(a) for a in arrays]

    def loss(*args: Any) -> Any:
        out = call(*args)
        return (out * out).sum(), out

    gradient, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*ours)
    return out, gradient


@ALL
def test_gradients_are_differences_and_jax_agrees_with_torch(attend: Any) -> None:
    torch = importlib.import_module("torch")
    arrays = [a.astype(np.float32) for a in inputs(1, heads=2)]
    out, gradient = jax_outputs(attend, arrays)
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    ours = attend(*leaves)
    found = torch.autograd.grad((ours * ours).sum(), leaves)
    assert_agrees(out, ours.detach().double().numpy(), scale=100.0)
    for theirs, mine in zip(gradient, found, strict=True):
        assert_agrees(theirs, mine.double().numpy(), scale=1e3)
    leaves = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in arrays]
    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True)


@ALL
def test_masked_tokens_have_no_gradient_whatever_they_hold(attend: Any) -> None:
    torch = importlib.import_module("torch")
    arrays = [a.astype(np.float32) for a in inputs(2)]
    mask = np.ones(21, dtype=bool)
    mask[[3, 4, 20]] = False
    for array in arrays[1:]:
        array[:, ~mask] = np.nan
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    out = attend(*leaves, mask=torch.tensor(mask))
    found = torch.autograd.grad((out * out).sum(), leaves)
    for gradient in found:
        assert torch.isfinite(gradient).all()
    for gradient in found[1:]:
        assert (gradient[:, ~mask] == 0).all()


@COMPILER
@ALL
def test_it_compiles_whole_in_torch(attend: Any) -> None:
    torch = importlib.import_module("torch")
    torch.compiler.reset()  # else what differs from the last one is a symbol
    args = [torch.tensor(a, dtype=torch.float32) for a in inputs(2)]
    want = to_numpy(attend(*args)).astype(np.float64)
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    assert_agrees(compiled(*args), want, scale=16.0)


# Laws


@EAGER
@ALL
def test_padding_changes_nothing(lib: ArrayLibrary, attend: Any) -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2))
    want = attend(q, k, v)
    is_lara = attend is BOTH["lara"]
    for before, after in ((0, 7), (0, 3), *(((3, 0), (5, 2)) if is_lara else ())):
        width = [(0, 0), (before, after), (0, 0)]
        padded = [np.pad(a, width, constant_values=np.nan) for a in (q, k, v)]
        mask = lib.convert(np.pad(np.ones(21, dtype=bool), (before, after)))
        call = {"mask": mask} | ({"query_mask": mask} if is_lara else {})
        out = attend(*map(lib.convert, padded), **call)
        assert_agrees(to_numpy(out)[:, before : before + 21], want, scale=100.0)


@ALL
def test_heads_and_batches_do_not_meet_and_groups_share_keys(attend: Any) -> None:
    q, k, v = inputs(2, 3, heads=6)
    mask = np.random.default_rng(85).random((2, 3, 21)) < 0.7
    out = attend(q, k, v, mask=mask)
    one = attend(q[1, 5], k[1, 2], v[1, 2], mask=mask[1, 2])
    np.testing.assert_allclose(out[1, 5], one, atol=1e-12)
    several = attend(q, *(np.repeat(a, 2, axis=1) for a in (k, v)), mask=np.repeat(mask, 2, axis=1))
    np.testing.assert_allclose(out, several, atol=1e-12)
    np.testing.assert_allclose(attend(q, k, v, mask=mask[:1, :1]), attend(q, k, v, mask=mask[0, 0]))


@ALL
def test_outputs_are_averages_of_the_values(attend: Any) -> None:
    for size in (0.5, 5.0, 1e4):
        q, k, v = inputs(2)
        q, k = size * q, size * k
        for mask in (None, np.arange(21) % 5 != 3):
            ones = attend(*(a.astype(np.float32) for a in (q, k, np.ones_like(v))), mask=mask)
            np.testing.assert_allclose(ones, 1.0, rtol=1e-5)
        out = attend(q, k, v)
        assert (out <= v.max(axis=-2, keepdims=True) + 1e-9).all()
        assert (out >= v.min(axis=-2, keepdims=True) - 1e-9).all()


def test_proposals_that_lie_apart_do_not_share_their_samples() -> None:
    """Distances of 1e6 in float32, by differences of squares, would be off by more than 1."""
    mean = 1e3 * np.random.default_rng(86).standard_normal((5, 4)).astype(np.float32)
    noise = np.random.default_rng(87).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_array_equal(_balance(mean + noise, mean, noise), 1.0)


@pytest.mark.parametrize(("window", "group"), LAYOUTS)
def test_the_future_is_not_seen(window: int, group: int) -> None:
    q, k, v = inputs(2)
    call = {"window": window, "group_size": group, "is_causal": True}
    want = eva_attention(q, k, v, **call)
    for cut in (1, 7, 8, 12):
        short = eva_attention(q[:, :cut], k[:, :cut], v[:, :cut], **call)
        np.testing.assert_allclose(short, want[:, :cut], atol=1e-12)
        q_, k_, v_ = (a.copy() for a in (q, k, v))
        q_[:, cut:], k_[:, cut:], v_[:, cut:] = 9.0, -5.0, 30.0
        np.testing.assert_allclose(
            eva_attention(q_, k_, v_, **call)[:, :cut], want[:, :cut], atol=1e-12
        )


def test_nan_stays_in_its_head_and_behind_its_block(monkeypatch: Any) -> None:
    monkeypatch.setattr("rfx.ops.groups._ROWS", 4)
    for name, attend in BOTH.items():
        for place in range(3):
            arrays = inputs(2)
            arrays[place][0, 20] = np.nan
            out = attend(*arrays)
            assert np.isfinite(out[1]).all()
            if name == "eva, causal":
                assert np.isfinite(out[0, :20]).all()
                assert np.isnan(out[0, 20]).any()


@EAGER
@ALL
def test_what_sees_nothing_gives_zeros(lib: ArrayLibrary, attend: Any) -> None:
    q, k, v = (lib.convert(a.astype(np.float32)) for a in inputs(2))
    out = attend(q, k, v, mask=lib.convert(np.zeros(21, dtype=bool)))
    assert (to_numpy(out) == 0).all()


def test_fewer_visible_tokens_than_proposals_do() -> None:
    q, k, v = inputs(2)
    mask = np.arange(21) < 4
    out = lara_attention(q, k, v, num_proposals=9, mask=mask, query_mask=mask)
    want = each_head(lara, q, k, v, mask, num=9, query_keep=mask)
    np.testing.assert_allclose(out, want, atol=1e-12)


def test_no_tokens_give_no_output() -> None:
    q, k, v = inputs(2, t=0, s=0)
    assert eva_attention(q, k, v).shape == (2, 0, 3)
    assert lara_attention(q, k, v).shape == (2, 0, 3)
    q, k, v = inputs(2)
    assert lara_attention(q[:, :0], k, v, num_proposals=4).shape == (2, 0, 3)
    out = lara_attention(q, k[:, :0], v[:, :0], num_proposals=4)
    assert np.array_equal(out, np.zeros((2, 21, 3)))


def test_points_without_coordinates_give_the_mean() -> None:
    v = inputs(2)[2]
    none = np.zeros((2, 21, 0))
    for window in (4, 64):
        out = eva_attention(none, none, v, window=window, group_size=1)
        assert_agrees(out, np.broadcast_to(v.mean(axis=-2, keepdims=True), v.shape))


@EAGER
@ALL
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(lib: ArrayLibrary, attend: Any, dtype: str) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    q, k, v = (lib.convert(a, dtype) for a in inputs(2))
    out = attend(q, k, v)
    assert out.dtype == v.dtype
    want = attend(*(to_numpy(a).astype(np.float64) for a in (q, k, v)))
    assert_agrees(out, want, scale=100.0, size=4.0)


@ALL
def test_seeds_decide(attend: Any) -> None:
    q, k, v = inputs(2)
    np.testing.assert_array_equal(attend(q, k, v), attend(q, k, v))
    assert np.abs(attend(q, k, v) - attend(q, k, v, seed=4)).max() > 1e-3


@pytest.mark.parametrize("name", ["lara", "eva"])
def test_memory_is_linear_in_the_length(name: str) -> None:
    attend = lara_attention if name == "lara" else partial(eva_attention, is_causal=True)
    peaks = []
    for length in (1024, 4096):
        arrays = (a.astype(np.float32) for a in inputs(t=length, s=length, d=16, e=16))
        options = {} if name == "lara" else {"window": 64, "group_size": length // 32}
        call = partial(attend, *arrays, **options)
        call()
        tracemalloc.start()
        call()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4.5 * peaks[0]
    assert peaks[1] < 8e6  # one matrix of all pairs has 67 MB


# The experiment


@pytest.mark.parametrize("m", [2, 16, 32, 100, 256])
@pytest.mark.parametrize("tokens", [1, 24, 384, 4096])
def test_columns_of_the_experiment_cost_what_features_do(m: int, tokens: int) -> None:
    window, group = rivals.layout(m, tokens)
    assert window + -(-tokens // group) <= m
    assert window % group == 0 or group % window == 0
    for d, e in ((64, 64), (32, 8)):
        num = rivals.proposals(m, d, e, tokens)
        assert 1 <= num <= tokens
        assert num * (2 * d + e) <= m * (d + e) or num == 1
        assert num == tokens or (num + 1) * (2 * d + e) > m * (d + e)


def test_columns_of_the_experiment_are_those_calls() -> None:
    q, k, v = (a.astype(np.float32) for a in inputs(2, heads=4))
    data = Inputs(q, k, v, "here", None, (), ("float32",), None)
    for is_causal, names in ((False, ["lara", "eva"]), (True, ["eva"])):
        found = {rival.title: rival.estimate(12, 5) for rival in rivals.rivals(data, is_causal)}
        assert list(found) == names
        want = eva_attention(q, k, v, window=4, group_size=4, seed=5, is_causal=is_causal)
        np.testing.assert_array_equal(found["eva"], want)
    longer = Inputs(*(q, *inputs(2, s=30)[1:]), "here", None, (), ("float32",), None)
    assert [rival.title for rival in rivals.rivals(longer, False)] == ["lara"]


# Refusals


def test_refusals_name_the_fix() -> None:
    q, k, v = inputs(2, t=20)
    refused: list[tuple[Any, type[Exception], str, dict[str, Any]]] = [
        (lara_attention, ValueError, "at most the number of queries", {"num_proposals": 21}),
        (lara_attention, ValueError, "causal proposals are not possible", {"is_causal": True}),
        (lara_attention, TypeError, "`num_proposals` must be an int", {"num_proposals": 2.5}),
        (lara_attention, ValueError, "`num_proposals` must be at least", {"num_proposals": 0}),
        (lara_attention, ValueError, "`correction` must", {"num_proposals": 4, "correction": -1}),
        (lara_attention, ValueError, "`query_mask` must have", {"query_mask": np.ones(21, bool)}),
        (eva_attention, ValueError, "as many queries as keys", {}),
    ]
    for attend in (lara_attention, partial(eva_attention, window=4, group_size=2)):
        given = {"num_proposals": 4} if attend is lara_attention else {}
        refused += [
            (attend, TypeError, "`seed` must be an int", {"seed": 0.5, **given}),
            (attend, ValueError, "`seed` must be at least 0", {"seed": -1, **given}),
            (attend, ValueError, "`scale` must be positive", {"scale": -1.0, **given}),
            (attend, ValueError, "`mask` must have shape", {"mask": np.ones(5, bool), **given}),
        ]
    refused += [
        (eva_attention, ValueError, "pass window=6", {"window": 8, "group_size": 3}),
        (eva_attention, ValueError, "pass group_size=6", {"window": 3, "group_size": 4}),
        (eva_attention, ValueError, "`window` must be at least 1", {"window": 0}),
        (eva_attention, TypeError, "`group_size` must be an int", {"group_size": True}),
    ]
    for attend, kind, message, options in refused:
        square = attend is not lara_attention and message != "as many queries as keys"
        keys = (k[:, :20], v[:, :20]) if square else (k, v)
        with pytest.raises(kind, match=message):
            attend(q, *keys, **options)
    with pytest.raises(ValueError, match="at most the number of keys, got 20 proposals"):
        lara_attention(q, k[:, :10], v[:, :10], num_proposals=20)
