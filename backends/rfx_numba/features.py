"""Trigonometric features, blocks of rows in threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.features.forms import TrigonometricMap
from rfx.ops.features import log_and_factor
from rfx.workers import share
from rfx_numba.arrays import dense
from rfx_numba.loading import kernels

__all__ = ["features"]

Array = np.ndarray[Any, Any]
_ROWS = 512


def features(
    features: TrigonometricMap, x: Array, *, side: str, threads: int
) -> tuple[Array, Array]:
    """The op `rfx.ops.features`, on float32 arrays."""
    run, arrays = kernels().waves, features.side(side)
    points = dense(x.reshape(-1, x.shape[-1]))
    out = np.empty((len(points), features.num_features), np.float32)
    log_scale, factor = log_and_factor(features, arrays, x)
    weight = dense(arrays.weight)
    bias = np.zeros(weight.shape[-1], np.float32) if arrays.bias is None else arrays.bias
    sides = (weight, dense(bias), factor, features.paired)

    def work(starts: Iterator[int]) -> None:
        for start in starts:
            rows = slice(start, start + _ROWS)
            run(points[rows], *sides, out[rows])

    share(work, range(0, len(points), _ROWS), threads)
    return log_scale, out.reshape(*x.shape[:-1], features.num_features)
