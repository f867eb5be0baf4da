"""Scaling of points before attention, and of outputs after it; and the statistics that it takes."""

from __future__ import annotations

import numbers
from typing import Any

from rfx import _check
from rfx._xp import Array, constant, library, namespace, truth, working_dtype
from rfx.attention.statistics import (
    Statistics,
    check_points,
    check_statistics,
    combine,
    measure,
)
from rfx.features.preparation import UnitNorm

__all__ = ["Statistics", "combine", "measure", "post_scale", "pre_scale", "standardize"]

EPSILON = 1e-5
"""Added to a variance that is measured over a batch."""

_to_sphere = UnitNorm()


def standardize(
    x: Array, /, *, statistics: Statistics | None = None, epsilon: float = EPSILON
) -> Array:
    """(x − mean) / deviation: of each point's own coordinates, or as ``statistics`` say.

    Parameters
    ----------
    x : Array, shape (..., heads, n, d), or (n, d)
    statistics : Statistics, optional
        By default each point is brought to mean 0 and deviation 1 over its coordinates, as by layer
        normalisation without ε. A point whose coordinates are equal becomes 0.
    epsilon : float
        Added to the variance of ``statistics``.

    Returns
    -------
    Array, shape of ``x``, in float32, or in float64 for float64

    Raises
    ------
    TypeError, ValueError
        If the arguments are of the wrong kind or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import scaling
    >>> scaling.standardize(np.asarray([[1.0, 3.0], [5.0, 5.0]]))
    array([[-1.,  1.],
           [ 0.,  0.]])
    """
    check_points(x)
    epsilon = _check.positive_number("epsilon", epsilon)
    xp = namespace(x)
    points = xp.astype(x, working_dtype(x), copy=False)
    if statistics is None:
        return _standardized(points)
    check_statistics("statistics", statistics, x, "x")
    mean, variance = (xp.astype(a, points.dtype, copy=False)[..., None, :] for a in statistics[:2])
    return (points - mean) / xp.sqrt(variance + epsilon)


def pre_scale(
    x: Array, /, *, statistics: Statistics | None = None, epsilon: float = EPSILON
) -> Array:
    """Standardised points divided by their norm, so that no inner product exceeds 1.

    Parameters
    ----------
    x, statistics, epsilon
        As for `standardize`. A point that is 0 there stays 0.

    Returns
    -------
    Array, shape of ``x``, in float32, or in float64 for float64

    Raises
    ------
    TypeError, ValueError
        If the arguments are of the wrong kind or shape.

    References
    ----------
    Guo et al., SchoenbAt: rethinking attention with polynomial basis, 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import scaling
    >>> scaling.pre_scale(np.asarray([[1.0, 3.0, 5.0, 7.0]])).round(3)
    array([[-0.671, -0.224,  0.224,  0.671]])
    """
    points = standardize(x, statistics=statistics, epsilon=epsilon)
    return _to_sphere(points) if points.shape[-1] > 0 else points


def post_scale(x: Array, /, *, gain: Any = 1.0, power: Any = 1.0) -> Array:
    """gain · sign(x) |x|^power of each entry: a real power for either sign.

    Parameters
    ----------
    x : Array, shape (..., e)
    gain, power : float or Array
        Of any shape that broadcasts to that of ``x``, such as (e,). ``power`` is positive.

    Returns
    -------
    Array, shape and dtype of ``x``
        0 where x is 0; the gradient there is ``gain``, which is right for ``power`` 1.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a shape does not broadcast, or a power is not positive, which is seen only where it has a
        value.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import scaling
    >>> scaling.post_scale(np.asarray([-4.0, 0.0, 9.0]), gain=2.0, power=0.5)
    array([-4.,  0.,  6.])
    """
    _check.array("x", x)
    xp, dtype = namespace(x), working_dtype(x)
    for name, factor in (("gain", gain), ("power", power)):
        check_factor(name, factor, x, tuple(x.shape))
    value = xp.astype(x, dtype, copy=False)
    size = xp.abs(value)
    log = xp.log(xp.where(size == 0.0, xp.ones_like(size), size))
    gain, power = (_of_dtype(a, dtype) for a in (gain, power))
    return xp.astype(gain * (value * xp.exp((power - 1.0) * log)), x.dtype, copy=False)


def check_factor(name: str, factor: Any, like: Array, wanted: tuple[int, ...]) -> None:
    """Refuse what is no number and no array that broadcasts to a shape; a power is positive."""
    if isinstance(factor, numbers.Real) and not isinstance(factor, bool):
        check = _check.positive_number if name == "power" else _check.number
        check(name, factor)
        return
    if library(factor) is None:
        raise TypeError(
            f"`{name}` must be a number or an array, got {factor!r}; pass for example 1.0"
        )
    _check.array(name, factor)
    _check.together("value", like, name, factor)
    shape = tuple(factor.shape)
    tail = wanted[len(wanted) - len(shape) :]
    if len(shape) > len(wanted) or any(
        have not in (1, want) for have, want in zip(shape, tail, strict=True)
    ):
        raise ValueError(
            f"`{name}` must broadcast to the output's shape {wanted}, got {shape}; "
            f"pass a number, or shape {wanted[-1:]}"
        )
    if name == "power" and truth(namespace(factor).all(factor > 0.0)) is False:
        raise ValueError("`power` must be positive, since outputs may be 0; pass for example 1.0")


def _of_dtype(factor: Any, dtype: Any) -> Any:
    if isinstance(factor, numbers.Real):
        return float(factor)
    return namespace(factor).astype(factor, dtype, copy=False)


def _standardized(x: Array) -> Array:
    """Each point at mean 0 and deviation 1.

    It does not depend on the point's size, so sizes are divided out first, as constants: no square
    overflows or vanishes.
    """
    xp = namespace(x)
    if x.shape[-1] == 0:
        return x
    rounding = 16.0 * float(xp.finfo(x.dtype).eps)
    top = constant(xp.max(xp.abs(x), axis=-1, keepdims=True))
    near = x / xp.where(top == 0.0, xp.ones_like(top), top)
    centred = near - xp.mean(near, axis=-1, keepdims=True)
    spread = constant(xp.max(xp.abs(centred), axis=-1, keepdims=True))
    flat = spread <= rounding
    one = xp.ones_like(spread)
    centred = xp.where(flat, xp.zeros_like(centred), centred) / xp.where(flat, one, spread)
    square = xp.mean(centred * centred, axis=-1, keepdims=True)
    return centred / xp.sqrt(xp.where(flat, one, square))
