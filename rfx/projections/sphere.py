"""Means of exp and cos of ω·z for frequencies of norm sqrt(d) in uniform directions.

Both are ₀F₁(; d/2; ±d φ/4) at φ = |z|²: Bessel functions, which the array API has not. A direction
has the cosine t with that of z, of density ∝ (1 − t²)^((d−3)/2): below 64 dimensions the means are
Gauss quadratures over it. From there on the Bessel function of exp is its uniform asymptotic
series, and that of cos a power series.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from rfx._xp import Array, namespace
from rfx.projections.poisson import TERMS, poisson_mean

__all__ = ["exponential_mean", "orthogonal_coupling", "trigonometric_mean"]

_NODES = 128
_LARGEST_RADIUS = 256.0
"""Of a quadrature with so many nodes."""
_MANY_DIMENSIONS = 64


def exponential_mean(squared_norm: Array, dim: int) -> Array:
    """E[exp(ω·z)] / exp(|z|²/2), at most 1."""
    xp = namespace(squared_norm)
    if dim >= _MANY_DIMENSIONS:
        return xp.clip(xp.exp(_debye(squared_norm, dim)), 0.0, 1.0)
    radius = _root(dim * squared_norm)
    mean = xp.zeros_like(squared_norm)
    for cosine, log_weight in _rule(dim):
        mean = mean + xp.exp(radius * cosine - 0.5 * squared_norm + log_weight)
        mean = mean + xp.exp(-radius * cosine - 0.5 * squared_norm + log_weight)
    return xp.clip(mean, 0.0, 1.0)


def trigonometric_mean(squared_norm: Array, dim: int) -> Array:
    """E[cos(ω·z)]."""
    xp = namespace(squared_norm)
    if dim >= _MANY_DIMENSIONS:
        return poisson_mean(0.5 * squared_norm, _laguerre(dim))
    if dim == 1:
        return xp.cos(_root(squared_norm))
    radius = xp.clip(_root(dim * squared_norm), 0.0, _LARGEST_RADIUS)
    mean = xp.zeros_like(squared_norm)
    for cosine, log_weight in _rule(dim):
        mean = mean + 2.0 * math.exp(log_weight) * xp.cos(radius * cosine)
    return mean


def orthogonal_coupling(kind: str, squared_norm: Array, dim: int) -> Array:
    """Covariance of two orthogonal frequencies; over E[exp(ω·z)]² but for "trigonometric".

    |ω + ω'|² = 2d, so that both moments are series in φ with the same coefficients: with
    b = d/2, ₀F₁(; b; ±bλ) = exp(±λ) E[c_K], K ~ Poisson(λ), at λ = φ and, squared, at λ = φ/2.
    """
    xp = namespace(squared_norm)
    if kind != "trigonometric":
        log_mean = xp.log(exponential_mean(xp.clip(squared_norm, 0.0, 128.0), dim))
        return poisson_mean(squared_norm, _less_square(_powers(dim)), 2.0 * log_mean)
    mean = trigonometric_mean(squared_norm, dim)
    far = trigonometric_mean(2.0 * squared_norm, dim) - mean * mean
    # Near 0 that difference would cancel.
    near = poisson_mean(xp.clip(squared_norm, 0.0, 4.0), _less_square(_laguerre(dim))[:40])
    return xp.where(squared_norm < 4.0, near, far)


def _root(array: Array) -> Array:
    xp = namespace(array)
    return xp.sqrt(xp.clip(array, float(xp.finfo(array.dtype).smallest_normal), None))


def _debye(squared_norm: Array, dim: int) -> Array:
    """log ₀F₁(; d/2; d φ/4) − φ/2 by the expansion of I_ν(νz) at ν = d/2 − 1.

    Abramowitz and Stegun, Handbook of mathematical functions, 1964, 9.7.7, with Γ(ν + 1) by
    Stirling's series, so that it is 0 at φ = 0.
    """
    xp, order = namespace(squared_norm), dim / 2 - 1
    square = squared_norm * (dim / order**2)
    root = xp.sqrt(1.0 + square)
    beyond, p = square / (1.0 + root), 1.0 / root  # root − 1, without cancellation
    log = order * (beyond - xp.log1p(0.5 * beyond)) - 0.25 * xp.log1p(square)
    series = xp.ones_like(p)
    at_zero = 1.0
    for k, polynomial in enumerate(_DEBYE, 1):
        series = series + sum(c * p ** (k + 2 * i) for i, c in enumerate(polynomial)) / order**k
        at_zero += sum(polynomial) / order**k
    return log + xp.log(series) - math.log(at_zero) - 0.5 * squared_norm


_DEBYE = tuple(
    tuple(c / divisor for c in coefficients)
    for divisor, coefficients in (
        (24, (3, -5)),
        (1152, (81, -462, 385)),
        (414720, (30375, -369603, 765765, -425425)),
        (39813120, (4465125, -94121676, 349922430, -446185740, 185910725)),
    )
)
"""9.3.9 there: the coefficients of p^k, p^(k+2), ... in u_k(p)."""


@functools.lru_cache
def _rule(dim: int) -> list[tuple[float, float]]:
    """Nodes t > 0 and log weights of the Gauss rule of (1 − t²)^((d−3)/2), of weight 1 in all.

    Golub and Welsch, Calculation of Gauss quadrature rules, 1969: the nodes are the eigenvalues of
    the matrix of the recurrence. Weights come from its polynomials, so that small ones have digits.
    """
    if dim == 1:
        return [(1.0, -math.log(2.0))]
    k = np.arange(2, _NODES)
    squares = k * (k + dim - 3) / ((2 * k + dim - 2) * (2 * k + dim - 4))
    beta = np.sqrt(np.concatenate([[1.0 / dim], squares]))
    nodes = np.linalg.eigvalsh(np.diag(beta, 1) + np.diag(beta, -1))[_NODES // 2 :]
    before, now, total = np.zeros_like(nodes), np.ones_like(nodes), np.ones_like(nodes)
    for i in range(_NODES - 1):
        before, now = now, (nodes * now - (beta[i - 1] if i else 0.0) * before) / beta[i]
        total += now * now
    return list(zip(nodes.tolist(), (-np.log(total)).tolist(), strict=True))


@functools.lru_cache
def _powers(dim: int) -> tuple[float, ...]:
    """bᵏ/(b)_k."""
    half, c = dim / 2, [1.0]
    for k in range(TERMS - 1):
        c.append(c[-1] * half / (half + k))
    return tuple(c)


@functools.lru_cache
def _laguerre(dim: int) -> tuple[float, ...]:
    """₁F₁(−k; b; b), by the recurrence of Laguerre polynomials."""
    half, c = dim / 2, [1.0, 0.0]
    for k in range(1, TERMS - 1):
        c.append((2 * k * c[-1] - k * c[-2]) / (k + half))
    return tuple(c)


@functools.lru_cache
def _less_square(c: tuple[float, ...]) -> tuple[float, ...]:
    """c_k − Σ_j C(k, j) 2⁻ᵏ c_j c_(k−j), which is 0 for the first two: those of the square."""
    terms = [0.0, 0.0]
    for k in range(2, len(c)):
        row = [math.comb(k, j) / 2**k * c[j] * c[k - j] for j in range(k + 1)]
        terms.append(c[k] - math.fsum(row))
    return tuple(terms)
