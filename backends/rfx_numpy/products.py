"""Polynomial features: the portable body on a block of rows at a time, which stays in cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.features import DrawnMap, PolynomialMap
from rfx.features.forms import refuse_other
from rfx.ops.refusals import refuse_empty
from rfx_numpy import threads

__all__ = ["polynomial_features", "refuse_polynomial"]

Array = np.ndarray[Any, Any]
_ROWS = 256


def polynomial_features(features: PolynomialMap, x: Array, *, side: str) -> tuple[Array, Array]:
    """The op `rfx.ops.features`, with blocks in threads."""
    points, dtype = x.reshape(-1, x.shape[-1]), features.like.dtype
    value = np.empty((len(points), features.num_features), dtype)
    log_scale = np.empty((len(points), 1), dtype)

    def work(starts: Iterator[int]) -> None:
        for start in starts:
            rows = slice(start, start + _ROWS)
            log_scale[rows], value[rows] = features.complete(points[rows], side)

    threads.run(work, range(0, len(points), _ROWS))
    shape = x.shape[:-1]
    return log_scale.reshape(*shape, 1), value.reshape(*shape, -1)


def refuse_polynomial(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """What the path does not serve."""
    per_head = None if features.heads is None else "it serves maps that all heads share"
    return refuse_other(features, PolynomialMap) or per_head or refuse_empty(x)
