"""Attention with an exponential map, head by head in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rfx.ops import Carry
from rfx.ops.chunks import before_triangle
from rfx.workers import share
from rfx_numba.arrays import dense
from rfx_numba.chunks import rows_at_once
from rfx_numba.loading import NO_MASK, kernel
from rfx_numba.sides import Sides

__all__ = ["attention", "each_head", "shown"]

Array = np.ndarray[Any, Any]


def attention(
    is_causal: bool,
    sides: Sides,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
    threads: int,
    results: tuple[Array, Carry] | None = None,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.causal` or `rfx.ops.bidirectional`, on float32 arrays.

    What it returns is written to ``results``, contiguous, where a caller has memory for it.
    """
    if results is None:
        out = np.empty((*query.shape[:-1], value.shape[-1]), np.float32)
        results = out, Carry(*(np.empty(a.shape, np.float32) for a in carry))
    out, after = results
    for target, source in zip(after, carry, strict=True):
        target[...] = source
    columns = max(query.shape[-1], value.shape[-1])
    size = min(chunk_size, rows_at_once(is_causal, sides.num_features, columns))

    def attend(
        head: int, queries: list[Array], keys: list[Array], state: list[Array], seen: Array
    ) -> None:
        work = Head(sides, head, state, size)
        query, out = queries
        key, value = (shown(a, seen) for a in keys)
        run = work.causal if is_causal else work.bidirectional
        run(dense(query), key, value, seen, out)

    each_head(attend, (query, out), (key, value), after, mask, threads)
    return out, after


class Head:
    """One key head: its side of the map, and the sums over keys so far, which it writes to."""

    def __init__(self, sides: Sides, head: int, state: Sequence[Array], size: int) -> None:
        self.query_side, self.key_side, self.row_term = sides.head(head)
        self.state, self.size = tuple(state), size

    def bidirectional(
        self, query: Array, key: Array, value: Array, mask: Array, out: Array
    ) -> None:
        """All keys (s, d), then all queries (g, t, d); writes ``out`` (g, t, e)."""
        kernel("absorb")(key, value, mask, self.key_side, self.row_term, self.state, self.size)
        for each, its_out in zip(query, out, strict=True):
            kernel("read")(each, self.query_side, self.state, its_out, self.size)

    def causal(self, query: Array, key: Array, value: Array, mask: Array, out: Array) -> None:
        """As `bidirectional`; query i sees the keys j <= i + s - t."""
        rows, keys = before_triangle(query.shape[1], len(key))
        self.bidirectional(query[:, rows], key[keys], value[keys], mask[keys], out[:, rows])
        arrays = (query, *(a[keys.stop :] for a in (key, value, mask)))
        sides = (self.query_side, self.key_side, self.row_term)
        kernel("attend")(*arrays, *sides, self.state, out, rows.stop, self.size)


def each_head(
    work: Callable[..., None],
    queries: Sequence[Array],
    keys: Sequence[Array],
    sums: Sequence[Array],
    mask: Array | None,
    threads: int,
) -> None:
    """Call ``work`` for each key head, in threads: with its number, and lists of its arrays.

    queries : (..., g H, t, d), of which it gets (g, t, d)
    keys : (..., H, s, d), of which it gets (s, d)
    sums : (..., H, ...), of which it gets (...)
    mask : to be broadcast to (..., H, s, 1), of which it gets (s,) or `NO_MASK`
    """
    kernel("absorb")  # numba is not first loaded in a thread, while BLAS is held back
    if mask is not None:
        mask = np.broadcast_to(mask, (*keys[0].shape[:-1], 1))
    if keys[0].ndim == 2:  # one head, without an axis for it
        queries, keys, sums = ([a[None] for a in arrays] for arrays in (queries, keys, sums))
        mask = None if mask is None else mask[None]
    heads = keys[0].shape[:-2]
    groups = [_groups(a, heads[-1]) for a in queries]

    def run(tasks: Iterator[tuple[int, ...]]) -> None:
        for index in tasks:
            part = ([a[index] for a in arrays] for arrays in (groups, keys, sums))
            seen = NO_MASK if mask is None else np.ascontiguousarray(mask[index][:, 0])
            work(index[-1], *part, seen)

    share(run, list(np.ndindex(*heads)), threads)


def shown(array: Array, mask: Array) -> Array:
    """Keys or values (s, d), 0 where the mask (s,) hides them."""
    return dense(np.where(mask[:, None], array, np.float32(0)) if mask.size else array)


def _groups(array: Array, heads: int) -> Array:
    """(..., g H, t, d) -> (..., H, g, t, d), as a view."""
    *batch, count, length, dim = array.shape
    return array.reshape(*batch, heads, count // heads, length, dim)
