"""The Walsh-Hadamard transform: rows in threads, in blocks that stay in cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.ops.fwht import matrix, orders
from rfx_numpy import threads

__all__ = ["fwht", "refuse_fwht"]

Array = np.ndarray[Any, Any]
_BLOCK = 1 << 17
"""Numbers that are worked on at once."""


def fwht(_: None, x: Array) -> Array:
    """The op `rfx.ops.fwht`."""
    length = x.shape[-1]
    dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    rows, out = x.reshape(-1, length), np.empty((x.size // length, length), dtype)
    factors = [matrix(order).astype(dtype) for order in orders(length)]
    height = max(1, _BLOCK // length)

    def work(starts: Iterator[int]) -> None:
        buffers = np.empty((2, height, length), dtype)
        for start in starts:
            _block(rows[start : start + height], out[start : start + height], factors, buffers)

    threads.run(work, range(0, len(rows), height))
    return out.reshape(x.shape).astype(x.dtype, copy=False)


def _block(rows: Array, out: Array, factors: list[Array], buffers: Array) -> None:
    """Transform some rows: each factor reads what the one before has written."""
    now, done = np.ascontiguousarray(rows, out.dtype), 1
    for i, factor in enumerate(factors):
        order = len(factor)
        to = out if i == len(factors) - 1 else buffers[i % 2, : len(rows)]
        if i == 0:
            np.matmul(now.reshape(-1, order), factor, out=to.reshape(-1, order))
        else:
            shape = (-1, order, done)
            np.matmul(factor, now.reshape(shape), out=to.reshape(shape))
        now, done = to, done * order


def refuse_fwht(_: None, x: Array) -> str | None:
    """What the path does not serve."""
    if len(orders(x.shape[-1])) == 1:
        return "it is one matrix product, which BLAS spreads over threads"
    if x.size < 2 * _BLOCK:
        return f"{x.size} numbers are too few for threads"
    return None
