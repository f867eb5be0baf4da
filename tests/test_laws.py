"""Laws of linear attention: what must not matter does not, and parts add up to the whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rfx
from rfx import reference
from rfx._xp import namespace, to_numpy
from rfx.testing import ArrayLibrary, assert_agrees, drawn
from tests.conftest import one_name_per_form

FORMS = pytest.mark.parametrize("name", one_name_per_form()[:2])
CAUSAL = pytest.mark.parametrize("is_causal", [False, True])


class Problem:
    """Queries, keys and values of one library with a drawn map, and the tolerance that is due."""

    def __init__(self, lib: ArrayLibrary, name: str, *, key_heads: int = 2, heads: int = 2) -> None:
        rng = np.random.default_rng(30)
        self.lib = lib
        self.q = (0.5 * rng.standard_normal((2, heads, 48, 8))).astype(np.float32)
        self.k = (0.5 * rng.standard_normal((2, key_heads, 48, 8))).astype(np.float32)
        self.v = rng.standard_normal((2, key_heads, 48, 8)).astype(np.float32)
        spec = rfx.features.named(name, num_features=32)
        self.phi = drawn(spec, 8, seed=31, like=lib.convert(self.q), heads=key_heads)

    def __call__(self, q=None, k=None, v=None, **options):
        arrays = [
            self.lib.convert(own if a is None else a)
            for a, own in ((q, self.q), (k, self.k), (v, self.v))
        ]
        return rfx.linear_attention(*arrays, features=self.phi, **{"chunk_size": 16} | options)

    def same(self, actual, want, rows=slice(None), **options) -> None:
        """Assert agreement where rounding is magnified by logs and cancellation."""
        want = to_numpy(want)
        call = {"features": self.phi, **options}
        spread = reference.conditioning(self.q, self.k, **call)[..., rows, :]
        scale = reference.log_size(self.q, self.k, features=self.phi) * spread
        size = float(np.abs(self.v).max())
        assert_agrees(actual, want, scale=scale * (1 + np.abs(want) / size), size=size)


@FORMS
def test_the_order_of_keys_does_not_matter(lib: ArrayLibrary, name: str) -> None:
    problem = Problem(lib, name)
    order = np.random.default_rng(32).permutation(48)
    out = problem(k=problem.k[..., order, :], v=problem.v[..., order, :])
    problem.same(out, problem())


@FORMS
@pytest.mark.parametrize("place", [1, 16, 17, 40])
def test_the_future_does_not_change_the_past(lib: ArrayLibrary, name: str, place: int) -> None:
    problem = Problem(lib, name)
    k, v = problem.k.copy(), problem.v.copy()
    k[..., place:, :] += 3.0
    v[..., place:, :] = 100.0
    out = to_numpy(problem(k=k, v=v, is_causal=True))[..., :place, :]
    want = to_numpy(problem(is_causal=True))[..., :place, :]
    problem.same(out, want, rows=slice(None, place), is_causal=True)


@FORMS
@CAUSAL
@pytest.mark.parametrize("place", [1, 16, 29, 47])
def test_split_and_resume_equals_one_call(
    lib: ArrayLibrary, name: str, is_causal: bool, place: int
) -> None:
    problem = Problem(lib, name, heads=4)
    parts = [[a[..., s, :] for a in (problem.q, problem.k, problem.v)]
             for s in (slice(None, place), slice(place, None))]  # fmt: skip
    first, state = problem(*parts[0], is_causal=is_causal, return_state=True)
    second, after = problem(*parts[1], is_causal=is_causal, initial_state=state, return_state=True)
    want, whole = problem(is_causal=is_causal, return_state=True)
    rows = slice(None) if is_causal else slice(place, None)
    out = np.concatenate([to_numpy(first), to_numpy(second)], axis=-2)[..., rows, :]
    problem.same(out, to_numpy(want)[..., rows, :], rows=rows, is_causal=is_causal)
    assert_states_agree(after, whole)


def assert_states_agree(state: rfx.State, want: rfx.State) -> None:
    assert int(state.length) == int(want.length)
    assert float(state.fingerprint) == float(want.fingerprint)
    shift = np.exp(to_numpy(state.log_scale) - to_numpy(want.log_scale)).astype(np.float64)
    assert_agrees(to_numpy(state.numerator) * shift[..., None], to_numpy(want.numerator),
                  dtype="float32", scale=16.0)  # fmt: skip
    assert_agrees(to_numpy(state.denominator) * shift, to_numpy(want.denominator),
                  dtype="float32", scale=16.0)  # fmt: skip


@FORMS
@pytest.mark.parametrize("places", [(5, 20), (16, 32), (47, 48)])
def test_merged_states_are_the_state_of_the_whole(
    lib: ArrayLibrary, name: str, places: tuple[int, int]
) -> None:
    problem = Problem(lib, name)
    states = [
        problem(k=problem.k[..., s, :], v=problem.v[..., s, :], return_state=True)[1]
        for s in (slice(0, places[0]), slice(*places), slice(places[1], None))
    ]
    whole = problem(return_state=True)[1]
    left = rfx.merge(rfx.merge(states[0], states[1]), states[2])
    right = rfx.merge(states[0], rfx.merge(states[1], states[2]))
    for merged in (left, right, rfx.merge(states[2], rfx.merge(states[1], states[0]))):
        assert_states_agree(merged, whole)


@FORMS
def test_merging_with_an_empty_state_changes_nothing(lib: ArrayLibrary, name: str) -> None:
    problem = Problem(lib, name)
    full = problem(return_state=True)[1]
    hidden = lib.convert(np.zeros(48, dtype=bool))
    empty = problem(mask=hidden, return_state=True)[1]
    for merged in (rfx.merge(full, empty), rfx.merge(empty, full)):
        np.testing.assert_array_equal(to_numpy(merged.numerator), to_numpy(full.numerator))
        np.testing.assert_array_equal(to_numpy(merged.log_scale), to_numpy(full.log_scale))
    assert (to_numpy(rfx.merge(empty, empty).log_scale) == -np.inf).all()


@FORMS
@CAUSAL
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padded_equals_unpadded(lib: ArrayLibrary, name: str, is_causal: bool, side: str) -> None:
    problem = Problem(lib, name)
    before = 21 if side in ("left", "both") else 0
    after = 13 if side in ("right", "both") else 0
    width = [(0, 0), (0, 0), (before, after), (0, 0)]
    q, k, v = (np.pad(a, width, constant_values=7.0) for a in (problem.q, problem.k, problem.v))
    mask = np.pad(np.ones(48, dtype=bool), (before, after))
    for shape in ((-1,), (1, 1, -1)):
        out = problem(q, k, v, mask=lib.convert(mask.reshape(shape)), is_causal=is_causal)
        inner = to_numpy(out)[..., before : before + 48, :]
        problem.same(inner, problem(is_causal=is_causal), is_causal=is_causal)


@FORMS
def test_step_by_step_equals_one_call(lib: ArrayLibrary, name: str) -> None:
    problem = Problem(lib, name, heads=4)
    want = problem(is_causal=True)
    prompt = [a[..., :40, :] for a in (problem.q, problem.k, problem.v)]
    _, state = problem(*prompt, is_causal=True, return_state=True)
    outs = []
    for i in range(40, 48):
        step = [a[..., i : i + 1, :] for a in (problem.q, problem.k, problem.v)]
        out, state = problem(*step, is_causal=True, initial_state=state, return_state=True)
        outs.append(to_numpy(out))
    rows = slice(40, 48)
    problem.same(np.concatenate(outs, axis=-2), to_numpy(want)[..., rows, :], rows, is_causal=True)
    assert int(state.length) == 48


@FORMS
@CAUSAL
def test_the_initial_state_is_not_written_to(lib: ArrayLibrary, name: str, is_causal: bool) -> None:
    problem = Problem(lib, name)
    _, state = problem(return_state=True)
    before = {f.name: to_numpy(getattr(state, f.name)) for f in dataclasses.fields(state)}
    _, after = problem(initial_state=state, is_causal=is_causal, return_state=True)
    for field, value in before.items():
        np.testing.assert_array_equal(to_numpy(getattr(state, field)), value)
    assert int(after.length) == 96


@FORMS
def test_late_queries_of_a_state_see_what_is_due(lib: ArrayLibrary, name: str) -> None:
    """More queries than new keys: the first see the state alone, the others the keys up to j."""
    problem = Problem(lib, name)
    old, new = slice(0, 38), slice(38, 48)
    _, state = problem(k=problem.k[..., old, :], v=problem.v[..., old, :], return_state=True)
    rows = slice(30, 48)
    out = problem(
        problem.q[..., rows, :], problem.k[..., new, :], problem.v[..., new, :],
        is_causal=True, initial_state=state,
    )  # fmt: skip
    call = {"features": problem.phi}
    q, k, v = problem.q, problem.k, problem.v
    early = reference.linear_attention(q[..., 30:38, :], k[..., old, :], v[..., old, :], **call)
    late = reference.linear_attention(q[..., 38:, :], k, v, is_causal=True, **call)
    want = np.concatenate([early, late], axis=-2)
    spread = reference.conditioning(q[..., rows, :], k, **call).max() * (1 + np.abs(want).max())
    assert_agrees(out, want, scale=16 * spread, size=float(np.abs(v).max()))


@FORMS
@CAUSAL
def test_grouped_heads_equal_repeated_keys(lib: ArrayLibrary, name: str, is_causal: bool) -> None:
    grouped = Problem(lib, name, heads=6, key_heads=2)
    out = to_numpy(grouped(is_causal=is_causal))
    arrays = grouped.phi.arrays()
    xp = namespace(arrays["query_weight"])
    wide = {n: a if n == "fingerprint" else xp.repeat(a, 3, axis=0) for n, a in arrays.items()}
    problem = Problem(lib, name, heads=6, key_heads=2)
    problem.phi = grouped.phi.with_arrays(wide)
    k, v = (np.repeat(a, 3, axis=1) for a in (grouped.k, grouped.v))
    grouped.same(out, problem(k=k, v=v, is_causal=is_causal), is_causal=is_causal)


@FORMS
@CAUSAL
def test_the_chunk_size_changes_rounding_only(
    lib: ArrayLibrary, name: str, is_causal: bool
) -> None:
    problem = Problem(lib, name)
    want = problem(is_causal=is_causal, chunk_size=48)
    sizes = (7, 1000) if lib.library == "jax" else (1, 7, 16, 1000, None)
    for size in sizes:
        out = problem(is_causal=is_causal, chunk_size=size)
        problem.same(out, want, is_causal=is_causal)


@settings(max_examples=60, deadline=None)
@given(
    t=st.integers(1, 20),
    more=st.integers(0, 12),
    chunk=st.integers(1, 9),
    name=st.sampled_from(one_name_per_form()),
    is_causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_lengths_masks_and_chunks_agree_with_the_oracle(
    t: int, more: int, chunk: int, name: str, is_causal: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((2, n, 4)) for n in (t, t + more, t + more))
    k *= rng.choice([0.1, 1.0, 30.0], (1, t + more, 1))
    mask = rng.random((2, t + more)) < 0.6
    phi = drawn(rfx.features.named(name, num_features=8), 4, seed=seed, like=q)
    call = {"features": phi, "is_causal": is_causal, "mask": mask}
    out = rfx.linear_attention(q, k, v, chunk_size=chunk, **call)
    want = reference.linear_attention(q, k, v, **call)
    size = float(np.abs(v).max())
    spread = reference.conditioning(q, k, **call) * (1 + np.abs(want) / size)
    assert_agrees(out, want, scale=reference.log_size(q, k, features=phi) * spread, size=size)
