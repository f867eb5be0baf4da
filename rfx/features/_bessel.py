"""The logarithm of the modified Bessel function I_0, in standard calls."""

from __future__ import annotations

import math

from rfx._xp import Array, namespace

__all__ = ["log_i0"]

_SWITCH = 18.0


def log_i0(t: Array) -> Array:
    """log I_0(t) for t >= 0, to a few roundings of the dtype.

    Up to 18 by the power series I_0(t) = Σ_k (t²/4)^k / (k!)², whose terms are all positive; beyond
    by exp(t) (2πt)^(-1/2) Σ_k ((2k − 1)!!)² / (k! (8t)^k), which diverges, but not before its terms
    have fallen to exp(−2t).
    """
    xp = namespace(t)
    small = t <= _SWITCH
    switch = xp.full_like(t, _SWITCH)
    near, far = xp.where(small, t, switch), xp.where(small, switch, t)
    quarter = 0.25 * near * near
    series = xp.log1p(quarter * _sum([1.0 / (k + 1) ** 2 for k in range(1, 48)], quarter))
    inverse = 1.0 / far
    tail = inverse * _sum([(2 * k + 1) ** 2 / (8 * (k + 1)) for k in range(1, 24)], inverse) / 8.0
    return xp.where(small, series, far - 0.5 * xp.log(2.0 * math.pi * far) + xp.log1p(tail))


def _sum(ratios: list[float], x: Array) -> Array:
    """1 + r_1 x (1 + r_2 x (1 + ...)): terms of a series by their ratios."""
    value = namespace(x).ones_like(x)
    for ratio in reversed(ratios):
        value = 1.0 + ratio * x * value
    return value
