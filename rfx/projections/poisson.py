"""Power series with positive weights, as means over a Poisson law."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rfx._xp import Array, namespace

__all__ = ["TERMS", "poisson_mean"]

_LARGEST_RATE = 128
TERMS = 260
"""The mean of the Poisson law at the largest rate, and eleven deviations."""


def poisson_mean(rate: Array, terms: Sequence[float], log_divisor: Array | None = None) -> Array:
    """E[terms[K]] / exp(log_divisor) for K ~ Poisson(rate): exp(−rate) Σ terms[k] rateᵏ/k!.

    Bounded terms make bounded sums, where those of a power series would cancel. A rate beyond 128
    is cut to it: there a covariance of Gaussian rows is below 1e-6 of the variance of one.
    """
    xp = namespace(rate)
    tiny = float(xp.finfo(rate.dtype).smallest_normal)
    given, rate = rate, xp.clip(rate, tiny, float(_LARGEST_RATE))
    log_rate = xp.log(rate)
    shift = rate if log_divisor is None else rate + log_divisor
    mean = xp.zeros_like(rate)
    for k, term in enumerate(terms[:TERMS]):
        if term:
            weight = xp.exp(k * log_rate - shift + (math.log(abs(term)) - math.lgamma(k + 1)))
            mean = mean + weight if term > 0 else mean - weight
    return xp.where(given > 0.0, mean, float(terms[0]))
