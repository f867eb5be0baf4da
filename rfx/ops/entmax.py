"""Entmax: weights that sum to 1, of which all but the largest are exactly 0."""

from __future__ import annotations

import numbers
from typing import Any

from rfx._xp import Array, constant, exp_nonpositive, full, namespace, working_dtype

__all__ = ["ALPHAS", "check_alpha", "entmax"]

ALPHAS = (1.0, 1.5, 2.0)
"""Those whose threshold has a closed form on its support: softmax, 1.5-entmax and sparsemax."""


def entmax(
    scores: Array, /, *, alpha: float = 1.5, axis: int = -1, mask: Array | None = None
) -> Array:
    """p_i = [(α − 1) z_i − τ]₊^(1 / (α − 1)), with the τ for which p sums to 1.

    Of all weights it has the largest p·z + H(p), where H is the Tsallis entropy of order α. With
    α = 1 that is softmax, and no weight is 0; with α = 2 it is the projection on the simplex. τ is
    exact: the numbers are sorted, and the largest k for which τ of the first k is below the k-th
    gives the support.

    Parameters
    ----------
    scores : Array
        −inf for what is absent.
    alpha : {1.0, 1.5, 2.0}
    axis : int
    mask : Array of bool, optional
        True for what is present, of a shape that broadcasts to that of ``scores``. What is masked
        may hold NaN.

    Returns
    -------
    Array, shape and dtype of ``scores``
        Zeros where nothing is present. Computed in float32, or in float64 for float64. NaN or +inf
        makes NaN of its own slice.

    Raises
    ------
    TypeError, ValueError
        If ``alpha`` is another one.

    Notes
    -----
    The gradient is exact where no score is at the threshold: the support is a constant to it.

    References
    ----------
    Martins and Astudillo, From softmax to sparsemax, 2016, algorithm 1; Peters, Niculae and
    Martins, Sparse sequence-to-sequence models, 2019, which has the algorithm for α = 1.5.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.ops.entmax import entmax
    >>> entmax(np.asarray([2.0, 1.5, 0.0]), alpha=2.0)
    array([0.75, 0.25, 0.  ])
    """
    alpha = check_alpha(alpha)
    xp, dtype = namespace(scores), working_dtype(scores)
    z = xp.moveaxis(xp.astype(scores, dtype, copy=False), axis, -1)
    low = full(z, (), -float("inf"), dtype)
    if mask is not None:
        z = xp.where(xp.moveaxis(xp.broadcast_to(mask, scores.shape), axis, -1), z, low)
    if z.shape[-1] > 0:
        z = _weights(z, alpha)
    return xp.astype(xp.moveaxis(z, -1, axis), scores.dtype, copy=False)


def check_alpha(alpha: Any) -> float:
    """The order as a float, if it is one of those that are exact."""
    if not isinstance(alpha, numbers.Real) or isinstance(alpha, bool):
        raise TypeError(f"`alpha` must be a number, got {alpha!r}; pass 1.0, 1.5 or 2.0")
    if float(alpha) not in ALPHAS:
        raise ValueError(
            f"`alpha` must be 1.0 (softmax), 1.5 or 2.0 (sparsemax), got {alpha!r}; others have no "
            "exact threshold"
        )
    return float(alpha)


def _weights(z: Array, alpha: float) -> Array:
    """Weights along the last axis, for scores of which the absent are −inf."""
    xp = namespace(z)
    absent = z == -float("inf")
    top = constant(xp.max(z, axis=-1, keepdims=True))
    zero = xp.zeros_like(z)
    top = xp.where(top == -float("inf"), xp.zeros_like(top), top)
    shifted = z - top
    if alpha == 1.0:
        weight = xp.where(absent, zero, exp_nonpositive(shifted))
        total = xp.sum(weight, axis=-1, keepdims=True)
        return weight / xp.where(total == 0.0, xp.ones_like(total), total)
    # τ is at least the largest less 1, so that what is further below has no weight.
    x = xp.clip((alpha - 1.0) * shifted, -1.0, None)
    square = alpha == 1.5
    known = constant(x)
    # Written so that NaN belongs to the support, and comes out of it.
    outside = xp.logical_or(absent, known <= _sorted_threshold(known, square))
    gap = xp.where(outside, zero, x - _threshold(x, outside, square))
    gap = xp.clip(gap, 0.0, None)
    return gap * gap if square else gap


def _sorted_threshold(x: Array, square: bool) -> Array:
    """τ (..., 1), by sorting; without a gradient."""
    xp = namespace(x)
    falling = -xp.sort(-x, axis=-1)
    number = xp.cumulative_sum(xp.ones_like(x), axis=-1)
    mean = xp.cumulative_sum(falling, axis=-1) / number
    if square:
        spread = xp.cumulative_sum(falling * falling, axis=-1) / number - mean * mean
        tau = mean - xp.sqrt(xp.clip(1.0 / number - spread, 0.0, None))
    else:
        tau = mean - 1.0 / number
    belongs = xp.astype(tau < falling, xp.int32)
    last = xp.clip(xp.sum(belongs, axis=-1, keepdims=True) - 1, 0, None)
    return xp.take_along_axis(tau, last, axis=-1)


def _threshold(x: Array, outside: Array, square: bool) -> Array:
    """τ (..., 1) of a known support, with its gradient, and to the last digits."""
    xp = namespace(x)
    one = xp.astype(xp.logical_not(outside), x.dtype)
    number = xp.clip(xp.sum(one, axis=-1, keepdims=True), 1.0, None)
    inside = xp.where(outside, xp.zeros_like(x), x)
    mean = xp.sum(inside, axis=-1, keepdims=True) / number
    if not square:
        return mean - 1.0 / number
    apart = xp.where(outside, xp.zeros_like(x), x - mean)
    spread = xp.sum(apart * apart, axis=-1, keepdims=True)
    # The root is at least 1 / number: roundings alone could bring it lower.
    left = xp.maximum((1.0 - spread) / number, 0.25 / (number * number))
    return mean - xp.sqrt(left)
