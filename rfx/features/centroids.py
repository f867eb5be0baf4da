"""The ratio of the means of keys and of queries, axis by axis or as a whole, made safe."""

from __future__ import annotations

from typing import Any

import numpy as np

from rfx.features.moments import Moments

__all__ = ["axis_ratios", "norm_ratio"]

Host = np.ndarray[Any, Any]
_FACTOR = 4.0
_RIDGE = 1e-6


def axis_ratios(moments: Moments) -> Host:
    """|y_l| / |x_l| for the means x and y, within a factor 4 of (E y_l² / E x_l²)^(1/2).

    Where a mean is small beside the spread, its size says nothing and the ratio would be wild.
    Second moments have a ridge of 1e-6 of their mean; if either is 0, all ratios are 1.
    """
    sides = (moments.query, moments.key)
    powers = [np.diagonal(side.second) for side in sides]
    if min(float(np.mean(power)) for power in powers) == 0.0:
        return np.ones(len(powers[0]))
    first, second = (power + _RIDGE * np.mean(power) for power in powers)
    query, key = (np.abs(side.mean) for side in sides)
    return _clipped(query, key, np.sqrt(second / first))


def norm_ratio(moments: Moments) -> float:
    """|y| / |x| for the means, within a factor 4 of (E|y|² / E|x|²)^(1/2), or 1 where that is 0."""
    sides = (moments.query, moments.key)
    powers = [float(np.trace(side.second)) for side in sides]
    if min(powers) == 0.0:
        return 1.0
    query, key = (np.linalg.norm(side.mean) for side in sides)
    return float(_clipped(query, key, np.sqrt(powers[1] / powers[0])))


def _clipped(first: Any, second: Any, typical: Any) -> Host:
    """second / first, but for ``typical`` where both are 0."""
    nothing = first == 0.0
    ratio = np.where(nothing, np.where(second == 0.0, typical, np.inf), second)
    ratio = ratio / np.where(nothing, 1.0, first)
    return np.asarray(np.clip(ratio, typical / _FACTOR, typical * _FACTOR))
