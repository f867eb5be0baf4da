"""Rows of points: those that a map serves, and how many are worked on at once."""

from __future__ import annotations

from rfx import _check
from rfx._xp import Array
from rfx.features import DrawnMap
from rfx.features._drawn import check_drawn

__all__ = ["check_points", "chunk_rows"]

_NUMBERS = 2**23
"""Features that are held at once: 32 MB of float32."""
_FEWEST = 256


def check_points(features: DrawnMap, x: Array) -> None:
    """Refuse points (..., n, d) that the map does not serve."""
    check_drawn(features, "x")
    _check.array("x", x)
    _check.map_serves(features, x, "x")
    _check.map_heads(features, x, "x")
    features.check_values(x, "x")


def chunk_rows(features: DrawnMap, chunk_size: int | None) -> int:
    """Rows of a chunk, as they are asked for or by default."""
    if chunk_size is not None:
        return _check.positive_int("chunk_size", chunk_size)
    return max(_NUMBERS // features.num_features, _FEWEST)
