"""Frequencies that are orthogonal within blocks of ``dim`` rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx._xp import Array
from rfx.projections import sphere
from rfx.projections._base import Kind, row_norms
from rfx.projections._isotropic import Isotropic
from rfx.projections.poisson import TERMS, poisson_mean

__all__ = ["Orthogonal", "haar", "others_in_block"]


@dataclass(frozen=True)
class Orthogonal(Isotropic):
    """Blocks of rows W = S Q with Q Haar distributed and S = diag(χ_dim), so that a row is N(0, I).

    The last block is cut to the rows that remain, and the blocks are independent.

    Parameters
    ----------
    norms : "chi" or "fixed"
        With "fixed" each row has the norm sqrt(dim), as in the regularised softmax features of
        Performers. Maps are biased then, by the means that `exponential_mean`, at most 1, and
        `trigonometric_mean` give.

    Raises
    ------
    ValueError
        If ``norms`` is neither.

    Notes
    -----
    With φ = |z|² and b = dim/2, two rows of a block with norms "chi" have

    - Cov(exp(ω·z), exp(ω'·z)) = ₁F₁(dim; b; φ/2) − exp(φ), never positive;
    - Cov(cos(ω·z), cos(ω'·z)) = ₁F₁(dim; b; −φ/2) − exp(−φ),

    and with "fixed" the same with ₀F₁(; b; ±bφ) − ₀F₁(; b; ±bφ/2)². All are computed as sums whose
    terms do not cancel. The bits of a draw may differ between hosts, because the decomposition is
    LAPACK's.

    References
    ----------
    Yu et al., Orthogonal random features, 2016, theorem 1; Mezzadri, How to generate random
    matrices from the classical compact groups, 2007, section 5; Choromanski et al., Rethinking
    attention with Performers, 2021, theorem 1 (fixed norms).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.Orthogonal().sample(np.random.default_rng(0), num=3, dim=4)
    >>> bool(abs(w[0] @ w[1]) < 1e-12)
    True
    """

    coupled = True
    independent_norms = True

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        rows = haar(rng, -(-num // dim), dim).reshape(-1, dim)[:num]
        return rows * row_norms(self.norms, rng, num, dim)

    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array:
        others = others_in_block(num, dim)
        if self.norms == "fixed":
            return others * sphere.orthogonal_coupling(kind, squared_norm, dim)
        if kind == "trigonometric":
            return others * _cosines(squared_norm, dim)
        return others * _exponentials(squared_norm, dim)


def haar(rng: np.random.Generator, blocks: int, dim: int) -> np.ndarray:
    """Orthogonal matrices of the Haar law, shape (blocks, dim, dim).

    The signs of the decomposition are fixed: without that the law is another, and one-sided
    (positive) features are biased.
    """
    directions, upper = np.linalg.qr(rng.standard_normal((blocks, dim, dim)))
    return directions * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[:, None, :]


def others_in_block(num: int, dim: int) -> float:
    """How many other rows of ``num`` share a block of ``dim`` with a row, on average."""
    blocks, rest = divmod(num, dim)
    return (blocks * dim * (dim - 1) + rest * (rest - 1)) / num


def _exponentials(squared_norm: Array, dim: int) -> Array:
    # ₁F₁(d; b; φ/2) exp(−φ) − 1 = E[r_K − 1], K ~ Poisson(φ), r_k = Π_{i<k} (d+i)/(d+2i).
    ratio, terms = 1.0, []
    for k in range(TERMS):
        terms.append(ratio - 1.0)
        ratio *= (dim + k) / (dim + 2 * k)
    return poisson_mean(squared_norm, terms)


def _cosines(squared_norm: Array, dim: int) -> Array:
    # By Kummer ₁F₁(d; b; −λ) = E[s_K], K ~ Poisson(λ), s_k = Π_{i<k} (i−b)/(i+b), and
    # exp(−2λ) = E[(−1)^K], at λ = φ/2.
    half, ratio, terms = dim / 2, 1.0, []
    for k in range(TERMS):
        terms.append(ratio - (-1.0) ** k)
        ratio *= (k - half) / (k + half)
    return poisson_mean(0.5 * squared_norm, terms)
