"""An op on arrays with batch axes, as the same work on a few heads at a time, in threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rfx.features import DrawnMap
from rfx.ops import Carry
from rfx_numpy import threads

__all__ = ["Worker", "each_head"]

Array = np.ndarray[Any, Any]
Worker = Callable[..., Carry]
"""Called with the map of n key heads, query (n, g, t, d), key (n, s, d), value (n, s, e), mask
(n, s, 1) or None, what else there is for each key, a carry (n, ...), and the output (n, g, t, e) to
write; returns the carry with the keys added."""


def each_head(
    start: Callable[[int], Worker],
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *others: Array | None,
) -> tuple[Array, Carry]:
    """Run workers on all heads; ``start`` makes one in each thread, for n heads at a time.

    ``others`` are arrays (..., s, c) for the keys, or None.
    """
    out = np.empty((*query.shape[:-1], value.shape[-1]), carry.numerator.dtype)
    after = Carry(*(np.empty_like(a) for a in carry))
    rows = [
        None if a is None else np.broadcast_to(a, (*key.shape[:-1], a.shape[-1]))
        for a in (mask, *others)
    ]
    *batch, heads = key.shape[:-2] or (1,)
    count = _at_once(heads, math.prod(batch))

    def part(array: Any, index: tuple[int, ...], first: int) -> Any:
        """The heads from ``first`` on, with an axis of heads if there was none."""
        if array is None or key.ndim == 2:
            return None if array is None else array[None]
        return array[(*index, slice(first, first + count))]

    grouped = [_groups(a, heads) for a in (query, out)]

    def work(tasks: Iterator[tuple[tuple[int, ...], int]]) -> None:
        worker = start(count)
        for index, first in tasks:
            queries, its_out = (part(a, index, first) for a in grouped)
            inputs = [part(a, index, first) for a in (key, value, *rows)]
            its_carry = Carry(*(part(a, index, first) for a in carry))
            its_map = features.for_heads(first, first + count)
            done = worker(its_map, queries, *inputs, its_carry, its_out)
            for target, source in zip(after, done, strict=True):
                part(target, index, first)[...] = source

    tasks = [(index, first) for index in np.ndindex(*batch) for first in range(0, heads, count)]
    threads.run(work, tasks)
    return out, after


def _groups(array: Array, heads: int) -> Array:
    """(..., g H, t, d) -> (..., H, g, t, d), and (t, d) -> (1, t, d), as a view."""
    if array.ndim == 2:
        return array[None]
    *batch, _, length, dim = array.shape
    return array.reshape(*batch, heads, array.shape[-3] // heads, length, dim)


def _at_once(heads: int, entries: int) -> int:
    """As many heads as leave all threads about the same work, at most 4.

    Threads wait for each other between calls of NumPy, so that longer calls are better, as long as
    the features of a chunk stay in cache.
    """
    threads_there = threads.available()
    for count in (4, 2):
        tasks = entries * heads // count
        even = tasks % threads_there == 0 or tasks >= 4 * threads_there
        if heads % count == 0 and even:
            return count
    return 1
