"""Products with Toeplitz matrices, which are given by their diagonals."""

from __future__ import annotations

import functools
import math

from rfx import _check
from rfx._xp import Array, full, namespace, working_dtype
from rfx.dispatch import op

__all__ = ["convolved", "fourier_length", "matrix", "spectrum", "toeplitz", "transform"]

_SMALL = 64
"""Lengths up to which the matrix itself is multiplied with."""


def toeplitz(x: Array, diagonals: Array, /, *, implementation: str | None = None) -> Array:
    """Product with a Toeplitz matrix along the last axis, y_i = Σ_j c_{j−i} x_j.

    Parameters
    ----------
    x : Array, shape (..., s)
    diagonals : Array, shape (..., t + s - 1), of the dtype of ``x``
        Entry j − i + t − 1 is c_{j−i}: from the lowest diagonal to the highest. Its batch axes and
        those of ``x`` are broadcast.
    implementation : str, optional
        "portable" or the name of a fast path, as in `rfx.options`.

    Returns
    -------
    Array, shape (..., t), dtype of ``x``
        Computed by FFT in O(n log n), n = t + s; for short lengths as a product with the matrix.
        By FFT an entry's error is of the order of eps·‖c‖·‖x‖, whatever its own size. Half
        precision is computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        If the arrays are of different kinds, or there are fewer than s diagonals.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.ops.toeplitz import toeplitz
    >>> toeplitz(np.asarray([1.0, 2.0]), np.asarray([5.0, 1.0, 7.0]))  # [[1, 7], [5, 1]] @ [1, 2]
    array([15.,  7.])
    """
    _check.array("x", x)
    _check.array("diagonals", diagonals)
    _check.together("x", x, "diagonals", diagonals)
    if x.dtype != diagonals.dtype:
        raise TypeError(
            f"`x` and `diagonals` must share a dtype, got {x.dtype} and {diagonals.dtype}; "
            "convert one of them"
        )
    if min(x.ndim, diagonals.ndim) < 1 or diagonals.shape[-1] < x.shape[-1] or x.shape[-1] < 1:
        raise ValueError(
            "`diagonals` must have shape (..., t + s - 1) for `x` of shape (..., s) and t >= 1 "
            f"outputs, got {tuple(diagonals.shape)} and {tuple(x.shape)}; pass one entry for each "
            "diagonal"
        )
    return transform(None, x, diagonals, implementation=implementation)


@op("toeplitz")
def transform(_: None, x: Array, diagonals: Array) -> Array:
    """The op of `toeplitz`; None stands where other ops have a drawn map."""
    xp, dtype, s = namespace(x), x.dtype, x.shape[-1]
    t = diagonals.shape[-1] - s + 1
    x, diagonals = (xp.astype(a, working_dtype(a), copy=False) for a in (x, diagonals))
    if max(t, s) <= _SMALL:
        dense = matrix(diagonals, t, s)
        out = xp.matmul(dense, x[..., None])[..., 0]
    else:
        out = convolved(x, spectrum(diagonals, t, s), t)
    return xp.astype(out, dtype, copy=False)


def spectrum(diagonals: Array, t: int, s: int) -> Array:
    """What `convolved` multiplies transforms with, made of t + s − 1 diagonals.

    It is a circular convolution: c_{j−i} stands at i − j modulo a length of at least t + s − 1.
    """
    xp, length = namespace(diagonals), fourier_length(t + s - 1)
    turned = xp.flip(diagonals, axis=-1)
    gap = full(turned, (*turned.shape[:-1], length - (t + s - 1)), 0.0, turned.dtype)
    around = xp.concat([turned[..., s - 1 :], gap, turned[..., : s - 1]], axis=-1)
    # Seen in NumPy 2.4: with another norm than "ortho" a transform of float32 is computed in
    # float64 and rounded, at a fifth of the speed.
    return xp.fft.rfft(around * math.sqrt(length), norm="ortho")


def convolved(x: Array, factor: Array, t: int) -> Array:
    """The product (..., t) of the Toeplitz matrix of this `spectrum` with x (..., s)."""
    xp, length = namespace(x), 2 * (factor.shape[-1] - 1)
    transformed = xp.fft.rfft(x, n=length, norm="ortho") * factor
    return xp.fft.irfft(transformed, n=length, norm="ortho")[..., :t]


@functools.lru_cache
def fourier_length(least: int) -> int:
    """The smallest even number from ``least`` on that has no prime factor above 5."""
    best = 1 << max(least - 1, 1).bit_length()
    for five in range(math.ceil(math.log(best, 5)) + 1):
        for three in range(math.ceil(math.log(best, 3)) + 1):
            odd = 5**five * 3**three
            whole = 2 * odd << max(0, (-(-least // (2 * odd)) - 1).bit_length())
            best = min(best, whole)
    return best


def matrix(diagonals: Array, rows: int, columns: int) -> Array:
    """The matrix of rows + columns − 1 diagonals: entry (r, c) is diagonal c − r + rows − 1.

    Rows that repeat the same numbers, cut one place earlier each time, are shifted by one place
    each: copies of memory, which cost less than picking entries.
    """
    xp, batch = namespace(diagonals), tuple(diagonals.shape[:-1])
    ahead, behind = diagonals[..., rows - 1 :], diagonals[..., : rows - 1]
    around = xp.concat([ahead, diagonals[..., :1], behind], axis=-1)
    period = rows + columns
    flat = xp.reshape(
        xp.broadcast_to(around[..., None, :], (*batch, rows, period)), (*batch, rows * period)
    )
    cut = flat[..., : rows * (period - 1)]
    return xp.reshape(cut, (*batch, rows, period - 1))[..., :columns]
