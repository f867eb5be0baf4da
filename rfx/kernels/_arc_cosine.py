"""The angle between points, and the closed forms of the arc-cosine kernels in it."""

from __future__ import annotations

import math

from rfx._xp import Array, constant, namespace, working_dtype

__all__ = ["angles", "log_arc_cosine", "polar", "root"]

_TERMS = 26


def log_arc_cosine(order: int, x: Array, y: Array) -> Array:
    """log of k_n(x, y) = |x|^n |y|^n J_n(θ) / π for n = 0, 1, 2 or 4; −inf where it is 0.

    That is where θ = π, or where a point is 0, for every n.
    """
    xp = namespace(x)
    x_unit, x_log, x_nothing = polar(x)
    y_unit, y_log, y_nothing = polar(y)
    theta, rest = angles(x_unit, y_unit)
    nothing = xp.logical_or(x_nothing, xp.matrix_transpose(y_nothing))
    nothing = xp.logical_or(nothing, rest == 0.0)
    safe = xp.where(nothing, xp.ones_like(rest), rest)
    log = order * (x_log + xp.matrix_transpose(y_log)) + _log_angular(order, theta, safe)
    return xp.where(nothing, xp.full_like(log, -float("inf")), log - math.log(math.pi))


def polar(x: Array) -> tuple[Array, Array, Array]:
    """Direction (..., t, d), log of the norm (..., t, 1), and whether a point is 0, whose are 0."""
    xp = namespace(x)
    x = xp.astype(x, working_dtype(x), copy=False)
    top = constant(xp.max(xp.abs(x), axis=-1, keepdims=True))
    nothing = top == 0.0
    top = xp.where(nothing, xp.ones_like(top), top)
    x = x / top  # its squares neither overflow nor vanish
    square = xp.sum(x * x, axis=-1, keepdims=True)
    norm = xp.sqrt(xp.where(nothing, xp.ones_like(square), square))
    return x / norm, xp.log(top) + xp.log(norm), nothing


def angles(x: Array, y: Array) -> tuple[Array, Array]:
    """θ and π − θ for unit vectors (..., t, d) and (..., s, d), each accurate where it is small.

    tan(θ/2) = |x − y| / |x + y|. The squares are summed axis by axis: 1 − x·y would cancel, and
    all differences at once would need d times the memory. A vector of zeros is at right angles to
    unit vectors.
    """
    xp = namespace(x)
    near = far = xp.zeros_like(xp.matmul(x[..., :1], xp.matrix_transpose(y[..., :1])))
    for axis in range(x.shape[-1]):
        mine = x[..., axis : axis + 1]
        its = xp.matrix_transpose(y[..., axis : axis + 1])
        near, far = near + (mine - its) ** 2, far + (mine + its) ** 2
    near, far = root(near), root(far)
    both_zero = near + far == 0.0
    far = xp.where(both_zero, xp.ones_like(far), far)
    return 2.0 * xp.atan2(near, far), 2.0 * xp.atan2(far, near)


def root(square: Array) -> Array:
    """Its square root, with the gradient 0 at 0."""
    xp = namespace(square)
    nothing = square == 0.0
    root = xp.sqrt(xp.where(nothing, xp.ones_like(square), square))
    return xp.where(nothing, xp.zeros_like(root), root)


def _log_angular(order: int, theta: Array, rest: Array) -> Array:
    """log J_n for θ and rest = π − θ > 0.

    Up to a right angle all terms are positive. Beyond it they cancel down to rest^(2n + 1), whose
    power series takes over.
    """
    xp = namespace(theta)
    if order == 0:
        return xp.log(rest)
    acute = theta <= 0.5 * math.pi
    half = xp.full_like(theta, 0.5 * math.pi)
    direct = _angular(order, xp.where(acute, theta, half), xp.where(acute, rest, half))
    small = xp.where(acute, half, rest)
    series = _polynomial(_coefficients(order), small * small)
    return xp.where(acute, xp.log(direct), (2 * order + 1) * xp.log(small) + xp.log(series))


def _angular(order: int, theta: Array, rest: Array) -> Array:
    xp = namespace(theta)
    cos, sin = xp.cos(theta), xp.sin(theta)
    if order == 1:
        return sin + rest * cos
    square = cos * cos
    if order == 2:
        return 3.0 * sin * cos + rest * (1.0 + 2.0 * square)
    return sin * cos * (55.0 + 50.0 * square) + rest * (9.0 + square * (72.0 + 24.0 * square))


def _coefficients(order: int) -> list[float]:
    """Of ε^(2k + 1), k >= n, in J_n(π − ε), from the lowest up.

    J_1 = sin ε − ε cos ε; with a = 2ε, 2 J_2 = a (2 + cos a) − 3 sin a and
    2 J_4 = a (54 + 48 cos a + 3 cos 2a) − 80 sin a − 12.5 sin 2a.
    """

    def coefficient(k: int) -> float:
        sign, odd = (-1.0) ** k, 2 * k + 1
        if order == 1:
            return -sign * 2 * k / math.factorial(odd)
        power = 2.0**odd / math.factorial(odd)
        if order == 2:
            return sign * (k - 1) * power
        return sign * (odd * (24.0 + 1.5 * 4.0**k) - 40.0 - 12.5 * 4.0**k) * power

    return [coefficient(k) for k in range(order, order + _TERMS)]


def _polynomial(coefficients: list[float], x: Array) -> Array:
    """Σ_k c_k x^k."""
    value = namespace(x).zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value
