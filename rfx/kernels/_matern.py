"""The Matérn function of a distance, for any smoothness."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

from rfx._xp import Array, constant, exp_nonpositive, from_numpy, namespace

__all__ = ["log_matern"]

_BLOCK = 2**20
"""Values of the integrand at once, to bound the memory."""

_LARGE = 100.0
"""Beyond, all s that count are below about 1, and rounding in e^s − 1 − s would be multiplied."""


def log_matern(nu: float, z: Array) -> Array:
    """log of 2^(1 − ν) z^ν K_ν(z) / Γ(ν) for z >= 0, K_ν the modified Bessel function; 0 at z = 0.

    With DLMF 10.32.10 it is (1/Γ(ν)) ∫ exp(νu − e^u − z² e^(−u) / 4) du over the real line. At its
    peak e^u = P = ν + g, where g = (A − ν)/2 and A = √(ν² + z²), so that with u = log P + s it is

        exp(S + ν log(1 + g/ν) − 2g) ∫ exp(−D(s)) ds,   S = ν log ν − ν − log Γ(ν),
        D(s) = 4g sinh²(s/2) + ν (e^s − 1 − s).

    Nothing in this grows without bound as z goes to 0. Both tails fall doubly exponentially, and
    the integral is a Gauss-Legendre sum between points where they have fallen far: its nodes crowd
    where the tails bend.

    The nodes u do not follow z, so that z is in one place, −z² e^(−u) / 4. The logarithm's first
    two derivatives in z² are then a mean and a variance of G = g e^(−s), a Taylor polynomial that
    needs no memory for the nodes.
    """
    xp = namespace(z)
    info = xp.finfo(z.dtype)
    nothing = z <= 100.0 * math.sqrt(float(info.smallest_normal) * max(nu, 1.0))
    z = xp.clip(xp.where(nothing, xp.ones_like(z), z), None, float(info.max) ** 0.75)
    at = constant(z)
    step = (z / at) ** 2 - 1.0  # 0, with a gradient
    number, fall = (104, 18.5) if z.dtype == xp.float64 else (48, 12.0)
    peak = _peak(nu, at, fall)
    total, mean, square = _moments(nu, peak, number)
    mean, square = mean / total, square / total
    log = _stirling(nu) + nu * xp.log1p(peak.g / nu) - 2.0 * peak.g + xp.log(peak.half * total)
    taylor = 0.5 * step**2 * (square - mean**2) - step * (peak.g + mean)
    return xp.where(nothing, xp.zeros_like(z), xp.clip(log, None, 0.0) + taylor)


class _Peak(NamedTuple):
    """g, and the middle and half the length of the stretch of s that counts."""

    g: Array
    middle: Array
    half: Array


def _peak(nu: float, z: Array, fall: float) -> _Peak:
    """The stretch on which D(s) has risen to 2 fall, from lower bounds that can be solved for s.

    To the right D >= A (cosh s − 1). At a distance s to the left D >= 2g (cosh s − 1), and D >= ν
    (e^(−s) − 1 + s) >= ν s² / (2 + s).
    """
    xp = namespace(z)
    far = z > nu
    large = xp.where(far, z, xp.full_like(z, nu))
    small = xp.where(far, xp.full_like(z, nu), z)
    a = large * xp.sqrt(1.0 + (small / large) ** 2)
    g = 0.5 * z * (z / (a + nu))
    right = 2.0 * xp.asinh(xp.sqrt(fall / a))
    left = 2.0 * xp.asinh(xp.sqrt(0.5 * fall / g))
    left = xp.clip(left, None, (fall + math.sqrt(fall * fall + 4.0 * fall * nu)) / nu)
    return _Peak(g, 0.5 * (right - left), 0.5 * (right + left))


def _moments(nu: float, peak: _Peak, number: int) -> tuple[Array, Array, Array]:
    """∫ exp(−D) H^n ds / half for n = 0, 1, 2 and H = G − g, which is small where g is large."""
    xp = namespace(peak.g)
    g, middle, half = (each[..., None] for each in peak)
    sums = [xp.zeros_like(peak.g)] * 3
    size = min(max(_BLOCK // max(math.prod(peak.g.shape), 1), 1), number)
    for start in range(0, number, size):
        some = slice(start, min(start + size, number))
        node, weight = (from_numpy(each[some], g, g.dtype) for each in _rule(number))
        s = middle + half * node
        up = xp.exp(0.5 * s)
        down = 1.0 / up
        rise = up - down  # 2 sinh(s/2)
        fall = g * rise * rise + nu * (rise * up - s if nu < _LARGE else _rest_of_exp(s))
        value = weight * exp_nonpositive(-xp.clip(fall, 0.0, None))
        h = -g * rise * down
        for power in range(3):
            sums[power] = sums[power] + xp.sum(value, axis=-1)
            value = value * h
    return sums[0], sums[1], sums[2]


def _rest_of_exp(s: Array) -> Array:
    """e^s − 1 − s by its power series, for |s| about 1 at most."""
    value = namespace(s).ones_like(s)
    for n in range(20, 2, -1):
        value = 1.0 + value * s / n
    return 0.5 * s * s * value


def _stirling(nu: float) -> float:
    """ν log ν − ν − log Γ(ν), without the cancellation of large terms."""
    if nu < 20.0:
        return nu * math.log(nu) - nu - math.lgamma(nu)
    x = 1.0 / (nu * nu)
    series = (1 / 12 - x * (1 / 360 - x * (1 / 1260 - x * (1 / 1680 - x / 1188)))) / nu
    return 0.5 * math.log(nu / (2.0 * math.pi)) - series


@cache
def _rule(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (−1, 1)."""
    return np.polynomial.legendre.leggauss(number)
