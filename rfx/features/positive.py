"""Positive random features of the softmax and the Gaussian kernel (FAVOR+)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._base import Side, Spec, exp_times
from rfx.features.forms import ExponentialMap
from rfx.kernels import ExponentialKernel, squared_distance

__all__ = ["Positive"]


@dataclass(frozen=True)
class Positive(Spec):
    """φ(x) = n^(-1/2) exp(ω·x − |x|²/2) for n frequencies ω, at unit temperature.

    For the Gaussian kernel the row term is −|x|². All features are positive, so attention with them
    is an average of the values. The relative variance grows as exp(|x + y|²) and is zero at x = −y.

    Parameters
    ----------
    num_features : int
        Output columns, m. Even if ``hyperbolic``.
    kernel : Softmax or Gaussian
    projection : Projection
        ``Orthogonal()`` by default, which lowers the variance for every pair of points.
    hyperbolic : bool
        Use ω and −ω: n = m/2 frequencies and columns exp(±ω·x − |x|²/2) / sqrt(2n). At equal m the
        variance is 1 − exp(−|x + y|²) times that of independent one-sided features.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or odd with ``hyperbolic``.
    TypeError
        If ``num_features`` is no int, or ``kernel`` or ``projection`` is of another kind.

    References
    ----------
    Choromanski et al., Rethinking attention with Performers, 2021: lemma 1 (the features), lemma 2
    (the mean squared errors), theorem 2 (orthogonal frequencies; here the exact covariance stands
    in place of its bound).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.5, -0.5, 0.2, 0.1]])
    >>> phi = rfx.features.Positive(num_features=64).draw(4, seed=0, like=x)
    >>> rfx.gram(x, -x, features=phi).round(6)  # no variance here: the exact value
    array([[0.759572]])
    >>> phi.kernel(x, -x).round(6)
    array([[0.759572]])
    """

    hyperbolic: bool = False

    paper: ClassVar[str] = "Choromanski et al. 2021"

    def __post_init__(self) -> None:
        multiple = 2 if self.hyperbolic else 1
        self._check_fields(multiple, "(a pair of ±ω)")

    @property
    def positive(self) -> bool:
        return True

    @property
    def unbiased(self) -> bool:
        return self.projection.gaussian_rows

    @property
    def num_frequencies(self) -> int:
        """Frequencies drawn, n."""
        return self.num_features // (2 if self.hyperbolic else 1)

    @property
    def log_constant(self) -> float:
        return -0.5 * math.log(self.num_features)

    def variance(self, x: Array, y: Array) -> Array:
        _check.points(x, y)
        xp = namespace(x)
        kernel = cast(ExponentialKernel, self.kernel)
        # With φ = |x + y|² the second moment of one feature product is k² exp(φ).
        phi = squared_distance(kernel.scaled(x), -kernel.scaled(y))
        rest = -xp.expm1(-phi)
        single = 0.5 * rest * rest if self.hyperbolic else rest
        coupled = self.projection.coupled_rows(self.num_frequencies, x.shape[-1])
        covariance = self.projection.positive_covariance(phi, x.shape[-1]) * xp.exp(-phi)
        relative = (single + coupled * covariance) / self.num_frequencies
        return exp_times(2.0 * kernel.log(x, y) + phi, relative)

    def assemble(self, dim: int, rng: np.random.Generator, heads: int | None) -> ExponentialMap:
        kernel = cast(ExponentialKernel, self.kernel)
        unit = kernel.unit(dim)
        weight = unit * self.frequencies(self.num_frequencies, dim, rng, heads)
        if self.hyperbolic:
            weight = np.concatenate([weight, -weight], axis=-1)
        quadratic = np.full((*weight.shape[:-2], dim), 0.5 * unit**2 * (1 + kernel.norm_weight))
        side = Side(weight, quadratic=quadratic)
        return ExponentialMap(self, side, None, np.asarray(0.0))
