"""Gated attention against a recurrence in float64, one position at a time, and its laws."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.attention.gated import decayed
from rfx.testing import ArrayLibrary, assert_agrees, drawn

COMPILER = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
M, CLOSED, TINY = 16, -np.inf, np.log(1e-30)
KINDS = {
    "mild": ([-0.01, -0.05, -0.2], None),
    "closed": ([CLOSED, 0.0, -0.1], [0.1, 0.4, 0.5]),
    "tiny": ([TINY, 0.0], [0.3, 0.7]),
    "mixed": ([CLOSED, TINY, -3.0, -0.05, 0.0], None),
    "zero": ([CLOSED], None),
    "one": ([0.0], None),
}
NAMES = ("favor+", "favor", "favor+relu")


def recurrence(q, k, v, phi, log_gate, log_weight=None, mask=None, normalize=True):
    """S_i = g_i S_{i-1} + w_i φ(k_i) v_i, literally; a masked position takes no step.

    And how much of its terms is left of a signed denominator, which magnifies roundings.
    """
    (query_log, query_value), (key_log, key_value) = (
        reference.features(phi, x, side) for x, side in ((q, "query"), (k, "key"))
    )
    fq, fk = query_value * np.exp(query_log), key_value * np.exp(key_log)
    *batch, t, m = fk.shape
    group = q.shape[-3] // k.shape[-3]
    keep = np.ones((*batch, t), bool) if mask is None else np.broadcast_to(mask, (*batch, t))
    gate = np.broadcast_to(np.exp(log_gate.astype(np.float64)), (*batch, t, log_gate.shape[-1]))
    weight = np.ones((*batch, t, 1)) if log_weight is None else np.exp(log_weight) + fk[..., :1] * 0
    sums, count = np.zeros((*batch, m, v.shape[-1])), np.zeros((*batch, m))
    size, outs, spreads = np.zeros((*batch, m)), [], []
    for i in range(t):
        here = keep[..., i, None]
        g = np.where(here, gate[..., i, :], 1.0)
        f = np.where(here, weight[..., i, :] * fk[..., i, :], 0.0)
        value = np.where(here, v[..., i, :], 0.0)
        sums = g[..., None] * sums + f[..., None] * value[..., None, :]
        count, size = g * count + f, g * size + np.abs(f)
        s, z, total = (np.repeat(a, group, axis=len(batch) - 1) for a in (sums, count, size))
        numerator = np.einsum("...m,...me->...e", fq[..., i, :], s)
        denominator = np.einsum("...m,...m->...", fq[..., i, :], z)[..., None]
        if normalize:
            nothing = denominator == 0.0
            denominator = np.where(nothing, 1.0, denominator)
            numerator = np.where(nothing, 0.0, numerator / denominator)
            total = np.einsum("...m,...m->...", np.abs(fq[..., i, :]), total)[..., None]
            spreads.append(np.maximum(total / np.abs(denominator), 1.0))
        outs.append(numerator)
    spread = np.stack(spreads, axis=-2) if normalize else 1.0
    return np.stack(outs, axis=-2), spread


class Problem:
    """Inputs on the host and their map; a call converts what it is given."""

    def __init__(
        self, name="favor+", width=1, kind="mixed", *, t=40, heads=(4, 2), dtype="float32"
    ):
        rng = np.random.default_rng(70)
        hq, h = heads
        self.dtype = dtype
        shapes = ((1, hq, t, 4), (1, h, t, 4), (1, h, t, 3))
        self.q, self.k, self.v = (0.7 * rng.standard_normal(s).astype(dtype) for s in shapes)
        self.spec = rfx.features.named(name, num_features=M)
        choices, share = KINDS[kind]
        self.log_gate = rng.choice(choices, (1, h, t, width), p=share).astype(dtype)
        self.log_weight = 0.3 * rng.standard_normal((1, h, t, 1)).astype(dtype)
        self.log_weight[..., 3, 0] = -np.inf
        self.mask = rng.random((1, h, t)) < 0.8

    def phi(self, like):
        return drawn(self.spec, 4, seed=71, like=like)

    def arrays(self):
        return self.q, self.k, self.v, self.log_gate, self.log_weight, self.mask

    def want(self, *, weight=True, mask=True, normalize=True):
        options = {"log_weight": self.log_weight if weight else None, "normalize": normalize}
        arrays = (self.q, self.k, self.v, self.phi(self.q), self.log_gate)
        return recurrence(*arrays, mask=self.mask if mask else None, **options)

    def __call__(self, convert=np.asarray, *, weight=True, mask=True, rows=slice(None), **options):
        q, k, v, g, w = (convert(a[..., rows, :]) for a in self.arrays()[:5])
        options = {"features": self.phi(q), "chunk_size": 16} | options
        if weight:
            options["log_weight"] = w
        if mask:
            options["mask"] = convert(self.mask[..., rows])
        return rfx.gated_attention(q, k, v, log_gate=g, **options)


def close(actual, want, *, factor=64.0):
    """Within roundings; ``want`` is an array, or as `recurrence` gives it."""
    want, spread = want if isinstance(want, tuple) else (np.asarray(want, np.float64), 1.0)
    assert_agrees(actual, want, scale=factor * spread, size=max(float(np.abs(want).max()), 1e-30))


@pytest.mark.parametrize(
    ("name", "width", "normalize"),
    [("favor+", 1, True), ("favor+", M, False), ("favor", 1, False), ("favor+relu", M, True)],
)
def test_it_is_the_recurrence_on_every_library(
    lib: ArrayLibrary, name: str, width: int, normalize: bool
) -> None:
    for kind in KINDS:
        problem = Problem(name, width, kind)
        out = problem(lib.convert, normalize=normalize)
        close(out, problem.want(normalize=normalize))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, M])
@pytest.mark.parametrize("normalize", [True, False])
def test_it_is_the_recurrence_whatever_is_left_out(name: str, width: int, normalize: bool) -> None:
    for kind in KINDS:
        for weight, mask in ((False, False), (True, False), (False, True)):
            problem = Problem(name, width, kind)
            options = {"weight": weight, "mask": mask, "normalize": normalize}
            for size in (7, 16, 64):
                close(problem(chunk_size=size, **options), problem.want(**options))


@settings(max_examples=60, deadline=None)
@given(
    t=st.integers(1, 40),
    chunk=st.integers(1, 33),
    name=st.sampled_from(NAMES),
    width=st.sampled_from([1, M]),
    kind=st.sampled_from(list(KINDS)),
    grown=st.sampled_from([1.0, 6.0]),
    seed=st.integers(0, 99),
)
def test_any_lengths_gates_and_chunks_agree_with_the_recurrence(
    t: int, chunk: int, name: str, width: int, kind: str, grown: float, seed: int
) -> None:
    problem = Problem(name, width, kind, t=t + 4, dtype="float64")
    rng = np.random.default_rng(seed)
    problem.mask = rng.random(problem.mask.shape) < 0.6
    problem.k = problem.k * rng.choice([0.1, 1.0, grown], (1, 1, t + 4, 1))
    for normalize in (True, False):
        out, want = (
            problem(normalize=normalize, chunk_size=chunk),
            problem.want(normalize=normalize),
        )
        close(out, want, factor=1e3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, M])
def test_far_gates_leave_the_rounding_of_a_weight_alone(name: str, width: int) -> None:
    """Sums from the chunk's start are thousands here, whose differences would be off by 5e-4."""
    problem = Problem(name, width, "one", t=128)
    problem.log_gate[..., :100, :] = TINY
    problem.log_gate[..., 100:, :] = -0.01
    problem.log_gate[..., 60, :] = 0.0
    for k in (problem.k, 8.0 * problem.k):  # plain, and halved where there is a log per feature
        problem.k = k
        out = problem(chunk_size=128, weight=False, mask=False)
        want, _ = problem.want(weight=False, mask=False)
        assert np.abs(out - want).max() < 4e-6 * np.abs(want).max() * (1 + 8 * (k is not problem.k))


def test_nothing_but_far_keys_is_still_an_average() -> None:
    """Behind gates of 1e-30 each a lone visible key is all there is, however small its weight."""
    for name in NAMES:
        for width in (1, M):
            problem = Problem(name, width, "one", t=64)
            problem.log_gate[...] = TINY
            problem.mask[...] = False
            problem.mask[..., 2] = True
            out = problem(weight=False)
            assert (out[..., :2, :] == 0).all()
            # A masked position takes no step, so that its gate is not passed.
            want = np.broadcast_to(
                np.repeat(problem.v[..., 2:3, :], 2, axis=1), out[..., 2:, :].shape
            )
            if name == "favor+":
                np.testing.assert_allclose(out[..., 2:, :], want, rtol=1e-5)
            weights = np.full_like(problem.log_weight, -np.inf)
            weights[..., 2, 0] = 0.0
            problem.log_weight = weights  # now the gates count
            out = problem(mask=False)
            assert np.isfinite(out).all()
            if name == "favor+":
                np.testing.assert_allclose(out[..., 2:, :], want, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gates_of_one_are_causal_attention(name: str) -> None:
    problem = Problem(name, 1, "one")
    want = rfx.linear_attention(
        problem.q, problem.k, problem.v,
        features=problem.phi(problem.q), is_causal=True, mask=problem.mask,
    )  # fmt: skip
    for width in (1, M):
        close(Problem(name, width, "one")(weight=False), want.astype(np.float64))


def agree(state, want) -> None:
    shift = np.exp(np.minimum(to_numpy(state.log_scale) - to_numpy(want.log_scale), 80.0))
    shift = np.where(np.isinf(to_numpy(want.log_scale)), 0.0, shift).astype(np.float64)
    for name in ("numerator", "denominator"):
        have = to_numpy(getattr(state, name)).astype(np.float64)
        scale = shift[..., None] if name == "numerator" else shift
        assert_agrees(have * scale, to_numpy(getattr(want, name)), dtype="float32", scale=64.0)


@pytest.mark.parametrize(("name", "width"), [("favor+", 1), ("favor", M)])
def test_split_and_resume_and_step_by_step_equal_one_call(
    lib: ArrayLibrary, name: str, width: int
) -> None:
    problem = Problem(name, width, "mixed")
    call = {"weight": lib.library != "torch", "mask": True}  # without weights a step is decoding
    want, whole = problem(lib.convert, return_state=True, **call)
    out, state = problem(lib.convert, rows=slice(0, 36), return_state=True, **call)
    outs = [to_numpy(out)]
    for i in range(36, 40):
        rows = slice(i, i + 1)
        out, state = problem(lib.convert, rows=rows, initial_state=state, return_state=True, **call)
        outs.append(to_numpy(out))
    close(np.concatenate(outs, axis=-2), to_numpy(want).astype(np.float64))
    agree(state, whole)
    assert int(state.length) == 40


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, M])
@pytest.mark.parametrize("kind", ["mild", "mixed"])
def test_a_decayed_state_merged_with_the_rest_is_the_whole(
    name: str, width: int, kind: str
) -> None:
    problem = Problem(name, width, kind)
    want, whole = problem(return_state=True, mask=False)
    _, first = problem(rows=slice(0, 19), return_state=True, mask=False)
    _, second = problem(rows=slice(19, 40), return_state=True, mask=False)
    total = problem.log_gate[..., 19:, :].sum(axis=-2)
    agree(rfx.merge(decayed(first, total), second), whole)
    out = problem(rows=slice(19, 40), initial_state=first, mask=False)
    close(out, want[..., 19:, :].astype(np.float64))


def test_a_state_with_a_log_for_each_feature_serves_every_attention() -> None:
    """Gates for each feature leave one, though the map itself has one log for a row."""
    problem = Problem("favor+relu", M, "mild", dtype="float64")
    _, state = problem(return_state=True, weight=False, mask=False)
    phi = problem.phi(problem.q)
    plain = rfx.linear_attention(
        problem.q, problem.k, problem.v, features=phi, is_causal=True, initial_state=state
    )
    gates = np.zeros_like(problem.log_gate)
    for width in (1, M):
        out = rfx.gated_attention(
            problem.q, problem.k, problem.v,
            features=phi, log_gate=gates[..., :width], initial_state=state,
        )  # fmt: skip
        close(out, plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1, M])
def test_padding_and_the_future_do_not_matter(name: str, width: int) -> None:
    problem = Problem(name, width, "mixed")
    want = problem(mask=False)
    padded = Problem(name, width, "mixed")
    pad = [(0, 0), (0, 0), (5, 9), (0, 0)]
    filled = (np.pad(a, pad, constant_values=np.nan) for a in problem.arrays()[:5])
    padded.q, padded.k, padded.v, padded.log_gate, padded.log_weight = filled
    padded.q = np.nan_to_num(padded.q)
    padded.mask = np.pad(np.ones((1, 2, 40), bool), pad[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = padded()
    close(out[..., 5:45, :], want.astype(np.float64))
    late = Problem(name, width, "mixed")
    late.v[..., 21:, :], late.k[..., 21:, :] = 50.0, 2.0
    late.log_gate[..., 21:, :] = -np.inf
    close(late(mask=False)[..., :21, :], want[..., :21, :].astype(np.float64))


def test_grouped_queries_share_keys_and_gates() -> None:
    for width in (1, M):
        problem = Problem("favor+", width, "mixed")
        want = problem()
        wide = Problem("favor+", width, "mixed")
        wide.k, wide.v, wide.log_gate, wide.log_weight = (
            np.repeat(a, 2, axis=1) for a in (wide.k, wide.v, wide.log_gate, wide.log_weight)
        )
        wide.mask = np.repeat(wide.mask, 2, axis=1)
        close(wide(), want.astype(np.float64))


def test_shared_axes_of_gates_and_a_single_head() -> None:
    problem = Problem("favor+", M, "mixed", heads=(1, 1))
    want = problem(weight=False, mask=False)
    phi = problem.phi(problem.q)
    q, k, v, g = (a[0, 0] for a in problem.arrays()[:4])
    close(rfx.gated_attention(q, k, v, features=phi, log_gate=g, chunk_size=16), want[0, 0])
    stacked = [np.concatenate([a, a]) for a in (problem.q, problem.k, problem.v)]
    for gate in (g, problem.log_gate):
        out = rfx.gated_attention(*stacked, features=phi, log_gate=gate, chunk_size=16)
        close(out[1], want[0])


def test_no_positions_give_no_output() -> None:
    problem = Problem(t=0 + 4)
    out, state = problem(rows=slice(0, 0), return_state=True)
    assert out.shape == (1, 4, 0, 3)
    assert (state.numerator == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_worked_in_float32(dtype: str) -> None:
    problem = Problem("favor+", M, "mixed")
    q, k, v, g = (torch.asarray(a).to(getattr(torch, dtype)) for a in problem.arrays()[:4])
    phi = problem.phi(q)
    out = rfx.gated_attention(q, k, v, features=phi, log_gate=g, chunk_size=16)
    want = rfx.gated_attention(
        q.float(), k.float(), v.float(), features=phi, log_gate=g.float(), chunk_size=16
    )
    assert out.dtype == q.dtype
    assert_agrees(out.float(), want.numpy(), dtype=dtype, scale=64.0)


def test_sums_keep_their_magnitude_where_float32_ends() -> None:
    """φ(q)·S is of the size of exp(±80) here: rows are neither divided nor dropped."""
    for log_size in (-80.0, 80.0):
        problem = Problem("favor+", 1, "mild", dtype="float64")
        want, _ = problem.want(weight=False, mask=False, normalize=False)
        problem = Problem("favor+", 1, "mild")
        problem.log_weight[...] = log_size
        out = problem(mask=False, normalize=False)
        assert_agrees(out, want * np.exp(log_size), scale=256.0)


# Gradients


@pytest.mark.parametrize(
    ("name", "width", "normalize"),
    [("favor+", 1, True), ("favor+", 4, False), ("favor", 1, False), ("favor+relu", 4, True)],
)
def test_torch_gradients_are_those_of_finite_differences(
    name: str, width: int, normalize: bool
) -> None:
    rng = np.random.default_rng(72)
    q, k, v = (torch.asarray(0.7 * rng.standard_normal((1, 6, 3))).requires_grad_() for _ in "qkv")
    phi = drawn(rfx.features.named(name, num_features=4), 3, seed=1, like=q.detach())
    log_gate = np.array([-0.1, -60.0, -0.3, -2.0, -0.2, -0.4])[None, :, None] * np.ones(width)
    log_gate = torch.asarray(log_gate * rng.uniform(0.5, 1.0, log_gate.shape)).requires_grad_()
    log_weight = torch.asarray(rng.standard_normal((1, 6, 1))).requires_grad_()
    mask = torch.arange(6) != 2
    state = rfx.gated_attention(
        q.detach(), k.detach(), v.detach(), features=phi, log_gate=log_gate.detach(),
        return_state=True,
    )[1]  # fmt: skip

    def call(q, k, v, log_gate, log_weight):
        return rfx.gated_attention(
            q, k, v, features=phi, log_gate=log_gate, log_weight=log_weight, mask=mask,
            chunk_size=4, normalize=normalize, initial_state=state,
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, (q, k, v, log_gate, log_weight), fast_mode=True)


@pytest.mark.parametrize("steps", [1, 6])
def test_gradients_reach_gates_through_a_state(steps: int) -> None:
    """A gate scales what came before: through a chunk, and through one step of decoding."""
    problem = Problem("favor+", M, "mild", dtype="float64")

    def call(log_gate):
        q, k, v = (torch.asarray(a) for a in problem.arrays()[:3])
        options = {"features": problem.phi(q), "chunk_size": 4, "return_state": True}
        state = None
        for start in range(0, 12, steps):
            rows = slice(start, start + steps)
            out, state = rfx.gated_attention(
                q[..., rows, :], k[..., rows, :], v[..., rows, :],
                log_gate=log_gate[..., rows, :], initial_state=state, **options,
            )  # fmt: skip
        return out

    leaf = torch.asarray(problem.log_gate[..., :12, :]).requires_grad_()
    assert torch.autograd.gradcheck(call, (leaf,), fast_mode=True)


@pytest.mark.parametrize(("name", "width"), [("favor", 1), ("favor+", M)])
def test_jax_gradients_are_those_of_torch_and_those_of_closed_gates_are_zero(
    name: str, width: int
) -> None:
    problem = Problem(name, width, "mixed", t=24, dtype="float64")

    def loss(out):
        return (out * out).sum() + out[..., 0].sum()

    options = {"chunk_size": 8}
    leaves = [torch.asarray(a).requires_grad_() for a in problem.arrays()[:5]]
    phi, mask = problem.phi(leaves[0].detach()), torch.asarray(problem.mask)
    q, k, v, g, w = leaves
    options |= {"mask": mask}
    out = rfx.gated_attention(q, k, v, features=phi, log_gate=g, log_weight=w, **options)
    loss(out).backward()
    assert all(torch.isfinite(a.grad).all() for a in leaves)
    assert (g.grad[torch.isinf(g)] == 0).all()
    assert (w.grad[torch.isinf(w)] == 0).all()
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in problem.arrays()[:5]]
        on_jax = problem.phi(arrays[0])
        options |= {"mask": jnp.asarray(problem.mask)}

        def call(q, k, v, g, w):
            out = rfx.gated_attention(q, k, v, features=on_jax, log_gate=g, log_weight=w, **options)
            return loss(out)

        found = jax.grad(call, argnums=(0, 1, 2, 3, 4))(*arrays)
    for mine, other in zip(found, leaves, strict=True):
        assert_agrees(mine, other.grad.numpy(), scale=1e5 if name == "favor" else 1e3)


def test_jax_vmap_computes_both_branches_without_nan() -> None:
    problem = Problem("favor+", M, "mixed", t=24)
    arrays = [jnp.asarray(np.stack([a, a])) for a in problem.arrays()[:4]]
    phi = problem.phi(arrays[0])

    def call(q, k, v, g):
        out = rfx.gated_attention(q, k, v, features=phi, log_gate=g, chunk_size=16)
        return (out * out).sum()

    found = jax.jit(jax.vmap(jax.grad(call, argnums=(0, 1, 2, 3))))(*arrays)
    assert all(bool(jnp.isfinite(g).all()) for g in found)


@COMPILER
def test_torch_compile_takes_it_as_one_graph() -> None:
    problem = Problem("favor+", M, "mixed")
    q, k, v, g, w = (torch.asarray(a) for a in problem.arrays()[:5])
    phi = problem.phi(q)

    def call(q, k, v, g, w):
        options = {"features": phi, "chunk_size": 16, "normalize": False}
        return rfx.gated_attention(q, k, v, log_gate=g, log_weight=w, **options)

    assert (
        rfx.explain(rfx.gated_attention, q, k, v, features=phi, log_gate=g).implementation
        == "torch-fused"
    )
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    a, b = ([x.clone().requires_grad_() for x in (q, k, v, g, w)] for _ in "ab")
    want, got = call(*a), compiled(*b)
    assert_agrees(got.detach(), want.detach().numpy())
    (want * want).sum().backward()
    (got * got).sum().backward()
    for x, y in zip(a, b, strict=True):
        assert_agrees(y.grad, x.grad.numpy(), scale=64.0)


def test_torch_func_vmap_goes_through() -> None:
    problem = Problem("favor+", 1, "mixed")
    q, k, v, g = (torch.asarray(a) for a in problem.arrays()[:4])
    phi = problem.phi(q)

    def call(q, k, v, g):
        return rfx.gated_attention(q, k, v, features=phi, log_gate=g, chunk_size=16)

    batched = torch.func.vmap(call)(*(torch.stack([a, a]) for a in (q, k, v, g)))
    close(batched[1], call(q, k, v, g).numpy().astype(np.float64))


# Helpers of gates


def test_exponential_decay_is_a_bias_of_the_distance() -> None:
    problem = Problem("favor+", 1, "one", heads=(2, 2), dtype="float64")
    phi = problem.phi(problem.q)
    for rates in (
        rfx.decay.alibi_slopes(2),
        rfx.decay.retention_rates(2),
        0.3,
        np.asarray([0.1, 2]),
    ):
        log_gate = rfx.decay.exponential_decay(problem.k, rates)
        assert log_gate.shape == (1, 2, 40, 1)
        out = rfx.gated_attention(problem.q, problem.k, problem.v, features=phi, log_gate=log_gate)
        distance = np.arange(40)[:, None] - np.arange(40)
        rate = np.broadcast_to(np.asarray(rates), (2,))[:, None, None]
        weight = np.where(distance >= 0, np.exp(-rate * np.abs(distance)), 0.0)
        weight = weight * rfx.gram(problem.q, problem.k, features=phi)
        close(out, weight @ problem.v / weight.sum(axis=-1, keepdims=True))
    assert rfx.decay.exponential_decay(problem.k[0, 0], 0.5).shape == (40, 1)
    assert rfx.decay.alibi_slopes(3) == (2.0**-4, 2.0**-8, 2.0**-2)


def test_the_gate_of_random_feature_attention_is_an_average_of_both() -> None:
    problem = Problem("favor+", 1, "one", dtype="float64")
    logits = np.random.default_rng(73).standard_normal((1, 2, 40, 1)) * 3.0
    problem.log_gate, problem.log_weight = rfx.decay.rfa_gate(logits)
    g = 1.0 / (1.0 + np.exp(-logits))
    np.testing.assert_allclose(np.exp(problem.log_weight), 1.0 - g, rtol=1e-12)
    out = problem(mask=False, normalize=False)
    problem.log_gate, problem.log_weight = np.log(g), np.log1p(-g)
    close(out, problem.want(mask=False, normalize=False))


# Refusals


def test_bad_gates_are_refused_in_a_sentence() -> None:
    problem = Problem("favor+", 1, "mild")
    q, k, v, g = problem.arrays()[:4]
    call = {"features": problem.phi(q)}
    with pytest.raises(ValueError, match=r"`log_gate` must be at most 0.*pass the log"):
        rfx.gated_attention(q, k, v, log_gate=-g, **call)
    for bad in (g[..., :5, :], np.repeat(g, 3, axis=-1), np.repeat(g, 2, axis=1), g[0]):
        with pytest.raises(
            ValueError, match=r"`log_gate` must have shape \(1, 2, 40, 1\) or \(1, 2"
        ):
            rfx.gated_attention(q, k, v, log_gate=bad, **call)
    with pytest.raises(ValueError, match=r"`log_weight` must have shape \(1, 2, 40, 1\)"):
        rfx.gated_attention(q, k, v, log_gate=g, log_weight=np.repeat(g, M, axis=-1), **call)
    with pytest.raises(ValueError, match=r"as many queries as keys.*t=39 and s=40"):
        rfx.gated_attention(q[..., 1:, :], k, v, log_gate=g, **call)
    with pytest.raises(TypeError, match="`log_gate` must be an array"):
        rfx.gated_attention(q, k, v, log_gate=0.9, **call)
    with pytest.raises(TypeError, match="`log_gate` is an array of torch"):
        rfx.gated_attention(q, k, v, log_gate=torch.asarray(g), **call)
    _, state = rfx.gated_attention(q, k, v, log_gate=g, return_state=True, **call)
    with pytest.raises(ValueError, match=r"`log_gate` must have shape.*sum of log gates"):
        decayed(state, np.zeros(3))
    with pytest.raises(ValueError, match="`log_gate` must be at most 0"):
        decayed(state, np.ones((1, 2, 1)))
    with pytest.raises(ValueError, match="one for each of the 2 heads"):
        rfx.decay.exponential_decay(k, (0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match="`rates` must be at least 0"):
        rfx.decay.exponential_decay(k, -0.1)


def test_explain_names_the_op_and_a_step_is_decoding() -> None:
    problem = Problem("favor+", 1, "mild")
    q, k, v, g = problem.arrays()[:4]
    call = {"features": problem.phi(q)}
    assert rfx.explain(rfx.gated_attention, q, k, v, log_gate=g, **call).op == "gated"
    one = [a[..., :1, :] for a in (q, k, v)]
    found = rfx.explain(rfx.gated_attention, *one, log_gate=g[..., :1, :], **call)
    assert (found.op, found.implementation) == ("bidirectional", "numpy-numba-step")
