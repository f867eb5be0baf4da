"""Decoding: one key is added to the sums, and one query reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rfx.ops import Carry
from rfx.workers import share
from rfx_numba.arrays import dense
from rfx_numba.loading import NO_MASK, kernel
from rfx_numba.sides import Sides

__all__ = ["step", "step_in_memory"]

Array = np.ndarray[Any, Any]
_FEW = 1 << 18
"""Numbers in the sums; threads take longer to begin than fewer take to be read."""


def step(
    sides: Sides,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    threads: int,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.bidirectional` for one query and one key, on float32 arrays."""
    out = np.empty((*query.shape[:-1], value.shape[-1]), np.float32)
    after = Carry(*(np.empty(a.shape, np.float32) for a in carry))
    count = math.prod(key.shape[:-2])

    def flat(array: Array, *axes: int) -> Array:
        return dense(array.reshape(count, *axes))

    def sums(each: Carry) -> tuple[Array, ...]:
        return tuple(flat(a, *a.shape[key.ndim - 2 :]) for a in each)

    seen = NO_MASK
    if mask is not None:
        seen = np.ascontiguousarray(np.broadcast_to(mask, (*key.shape[:-1], 1)).reshape(count))
    groups = math.prod(query.shape[:-2]) // count
    arrays = (
        flat(query, groups, query.shape[-1]),
        flat(key, key.shape[-1]),
        flat(value, value.shape[-1]),
        seen,
        *(sides.query, sides.key, sides.row_term),
        sums(carry),
        sums(after),
        flat(out, groups, out.shape[-1]),
    )
    run, parts = kernel("step"), min(threads, count) if carry.numerator.size > _FEW else 1
    if parts == 1:
        run(*arrays, 0, count)
        return out, after

    def work(tasks: Iterator[int]) -> None:
        for part in tasks:
            run(*arrays, part * count // parts, (part + 1) * count // parts)

    share(work, range(parts), parts)
    return out, after


def step_in_memory(addresses: Sequence[int], sizes: Sequence[int], log_constant: float) -> None:
    """The kernel of this name, on all sums, in one thread."""
    count = sizes[0]
    kernel("step_in_memory")(np.asarray(addresses), tuple(sizes), log_constant, 0, count)
