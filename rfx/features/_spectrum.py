"""Functions of one number as sums of waves, f(u) = Σ_n c_n cos(θ_n u + p_n), on the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

__all__ = ["EXACT", "Spectrum", "series"]

Host: TypeAlias = np.ndarray[Any, Any]

_WAVES = 48
_NODES = 801  # odd, so that 0 is one of them, where a function may have its kink
_PERIODS = 3.0


class Spectrum(NamedTuple):
    """Waves, in order of frequency.

    frequency : shape (n,), θ, at least 0
    amplitude : shape (n,), c, positive
    phase : shape (n,), p
    """

    frequency: Host
    amplitude: Host
    phase: Host

    def __call__(self, u: Host) -> Host:
        """The sum of the waves at numbers u."""
        angles = np.asarray(u)[..., None] * self.frequency + self.phase
        return np.cos(angles) @ self.amplitude


def series(
    function: Callable[[Host], Host], limit: float, tolerance: float, growth: Callable[[Host], Host]
) -> Spectrum:
    """The cheapest series that is within a tolerance of a function where |u| <= limit.

    Least squares at 801 Chebyshev points, with the penalty λ Σ_n (c_n exp(growth(θ_n)))², and the
    largest λ for which the tolerance is kept. Frequencies are those of a period three times the
    interval: what the series does outside is free, which is what lets it do without high ones.

    Parameters
    ----------
    function : callable
    limit, tolerance : float
    growth : callable
        What a unit of amplitude costs at frequencies θ, as a log.

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError
        If the function is not finite there, or no such series is.
    """
    points = limit * np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    wanted = np.asarray(function(points), dtype=np.float64)
    if wanted.shape != points.shape or not np.all(np.isfinite(wanted)):
        raise ValueError(
            f"`function` must be elementwise, and finite where |u| <= limit = {limit}; "
            "lower the limit"
        )
    frequency = np.pi * np.arange(_WAVES) / (_PERIODS * limit)
    angles = points[:, None] * frequency
    waves = np.concatenate([np.cos(angles), np.sin(angles[:, 1:])], axis=-1)
    cheap = np.exp(-growth(frequency))
    cheap = np.concatenate([cheap, cheap[1:]])
    left, size, right = np.linalg.svd(waves * cheap, full_matrices=False)
    target = left.T @ wanted

    def solved(log_penalty: float) -> Host:
        return cheap * (right.T @ (size / (size * size + math.exp(log_penalty)) * target))

    def error(coefficients: Host) -> float:
        return float(np.max(np.abs(waves @ coefficients - wanted)))

    low, high = 2.0 * math.log(size[0]) - 60.0, 2.0 * math.log(size[0]) + 10.0
    found = solved(low)
    if error(found) > 0.99 * tolerance:
        raise ValueError(
            f"`tolerance` must be above {error(found):.2g} for this function and limit = "
            f"{limit}, got {tolerance}; raise it, lower the limit, or take a smoother function"
        )
    for _ in range(30):
        middle = 0.5 * (low + high)
        kept = error(solved(middle)) <= 0.99 * tolerance  # the rest is for what lies between points
        low, high = (middle, high) if kept else (low, middle)
    found = solved(low)
    cosine, sine = found[:_WAVES], np.concatenate([np.zeros(1), found[_WAVES:]])
    return _spectrum(frequency, cosine - 1j * sine)


def _spectrum(frequency: Host, coefficient: Host) -> Spectrum:
    """Of Re Σ_n coefficient_n exp(i θ_n u)."""
    amplitude = np.clip(np.abs(coefficient), 1e-300, None)  # so that it has a log
    return Spectrum(frequency, amplitude, np.angle(coefficient))


def _transform(density: Callable[[Host], Host], step: float, number: int) -> Spectrum:
    """The waves of ∫ density(θ) exp(iθu) dθ, with a midpoint sum in place of the integral.

    The sum is f(u) − f(u + 2π/step) − f(u − 2π/step) + ..., so it is f to rounding where |u| is
    below 2π/step by as much as f takes to vanish.
    """
    frequency = step * (np.arange(number) + 0.5)
    return _spectrum(frequency, 2.0 * step * density(frequency) + 0j)


EXACT: dict[str, Callable[[], Spectrum]] = {
    "cos": lambda: _spectrum(np.ones(1), np.asarray([1.0 + 0j])),
    "sin": lambda: _spectrum(np.ones(1), np.asarray([-1j])),
    "gaussian": lambda: _transform(
        lambda t: np.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi), 0.2, 44
    ),
    "sech": lambda: _transform(lambda t: 0.5 / np.cosh(0.5 * math.pi * t), 0.1, 240),
}
"""By the names of functions: series that are f to rounding where |u| <= 20."""
