"""Sums over the coordinates of pairs of points, which never hold a number per pair and axis."""

from __future__ import annotations

from collections.abc import Callable

from rfx._xp import Array, constant, full, namespace

__all__ = ["scale_of", "scaled_squares", "sum_over_pairs"]


def sum_over_pairs(term: Callable[[Array, Array], Array], x: Array, y: Array) -> Array:
    """Σ_l term(x_il, y_jl) for points (..., t, d) and (..., s, d), of shape (..., t, s).

    ``term`` takes columns (..., t, 1) and rows (..., 1, s).
    """
    xp = namespace(x)
    total = full(x, (*x.shape[:-1], y.shape[-2]), 0.0, x.dtype)
    for axis in range(x.shape[-1]):
        its = xp.matrix_transpose(y[..., axis : axis + 1])
        total = total + term(x[..., axis : axis + 1], its)
    return total


def scaled_squares(x: Array, y: Array, unit: float) -> tuple[Array, Array]:
    """S and c >= 1, such that unit² |x_i − y_j|² is c² S, and S does not overflow.

    Differences are taken before anything is rounded, so that S is exactly 0 for equal points.
    """
    xp = namespace(x)
    reach = [unit * xp.max(xp.abs(a), axis=-1, keepdims=True) for a in (x, y)]
    c = scale_of(reach[0] + xp.matrix_transpose(reach[1]))
    factor = unit / c

    def square(mine: Array, its: Array) -> Array:
        ratio = (mine - its) * factor
        return ratio * ratio

    return sum_over_pairs(square, x, y), c


def scale_of(size: Array) -> Array:
    """A divisor that makes squares finite: 1 but for huge sizes, and a constant to autograd."""
    xp = namespace(size)
    return constant(xp.clip(1e-15 * xp.abs(size), 1.0, None))
