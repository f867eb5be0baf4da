"""Trigonometric features in place: rows in threads, a block of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.features import DrawnMap
from rfx.features.forms import TrigonometricMap, refuse_other
from rfx.ops.features import log_and_factor
from rfx.ops.refusals import refuse_empty
from rfx_numpy import threads

__all__ = ["features", "refuse_features"]

Array = np.ndarray[Any, Any]
_ROWS = 256


def features(features: TrigonometricMap, x: Array, *, side: str) -> tuple[Array, Array]:
    """The op `rfx.ops.features`."""
    arrays = features.query_side
    if side == "key" and features.key_side is not None:
        arrays = features.key_side
    width, dtype = arrays.weight.shape[-1], arrays.weight.dtype
    points = x.reshape(-1, x.shape[-1])
    out = np.empty((len(points), features.num_features), dtype)
    log_scale, factor = log_and_factor(features, arrays, x)

    def work(starts: Iterator[int]) -> None:
        angle = np.empty((_ROWS, width), dtype)
        for start in starts:
            rows = slice(start, start + _ROWS)
            block, angles = out[rows], angle[: len(out[rows])]
            np.matmul(points[rows].astype(dtype, copy=False), arrays.weight, out=angles)
            if arrays.bias is not None:
                angles += arrays.bias
            np.cos(angles, out=block[:, :width])
            if features.paired:
                np.sin(angles, out=block[:, width:])
            if factor != 1.0:
                block *= factor

    starts = range(0, len(points), _ROWS)
    threads.run(work, starts)
    return log_scale, out.reshape(*x.shape[:-1], features.num_features)


def refuse_features(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """What the path does not serve."""
    per_head = None if features.heads is None else "it serves maps that all heads share"
    return refuse_other(features, TrigonometricMap) or per_head or refuse_empty(x)
