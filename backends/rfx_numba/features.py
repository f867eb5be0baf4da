"""Trigonometric features, blocks of rows in threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.features.forms import TrigonometricMap
from rfx.ops.features import log_and_factor
from rfx.workers import share
from rfx_numba.arrays import dense
from rfx_numba.loading import kernel

__all__ = ["features", "waves"]

Array = np.ndarray[Any, Any]
_ROWS = 512


def features(
    features: TrigonometricMap, x: Array, *, side: str, threads: int
) -> tuple[Array, Array]:
    """The op `rfx.ops.features`, on float32 arrays."""
    arrays = features.side(side)
    log_scale, factor = log_and_factor(features, arrays, x)
    out = np.empty((*x.shape[:-1], features.num_features), np.float32)
    options: dict[str, Any] = {"factor": factor, "paired": features.paired, "threads": threads}
    waves(x, arrays.weight, arrays.bias, out, **options)
    return log_scale, out


def waves(
    x: Array,
    weight: Array,
    bias: Array | None,
    out: Array,
    *,
    factor: float,
    paired: bool,
    threads: int,
) -> None:
    """Cosines of points (..., d), and sines where ``paired``; writes ``out``, contiguous."""
    run, points = kernel("waves"), dense(x.reshape(-1, x.shape[-1]))
    rows_out = out.reshape(len(points), out.shape[-1])
    bias = np.zeros(weight.shape[-1], np.float32) if bias is None else bias
    side = (dense(weight), dense(bias), factor, paired)

    def work(starts: Iterator[int]) -> None:
        for start in starts:
            rows = slice(start, start + _ROWS)
            run(points[rows], *side, rows_out[rows])

    share(work, range(0, len(points), _ROWS), threads)
