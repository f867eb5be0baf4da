"""The χ² kernels of histograms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace, working_dtype
from rfx.kernels._base import Kernel, any_kept
from rfx.kernels._coordinates import sum_over_pairs
from rfx.kernels.stationary import Stationary

__all__ = ["AdditiveChiSquared", "SkewedChiSquared"]


@dataclass(frozen=True)
class AdditiveChiSquared(Kernel):
    """Σ_l 2 x_l y_l / (x_l + y_l) for coordinates >= 0, with 0 where both are 0.

    It grows in proportion to the points, and is Σ_l x_l at x = y. scikit-learn's
    ``AdditiveChi2Sampler`` approximates it; its ``additive_chi2_kernel`` is another function,
    −Σ_l (x_l − y_l)² / (x_l + y_l), which is 2 k(x, y) − k(x, x) − k(y, y).

    References
    ----------
    Vedaldi and Zisserman, Efficient additive kernels via explicit feature maps, 2012.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[1.0, 0.0, 2.0]]), np.asarray([[1.0, 0.0, 6.0]])
    >>> rfx.kernels.AdditiveChiSquared()(x, y)  # 2/2 + 0 + 24/8
    array([[4.]])
    """

    def check(self, x: Array, name: str, keep: Array | None = None) -> None:
        if any_kept(x < 0.0, keep):
            raise ValueError(
                f"`{name}` must have no negative coordinates for {self!r}; shift the points or "
                "clip them at 0"
            )

    def _values(self, x: Array, y: Array) -> Array:
        return _harmonic_means(x, y, 1.0)

    def _log(self, x: Array, y: Array) -> Array:
        xp, dim = namespace(x), max(x.shape[-1], 1)
        mean = _harmonic_means(x, y, 1.0 / dim)
        nothing = mean == 0.0
        log = xp.log(xp.where(nothing, xp.ones_like(mean), mean)) + math.log(dim)
        return xp.where(nothing, xp.full_like(log, -math.inf), log)


def _harmonic_means(x: Array, y: Array, weight: float) -> Array:
    """weight · Σ_l 2 a / (1 + a/b) for the lesser a and the greater b of each pair."""
    xp = namespace(x)
    x, y = (xp.astype(each, working_dtype(each), copy=False) for each in (x, y))
    x, y = (xp.where(each < 0.0, xp.full_like(each, math.nan), each) for each in (x, y))

    def term(mine: Array, its: Array) -> Array:
        least, most = xp.minimum(mine, its), xp.maximum(mine, its)
        nothing = most == 0.0
        ratio = least / xp.where(nothing, xp.ones_like(most), most)
        mean = (2.0 * weight) * least / (1.0 + ratio)
        return xp.where(nothing, xp.zeros_like(mean), mean)

    return sum_over_pairs(term, x, y)


@dataclass(frozen=True)
class SkewedChiSquared(Stationary):
    """Π_l 2 √(x_l + c) √(y_l + c) / (x_l + y_l + 2c) for coordinates above −c.

    It is Π_l sech((u_l − v_l) / 2) at the coordinates u = log(1 + x/c) and v = log(1 + y/c), where
    it is stationary. Frequencies have independent coordinates with the hyperbolic secant density,
    log|g/h| / π for independent normal g and h.

    Parameters
    ----------
    skewedness : float
        c; scikit-learn's ``skewedness`` of ``SkewedChi2Sampler``.

    Raises
    ------
    ValueError
        If ``skewedness`` is not a positive finite number.

    References
    ----------
    Li, Ionescu and Sminchisescu, Random Fourier approximations for skewed multiplicative histogram
    kernels, 2010.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 3.0]]), np.asarray([[0.0, 0.0]])
    >>> rfx.kernels.SkewedChiSquared(skewedness=1.0)(x, y)  # 1 · 2 √4 √1 / 5
    array([[0.8]])
    """

    skewedness: float = 1.0

    def __post_init__(self) -> None:
        value = _check.positive_number("skewedness", self.skewedness)
        object.__setattr__(self, "skewedness", value)

    def check(self, x: Array, name: str, keep: Array | None = None) -> None:
        wide = namespace(x).astype(x, working_dtype(x), copy=False)
        if any_kept(wide <= -self.skewedness, keep):
            raise ValueError(
                f"`{name}` must have coordinates above {-self.skewedness} for {self!r}; shift the "
                "points or take a larger skewedness"
            )

    def coordinates(self, x: Array) -> Array:
        """log(1 + x/c), in the working dtype; NaN outside the domain."""
        xp = namespace(x)
        x = xp.astype(x, working_dtype(x), copy=False)
        outside = x <= -self.skewedness
        inside = xp.where(outside, xp.zeros_like(x), x)
        log = xp.log1p(inside / self.skewedness)
        return xp.where(outside, xp.full_like(log, math.nan), log)

    def frequencies(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        least = np.finfo(np.float64).tiny
        g, h = np.abs(rows), np.abs(rng.standard_normal(rows.shape))
        return (np.log(np.maximum(g, least)) - np.log(np.maximum(h, least))) / math.pi

    def _log_at(self, u: Array, v: Array, times: float) -> Array:
        xp = namespace(u)

        def term(mine: Array, its: Array) -> Array:
            """log cosh z = z + log((1 + exp(−2z)) / 2), exactly 0 at z = 0."""
            z = xp.abs((mine - its) * (0.5 * times))
            return z + xp.log1p(0.5 * xp.expm1(-2.0 * z))

        return -sum_over_pairs(term, u, v)
