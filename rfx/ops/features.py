"""Features of points, as `rfx.features.DrawnMap.query` and ``key`` return them."""

from __future__ import annotations

from typing import Any

from rfx._xp import Array
from rfx.dispatch import op

__all__ = ["features"]


@op("features")
def features(features: Any, x: Array, *, side: str) -> tuple[Array, Array | None]:
    """Log scale and value of the features of points (..., t, d); ``side`` is "query" or "key".

    A backend may move a factor from the one to the other.
    """
    return features.complete(x, side)
