"""Trigonometric random features of the Gaussian and the softmax kernel (FAVOR)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._base import Side, Spec, exp_times
from rfx.features.forms import TrigonometricMap
from rfx.kernels import ExponentialKernel, squared_distance

__all__ = ["Trigonometric"]


@dataclass(frozen=True)
class Trigonometric(Spec):
    """φ(x) = n^(-1/2) [cos(ω·x), sin(ω·x)] for n frequencies ω, at unit temperature.

    For the softmax kernel the features are multiplied by exp(|x|²/2). The variance is zero at
    x = y. Features are signed: an estimate may be negative, and an attention denominator may be
    near zero.

    Parameters
    ----------
    num_features : int
        Output columns, m; even unless ``offset``.
    kernel : Softmax or Gaussian
    projection : Projection
        ``Orthogonal()`` by default.
    offset : bool
        Use (2/m)^(1/2) cos(ω·x + b) with b uniform on [0, 2π) and n = m frequencies. At equal m its
        variance is never below that of the pair; it is the form of scikit-learn's RBFSampler.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or odd without ``offset``.
    TypeError
        If ``num_features`` is no int, or ``kernel`` or ``projection`` is of another kind.

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, 2007; Sutherland and
    Schneider, On the error of random Fourier features, 2015, equations 3 to 6 (both variances);
    Yu et al., Orthogonal random features, 2016. For the softmax kernel: Choromanski et al., Masked
    language modeling for proteins via linearly scalable long-context transformers, 2020.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.5, -0.5, 0.2, 0.1]])
    >>> spec = rfx.features.Trigonometric(num_features=64, kernel=rfx.kernels.Gaussian())
    >>> phi = spec.draw(4, seed=0, like=x)
    >>> rfx.gram(x, x, features=phi).round(6)  # no variance here: the exact value
    array([[1.]])
    """

    offset: bool = False

    paper: ClassVar[str] = "Rahimi and Recht 2007; Choromanski et al. 2020"

    def __post_init__(self) -> None:
        multiple = 1 if self.offset else 2
        self._check_fields(multiple, "(a cosine and a sine a frequency)")

    @property
    def positive(self) -> bool:
        return False

    @property
    def unbiased(self) -> bool:
        return self.projection.gaussian_rows

    @property
    def num_frequencies(self) -> int:
        """Frequencies drawn, n."""
        return self.num_features // (1 if self.offset else 2)

    @property
    def log_constant(self) -> float:
        return 0.5 * math.log(2.0 / self.num_features)

    def variance(self, x: Array, y: Array) -> Array:
        _check.points(x, y)
        xp = namespace(x)
        kernel = cast(ExponentialKernel, self.kernel)
        delta = squared_distance(kernel.scaled(x), kernel.scaled(y))
        rest = -xp.expm1(-delta)  # 1 − K², K the Gaussian kernel
        single = 0.5 * rest * rest + (0.5 if self.offset else 0.0)
        coupled = self.projection.coupled_rows(self.num_frequencies, x.shape[-1])
        covariance = self.projection.trigonometric_covariance(delta, x.shape[-1])
        variance = (single + coupled * covariance) / self.num_frequencies
        return exp_times(2.0 * kernel.log(x, y) + delta, variance)

    def assemble(self, dim: int, rng: np.random.Generator, heads: int | None) -> TrigonometricMap:
        kernel = cast(ExponentialKernel, self.kernel)
        unit = kernel.unit(dim)
        weight = unit * self.frequencies(self.num_frequencies, dim, rng, heads)
        phase = rng.uniform(0.0, 2.0 * math.pi, (*weight.shape[:-2], weight.shape[-1]))
        growth = 0.5 * unit**2 * (1 - kernel.norm_weight)
        side = Side(
            weight,
            bias=phase if self.offset else None,
            quadratic=np.full((*weight.shape[:-2], dim), -growth) if growth else None,
        )
        return TrigonometricMap(self, side, None, np.asarray(0.0), paired=not self.offset)
