"""Generalised exponential features of Chefs' random tables: GERF, and OPRF (FAVOR++)."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from rfx._xp import Array, from_numpy, namespace, working_dtype
from rfx.features._side import Side
from rfx.features._spec import RandomSpec, scaled
from rfx.features.exponential import (
    FittedExponential,
    exponential_side,
    optimal_rho,
    quadratic_form,
    relative_variance,
)
from rfx.features.forms import ComplexMap, ExponentialMap
from rfx.features.moments import Sample
from rfx.kernels import ExponentialKernel, squared_distance

__all__ = ["GERF", "OPRF"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class OPRF(FittedExponential):
    """φ(x) = n^(-1/2) D exp(a|ω|² + (1 − 4a)^(1/2) ω·x − |x|²/2), D = (1 − 4a)^(d/4): FAVOR++.

    At unit temperature; for the Gaussian kernel the last term is −|x|². All features are positive.
    With a < 0 they are bounded, and a is fitted: it minimises the mean log of the second moment
    over all pairs of a query and a key, which depends on them through the mean of |q + k|² alone.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Softmax or Gaussian
    projection : Projection
        ``Orthogonal()`` by default, which leaves the best a where it is.
    antithetic : bool
        Use ω and −ω: n = m/2 frequencies.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or odd with ``antithetic``.
    TypeError
        If ``num_features`` is no int, or ``kernel`` or ``projection`` is of another kind.

    References
    ----------
    Likhosherstov et al., Chefs' random tables: non-trigonometric random features, 2022 (optimal
    positive random features). That the mean over pairs enters as the mean of |q + k|² alone is from
    Likhosherstov et al., Dense-exponential random features, 2023; the tests compare with a search.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k = np.random.default_rng(0).standard_normal((2, 100, 8))
    >>> phi = rfx.features.OPRF(num_features=64).fit(q, k, seed=0)
    >>> plain = rfx.features.Positive(num_features=64)
    >>> bool(np.log(phi.variance(q, k)).mean() < np.log(plain.variance(q, k)).mean())
    True
    """

    paper: ClassVar[str] = "Likhosherstov et al. 2022"

    def parameters(self, dim: int, sample: Sample) -> Host:
        unit = cast(ExponentialKernel, self.kernel).unit(dim)
        return optimal_rho(np.trace(sample.moments.total()) * unit**2 / dim)

    def assemble(self, dim: int, rng: np.random.Generator, parameters: Host) -> ExponentialMap:
        side = self.drawn_side(dim, rng, np.full(dim, parameters))
        return ExponentialMap(self, side, fitted={"rho": parameters[None]})


@dataclass(frozen=True)
class GERF(RandomSpec):
    """φ(x) = n^(-1/2) D exp(A|ω|² + B ω·x − s|x|²/2), with B² = s(1 − 4A), D = (1 − 4A)^(d/4).

    The generalised exponential features, for any complex A with Re(8A) < 1 and s = ±1: f(ω, x) for
    queries and the same with sB for keys, of which the real part is taken. A = 0 gives the positive
    features (s = 1) and the trigonometric ones (s = −1). For the Gaussian kernel the features are
    multiplied by exp(−|x|²/2), x at unit temperature.

    Parameters
    ----------
    num_features : int
        Output columns, m. Where A is complex or s = −1 a frequency gives two, the real and the
        imaginary part, so m is even and n = m/2.
    kernel : Softmax or Gaussian
    projection : Projection
    A : complex
        Re(8A) < 1, without which the variance is infinite.
    s : int
        1 or −1.

    Raises
    ------
    ValueError
        If Re(8A) is not below 1, ``s`` is not ±1, or ``num_features`` is odd where two columns
        belong together.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Likhosherstov et al., Chefs' random tables: non-trigonometric random features, 2022 (generalised
    exponential random features, and their variance, which is derived in the code).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.5, -0.5, 0.2, 0.1]])
    >>> spec = rfx.features.GERF(num_features=512, A=-0.05 + 0.1j)
    >>> phi = spec.draw(4, seed=0, like=x)
    >>> bool(abs(rfx.gram(x, x, features=phi) / phi.kernel(x, x) - 1.0) < 0.1)
    True
    """

    A: complex = 0.0
    s: int = 1

    paper: ClassVar[str] = "Likhosherstov et al. 2022"

    def __post_init__(self) -> None:
        if isinstance(self.A, bool) or not isinstance(self.A, (int, float, complex, np.number)):
            raise TypeError(f"`A` must be a number, got {self.A!r}; pass for example A=-0.1")
        given = complex(self.A)
        if not (cmath.isfinite(given) and 8.0 * given.real < 1.0):
            raise ValueError(
                f"`A` must have a real part below 1/8, beyond which the variance is infinite, got "
                f"{self.A!r}; pass for example A=-0.1"
            )
        if self.s not in (1, -1):
            raise ValueError(f"`s` must be 1 or -1, got {self.s!r}")
        object.__setattr__(self, "A", given if given.imag else given.real)
        object.__setattr__(self, "s", int(self.s))
        self._check_fields("(a real and an imaginary part)")

    @property
    def columns(self) -> int:
        return 1 if self.positive else 2

    @property
    def positive(self) -> bool:
        return self.s == 1 and not isinstance(self.A, complex)

    @property
    def log_constant(self) -> float:
        return -0.5 * math.log(self.num_frequencies)

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        kernel = cast(ExponentialKernel, self.kernel)
        x, y = kernel.scaled(x), kernel.scaled(y)
        if self.positive:
            rho = from_numpy(np.asarray([1.0 / (1.0 - 8.0 * self.A.real)]), x, working_dtype(x))
            return relative_variance(
                x,
                y,
                rho,
                projection=self.projection,
                frequencies=self.num_frequencies,
                antithetic=False,
            )
        if self.projection.coupled or not self.projection.gaussian_rows:
            return None
        return self._complex_variance(x, y)

    def _complex_variance(self, x: Array, y: Array) -> tuple[Array, Array]:
        """n Var = [Re E f₁² f₂² + E |f₁ f₂|²]/2 − k², each moment a Gaussian integral in ω.

        With z = x + sy the squared kernel is exp(s(|z|² − |x|² − |y|²)), and f₁ f₂ has the factor
        exp(−s(|x|² + |y|²)/2).
        """
        xp, dim = namespace(x), x.shape[-1]
        A, s = complex(self.A), self.s
        z = squared_distance(x, -s * y)
        far = 1.0 - 8.0 * A.real
        # Logs of the two second moments over the squared kernel, c + r|z|².
        c1 = 0.5 * dim * (2.0 * cmath.log(1.0 - 4.0 * A) - cmath.log(1.0 - 8.0 * A))
        r1 = 2.0 * s * (1.0 - 4.0 * A) / (1.0 - 8.0 * A) - s
        c2 = 0.5 * dim * (2.0 * math.log(abs(1.0 - 4.0 * A)) - math.log(far))
        growth = cmath.sqrt(s * (1.0 - 4.0 * A)).real
        r2 = 2.0 * growth**2 / far - s
        log1, log2 = c1.real + r1.real * z, c2 + r2 * z
        wave = xp.cos(c1.imag + r1.imag * z)
        top = xp.maximum(xp.maximum(log1, log2), xp.zeros_like(z))
        factor = 0.5 * (wave * xp.exp(log1 - top) + xp.exp(log2 - top)) - xp.exp(-top)
        return top, factor / self.num_frequencies

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: None
    ) -> ExponentialMap | ComplexMap:
        kernel = cast(ExponentialKernel, self.kernel)
        unit, omega = kernel.unit(dim), self.frequencies(dim, rng)
        growth = 0.5 * (self.s + kernel.norm_weight)
        if self.positive:
            rho = np.full(dim, 1.0 / (1.0 - 8.0 * self.A.real))
            return ExponentialMap(self, exponential_side(omega, rho, unit, growth))
        A = complex(self.A)
        B = cmath.sqrt(self.s * (1.0 - 4.0 * A))
        constant = 0.25 * dim * cmath.log(1.0 - 4.0 * A)
        squares = quadratic_form(omega, np.ones(dim))
        log = squares * A + constant
        quadratic = np.full(dim, growth * unit**2)

        def side(B: complex, sign: float) -> Side:
            return Side(
                scaled(omega, unit * B.real),
                log.real,
                quadratic,
                frequency=scaled(omega, sign * unit * B.imag),
                phase=sign * log.imag,
            )

        return ComplexMap(self, side(B, 1.0), side(self.s * B, -1.0))
