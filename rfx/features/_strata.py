"""How many random products each degree of a series gets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rfx.features._signs import Host
from rfx.kernels import DotProduct

__all__ = ["Layout", "Strata", "deviations", "layout", "strata"]

_MOST_DEGREES = 8
_TERMS = 1024
"""Of a series without end, in the law of a degree: the rest has no weight in float64."""


class Layout(NamedTuple):
    """Which degrees have products of their own; it depends on no data.

    constant : whether degree 0 is one exact column
    degrees : those with products of their own
    first : the degree from which on all share products of random degree
    shared : whether there are any such
    """

    constant: bool
    degrees: tuple[int, ...]
    first: int
    shared: bool


class Strata(NamedTuple):
    """How many products they have.

    counts : for each of the layout's degrees; degree 1 with 0 of them is exact, in d columns
    products : of random degree
    power : σ, such that a_n σ^n is about the deviation of a product of degree n
    weight : Σ a_n σ^n over the degrees that share, which have probabilities a_n σ^n / weight
    """

    counts: tuple[int, ...]
    products: int
    power: float
    weight: float

    @property
    def linear(self) -> bool:
        """Whether degree 1 is exact."""
        return 0 in self.counts


@lru_cache(maxsize=256)
def layout(kernel: DotProduct, each: int, columns: int) -> Layout:
    """The layout of so many columns, ``each`` of them for a product.

    Every degree takes a product at least, so that the root of their number is about right.
    """
    endless = isinstance(kernel.series, str)
    count = 2 + _MOST_DEGREES if endless else len(kernel.series)
    positive = np.flatnonzero(kernel.coefficients(count)).tolist()
    constant = positive[0] == 0 and columns > each
    products = columns // each - constant
    most = min(_MOST_DEGREES, math.isqrt(products), products - 1)
    if positive[0] == 0 and not constant:
        return Layout(False, (), 0, True)
    degrees = [n for n in positive if n > 0]
    if endless or len(degrees) > max(most, 1):
        degrees = degrees[:most]
    first = degrees[-1] + 1 if degrees else 1
    return Layout(constant, tuple(degrees), first, endless or positive[-1] >= first)


@lru_cache(maxsize=256)
def strata(kernel: DotProduct, each: int, columns: int, dim: int, power: float) -> Strata:
    """The plan for points at which products of degree n deviate by about σ^n, σ = ``power``.

    The variance is a sum of deviation² / products over the strata, so that products are in
    proportion to deviations. σ is kept inside the radius of convergence, and such that degrees do
    not grow without bound; the estimate is unbiased with any.
    """
    power = max(power, 1e-3)
    if isinstance(kernel.series, str):
        power = min(power, 0.9 if kernel.radius == 1.0 else 32.0)
    constant, degrees, first, shared = layout(kernel, each, columns)
    sizes = deviations(kernel, power)
    weight = float(np.sum(sizes[first:]))
    plans = []
    for linear in (False, True):
        own = [n for n in degrees if not (linear and n == 1)]
        exact = -(-(constant + linear * dim) // each)
        left = columns // each - exact
        if (linear and 1 not in degrees) or left < len(own) + shared:
            continue
        chosen = [*sizes[own].tolist(), *([weight] if shared else [])]
        counts = _allotted(chosen, left)
        cost = sum(size**2 / count for size, count in zip(chosen, counts, strict=True))
        products = counts.pop() if shared else 0
        plans.append((cost, Strata((*[0] * linear, *counts), products, power, weight)))
    return min(plans, key=lambda plan: plan[0])[1]


@lru_cache(maxsize=256)
def deviations(kernel: DotProduct, power: float) -> Host:
    """a_n σ^n; not to be written to."""
    count = _TERMS if isinstance(kernel.series, str) else len(kernel.series)
    with np.errstate(divide="ignore"):
        logs = np.log(kernel.coefficients(count))
    return np.exp(logs + np.arange(count) * math.log(power))


def _allotted(sizes: Sequence[float], total: int) -> list[int]:
    """Whole numbers of this sum, at least 1, that make Σ size² / number the least.

    They are in proportion to the sizes, but for those whose share is below 1.
    """
    large = set(range(len(sizes)))
    share: dict[int, float] = {}
    while large:
        whole, left = sum(sizes[i] for i in large), total - (len(sizes) - len(large))
        share = {i: left * sizes[i] / whole if whole else left / len(large) for i in large}
        small = {i for i in large if share[i] < 1.0}
        if not small:
            break
        large -= small
    counts = [math.floor(share[i]) if i in large else 1 for i in range(len(sizes))]
    for _ in range(total - sum(counts) if counts else 0):
        gains = [s * s / (c * (c + 1)) for s, c in zip(sizes, counts, strict=True)]
        counts[int(np.argmax(gains))] += 1
    return counts
