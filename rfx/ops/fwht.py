"""The Walsh-Hadamard transform."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from rfx import _check
from rfx._xp import Array, from_numpy, namespace, working_dtype
from rfx.dispatch import op

__all__ = ["fwht", "matrix", "orders", "sylvester", "transform"]


def fwht(x: Array, /, *, implementation: str | None = None) -> Array:
    """Orthonormal Walsh-Hadamard transform along the last axis, ``x @ H`` for H = Hᵀ = H⁻¹.

    Parameters
    ----------
    x : Array, shape (..., n)
        n is a power of two.
    implementation : str, optional
        "portable" or the name of a fast path, as in `rfx.options`.

    Returns
    -------
    Array, shape (..., n), dtype of ``x``
        Half precision is computed in float32 and rounded once.

    Raises
    ------
    TypeError
        If ``x`` is no array of real floating numbers.
    ValueError
        If n is no power of two.

    References
    ----------
    Fino and Algazi, Unified matrix treatment of the fast Walsh-Hadamard transform, 1976.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.ops import fwht
    >>> fwht(np.asarray([1.0, 0.0, 0.0, 1.0]))
    array([1., 0., 0., 1.])
    """
    _check.array("x", x)
    length = x.shape[-1] if x.ndim else 0
    if length < 1 or length & (length - 1):
        raise ValueError(
            f"`x` must have a last axis whose length is a power of two, got shape "
            f"{tuple(x.shape)}; pad it with zeros to {1 << max(length - 1, 0).bit_length()}"
        )
    return transform(None, x, implementation=implementation)


@op("fwht")
def transform(_: None, x: Array) -> Array:
    """The op of `fwht`; None stands where other ops have a drawn map.

    H of order a·b is the Kronecker product of those of orders a and b, so that x as a matrix (a, b)
    is multiplied by the one from the left and by the other from the right: O(n log n) for factors
    of bounded order, at the speed of matrix products.
    """
    xp, shape = namespace(x), tuple(x.shape)
    working = xp.astype(x, working_dtype(x), copy=False)
    count, (order, *others) = math.prod(shape), orders(shape[-1])
    working = xp.matmul(xp.reshape(working, (count // order, order)), sylvester(working, order))
    done = order
    for order in others:
        working = xp.reshape(working, (count // (order * done), order, done))
        working = xp.matmul(sylvester(working, order), working)
        done *= order
    return xp.astype(xp.reshape(working, shape), x.dtype, copy=False)


def orders(length: int) -> list[int]:
    """Orders of at most 64, near one another, whose product is a power of two: measured.

    Larger matrices cost more operations, and smaller ones more passes through memory.
    """
    bits = length.bit_length() - 1
    count = max(1, -(-bits // 6))
    return [1 << (bits + i) // count for i in reversed(range(count))]


def sylvester(like: Array, order: int) -> Array:
    """The orthonormal Hadamard matrix of an order, beside ``like``."""
    return from_numpy(matrix(order), like, like.dtype)


@functools.lru_cache
def matrix(order: int) -> np.ndarray[Any, Any]:
    """The same on the host, in float64: entry (i, j) has the sign of the parity of i & j."""
    bits = np.arange(order)
    return np.where(np.bitwise_count(bits[:, None] & bits) % 2, -1.0, 1.0) / np.sqrt(order)
