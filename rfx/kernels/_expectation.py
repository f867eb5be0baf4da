"""E[f(ω·x) f(ω·y)] for Gaussian ω, for functions without a closed form."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from rfx._xp import Array, from_numpy, namespace
from rfx.kernels._arc_cosine import angles, polar
from rfx.kernels.functions import FunctionName, plain

__all__ = ["expectation"]

_FARTHEST = 9.0  # beyond, a part exp(-40) of a Gaussian in the plane
_NODES = 24
_RADII = 48
_BLOCK = 2**20
"""Values of f at once, to bound the memory."""


def expectation(function: FunctionName, x: Array, y: Array) -> Array:
    """E[f(u) f(v)] for (u, v) Gaussian with the covariance of x and y, shape (..., t, s).

    The plane is cut where u or v changes its sign, into two sectors of angle θ and two of π − θ, so
    that a kink of f at 0 lies on an edge, where it does no harm. With R the radius and α running
    through a sector, (u, v) = (|x| R sin(α), |y| R sin(π − θ − α)) where both signs are equal, and
    (|x| R sin(α), −|y| R sin(θ − α)) where they are not. Each integral is a Gauss-Legendre sum.
    """
    xp = namespace(x)
    (x_unit, x_log, x_nothing), (y_unit, y_log, y_nothing) = polar(x), polar(y)
    norms = (
        xp.where(nothing, xp.zeros_like(log), xp.exp(log))
        for log, nothing in ((x_log, x_nothing), (y_log, y_nothing))
    )
    mine, its = next(norms), xp.matrix_transpose(next(norms))
    theta, rest = (angle[..., None] for angle in angles(x_unit, y_unit))
    (nodes, weights), (radii, masses) = _rule(_NODES, 1.0), _rule(_RADII, _FARTHEST)
    masses = masses * radii * np.exp(-0.5 * radii * radii) / (2.0 * math.pi)
    nodes, weights, radii, masses = (
        from_numpy(a, mine, mine.dtype) for a in (nodes, weights, radii, masses)
    )
    sectors = [
        (sign, angle * weights, xp.sin(angle * nodes), xp.sin(angle * (1.0 - nodes)))
        for sign, angle in ((1.0, rest), (-1.0, theta))
    ]
    total = xp.zeros_like(rest[..., 0])
    pairs = math.prod(total.shape)
    size = min(max(_BLOCK // max(pairs * _NODES, 1), 1), _RADII)
    for start in range(0, _RADII, size):
        some = slice(start, min(start + size, _RADII))
        for sign, weight, first, second in sectors:
            u = mine[..., None, None] * first[..., None] * radii[some]
            v = (sign * its)[..., None, None] * second[..., None] * radii[some]
            both = plain(function, u) * plain(function, v)
            opposite = plain(function, -u) * plain(function, -v)
            along = xp.sum((both + opposite) * masses[some], axis=-1)
            total = total + xp.sum(weight * along, axis=-1)
    return total


@cache
def _rule(number: int, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (0, length)."""
    nodes, weights = np.polynomial.legendre.leggauss(number)
    return 0.5 * length * (nodes + 1.0), 0.5 * length * weights
