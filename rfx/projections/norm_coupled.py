"""Orthogonal frequencies whose norms are coupled in pairs."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from rfx._xp import Array
from rfx.projections import chi
from rfx.projections._base import Kind, Projection
from rfx.projections.orthogonal import Orthogonal, haar, others_in_block
from rfx.projections.poisson import TERMS, poisson_mean

__all__ = ["NormCoupled"]


@dataclass(frozen=True)
class NormCoupled(Projection):
    """Orthogonal rows, of which each second one is short where the one before is long.

    Rows of a block of ``dim`` are orthogonal with χ_dim norms, as those of `Orthogonal`; but the
    norms of rows 1 and 2 of a block, 3 and 4, ... are F⁻¹(u) and F⁻¹(1 − u) for one uniform u, F
    being the distribution function of χ_dim. A row is N(0, I). The variance is below that of
    orthogonal rows for exponential and for trigonometric features. The last row of a block of odd
    length has a norm of its own.

    Notes
    -----
    Two rows of a pair have |ω ± ω'|² = R(u) = F⁻¹(u)² + F⁻¹(1 − u)². With b = dim/2 and φ = |z|²

    - E exp((ω + ω')·z) = Σ_k (φ/4)ᵏ E[Rᵏ] / (k! (b)_k);
    - E cos(ω·z) cos(ω'·z) = exp(−φ/2) Σ_k (φ/2)ᵏ/k! E ₁F₁(−k; b; R/2), Laguerre polynomials,

    whose means over u are sums over a table, with u = Φ(y) (`rfx.projections.chi`). Pairs are also
    drawn by that table, right to 1e-11.

    References
    ----------
    Reid et al., Variance-reducing couplings for random features, 2025 (pairwise norm-coupled random
    features, found there as the optimal transport for two orthogonal rows).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.NormCoupled().sample(np.random.default_rng(0), num=4, dim=4)
    >>> np.linalg.norm(w, axis=-1).round(2)
    array([1.47, 2.22, 1.62, 2.06])
    """

    gaussian_rows = True
    coupled = True

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        blocks = -(-num // dim)
        directions = haar(rng, blocks, dim)
        normals = rng.standard_normal((blocks, -(-dim // 2), 1))
        pairs = np.concatenate([normals, -normals], axis=-1).reshape(blocks, -1)[:, :dim]
        return (directions * chi.norms_of(pairs, dim)[..., None]).reshape(-1, dim)[:num]

    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array:
        blocks, rest = divmod(num, dim)
        partners = 2.0 * (blocks * (dim // 2) + rest // 2) / num
        others = others_in_block(num, dim)
        coupling = Orthogonal().coupling(kind, squared_norm, num, dim)
        if not others:
            return coupling
        if kind == "trigonometric":
            pair = poisson_mean(0.5 * squared_norm, _cosines(dim))
        else:
            pair = poisson_mean(squared_norm, _exponentials(dim))
        return coupling * ((others - partners) / others) + partners * pair


@functools.lru_cache
def _exponentials(dim: int) -> tuple[float, ...]:
    """r_k − 1 for E exp((ω + ω')·z) = exp(φ) E[r_K], K ~ Poisson(φ): r_k = E[Rᵏ] / (4ᵏ (b)_k)."""
    square, weight = _squares(dim)
    power, terms = weight, []
    for k in range(TERMS):
        terms.append(float(np.sum(power)) - 1.0)
        power = power * (square / (2 * dim + 4 * k))
    return (0.0, 0.0, *terms[2:])


@functools.lru_cache
def _cosines(dim: int) -> tuple[float, ...]:
    """E ₁F₁(−k; b; R/2) − (−1)ᵏ for E cos cos = E[s_K], K ~ Poisson(φ/2)."""
    square, weight = _squares(dim)
    half, terms = dim / 2, []
    before, now = np.zeros_like(square), np.ones_like(square)
    for k in range(TERMS):
        terms.append(float(now @ weight) - (-1.0) ** k)
        step = (2 * k + half - 0.5 * square) * now - k * before
        before, now = now, step / (k + half)
    return (0.0, 0.0, *terms[2:])


def _squares(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """R on the grid of the normal law, and weights that sum to 1."""
    square = np.exp(2.0 * chi.table(dim)[0])
    weight = np.exp(-0.5 * chi.GRID**2)
    return square + square[::-1], weight / np.sum(weight)
