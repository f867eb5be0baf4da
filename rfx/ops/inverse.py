"""Systems of equations whose matrix may have no inverse: a ridge, and no way to diverge."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from rfx._xp import Array, constant, full_precision, namespace, truth

__all__ = ["INVERSES", "Inverse", "least_squares", "solve"]

Inverse: TypeAlias = Literal["iteration", "decomposition"]
INVERSES = ("iteration", "decomposition")

Apply: TypeAlias = Callable[[Array], Array]


def solve(matrix: Array, right: Array, *, ridge: float, inverse: Inverse = "iteration") -> Array:
    """(A + ridge I)⁻¹ b for a positive semi-definite A, bounded for every finite A and b.

    ``"iteration"`` needs matrix products only. The matrix is scaled by the sums of its rows, which
    brings its eigenvalues into [0, 1], and lifted by n eps, which keeps rounding from making
    eigenvalues negative; then V <- V (I + E + E²) with E = I − A V, whose size is cubed each time.
    A matrix stays as it is from the step on in which its |E| ceased to fall. ``"decomposition"`` is
    the reference: eigenvalues below n eps times the largest count as 0.

    Parameters
    ----------
    matrix : Array, shape (..., n, n)
        Symmetric; float32 or float64.
    right : Array, shape (..., n, e)
    ridge : float
        At least 0.
    inverse : {"iteration", "decomposition"}

    Returns
    -------
    Array, shape (..., n, e)
        NaN for a matrix that is not finite. First and second derivatives are those of the inverse.
    """
    xp = namespace(matrix)
    identity = _identity(matrix)
    finite = _finite(matrix)
    # LAPACK raises an error on what is not finite.
    shifted = xp.where(finite, matrix, identity) + ridge * identity
    with full_precision(matrix):
        if inverse == "iteration":
            apply = _iterated(constant(shifted), identity)
            found = apply(right)
            for _ in range(2):  # Newton's step: V b + V (b − A V b), through which gradients flow
                found = found + apply(right - xp.matmul(shifted, found))
        else:
            apply = _decomposed(constant(shifted))
            found = apply(right)
            for _ in range(2):
                found = found + apply(_nothing(right - xp.matmul(shifted, found)))
    return xp.where(finite, found, math.nan)


def least_squares(
    matrix: Array, right: Array, *, ridge: float, inverse: Inverse = "iteration"
) -> Array:
    """(AᵀA + ridge I)⁻¹ Aᵀ b, which is the pseudo-inverse of A times b as ridge goes to 0.

    ``"iteration"`` solves these equations as they stand, so singular values below the root of n eps
    times the largest are lost; ``"decomposition"`` takes singular values, and loses those below
    n eps times the largest.

    Parameters
    ----------
    matrix : Array, shape (..., n, n)
        Of any kind; float32 or float64.
    right, ridge, inverse
        As in `solve`.

    Returns
    -------
    Array, shape (..., n, e)
    """
    xp = namespace(matrix)
    with full_precision(matrix):
        if inverse == "iteration":
            transposed = xp.matrix_transpose(matrix)
            gram, seen = xp.matmul(transposed, matrix), xp.matmul(transposed, right)
            return solve(gram, seen, ridge=ridge)
        finite = _finite(matrix)
        matrix = xp.where(finite, matrix, _identity(matrix))
        transposed = xp.matrix_transpose(matrix)
        left, values, right_vectors = xp.linalg.svd(constant(matrix))
        values = values[..., :, None]
        kept = values > matrix.shape[-1] * _eps(matrix) * xp.max(values, axis=-2, keepdims=True)
        squares = xp.where(kept, values * values + ridge, xp.ones_like(values))
        basis = xp.matrix_transpose(right_vectors)

        def apply(rows: Array, factor: Array) -> Array:
            return xp.matmul(basis, xp.where(kept, factor / squares * rows, 0.0))

        found = apply(xp.matmul(xp.matrix_transpose(left), right), values)
        for _ in range(2):
            residual = xp.matmul(transposed, right - xp.matmul(matrix, found)) - ridge * found
            found = found + apply(
                xp.matmul(right_vectors, _nothing(residual)), xp.ones_like(values)
            )
        return xp.where(finite, found, math.nan)


def _iterated(matrix: Array, identity: Array) -> Apply:
    """The inverse by matrix products."""
    xp, n = namespace(matrix), matrix.shape[-1]
    sums = xp.sum(xp.abs(matrix), axis=-1, keepdims=True)
    scale = 1.0 / xp.sqrt(xp.where(sums > 0.0, sums, xp.ones_like(sums)))
    lift = 4 * n * _eps(matrix)
    scaled = scale * matrix * xp.matrix_transpose(scale) + lift * identity
    value, error = xp.broadcast_to(identity, matrix.shape), identity - scaled
    size = xp.sum(error * error, axis=(-2, -1), keepdims=True)
    small = n * _eps(matrix) ** 2
    for _ in range(_steps(lift)):
        square = xp.matmul(error, error)
        new_value, new_error = value + xp.matmul(value, error + square), xp.matmul(square, error)
        new_size = xp.sum(new_error * new_error, axis=(-2, -1), keepdims=True)
        falls = xp.logical_and(new_size < size, size > small)
        value = xp.where(falls, new_value, value)
        error = xp.where(falls, new_error, error)
        size = xp.where(falls, new_size, size)
        if truth(xp.any(falls)) is False:
            break
    return lambda rows: scale * xp.matmul(value, scale * rows)


def _steps(smallest: float) -> int:
    """Steps after which the error of an eigenvalue ``smallest``, (1 − smallest)^(3^k), is eps."""
    return math.ceil(math.log(-math.log(smallest) / smallest, 3.0))


def _decomposed(matrix: Array) -> Apply:
    """The pseudo-inverse by eigenvalues; its factors are applied one by one, which rounds less."""
    xp = namespace(matrix)
    values, vectors = xp.linalg.eigh(matrix)
    values = values[..., :, None]
    kept = values > matrix.shape[-1] * _eps(matrix) * xp.max(values, axis=-2, keepdims=True)
    inverse = xp.where(kept, 1.0 / xp.where(kept, values, xp.ones_like(values)), 0.0)

    def apply(rows: Array) -> Array:
        seen = xp.matmul(xp.matrix_transpose(vectors), rows)
        return xp.matmul(vectors, inverse * seen)

    return apply


def _nothing(residual: Array) -> Array:
    """Zero, with the gradient of ``residual``.

    What rounding leaves in a residual would be magnified by the inverse, its gradient is not.
    """
    return residual - constant(residual)


def _finite(matrix: Array) -> Array:
    """Whether each matrix is finite, shape (..., 1, 1)."""
    xp = namespace(matrix)
    return xp.all(xp.isfinite(matrix), axis=(-2, -1), keepdims=True)


def _identity(matrix: Array) -> Array:
    xp = namespace(matrix)
    ones = xp.ones_like(matrix)
    return xp.tril(xp.triu(ones))


def _eps(matrix: Array) -> float:
    return float(namespace(matrix).finfo(matrix.dtype).eps)
