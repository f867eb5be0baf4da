"""What maps of random monomials share: exponents drawn for each coordinate, one law for all."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._side import Side
from rfx.features._spec import Costs, Spec, check_kernel
from rfx.features.forms import MonomialMap
from rfx.features.moments import Sample
from rfx.kernels import ExponentialKernel, Kernel, Softmax

__all__ = ["Host", "RandomMonomials"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RandomMonomials(Spec):
    """φ(x) = m^(-1/2) C(ω) Π_l x_l^ω_l for m exponents ω of independent whole numbers.

    With P(ω) the law of one exponent and C² = Π_l 1/(P(ω_l) ω_l!), the mean of φ(x)·φ(y) is
    Π_l Σ_k (x_l y_l)^k / k! = exp(x·y). A subclass has one field more, the parameter of the law.
    """

    num_features: int
    kernel: Kernel = field(default_factory=Softmax)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "num_features", _check.positive_int("num_features", self.num_features)
        )
        check_kernel(self)

    @property
    def needs(self) -> Literal["nothing", "moments"]:
        return "moments" if self._given() is None else "nothing"

    @property
    def costs(self) -> Costs:
        return Costs("n d²" if self.needs_data else None, "d m", "d m")

    @property
    def positive(self) -> bool:
        return False

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def log_constant(self) -> float:
        return -0.5 * float(np.log(self.num_features))

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array]:
        kernel, xp = cast(ExponentialKernel, self.kernel), namespace(x)
        x, y = kernel.scaled(x), kernel.scaled(y)
        given = self._given()
        if given is None:
            parameter = fitted[self._name][..., None]  # (1, 1) or (heads, 1, 1)
        else:
            parameter = xp.full_like(x[..., :1, :1], given)
        log = xp.clip(self._log_second_moment(x, y, parameter), 0.0, None)
        return log, -xp.expm1(-log) / self.num_features

    def parameters(self, dim: int, sample: Sample) -> float:
        unit = cast(ExponentialKernel, self.kernel).unit(dim)
        query, key = sample.moments.query, sample.moments.key
        return self._best(unit**4 * np.diag(query.second) * np.diag(key.second))

    def assemble(self, dim: int, rng: np.random.Generator, parameters: float | None) -> MonomialMap:
        kernel, given = cast(ExponentialKernel, self.kernel), self._given()
        parameter = cast(float, parameters if given is None else given)
        omega = self._exponents(rng, parameter, (dim, self.num_features)).astype(np.float64)
        unit = kernel.unit(dim)
        bias = self._log_factor(omega, parameter) + np.log(unit) * np.sum(omega, axis=0)
        quadratic = np.full(dim, 0.5 * unit**2) if kernel.norm_weight else None
        fitted = {self._name: np.asarray([parameter])} if given is None else {}
        return MonomialMap(self, Side(omega, bias=bias, quadratic=quadratic), fitted=fitted)

    @property
    @abstractmethod
    def _name(self) -> str:
        """Of the field that holds the parameter."""

    def _given(self) -> float | None:
        return cast(float | None, getattr(self, self._name))

    @abstractmethod
    def _best(self, products: Host) -> float:
        """The parameter for data, ``products`` (d,) being the mean of (x_l y_l)² over pairs."""

    @abstractmethod
    def _exponents(
        self, rng: np.random.Generator, parameter: float, shape: tuple[int, int]
    ) -> Host: ...

    @abstractmethod
    def _log_factor(self, omega: Host, parameter: float) -> Host:
        """log C of exponents (d, m): shape (m,)."""

    @abstractmethod
    def _log_second_moment(self, x: Array, y: Array, parameter: Array) -> Array:
        """log E[(f(x) f(y))²] − 2 x·y for m = 1 and each pair, at least 0 but for rounding."""
