"""Trigonometric random features: of the softmax kernel (FAVOR), and of any kernel of x − y."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from rfx._xp import Array, namespace
from rfx.features._drawn import DrawnMap
from rfx.features._side import Side
from rfx.features._spec import RandomSpec, scaled
from rfx.features.forms import TrigonometricMap
from rfx.features.preparation import LogShift
from rfx.kernels import ExponentialKernel, squared_distance
from rfx.kernels.chi_squared import SkewedChiSquared
from rfx.kernels.stationary import Stationary

__all__ = ["Trigonometric"]


@dataclass(frozen=True)
class Trigonometric(RandomSpec):
    """φ(x) = n^(-1/2) [cos(ω·x), sin(ω·x)] for n frequencies ω, at unit temperature.

    For the softmax kernel the features are multiplied by exp(|x|²/2). Every kernel of x − y has
    such features, by Bochner's theorem: ω then has the kernel's spectral density, which is made
    from the Gaussian rows of the projection. The variance is zero at x = y. Features are signed: an
    estimate may be negative, and an attention denominator may be near zero.

    Parameters
    ----------
    num_features : int
        Output columns, m; even unless ``offset``.
    kernel : Softmax, Gaussian or Stationary
        A stationary one is `rfx.kernels.Laplace`, ``Matern``, ``RationalQuadratic``, ``Cauchy``, or
        ``SkewedChiSquared``, for which x is log(1 + x/c) of each coordinate.
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
        self._check_fields("(a cosine and a sine a frequency)", (ExponentialKernel, Stationary))

    @property
    def columns(self) -> int:
        return 1 if self.offset else 2

    @property
    def positive(self) -> bool:
        return False

    @property
    def log_constant(self) -> float:
        return 0.5 * math.log(2.0 / self.num_features)

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        kernel = self.kernel
        if not self.projection.gaussian_rows or not isinstance(kernel, ExponentialKernel):
            return None
        xp = namespace(x)
        delta = squared_distance(kernel.scaled(x), kernel.scaled(y))
        dim, n = x.shape[-1], self.num_frequencies
        coupling = self.projection.coupling("trigonometric", delta, n, dim)
        if coupling is None:
            return None
        rest = -xp.expm1(-delta)  # 1 − K², K the Gaussian kernel
        single = 0.5 * rest * rest + (0.5 if self.offset else 0.0)
        return delta, (single + coupling) / n

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """For a stationary kernel (1 + k(2Δ))/2 − k(Δ)² over n, and 1/2 more with an offset."""
        kernel = self.kernel
        if not isinstance(kernel, Stationary):
            return super().absolute_variance(x, y, drawn)
        if not self.projection.gaussian_rows or self.projection.coupled:
            return None
        xp = namespace(x)
        # Less one from each of the two, so that little cancels near Δ = 0.
        twice, square = kernel.log_at(x, y, 2.0), 2.0 * kernel.log(x, y)
        single = 0.5 * (xp.expm1(twice) - 2.0 * xp.expm1(square))
        single = single + (0.5 if self.offset else 0.0)
        return xp.zeros_like(single), single / self.num_frequencies

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> TrigonometricMap:
        kernel = self.kernel
        if isinstance(kernel, Stationary):
            rows = self.projection.sample(rng, self.num_frequencies, dim)
            weight = np.ascontiguousarray(kernel.frequencies(rows, rng).T)
            return self._map(Side(weight, bias=self._phase(rng)))
        kernel = cast(ExponentialKernel, kernel)
        unit = kernel.unit(dim)
        weight = scaled(self.frequencies(dim, rng), unit)
        growth = 0.5 * unit**2 * (1 - kernel.norm_weight)
        quadratic = np.full(dim, -growth) if growth else None
        return self._map(Side(weight, bias=self._phase(rng), quadratic=quadratic))

    def _phase(self, rng: np.random.Generator) -> np.ndarray | None:
        return rng.uniform(0.0, 2.0 * math.pi, self.num_frequencies) if self.offset else None

    def _map(self, side: Side) -> TrigonometricMap:
        kernel, prepared = self.kernel, None
        if isinstance(kernel, SkewedChiSquared):
            prepared = LogShift(kernel.skewedness)
        return TrigonometricMap(self, side, paired=not self.offset, preparation=prepared)
