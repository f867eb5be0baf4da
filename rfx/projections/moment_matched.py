"""Frequencies whose sample mean is 0 and whose sample covariance is I, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx._xp import Array
from rfx.projections._base import Kind, Projection

__all__ = ["MomentMatched", "orthonormal"]


@dataclass(frozen=True)
class MomentMatched(Projection):
    """Standard normal rows that are centred and whitened: Σ ω_i = 0 and Σ ω_i ω_iᵀ = n I.

    The estimate of a kernel is then exact to second order in the points, at the price of a bias of
    O(1/n): rows are not quite Gaussian. It needs more rows than dimensions.

    Raises
    ------
    ValueError
        By ``sample``, if ``num`` is not above ``dim``.

    Notes
    -----
    The columns are n^(1/2) times orthonormal vectors in uniform position orthogonal to (1, ..., 1):
    the orthogonal factor of the centred rows, with the signs that make it Haar. Hence ω_i·z has the
    law of a row of norm (n − 1)^(1/2) in a uniform direction of n − 1 dimensions, whatever dim is,
    so that E exp(ω·z) = ₀F₁(; (n − 1)/2; (n − 1)|z|²/4): a little below that of a Gaussian row.

    References
    ----------
    Glasserman, Monte Carlo methods in financial engineering, 2003, section 4.5.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.MomentMatched().sample(np.random.default_rng(0), num=9, dim=2)
    >>> np.abs(w.T @ w / 9 - np.eye(2)).max() < 1e-12
    np.True_
    """

    gaussian_rows = False
    coupled = True

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        if num <= dim:
            raise ValueError(
                f"MomentMatched needs more frequencies than dimensions, got num={num} for "
                f"dim={dim}; ask for at least {dim + 1}, or take Orthogonal()"
            )
        rows = rng.standard_normal((num, dim))
        factor = orthonormal(rows - np.mean(rows, axis=0))
        # Once more, so that the mean is 0 to rounding of the result.
        return num**0.5 * (factor - np.mean(factor, axis=0))

    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array | None:
        return None


def orthonormal(rows: np.ndarray) -> np.ndarray:
    """The orthogonal factor of the decomposition whose triangular one has a positive diagonal.

    Long matrices, whose condition is low, take a Cholesky factor of the covariance, and a second
    one for the rounding of the first: twenty times as fast as reflections.
    """
    num, dim = rows.shape
    if num < 2 * dim:
        factor, upper = np.linalg.qr(rows)
        return factor * np.sign(np.diagonal(upper))
    for _ in range(2):
        rows = rows @ np.linalg.inv(np.linalg.cholesky(rows.T @ rows)).T
    return rows
