"""Features of points, as `rfx.features.DrawnMap.query` and ``key`` return them."""

from __future__ import annotations

import math
from typing import Any

from rfx._xp import Array
from rfx.dispatch import op

__all__ = ["features", "log_and_factor"]


@op("features")
def features(features: Any, x: Array, *, side: str) -> tuple[Array, Array | None]:
    """Log scale and value of the features of points (..., t, d); ``side`` is "query" or "key".

    Where a map has no row term, a backend may put its constant into the value (`log_and_factor`),
    so that the log scale is 0.
    """
    return features.complete(x, side)


def log_and_factor(features: Any, arrays: Any, x: Array) -> tuple[Array, float]:
    """Log scale of points for one side's arrays, and the factor that the values then need."""
    row_term = arrays.row_term(x)
    if arrays.quadratic is None:
        return row_term, math.exp(features.log_constant)
    return row_term + features.log_constant, 1.0
