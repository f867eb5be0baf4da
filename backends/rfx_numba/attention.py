"""Attention with an exponential map, head by head in threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.features import ExponentialMap
from rfx.ops import Carry, causal
from rfx.ops.chunks import before_triangle
from rfx.workers import share
from rfx_numba.arrays import dense
from rfx_numba.chunks import rows_at_once
from rfx_numba.loading import NO_MASK, kernels
from rfx_numba.sides import Sides

__all__ = ["attention"]

Array = np.ndarray[Any, Any]


def attention(
    is_causal: bool,
    features: ExponentialMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
    threads: int,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.causal` or `rfx.ops.bidirectional`, on float32 arrays."""
    out = np.empty((*query.shape[:-1], value.shape[-1]), np.float32)
    after = Carry(*(np.array(a, np.float32, order="C") for a in carry))
    kernels()  # not first in a thread, which would load them with BLAS held back
    columns = max(query.shape[-1], value.shape[-1])
    size = min(chunk_size, rows_at_once(is_causal, features.num_features, columns))
    sides = Sides(features)
    shown = None if mask is None else np.broadcast_to(mask, (*key.shape[:-1], 1))
    arrays = [query, out, key, value, *after]
    if key.ndim == 2:  # one head, without an axis for it
        arrays = [a[None] for a in arrays]
        shown = None if shown is None else shown[None]
    heads = arrays[2].shape[-3]
    queries, outs = (_groups(a, heads) for a in arrays[:2])

    def work(tasks: Iterator[tuple[int, ...]]) -> None:
        for index in tasks:
            q, o = queries[index], outs[index]
            k, v, *state = (a[index] for a in arrays[2:])
            seen = NO_MASK
            if shown is not None:
                k, v = (np.where(shown[index], a, np.float32(0)) for a in (k, v))
                seen = shown[index][:, 0]
            q, k, v = (dense(a) for a in (q, k, v))
            seen = np.ascontiguousarray(seen)
            head = Head(features, sides, index[-1], Carry(*state), size)
            (head.causal if is_causal else head.bidirectional)(q, k, v, seen, o)

    share(work, list(np.ndindex(*arrays[2].shape[:-2])), threads)
    return out, after


class Head:
    """One key head: its side of the map, and the sums over keys so far, which it writes to."""

    def __init__(
        self, features: ExponentialMap, sides: Sides, head: int, state: Carry, size: int
    ) -> None:
        self.features = features.for_heads(head, head + 1)
        self.query_side, self.key_side, self.row_term = sides.of(head)
        self.state, self.size = state, size

    def bidirectional(
        self, query: Array, key: Array, value: Array, mask: Array, out: Array
    ) -> None:
        """All keys (s, d), then all queries (g, t, d); writes ``out`` (g, t, e)."""
        state = tuple(self.state)
        if len(key):
            kernels().absorb(key, value, mask, self.key_side, self.row_term, state, self.size)
        if query.shape[1]:
            for each, its_out in zip(query, out, strict=True):
                kernels().read(each, self.query_side, state, its_out, self.size)

    def causal(self, query: Array, key: Array, value: Array, mask: Array, out: Array) -> None:
        """As `bidirectional`; query i sees the keys j <= i + s - t."""
        rows, keys = before_triangle(query.shape[1], len(key))
        self.bidirectional(query[:, rows], key[keys], value[keys], mask[keys], out[:, rows])
        query, out = np.ascontiguousarray(query[:, rows.stop :]), out[:, rows.stop :]
        key, value, mask = (a[keys.stop :] for a in (key, value, mask))
        start = 0
        while True:
            sides = (self.query_side, self.key_side, self.row_term)
            arrays = (query, key, value, mask)
            start = kernels().attend(*arrays, *sides, tuple(self.state), out, start, self.size)
            if start == len(key):
                return
            part = slice(start, start + self.size)
            self._step(query[:, part], key[part], value[part], mask[part], out[:, part])
            start += self.size

    def _step(self, query: Array, key: Array, value: Array, mask: Array, out: Array) -> None:
        """A chunk too steep for one scale."""
        seen = mask[None, :, None] if mask.size else None
        carry = Carry(*(a[None] for a in self.state))
        arrays = (query, key[None], value[None], seen, carry)
        out[...], after = causal.portable(self.features, *arrays, chunk_size=len(key))
        for target, source in zip(self.state, after, strict=True):
            target[...] = source[0]


def _groups(array: Array, heads: int) -> Array:
    """(..., g H, t, d) -> (..., H, g, t, d), as a view."""
    *batch, count, length, dim = array.shape
    return array.reshape(*batch, heads, count // heads, length, dim)
