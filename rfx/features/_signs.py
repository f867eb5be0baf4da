"""Random vectors ω with E ω ω* = I, and the second moments of products of their estimates.

One estimate of t = x·y is Z = (ω·x) conj(ω·y); a feature of degree n estimates t^n by the real part
of a product of n of them, of independent ω. With a bias, x and y have one coordinate more.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from rfx._xp import Array, namespace, working_dtype

__all__ = ["SIGNS", "Host", "Pairs", "Signs", "check_signs", "draw_signs", "pairs", "second_moment"]

Host = np.ndarray[Any, Any]

Signs: TypeAlias = Literal["rademacher", "gaussian", "complex"]

SIGNS: tuple[Signs, ...] = ("rademacher", "gaussian", "complex")
"""Entries are ±1, N(0, 1), or one of 1, i, −1 and −i."""


def check_signs(signs: Any) -> None:
    """Refuse another law."""
    if signs not in SIGNS:
        raise ValueError(f"`signs` must be one of {', '.join(SIGNS)}, got {signs!r}")


def draw_signs(signs: Signs, rng: np.random.Generator, *shape: int) -> Host:
    """Entries of this law, in float64, or in complex numbers of it."""
    if signs == "gaussian":
        return rng.standard_normal(shape)
    if signs == "rademacher":
        return 1.0 - 2.0 * rng.integers(0, 2, shape)
    return np.asarray([1.0, 1j, -1.0, -1j])[rng.integers(0, 4, shape)]


class Pairs(NamedTuple):
    """What the moments depend on, for each pair of points (..., t, s), at norms 1.

    log_norms : log(|x| |y|)
    inner : x·y / (|x| |y|)
    norms : 1, or 0 where a point is 0
    fourth : Σ_l x_l² y_l² / (|x| |y|)²
    """

    log_norms: Array
    inner: Array
    norms: Array
    fourth: Array


def pairs(x: Array, y: Array, unit: float, offset: float = 0.0) -> Pairs:
    """Of points times ``unit``, with the root of ``offset`` as one coordinate more."""
    xp = namespace(x)
    (x, x_more, x_norm, x_log), (y, y_more, y_norm, y_log) = (
        _normalized(xp.astype(a, working_dtype(a)), unit, offset) for a in (x, y)
    )
    turned = xp.matrix_transpose
    return Pairs(
        x_log + turned(y_log),
        xp.matmul(x, turned(y)) + x_more * turned(y_more),
        x_norm * turned(y_norm),
        xp.matmul(x * x, turned(y * y)) + (x_more * x_more) * turned(y_more * y_more),
    )


def _normalized(x: Array, unit: float, offset: float) -> tuple[Array, Array, Array, Array]:
    """Directions, their last coordinate, 1 or 0 for points that are 0, and the log of the norm."""
    xp, more = namespace(x), offset**0.5
    size = xp.clip(unit * xp.max(xp.abs(x), axis=-1, keepdims=True), more, None)
    nothing = size == 0.0
    size = xp.where(nothing, xp.ones_like(size), size)
    near, last = x * unit / size, more / size
    norm = xp.sqrt(xp.sum(near * near, axis=-1, keepdims=True) + last * last)
    norm = xp.where(nothing, xp.ones_like(norm), norm)
    some = xp.where(nothing, xp.zeros_like(norm), xp.ones_like(norm))
    return near / norm, last / norm, some, xp.log(size) + xp.log(norm)


def second_moment(
    signs: Signs, norms: Any, square: Any, fourth: Any
) -> tuple[tuple[float, Any], ...]:
    """Pairs (c, b), such that E (Re Π_n Z)² = Σ c b^n for a product of n estimates.

    ``norms`` is |x|² |y|², ``square`` (x·y)² and ``fourth`` Σ_l x_l² y_l². For real ω this is
    E Z², which is a sum over pairings of coordinates. For complex ω it is half the sum of those of
    |Z|² and of Z²: coordinates pair with conjugates only.
    """
    if signs == "gaussian":
        return ((1.0, norms + 2.0 * square),)
    if signs == "rademacher":
        return ((1.0, norms + 2.0 * (square - fourth)),)
    return ((0.5, norms + square - fourth), (0.5, 2.0 * square - fourth))
