"""Mean and variance of coordinates over a batch, and running ones.

Every function is pure: what a batch measures is returned, and running statistics are made of two
records without changing either.
"""

from __future__ import annotations

import numbers
from typing import Any, NamedTuple

from rfx import _check
from rfx._xp import Array, constant, full, namespace, working_dtype
from rfx.attention.products import visible

__all__ = ["Statistics", "check_points", "check_statistics", "combine", "measure"]


class Statistics(NamedTuple):
    """Mean and variance of each coordinate over the points of a head: a tuple of arrays.

    mean, variance : shape (heads, d), or (d,) for points without an axis of heads
    count : shape (heads,) or (), how many points they were measured on
    """

    mean: Array
    variance: Array
    count: Array


def measure(x: Array, /, *, mask: Array | None = None) -> Statistics:
    """Mean and variance of each coordinate, over batch and length, apart for each head.

    Parameters
    ----------
    x : Array, shape (..., heads, n, d), or (n, d)
    mask : Array of bool, optional
        True for points that count; shape (n,), or ``x.shape[:-1]`` with 1 for shared axes. What the
        others hold does not matter.

    Returns
    -------
    Statistics
        In float32, or in float64 for float64. The gradient flows through them. Without any point
        they are 0.

    Raises
    ------
    TypeError, ValueError
        If the arguments are of the wrong kind or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import scaling
    >>> scaling.measure(np.asarray([[1.0], [3.0], [np.nan]]), mask=np.asarray([True, True, False]))
    Statistics(mean=array([2.]), variance=array([1.]), count=array(2.))
    """
    check_points(x)
    _check.mask(mask, x, ("mask", "x"))
    xp, dtype = namespace(x), working_dtype(x)
    x = xp.astype(visible(x, mask), dtype, copy=False)
    kept = full(x, (1,), 1.0, dtype) if mask is None else xp.astype(mask[..., None], dtype)
    kept = xp.broadcast_to(kept, (*x.shape[:-1], 1))
    axes = tuple(axis for axis in range(x.ndim - 1) if axis != x.ndim - 3)
    count = xp.sum(kept, axis=axes, keepdims=True)
    total = xp.clip(count, 1.0, None)
    mean = xp.sum(x, axis=axes, keepdims=True) / total
    away = (x - mean) * kept
    variance = xp.sum(away * away, axis=axes) / xp.reshape(total, (*x.shape[-3:-2], 1))
    own = tuple(variance.shape)
    return Statistics(xp.reshape(mean, own), variance, xp.reshape(count, own[:-1]))


def combine(
    running: Statistics, new: Statistics, /, *, momentum: float | None = None
) -> Statistics:
    """Statistics of two sets of points together: of their mixture, with weights 1 − w and w.

    Parameters
    ----------
    running, new : Statistics
        Neither is written to.
    momentum : float, optional
        w, between 0 and 1. By default the share of the new points in all, so that parts measured
        one by one give the statistics of the whole.

    Returns
    -------
    Statistics
        Constants to autodiff.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes differ, or ``momentum`` is not between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import scaling
    >>> x = np.random.default_rng(0).standard_normal((8, 2))
    >>> both = scaling.combine(scaling.measure(x[:3]), scaling.measure(x[3:]))
    >>> bool(np.allclose(both.variance, scaling.measure(x).variance))
    True
    """
    for name, given in (("running", running), ("new", new)):
        if not isinstance(given, Statistics):
            raise TypeError(
                f"`{name}` must be what rfx.scaling.measure returns, got {type(given).__name__}"
            )
    _check.together("running", running.mean, "new", new.mean)
    if tuple(running.mean.shape) != tuple(new.mean.shape):
        raise ValueError(
            "`running` and `new` must be of the same heads and coordinates, got means of shapes "
            f"{tuple(running.mean.shape)} and {tuple(new.mean.shape)}"
        )
    first, second = (Statistics(*(constant(a) for a in part)) for part in (running, new))
    xp = namespace(first.mean)
    count = first.count + second.count
    share: Any = momentum
    if momentum is None:
        share = (second.count / xp.clip(count, 1.0, None))[..., None]
    elif not isinstance(momentum, numbers.Real) or isinstance(momentum, bool):
        raise TypeError(f"`momentum` must be a number, got {momentum!r}; pass for example 0.1")
    elif not 0.0 <= momentum <= 1.0:
        raise ValueError(
            f"`momentum` must be between 0 and 1, got {momentum}; pass for example 0.1"
        )
    step = second.mean - first.mean
    within = (1.0 - share) * first.variance + share * second.variance
    between = share * (1.0 - share) * step * step
    return Statistics(first.mean + share * step, within + between, count)


def check_statistics(name: str, statistics: Any, x: Array, of: str) -> None:
    """Refuse statistics that are not those of the heads and coordinates of ``x``."""
    if not isinstance(statistics, Statistics):
        raise TypeError(
            f"`{name}` must be what rfx.scaling.measure returns, got {type(statistics).__name__}"
        )
    _check.together(of, x, name, statistics.mean)
    wanted = (*x.shape[-3:-2], x.shape[-1])
    for array in statistics[:2]:
        if tuple(array.shape) != wanted:
            raise ValueError(
                f"`{name}` must have a mean and a variance of shape {wanted}, for the heads and "
                f"coordinates of `{of}`, got {tuple(array.shape)}; measure them on such points"
            )


def check_points(x: Array) -> None:
    """Refuse what has no points."""
    _check.array("x", x)
    _check.has_length("x", x)
