"""Frequencies that point away from one another, to the corners of a simplex."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from rfx._xp import Array, namespace
from rfx.projections._base import Kind, Projection, row_norms
from rfx.projections.orthogonal import haar, others_in_block
from rfx.projections.poisson import TERMS, poisson_mean

__all__ = ["Simplex"]

_SWEEPS = 5


@dataclass(frozen=True)
class Simplex(Projection):
    """Blocks of rows W = S V R: corners of a simplex, turned by a Haar matrix, with χ_dim norms.

    The ``dim`` rows of V are unit vectors with products −1/(dim − 1). A row is N(0, I). For
    features that are exponentials the variance is below that of orthogonal rows; for trigonometric
    ones it is above. The last block is cut to its first rows, and blocks are independent. In one
    dimension there is nothing to couple, and rows are independent.

    Parameters
    ----------
    optimized : bool
        Turn the directions of a block towards the minimum of Σ |ω_i + ω_j|² at its norms, by five
        sweeps over the rows. No closed form of the coupling is known then.

    Notes
    -----
    The norms w, w' of two rows are the polar coordinates of a point of squared length s ~ χ²_2d, at
    an angle α/2 of density sin(α)^(d−1). Hence |ω + ω'|² = s (1 − ρ sin α) with ρ = 1/(d − 1), and
    with φ = |z|² and b = d/2

    - E exp((ω + ω')·z) = Σ_k φᵏ (d)_k / (k! 2ᵏ (b)_k) E(1 − ρ sin α)ᵏ;
    - E cos(ω·z) cos(ω'·z) = exp(−φ/2) Σ_k (φ/2)ᵏ c_k / (b)_k, Σ_k c_k tᵏ being the mean of
      (1 − t)^b (1 + δt)^(−d) over δ = ±ρ sin α.

    References
    ----------
    Reid et al., Simplex random features, 2023 (SimRFs; SimRFs+ if ``optimized``). There norms are
    averaged over last; here over their polar coordinates, in closed form.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.Simplex().sample(np.random.default_rng(0), num=4, dim=4)
    >>> unit = w / np.linalg.norm(w, axis=-1, keepdims=True)
    >>> (unit @ unit.T).round(3)[0]
    array([ 1.   , -0.333, -0.333, -0.333])
    """

    optimized: bool = False

    gaussian_rows = True
    coupled = True

    @property
    def independent_norms(self) -> bool:  # type: ignore[override]
        return not self.optimized

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        blocks = -(-num // dim)
        turns = haar(rng, blocks, dim)
        norms = row_norms("chi", rng, blocks * dim, dim).reshape(blocks, dim, 1)
        corners = np.broadcast_to(_corners(dim), turns.shape)
        if self.optimized:
            norms[-1, dim - (blocks * dim - num) :] = 0.0  # rows that are cut have no say
            corners = _spread(corners, norms)
        return (norms * (corners @ turns)).reshape(-1, dim)[:num]

    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array | None:
        others = others_in_block(num, dim)
        if not others:
            return namespace(squared_norm).zeros_like(squared_norm)
        if self.optimized:
            return None
        if kind == "trigonometric":
            return others * poisson_mean(0.5 * squared_norm, _cosines(dim))
        return others * poisson_mean(squared_norm, _exponentials(dim, kind))


def _corners(dim: int) -> np.ndarray:
    """Unit vectors (dim, dim) whose products are −1/(dim − 1)."""
    if dim == 1:
        return np.ones((1, 1))
    corners = np.sqrt(dim / (dim - 1)) * np.eye(dim)
    corners[:-1, :-1] -= (np.sqrt(dim) + 1) / (dim - 1) ** 1.5
    corners[-1] = np.append(np.full(dim - 1, (dim - 1) ** -0.5), 0.0)
    return corners


def _spread(corners: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Point each row against the sum of the others in turn, (blocks, dim, dim)."""
    corners = corners.copy()
    total = np.sum(norms * corners, axis=1)
    for _ in range(_SWEEPS if corners.shape[1] > 1 else 0):
        for i in range(corners.shape[1]):
            others = total - norms[:, i] * corners[:, i]
            length = np.linalg.norm(others, axis=-1, keepdims=True)
            # A row that is alone in its block keeps its direction.
            alone = length <= 1e-12 * norms[:, 0]
            corners[:, i] = np.where(alone, corners[:, i], -others / np.where(alone, 1.0, length))
            total = others + norms[:, i] * corners[:, i]
    return corners


@functools.lru_cache
def _exponentials(dim: int, kind: Kind) -> tuple[float, ...]:
    """r_k − 1 for E exp((ω + ω')·z) = exp(φ) E[r_K], K ~ Poisson(φ)."""
    sine, weight = _sines(dim)
    terms, orthogonal = [], 1.0
    for k in range(TERMS):
        power = (1.0 - sine) ** k
        if kind == "hyperbolic":
            power = 0.5 * (power + (1.0 + sine) ** k)
        terms.append(orthogonal * float(weight @ power) - 1.0)
        orthogonal *= (dim + k) / (dim + 2 * k)
    exact = 2 if kind == "hyperbolic" else 1
    return (0.0,) * exact + tuple(terms[exact:])


@functools.lru_cache
def _cosines(dim: int) -> tuple[float, ...]:
    """s_k − (−1)ᵏ for E cos cos = E[s_K], K ~ Poisson(φ/2), with s_k = c_k k!/(b)_k."""
    sine, weight = _sines(dim)
    k, half = np.arange(TERMS), dim / 2
    gamma = np.frompyfunc(math.lgamma, 1, 1)

    def log_rising(a: float) -> np.ndarray:  # of (a)_k / k!
        return (gamma(a + k) - math.lgamma(a) - gamma(k + 1)).astype(np.float64)

    moments = np.where(k % 2, 0.0, weight @ sine[:, None] ** k)
    even, base = moments, log_rising(half)  # the series of (1 + δt)^(−d) less its (d)_k / k!
    signed = np.cumprod(np.append(1.0, (k[:-1] - half) / (k[:-1] + half)))  # that of (1 − t)^b
    terms = []
    for n in range(TERMS):
        scale = np.exp(base[: n + 1] + log_rising(dim)[n::-1] - base[n])
        terms.append(float(np.sum(signed[: n + 1] * even[n::-1] * scale)) - (-1.0) ** n)
    return (0.0, 0.0, *terms[2:])


@functools.lru_cache
def _sines(dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ρ sin α, and weights that sum to 1, of the density sin(α)^(d−1) on (0, π)."""
    node, weight = np.polynomial.legendre.leggauss(400)
    sine = np.sin(0.5 * np.pi * (node + 1.0))
    weight = weight * sine ** (dim - 1)
    return sine / (dim - 1), weight / np.sum(weight)
