"""Norms of Gaussian vectors as functions of one standard normal number.

G(y) = F⁻¹(Φ(y)), F being the distribution function of the χ law: G(y) of a normal y has that law,
and G(−y) is the norm of opposite rank. Its log is smooth in y, tails included, so that a table and
cubic interpolation give it to 1e-11, where a table of F⁻¹ over (0, 1) would not.
"""

from __future__ import annotations

import functools
import math

import numpy as np

__all__ = ["GRID", "STEP", "norms_of", "table"]

STEP = 1.0 / 128
_LAST = 37.0
"""Beyond it Φ(−y) is below the least float."""
GRID = np.arange(-_LAST, _LAST + STEP / 2, STEP)


def norms_of(normals: np.ndarray, dim: int) -> np.ndarray:
    """G(y) for each y, of any shape."""
    log, slope = table(dim)
    place = (np.clip(normals, -_LAST, _LAST) + _LAST) / STEP
    left = np.minimum(place.astype(np.intp), len(GRID) - 2)
    t = place - left
    rise = log[left + 1] - log[left]
    # Hermite's cubic: the line between two nodes, and what bends it.
    bend = (slope[left] * STEP - rise) * (1.0 - t) + (rise - slope[left + 1] * STEP) * t
    return np.exp(log[left] + t * (rise + (1.0 - t) * bend))


@functools.lru_cache(maxsize=32)
def table(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """log G on the grid, and its derivative.

    Newton's method in u = log(G²/2) on the log of an incomplete gamma function of order a = dim/2:
    both are concave and monotone in u, so that it converges.
    """
    a = dim / 2
    below = np.asarray([0.5 * math.erfc(-y / math.sqrt(2.0)) for y in GRID])
    upper = GRID > 1.0
    log, slope = np.empty_like(GRID), np.empty_like(GRID)
    for part, tail, incomplete in ((~upper, below, _lower), (upper, below[::-1], _upper)):
        y, target = GRID[part], np.log(tail[part])
        # Wilson and Hilferty's approximation, or where it fails P(x) <= x^a / Γ(a + 1).
        cube = np.maximum(1.0 - 1.0 / (9.0 * a) + y / (3.0 * math.sqrt(a)), 1e-3) ** 3
        least = (target + math.lgamma(a + 1.0)) / a
        u = np.log(a * cube) if part is upper else np.maximum(np.log(a * cube), least)
        for _ in range(50):
            value, change = incomplete(a, u)
            step = (value - target) / change
            u = u - step
            if np.max(np.abs(step)) < 1e-13:
                break
        density = np.exp(-0.5 * y * y - target) / math.sqrt(2.0 * math.pi)
        log[part] = 0.5 * (math.log(2.0) + u)
        slope[part] = 0.5 * density / np.abs(incomplete(a, u)[1])
    return log, slope


def _lower(a: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log P(a, eᵘ) and its derivative, by the series with positive terms."""
    x = np.exp(u)
    total, term, n = np.ones_like(x), np.ones_like(x), 0
    while np.any(term > 1e-17 * total):
        n += 1
        term = term * x / (a + n)
        total = total + term
    return a * u - x - math.lgamma(a + 1.0) + np.log(total), a / total


def _upper(a: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log Q(a, eᵘ) and its derivative, by the continued fraction in Lentz's form."""
    x = np.exp(u)
    b = x + 1.0 - a
    c, d = np.full_like(x, 1e300), 1.0 / b
    fraction, n, ratio = d, 0, np.zeros_like(x)
    while np.any(np.abs(ratio - 1.0) > 1e-15) and n < 10_000:
        n += 1
        b = b + 2.0
        d = 1.0 / (b - n * (n - a) * d)
        c = b - n * (n - a) / c
        ratio = c * d
        fraction = fraction * ratio
    return a * u - x - math.lgamma(a) + np.log(fraction), -1.0 / fraction
