"""Random monomials with Poisson exponents, of Chefs' random tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._monomial import Host, RandomMonomials

__all__ = ["Poisson"]

_SMALLEST, _LARGEST = 1e-6, 1e15


@dataclass(frozen=True)
class Poisson(RandomMonomials):
    """φ(x) = m^(-1/2) e^(λd/2) Π_l x_l^ω_l λ^(-ω_l/2), with every exponent ω_l ~ Poisson(λ).

    At unit temperature; for the Gaussian kernel the features are multiplied by exp(−|x|²/2). Where
    a coordinate is negative features have the sign of its odd powers. The relative variance is
    exp(Σ_l (x_l y_l − λ)² / λ) − 1, so the estimate is exact where all products are λ.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Softmax or Gaussian
    rate : float, optional
        λ, positive. By default it is fitted: λ = (mean over l of mean x_l² · mean y_l²)^(1/2), the
        exact minimum of the mean over all pairs of a query and a key of log(1 + relative variance),
        which is λd + Σ_l (x_l y_l)²/λ but for a constant. It is kept within 1e-6 and 1e15: where
        all products are near zero any small rate is as good, and 0 has no logarithm.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or ``rate`` is not between 0 and 1e15.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Likhosherstov et al., Chefs' random tables: non-trigonometric random features, 2022, the section
    on discretely-induced random features.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, 1.0, -1.0, 1.0]])
    >>> spec = rfx.features.Poisson(num_features=8, kernel=rfx.kernels.Softmax(1.0), rate=1.0)
    >>> phi = spec.draw(4, seed=0, like=x)
    >>> rfx.gram(x, x, features=phi).round(4)  # no variance: all products are the rate
    array([[54.5982]])
    >>> phi.kernel(x, x).round(4)
    array([[54.5982]])
    """

    rate: float | None = None

    paper: ClassVar[str] = "Likhosherstov et al. 2022"
    _name = "rate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate is None:
            return
        rate = _check.positive_number("rate", self.rate)
        if rate > _LARGEST:
            raise ValueError(f"`rate` must be at most {_LARGEST:g}, got {rate:g}")
        object.__setattr__(self, "rate", rate)

    def _best(self, products: Host) -> float:
        return float(np.clip(np.sqrt(np.mean(products)), _SMALLEST, _LARGEST))

    def _exponents(
        self, rng: np.random.Generator, parameter: float, shape: tuple[int, int]
    ) -> Host:
        return rng.poisson(parameter, shape)

    def _log_factor(self, omega: Host, parameter: float) -> Host:
        degree = np.sum(omega, axis=0)
        return 0.5 * parameter * len(omega) - 0.5 * math.log(parameter) * degree

    def _log_second_moment(self, x: Array, y: Array, parameter: Array) -> Array:
        """Σ_l (x_l y_l − λ)² / λ, from E[λ^(-2ω) (x y)^(2ω)] = exp((x y)²/λ − λ)."""
        xp = namespace(x)
        y_turned = xp.matrix_transpose(y)
        squares = xp.matmul(x * x, (y_turned * y_turned)) / parameter
        return squares - 2.0 * xp.matmul(x, y_turned) + x.shape[-1] * parameter
