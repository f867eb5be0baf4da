"""The gradient that numba compiles is that of the portable code by autograd in float64."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rfx
from rfx import ops, reference
from rfx.ops import Carry
from rfx.testing import assert_agrees, drawn

pytest.importorskip("numba")
torch = pytest.importorskip("torch")
rfx_numba = importlib.import_module("rfx_numba")

CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
NAMES = ("query", "key", "value", "numerator", "denominator")
DIM, COLUMNS = 6, 5


@dataclass(frozen=True)
class Problem:
    """Shapes, a map and a mask; ``steep`` is how large the first keys are, whose logs are low."""

    name: str
    queries: tuple[int, ...] = (2, 3, 100)
    keys: tuple[int, ...] = (2, 3, 100)
    spec: str = "positive"
    mask: str | None = None
    steep: float = 0.0
    state: bool = True
    chunk_size: int = 32

    def __str__(self) -> str:
        return self.name

    def features(self) -> Any:
        """A map, with arrays for each head where there are heads."""
        specs = dict(zip(rfx.features.NAMES, rfx.features.ALL, strict=True))
        spec = specs.get(self.spec, rfx.features.Positive(num_features=24))
        heads = self.keys[-2] if "dense" in self.spec else None
        return drawn(spec, DIM, like=np.zeros(1, np.float32), seed=1, heads=heads)

    def inputs(self) -> list[Any]:
        """Query, key, value, mask and the carry before them; hidden keys and values are NaN."""
        rng = np.random.default_rng(0)
        shapes = ((*self.queries, DIM), (*self.keys, DIM), (*self.keys, COLUMNS))
        q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        s = self.keys[-1]
        if self.steep:
            k *= np.geomspace(self.steep, 0.1, s, dtype=np.float32)[:, None]
        phi = self.features()
        before = ops.carry.empty(phi, k, v)
        if self.state:
            earlier = (rng.standard_normal((*self.keys[:-1], 9, n)) for n in (DIM, COLUMNS))
            earlier = [a.astype(np.float32) * (self.steep or 1.0) for a in earlier]
            args = (q[..., :0, :], *earlier, None, before)
            before = ops.bidirectional.portable(phi, *args, chunk_size=9)[1]
        mask = {
            None: None,
            "random": rng.random((*self.keys, 1)) < 0.7,
            "left": (np.arange(s) >= 45)[:, None],
            "all": np.zeros((s, 1), bool),
        }[self.mask]
        if mask is not None:
            k, v = (np.where(mask, a, np.float32(np.nan)) for a in (k, v))
        return [q, k, v, mask, before]


PROBLEMS = (
    Problem("plain"),
    Problem("nothing before", state=False),
    Problem("no heads", (63,), (63,), mask="random"),
    Problem("one position", (1, 2, 1), (1, 2, 1)),
    Problem("grouped", (2, 6, 100), (2, 3, 100), "dense"),
    Problem("grouped, more keys", (4, 63), (2, 100), mask="random"),
    Problem("grouped, more keys, left mask", (4, 63), (2, 100), mask="left", state=False),
    Problem("grouped, fewer keys", (2, 6, 100), (2, 3, 63), "dense", mask="random"),
    Problem("fewer keys, nothing before", (2, 100), (2, 63), state=False),
    Problem("no keys", (2, 40), (2, 0)),
    Problem("no queries", (2, 0), (2, 40), mask="random"),
    Problem("left mask", mask="left", state=False),
    Problem("left mask after a state", mask="left"),
    Problem("all masked", mask="all"),
    Problem("nothing is seen", mask="all", state=False),
    Problem("biased", spec="favor++"),
    Problem("steep", (2, 6, 100), (2, 3, 100), steep=8.0),
    Problem("steep, nothing before", steep=8.0, state=False, mask="random"),
    Problem("steep, more keys", (3, 70), (3, 100), steep=8.0, mask="left"),
    Problem("many steep chunks", (3, 100), (3, 100), steep=60.0, chunk_size=100),
)
ROWS = pytest.mark.parametrize("problem", PROBLEMS, ids=str)


def gradients_after(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Of the output and of the last sums, of such shapes."""
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def expected(problem: Problem, is_causal: bool) -> list[np.ndarray]:
    """Output, last carry, and the gradients, from float64 tensors and autograd."""
    *arrays, mask, before = problem.inputs()

    def tensor(array: np.ndarray) -> Any:
        return torch.asarray(np.array(array, np.float64))

    leaves = [tensor(a).requires_grad_() for a in (*arrays, *before[:2])]
    q, k, v, *sums = leaves
    carry = Carry(*sums, tensor(before.log_scale))
    seen = None if mask is None else torch.asarray(mask)
    op = ops.causal if is_causal else ops.bidirectional
    phi = problem.features().to_like(q)
    out, after = op.portable(phi, q, k, v, seen, carry, chunk_size=problem.chunk_size)
    results = (out, *after[:2])
    backs = [tensor(a) for a in gradients_after([a.shape for a in results])]
    found = torch.autograd.grad(results, leaves, backs, materialize_grads=True)
    return [a.detach().numpy() for a in (out, *after, *found)]


def compiled(problem: Problem, is_causal: bool, threads: int = 2) -> list[np.ndarray]:
    """The same from numba, in float32."""
    *arrays, mask, before = problem.inputs()
    args = (is_causal, rfx_numba.Sides.of(problem.features()), *arrays, mask, before)
    options = {"chunk_size": problem.chunk_size, "threads": threads}
    out, after = rfx_numba.attention(*args, **options)
    back, *after_back = gradients_after([a.shape for a in (out, *after[:2])])
    found = rfx_numba.gradient(*args, after, out, back, tuple(after_back), **options)
    return [out, *after, *found]


@ROWS
@CAUSAL
def test_gradients_are_those_of_the_portable_code(problem: Problem, is_causal: bool) -> None:
    query, key, _, mask, _ = problem.inputs()
    shown = key if mask is None else np.where(mask, key, np.float32(0))
    scale = reference.log_size(query, shown, features=problem.features())
    want, got = (run(problem, is_causal) for run in (expected, compiled))
    for mine, its_want in zip(got, want, strict=True):
        assert np.isfinite(its_want).all()
        largest = float(np.max(np.abs(its_want), initial=1e-30))  # float32 has none much smaller
        assert_agrees(mine, its_want, scale=scale, size=largest)
    if mask is not None:
        hidden = np.broadcast_to(~mask, (*problem.keys, 1))[..., 0]
        assert not got[5][hidden].any()
        assert not got[6][hidden].any()


@CAUSAL
def test_the_number_of_threads_changes_nothing(is_causal: bool) -> None:
    one, two = (compiled(PROBLEMS[4], is_causal, threads) for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@CAUSAL
@pytest.mark.parametrize("rows", [1, 24, 56, 100])
def test_chunks_of_any_length_agree(
    monkeypatch: pytest.MonkeyPatch, is_causal: bool, rows: int
) -> None:
    problem = Problem("any", (2, 4, 100), (2, 2, 100), mask="left", chunk_size=100)
    want = compiled(problem, is_causal)
    module = importlib.import_module("rfx_numba.gradient")
    monkeypatch.setattr(module, "rows_at_once", lambda *_: rows)
    for mine, its_want in zip(compiled(problem, is_causal), want, strict=True):
        assert_agrees(mine, its_want, scale=10.0)


@CAUSAL
def test_gradients_of_any_layout_and_writable_or_not(is_causal: bool) -> None:
    *arrays, mask, before = PROBLEMS[4].inputs()
    sides, options = rfx_numba.Sides.of(PROBLEMS[4].features()), {"chunk_size": 32, "threads": 2}
    args = (is_causal, sides, *arrays, mask, before)
    out, after = rfx_numba.attention(*args, **options)
    row = np.random.default_rng(3).standard_normal((100, 1)).astype(np.float32)
    back = np.broadcast_to(row, out.shape)
    sums = [np.broadcast_to(np.float32(0.5), a.shape) for a in after[:2]]
    want = rfx_numba.gradient(
        *args, after, out, back.copy(), tuple(a.copy() for a in sums), **options
    )
    spread = np.zeros((*arrays[0].shape[:-1], 2 * DIM), np.float32)[..., ::2]
    spread[...] = arrays[0]
    first, last = (Carry(*(np.asfortranarray(a) for a in c)) for c in (before, after))
    for array in (*first, *last, *arrays, out):
        array.flags.writeable = False
    args = (is_causal, sides, spread, *arrays[1:], mask, first, last, out, back, tuple(sums))
    for mine, its_want in zip(rfx_numba.gradient(*args, **options), want, strict=True):
        np.testing.assert_array_equal(mine, its_want)


@CAUSAL
def test_what_is_masked_has_no_gradient_whatever_comes_back(is_causal: bool) -> None:
    problem = Problem("NaN", mask="random")
    *arrays, mask, before = problem.inputs()
    args = (is_causal, rfx_numba.Sides.of(problem.features()), *arrays, mask, before)
    options = {"chunk_size": 32, "threads": 1}
    out, after = rfx_numba.attention(*args, **options)
    sums = tuple(np.zeros_like(a) for a in after[:2])
    back = np.full_like(out, np.nan)
    _, *found = rfx_numba.gradient(*args, after, out, back, sums, **options)
    for each in found[:2]:
        assert not each[~mask[..., 0]].any()
        assert np.isnan(each[mask[..., 0]]).any()


def chunks(problem: Problem) -> list[int]:
    """Where the chunks of one head, without an axis for it, begin and end."""
    q, k, v, mask, before = problem.inputs()
    sides = rfx_numba.Sides.of(problem.features())
    seen = np.empty(0, bool) if mask is None else mask[:, 0]
    k, v = (np.nan_to_num(a) for a in (k, v))
    out = np.zeros((1, len(q), COLUMNS), np.float32)
    args = (q[None], k, v, seen, *sides.head(0), tuple(before), out, out, np.empty_like(q)[None], 0)
    kept = rfx_numba.loading.kernel("attend_queries_back")(*args, problem.chunk_size)
    return kept[0].tolist()


def test_chunks_end_where_logs_become_steep() -> None:
    shape = (100,)
    assert chunks(Problem("", shape, shape)) == [0, 32, 64, 96, 100]
    assert chunks(Problem("", shape, shape, mask="left")) == [0, 32, 64, 96, 100]
    # Rows that see nothing share no chunk with a visible key.
    empty = Problem("", shape, shape, mask="left", state=False)
    assert chunks(empty) == [0, 32, 45, 77, 100]
    steep = chunks(Problem("", shape, shape, steep=60.0, chunk_size=100))
    assert len(steep) > 8  # more than memory was set aside for
    assert steep[0] == 0
    assert steep[-1] == 100
    assert (np.diff(steep) > 0).all()


@pytest.mark.parametrize(
    ("logs", "before", "rows"),
    [
        ((0.0, 30.0, 39.0, 41.0), -1e38, 3),
        ((0.0, 30.0, 60.0, 65.0), 25.0, 4),
        ((0.0, 30.0, 60.0, 66.0), 25.0, 3),
        ((0.0, np.nan, 0.0), -1e38, 1),
        ((np.nan, 1e3, 0.0), np.nan, 3),
        ((50.0, 0.0, -1e30), 0.0, 3),
        ((50.0,), 0.0, 1),
    ],
)
def test_one_scale_serves_keys_that_rise_by_no_more_than_40(
    logs: tuple[float, ...], before: float, rows: int
) -> None:
    log = np.zeros((len(logs), 20), np.float32)
    log[:, 17] = logs
    first, limit = np.zeros(20, np.float32), np.empty(20, np.float32)
    first[17] = before
    assert rfx_numba.loading.kernel("_gentle_rows")(log, first, limit) == rows
