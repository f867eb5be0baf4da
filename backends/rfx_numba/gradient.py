"""The gradient of attention with an exponential map, head by head in threads.

The mathematics is this, for features ``w`` of queries, divided by their denominators, and ``b`` of
keys, all at one scale; G is the gradient of the output, γ = −(G · out) 1, S and D the sums over the
keys before a chunk, ∂S and ∂D the gradients of those after it:

    ∂pairs = tril(G vᵀ + γ 1ᵀ)        ∂ log w = w (∂pairs b + G Sᵀ + γ Dᵀ)
    ∂v = tril(w bᵀ)ᵀ G + b ∂S         ∂ log b = b (∂pairsᵀ w + v ∂Sᵀ + 1 ∂Dᵀ)

Before the chunk, ∂S is more by wᵀ G and ∂D by wᵀ γ. Scales are constants: they cancel.

Causal attention is gone through twice. The way forward has S and D, for the queries; it keeps the
scales and denominators. The way back has ∂S and ∂D, for the keys; there sums move from the scale
after a chunk to that before it, which is never larger, so that nothing overflows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rfx.ops import Carry
from rfx.ops.chunks import before_triangle
from rfx_numba.arrays import dense
from rfx_numba.attention import each_head, shown
from rfx_numba.chunks import rows_at_once
from rfx_numba.loading import kernel
from rfx_numba.sides import Sides

__all__ = ["gradient"]

Array = np.ndarray[Any, Any]


def gradient(
    is_causal: bool,
    sides: Sides,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    before: Carry,
    after: Carry,
    out: Array,
    back: Array,
    after_back: tuple[Array, Array],
    *,
    chunk_size: int,
    threads: int,
    results: Sequence[Array] | None = None,
) -> Sequence[Array]:
    """Gradients of the op `rfx.ops.causal` or `rfx.ops.bidirectional`, on float32 arrays.

    Parameters
    ----------
    query, key, value, mask, before
        What the op was given; ``before`` is its carry.
    after, out
        What it returned.
    back : Array, shape of ``out``
        The gradient of the output.
    after_back : tuple of Array
        Those of numerator (..., h, m, e) and denominator (..., h, m) of ``after``.
    results : sequence of Array, optional
        Memory for what is returned, contiguous.

    Returns
    -------
    sequence of Array
        Those of query, key, value, and of numerator and denominator of ``before``. Log scales are
        constants. What is masked has gradient 0.
    """
    if results is None:
        results = [np.empty(a.shape, np.float32) for a in (query, key, value, *after_back)]
    found, sums = results[:3], results[3:]
    for target, source in zip(sums, after_back, strict=True):
        target[...] = source
    columns = max(query.shape[-1], value.shape[-1])
    size = min(chunk_size, rows_at_once(is_causal, sides.num_features, columns))

    def run(
        head: int, queries: list[Array], keys: list[Array], sums: list[Array], seen: Array
    ) -> None:
        first, last, sums_back = (tuple(dense(a) for a in sums[i : i + 3]) for i in (0, 3, 6))
        queries, keys_found = [dense(a) for a in queries], keys[2:]
        keys = [*(shown(a, seen) for a in keys[:2]), *keys_found]
        work = HeadBack(sides, head, first[2], sums_back, size)
        if is_causal:
            work.causal(queries, keys, seen, first)
        else:
            work.bidirectional(queries, keys, seen, last)
        for each in keys_found if seen.size else ():
            each[~seen] = 0.0

    queries, keys = (query, out, back, found[0]), (key, value, *found[1:])
    each_head(run, queries, keys, (*before, *after, *sums), mask, threads)
    return results


class HeadBack:
    """One key head: its side of the map, and the gradient of the sums, which is moved back.

    Queries are, with axes (g, t, ·), the query, the output, its gradient, and memory for the
    query's; keys are, with axes (s, ·), key, value, and memory for their gradients.
    """

    def __init__(
        self, sides: Sides, head: int, log_scale: Array, sums_back: Sequence[Array], size: int
    ) -> None:
        self.query_side, self.key_side, self.row_term = sides.head(head)
        self.log_scale, self.sums_back, self.size = log_scale, tuple(sums_back), size

    def bidirectional(
        self, queries: list[Array], keys: list[Array], mask: Array, state: Sequence[Array]
    ) -> None:
        """From the gradient of sums, which hold all keys and are seen by all queries."""
        for query, out, back, found in zip(*queries, strict=True):
            read = (query, self.query_side, tuple(state), out, back)
            kernel("read_back")(*read, self.sums_back, found, self.size)
        inputs, found = keys[:2], keys[2:]
        absorbed = (*inputs, mask, self.key_side, self.row_term, state[2], self.log_scale)
        kernel("absorb_back")(*absorbed, self.sums_back, *found, self.size)

    def causal(
        self, queries: list[Array], keys: list[Array], mask: Array, state: Sequence[Array]
    ) -> None:
        """From the gradient of the last sums; ``state`` is the first."""
        rows, past = before_triangle(queries[0].shape[1], len(keys[0]))
        old, new = ([a[part] for a in keys] for part in (past, slice(past.stop, None)))
        seen, sides = mask[past.stop :], (self.query_side, self.key_side, self.row_term)
        state = tuple(a.copy() for a in state)
        kernel("absorb")(*old[:2], mask[past], *sides[1:], state, self.size)

        query, out, back, found = queries
        arrays = (query, *new[:2], seen, *sides)
        kept = kernel("attend_queries_back")(*arrays, state, out, back, found, rows.stop, self.size)
        kernel("attend_keys_back")(*arrays, kept, out, back, self.sums_back, *new[2:], rows.stop)
        self.bidirectional([a[:, rows] for a in queries], old, mask[past], state)
