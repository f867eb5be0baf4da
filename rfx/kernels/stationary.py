"""Kernels of x − y that are means of cosines: Laplace, Matérn, rational quadratic and Cauchy.

By Bochner's theorem such a kernel is E cos(ω·(x − y)) with ω from its spectral density, so that
cosines and sines of ω·x are its random features (Rahimi and Recht 2007).
"""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from rfx import _check
from rfx._xp import Array, full_precision, namespace, working_dtype
from rfx.kernels._arc_cosine import root
from rfx.kernels._base import Kernel
from rfx.kernels._coordinates import scale_of, scaled_squares, sum_over_pairs
from rfx.kernels._matern import log_matern

__all__ = ["Cauchy", "Laplace", "Matern", "RationalQuadratic", "Stationary"]

_SMALLEST = 1e-15
"""Of the divisors of frequencies: beyond 1e15 they mean nothing in float64."""


class Stationary(Kernel):
    """A kernel that is a mean of cosines, E cos(ω·(u − v)) at the coordinates u, v of two points.

    The coordinates are the points themselves, but where a kernel says otherwise. The kernel is 1
    at equal points and never exceeds 1.
    """

    def coordinates(self, x: Array) -> Array:
        """The points, in the working dtype, where the kernel depends on differences alone.

        Parameters
        ----------
        x : Array, shape (..., t, d)

        Returns
        -------
        Array, shape (..., t, d)
        """
        return namespace(x).astype(x, working_dtype(x), copy=False)

    @abstractmethod
    def frequencies(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Frequencies ω with the kernel's spectral density, from Gaussian rows.

        Parameters
        ----------
        rows : numpy.ndarray, shape (..., n, d)
            float64, each row N(0, I). They may depend on one another, as those of a projection do.
        rng : numpy.random.Generator
            For the randomness that is needed besides, independent from row to row.

        Returns
        -------
        numpy.ndarray, shape (..., n, d)
            For `coordinates`, in the unit of the points: the bandwidth is in it.
        """

    def log_at(self, x: Array, y: Array, times: float) -> Array:
        """log k at ``times`` the difference of the points, log E cos(times ω·(u − v)).

        At ``times=2`` it gives the variance of random cosines,
        (1 + k(2(u − v))) / 2 − k(u − v)² for each ω.

        Parameters
        ----------
        x : Array, shape (..., t, d)
        y : Array, shape (..., s, d)
            Of the library, device and dtype of ``x``.
        times : float
            Positive.

        Returns
        -------
        Array, shape (..., t, s), in the working dtype

        Raises
        ------
        TypeError, ValueError
            As a call of the kernel, or if ``times`` is not a positive finite number.
        """
        times = _check.positive_number("times", times)
        self._refuse(x, y)
        with full_precision(x):
            return self._log_at(self.coordinates(x), self.coordinates(y), times)

    def _log(self, x: Array, y: Array) -> Array:
        return self._log_at(self.coordinates(x), self.coordinates(y), 1.0)

    @abstractmethod
    def _log_at(self, u: Array, v: Array, times: float) -> Array: ...


@dataclass(frozen=True)
class Laplace(Stationary):
    """exp(−|x − y|₁ / bandwidth), with the sum of the coordinates' distances.

    Frequencies have independent Cauchy coordinates: normal ones over independent |N(0, 1)|.

    Parameters
    ----------
    bandwidth : float
        In the unit of the points. scikit-learn's ``gamma`` of ``laplacian_kernel`` is
        ``1 / bandwidth``.

    Raises
    ------
    ValueError
        If ``bandwidth`` is not a positive finite number.

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, 2007.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 0.0]]), np.asarray([[1.0, -1.0]])
    >>> rfx.kernels.Laplace(bandwidth=2.0)(x, y).round(4)  # exp(-1)
    array([[0.3679]])
    """

    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidth", _check.positive_number("bandwidth", self.bandwidth))

    def frequencies(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        divisors = np.maximum(np.abs(rng.standard_normal(rows.shape)), _SMALLEST)
        return rows / (self.bandwidth * divisors)

    def _log_at(self, u: Array, v: Array, times: float) -> Array:
        xp, unit = namespace(u), times / self.bandwidth
        return -sum_over_pairs(lambda mine, its: xp.abs((mine - its) * unit), u, v)


@dataclass(frozen=True)
class Matern(Stationary):
    """2^(1 − ν) z^ν K_ν(z) / Γ(ν) with z = √(2ν) |x − y| / bandwidth and Bessel's function K_ν.

    It is exp(−r) for ν = 1/2, (1 + √3 r) exp(−√3 r) for 3/2 and (1 + √5 r + 5r²/3) exp(−√5 r) for
    5/2, where r = |x − y| / bandwidth. Any other ν takes a quadrature, with 104 values a pair in
    float64 and 48 in float32. Frequencies are normal rows times √(2ν / χ²) for one χ² of 2ν degrees
    of freedom a row: a multivariate t distribution.

    Parameters
    ----------
    nu : float
        ν, the smoothness: a process with this covariance has derivatives of all orders below ν. For
        large ν the kernel tends to `Gaussian`.
    bandwidth : float
        In the unit of the points; scikit-learn's ``length_scale``.

    Raises
    ------
    ValueError
        If a parameter is not a positive finite number.

    Notes
    -----
    At equal points it is exactly 1, and its gradient there is taken as 0, also for ν <= 1/2, where
    there is a kink or a cusp. Of a quadrature the first two derivatives exist; higher ones are
    wrong. Distances below 1e-17 √max(ν, 1) in float32, 1e-152 √max(ν, 1) in float64, in units of
    the bandwidth over √(2ν), count as 0.

    References
    ----------
    Rasmussen and Williams, Gaussian processes for machine learning, 2006, section 4.2.1.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 0.0]]), np.asarray([[3.0, 4.0]])
    >>> rfx.kernels.Matern(nu=0.5, bandwidth=5.0)(x, y).round(4)  # exp(-1)
    array([[0.3679]])
    """

    nu: float = 1.5
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.nu, numbers.Real) and self.nu == math.inf:
            raise ValueError(
                "`nu` must be finite, got inf; the kernel that Matern tends to is "
                f"rfx.kernels.Gaussian(bandwidth={self.bandwidth!r})"
            )
        for name in ("nu", "bandwidth"):
            object.__setattr__(self, name, _check.positive_number(name, getattr(self, name)))

    def frequencies(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mean = rng.chisquare(2.0 * self.nu, (*rows.shape[:-1], 1)) / (2.0 * self.nu)
        return rows / (self.bandwidth * np.maximum(np.sqrt(mean), _SMALLEST))

    def _log_at(self, u: Array, v: Array, times: float) -> Array:
        xp = namespace(u)
        squares, c = scaled_squares(u, v, times / self.bandwidth)
        z = math.sqrt(2.0 * self.nu) * c * root(squares)
        if self.nu == 0.5:
            return -z
        if self.nu == 1.5:
            return xp.log1p(z) - z
        if self.nu == 2.5:  # 1 + z + z²/3 = (1 + z) (1 + z² / (3 (1 + z)))
            return xp.log1p(z) + xp.log1p(z * (z / (3.0 + 3.0 * z))) - z
        return log_matern(self.nu, z)


@dataclass(frozen=True)
class RationalQuadratic(Stationary):
    """(1 + |x − y|² / (2 alpha bandwidth²))^(−alpha), a mixture of Gaussian kernels.

    exp(−λ |x − y|² / (2 bandwidth²)) has this mean for λ from the gamma distribution of shape and
    rate alpha. So frequencies are normal rows times √λ / bandwidth, with one λ a row.

    Parameters
    ----------
    alpha : float
        The smaller, the heavier the tail; for large alpha the kernel tends to `Gaussian`.
    bandwidth : float
        In the unit of the points; scikit-learn's ``length_scale``.

    Raises
    ------
    ValueError
        If a parameter is not a positive finite number.

    References
    ----------
    Rasmussen and Williams, Gaussian processes for machine learning, 2006, section 4.2.1.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 1.0]])
    >>> rfx.kernels.RationalQuadratic()(x, y)
    array([[0.5]])
    """

    alpha: float = 1.0
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        for name in ("alpha", "bandwidth"):
            object.__setattr__(self, name, _check.positive_number(name, getattr(self, name)))

    def frequencies(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        precision = rng.gamma(self.alpha, 1.0 / self.alpha, (*rows.shape[:-1], 1))
        return rows * (np.sqrt(precision) / self.bandwidth)

    def _log_at(self, u: Array, v: Array, times: float) -> Array:
        squares, c = scaled_squares(u, v, times / self.bandwidth / math.sqrt(2.0 * self.alpha))
        return -self.alpha * _log_one_plus(squares, c)


@dataclass(frozen=True)
class Cauchy(Stationary):
    """Π_l 1 / (1 + (x_l − y_l)² / bandwidth²), a product over the coordinates.

    Frequencies have independent Laplace coordinates: normal ones times √(2E) with E exponential.
    The isotropic 1 / (1 + |x − y|² / bandwidth²) is
    ``RationalQuadratic(alpha=1.0, bandwidth=bandwidth / math.sqrt(2.0))``.

    Parameters
    ----------
    bandwidth : float
        In the unit of the points.

    Raises
    ------
    ValueError
        If ``bandwidth`` is not a positive finite number.

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, 2007.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 2.0]])
    >>> rfx.kernels.Cauchy()(x, y)  # 1/2 · 1/5
    array([[0.1]])
    """

    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidth", _check.positive_number("bandwidth", self.bandwidth))

    def frequencies(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rows * (np.sqrt(2.0 * rng.standard_exponential(rows.shape)) / self.bandwidth)

    def _log_at(self, u: Array, v: Array, times: float) -> Array:
        unit = times / self.bandwidth

        def term(mine: Array, its: Array) -> Array:
            ratio = (mine - its) * unit
            c = scale_of(ratio)
            return _log_one_plus((ratio / c) ** 2, c)

        return -sum_over_pairs(term, u, v)


def _log_one_plus(squares: Array, c: Array) -> Array:
    """log(1 + c² S), where c² S may overflow."""
    xp = namespace(squares)
    far = squares > (1e15 / c) ** 2
    log = 2.0 * xp.log(c) + xp.log(xp.where(far, squares, xp.ones_like(squares)))
    near = xp.log1p(c * (c * xp.where(far, xp.zeros_like(squares), squares)))
    return xp.where(far, log, near)
