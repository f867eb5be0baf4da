"""Variances of random Maclaurin features, with strata and without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rfx._xp import Array, namespace
from rfx.features._series import Series, argument, squares, tail
from rfx.features._signs import Host, Pairs
from rfx.features._strata import Layout, Strata
from rfx.kernels import DotProduct
from rfx.kernels._scaled import Scaled, total

__all__ = ["Moments", "Shares", "plain_variance", "stratified_variance"]

Moments = Sequence[tuple[float, Array]]
"""(c, b), such that the second moment of a product of degree n is Σ c b^n for points of norm 1."""


class Shares(NamedTuple):
    """What the variance depends on of a plan, as numbers or as arrays (1, 1) or (heads, 1, 1).

    inverse : 1 / products, for each degree with products of its own, and for those that share;
        0 for an exact degree, and where there are none
    power, weight : as in `Strata`
    """

    inverse: Sequence[Any]
    power: Any
    weight: Any

    @classmethod
    def of(cls, plan: Strata) -> Shares:
        counts = (*plan.counts, plan.products)
        return cls([1.0 / count if count else 0.0 for count in counts], plan.power, plan.weight)

    def arrays(self) -> dict[str, Host]:
        """To be kept with a drawn map."""
        law = np.asarray([self.power, self.weight])
        return {"inverse": np.asarray(self.inverse, dtype=np.float64), "law": law}

    @classmethod
    def kept(cls, arrays: Mapping[str, Array]) -> Shares:
        """Of a drawn map's arrays."""
        inverse, law = (arrays[name][..., None, None] for name in ("inverse", "law"))
        each = [inverse[..., i, :, :] for i in range(inverse.shape[-3])]
        return cls(each, law[..., 0, :, :], law[..., 1, :, :])


def stratified_variance(
    kernel: DotProduct, layout: Layout, shares: Shares, pairs: Pairs, moments: Moments
) -> tuple[Array, Array]:
    """Σ_n a_n² (M_n − t^(2n)) / products + (weight Σ_n a_n M_n σ^(-n) − f_rest(t)²) / products.

    The first sum is over the degrees with products of their own, the second one and f_rest over
    those that share: with probabilities a_n σ^n / weight the second moment of a product is
    Σ_n a_n² M_n weight / (a_n σ^n).
    """
    xp = namespace(pairs.inner)
    parts = [Scaled(xp.zeros_like(pairs.inner), xp.zeros_like(pairs.inner))]
    coefficients = kernel.coefficients(max(layout.degrees, default=0) + 1)
    *inverses, shared = shares.inverse
    for n, inverse in zip(layout.degrees, inverses, strict=True):
        moment = sum(c * b**n for c, b in moments) - (pairs.inner * pairs.inner) ** n
        log = 2.0 * n * pairs.log_norms + 2.0 * math.log(coefficients[n])
        parts.append(Scaled(log, moment * inverse))
    outside = xp.zeros_like(pairs.inner, dtype=xp.bool)
    if layout.shared:
        series = tail(kernel, layout.first)
        power = shares.power
        log_power = math.log(power) if isinstance(power, float) else xp.log(power)
        log_squares = 2.0 * pairs.log_norms - log_power
        found, outside = _sums(series, log_squares, moments)
        parts += [Scaled(log, factor * shares.weight * shared) for log, factor in found]
        log, factor = series(argument(pairs.log_norms, pairs.inner))
        assert factor is not None
        parts.append(Scaled(2.0 * log, -factor * factor * shared))
    return _infinite(*total(parts), outside)


def plain_variance(
    kernel: DotProduct, count: int, pairs: Pairs, moments: Moments, value: Scaled
) -> tuple[Array, Array]:
    """(Σ_n a_n² M_n 2^(n + 1) − f(t)²) / products, ``value`` being f(t)."""
    parts, outside = _sums(squares(kernel), 2.0 * pairs.log_norms + math.log(2.0), moments)
    assert value.factor is not None
    log, factor = total([*parts, Scaled(2.0 * value.log, -value.factor * value.factor)])
    return _infinite(log, factor / count, outside)


def _sums(series: Series, log_scale: Array, moments: Moments) -> tuple[list[Scaled], Array]:
    """c Σ_n c_n u^n at u = b exp(log_scale) for each (c, b), and where one of them diverges."""
    xp, found = namespace(log_scale), []
    outside = xp.zeros_like(log_scale, dtype=xp.bool)
    for c, b in moments:
        at = argument(log_scale, b)
        log, factor = series(at)
        assert factor is not None
        found.append(Scaled(log, c * factor))
        outside = xp.logical_or(outside, series.diverges(at))
    return found, outside


def _infinite(log: Array, factor: Array, where: Array) -> tuple[Array, Array]:
    """factor · exp(log), or inf."""
    xp = namespace(log)
    log = xp.where(where, xp.full_like(log, math.inf), log)
    return log, xp.where(where, xp.ones_like(factor), factor)
