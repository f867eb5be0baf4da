"""Random monomials with geometric exponents, of Chefs' random tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._bessel import log_i0
from rfx.features._monomial import Host, RandomMonomials

__all__ = ["Geometric"]

_LOWEST, _HIGHEST = math.log(1e-15), -math.log(1e-6)
"""Of log(p / (1 − p)) in a fit: p is at least 1e-15, and at most 1 − 1e-6."""


@dataclass(frozen=True)
class Geometric(RandomMonomials):
    """φ(x) = m^(-1/2) p^(-d/2) Π_l x_l^ω_l (1 − p)^(-ω_l/2) (ω_l!)^(-1/2), P(ω_l) = p (1 − p)^ω_l.

    At unit temperature; for the Gaussian kernel the features are multiplied by exp(−|x|²/2). Where
    a coordinate is negative features have the sign of its odd powers. The relative variance is
    p^(-d) Π_l I_0(2 |x_l y_l| (1 − p)^(-1/2)) exp(−2 x·y) − 1.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Softmax or Gaussian
    p : float, optional
        Of the geometric law, between 0 and 1. By default it is fitted by a search: it minimises
        −d log p + Σ_l log I_0(2 (w_l / (1 − p))^(1/2)), w_l = mean x_l² · mean y_l². Since
        log I_0(2 w^(1/2)) is concave in w, that is an upper bound of the mean over all pairs of a
        query and a key of log(1 + relative variance) + 2 x·y, and equal to it where the squares of
        the products do not vary. It needs the moments alone, where the mean itself would need every
        pair. A fitted p is kept within 1e-15 and 1 − 1e-6: where all products are zero the best p
        would be 1, which is no law.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or ``p`` is not between 0 and 1.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Likhosherstov et al., Chefs' random tables: non-trigonometric random features, 2022, the section
    on discretely-induced random features. The objective for p is this library's.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k = 0.5 * np.random.default_rng(0).standard_normal((2, 100, 8))
    >>> phi = rfx.features.Geometric(num_features=64).fit(q, k, seed=0)
    >>> other = rfx.features.Geometric(num_features=64, p=0.5).draw(8, seed=0, like=q)
    >>> mean = [np.log(phi.variance(q, k)).mean() for phi in (phi, other)]
    >>> bool(mean[0] < mean[1])
    True
    """

    p: float | None = None

    paper: ClassVar[str] = "Likhosherstov et al. 2022"
    _name = "p"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p is None:
            return
        p = _check.positive_number("p", self.p)
        if not math.exp(_LOWEST) <= p < 1.0:
            raise ValueError(
                f"`p` must be at least {math.exp(_LOWEST):.0e} and below 1, got {p:g}; "
                "leave it out to have it fitted"
            )
        object.__setattr__(self, "p", p)

    def _best(self, products: Host) -> float:
        """The bound is convex in (1 − p)^(-1/2): it has one minimum, and a grid closes in on it."""
        low, high, roots = _LOWEST, _HIGHEST, 2.0 * np.sqrt(products)
        for _ in range(9):
            grid = np.linspace(low, high, 41)
            growth = np.sqrt(1.0 + np.exp(grid))  # (1 − p)^(-1/2)
            bessel = np.sum(log_i0(roots * growth[:, None]), axis=-1)
            best = int(np.argmin(len(roots) * np.log1p(np.exp(-grid)) + bessel))
            low, high = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
        return float(1.0 / (1.0 + np.exp(-grid[best])))

    def _exponents(
        self, rng: np.random.Generator, parameter: float, shape: tuple[int, int]
    ) -> Host:
        return rng.geometric(parameter, shape) - 1

    def _log_factor(self, omega: Host, parameter: float) -> Host:
        values, places = np.unique(omega, return_inverse=True)
        factorials = np.asarray([math.lgamma(value + 1.0) for value in values])[places]
        degree, log_rest = np.sum(omega, axis=0), math.log1p(-parameter)
        each = -0.5 * len(omega) * math.log(parameter) - 0.5 * log_rest * degree
        return each - 0.5 * np.sum(factorials.reshape(omega.shape), axis=0)

    def _log_second_moment(self, x: Array, y: Array, parameter: Array) -> Array:
        """One axis at a time: all at once would need d times the memory."""
        xp = namespace(x)
        growth = 2.0 / xp.sqrt(1.0 - parameter)
        log = -x.shape[-1] * xp.log(parameter)
        for axis in range(x.shape[-1]):
            product = x[..., axis : axis + 1] * xp.matrix_transpose(y[..., axis : axis + 1])
            log = log + log_i0(growth * xp.abs(product)) - 2.0 * product
        return log
