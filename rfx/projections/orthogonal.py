"""Frequencies that are orthogonal within blocks of ``dim`` rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx._xp import Array, namespace
from rfx.projections._base import Projection

__all__ = ["Orthogonal"]

_LARGEST_RATE = 128
_TERMS = 260  # the mean of the Poisson law at the largest rate, and eleven deviations


@dataclass(frozen=True)
class Orthogonal(Projection):
    """Blocks of rows W = S Q with Q Haar distributed and S = diag(χ_dim), so that a row is N(0, I).

    Q comes from a QR decomposition whose signs are fixed: without that it is not Haar, and
    one-sided (positive) features are biased. The last block is cut to the rows that remain, and
    the blocks are independent.

    Notes
    -----
    With φ = |z|² and b = dim/2, two rows of a block have

    - Cov(exp(ω·z), exp(ω'·z)) = ₁F₁(dim; b; φ/2) − exp(φ), never positive;
    - Cov(cos(ω·z), cos(ω'·z)) = ₁F₁(dim; b; −φ/2) − exp(−φ).

    Both are computed as means over a Poisson law, whose terms do not cancel. The bits of a draw may
    differ between hosts, because the decomposition is LAPACK's.

    References
    ----------
    Yu et al., Orthogonal random features, 2016, theorem 1; Mezzadri, How to generate random
    matrices from the classical compact groups, 2007, section 5 (the signs).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.Orthogonal().sample(np.random.default_rng(0), num=3, dim=4)
    >>> bool(abs(w[0] @ w[1]) < 1e-12)
    True
    """

    gaussian_rows: ClassVar[bool] = True

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        blocks = -(-num // dim)
        directions, upper = np.linalg.qr(rng.standard_normal((blocks, dim, dim)))
        signs = np.sign(np.diagonal(upper, axis1=-2, axis2=-1))
        rows = (directions * signs[:, None, :]).reshape(blocks * dim, dim)[:num]
        return rows * np.sqrt(rng.chisquare(dim, size=(num, 1)))

    def coupled_rows(self, num: int, dim: int) -> float:
        blocks, rest = divmod(num, dim)
        return (blocks * dim * (dim - 1) + rest * (rest - 1)) / num

    def positive_covariance(self, squared_norm: Array, dim: int) -> Array:
        # ₁F₁(d; b; φ/2) exp(−φ) − 1 = E[r_K − 1], K ~ Poisson(φ), r_k = Π_{i<k} (d+i)/(d+2i).
        ratio, terms = 1.0, []
        for k in range(_TERMS):
            terms.append(ratio - 1.0)
            ratio *= (dim + k) / (dim + 2 * k)
        return _poisson_mean(squared_norm, terms)

    def trigonometric_covariance(self, squared_norm: Array, dim: int) -> Array:
        # By Kummer ₁F₁(d; b; −λ) = E[s_K], K ~ Poisson(λ), s_k = Π_{i<k} (i−b)/(i+b), and
        # exp(−2λ) = E[(−1)^K], at λ = φ/2.
        half, ratio, terms = dim / 2, 1.0, []
        for k in range(_TERMS):
            terms.append(ratio - (-1.0) ** k)
            ratio *= (k - half) / (k + half)
        return _poisson_mean(0.5 * squared_norm, terms)


def _poisson_mean(rate: Array, terms: Sequence[float]) -> Array:
    """E[terms[K]] for K ~ Poisson(rate); a rate beyond the largest is cut to it.

    There the covariance is below 1e-6 of the variance it is added to. ``terms[0]`` must be 0.
    """
    xp = namespace(rate)
    tiny = float(xp.finfo(rate.dtype).smallest_normal)
    rate = xp.clip(rate, tiny, float(_LARGEST_RATE))
    log_rate = xp.log(rate)
    mean = xp.zeros_like(rate)
    for k, term in enumerate(terms):
        if term:
            mean = mean + term * xp.exp(k * log_rate - rate - math.lgamma(k + 1))
    return mean
