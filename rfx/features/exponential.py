"""Dense-exponential features with given parameters: what FAVOR+, FAVOR++ and FAVOR# share.

With ω ~ N(0, I), a diagonal A = diag(a) below I/8, and z a point at unit temperature,

    f(ω, z) = det(I − 4A)^(1/4) exp(ωᵀAω + ω·(I − 4A)^(1/2) z − |z|²/2)

has E f(ω, x) f(ω, y) = exp(x·y). Everything is written in ρ = 1/(1 − 8a), in (0, 1] for a <= 0:
the second moment is E f(ω, x)² f(ω, y)² = exp(2x·y) Π_l (1 + ρ_l)/2 ρ_l^(-1/2) exp(ρ_l (x + y)_l²).
ρ = 1 are the positive features of FAVOR+. (Likhosherstov et al., Chefs' random tables, 2022, for
A = aI; Dense-exponential random features, 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from rfx._xp import Array, namespace
from rfx.features._side import Side, Weight
from rfx.features._spec import RandomSpec, mirrored, scaled
from rfx.kernels import ExponentialKernel, squared_distance
from rfx.projections import Projection
from rfx.projections._base import Kind
from rfx.projections.structured import Structured

__all__ = [
    "ExponentialSpec",
    "FittedExponential",
    "exponential_side",
    "optimal_rho",
    "quadratic_form",
    "relative_variance",
]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ExponentialSpec(RandomSpec):
    """A spec of such features; with two columns a frequency they are of ω and of −ω."""

    def __post_init__(self) -> None:
        self._check_fields("(a pair of ±ω)")

    @property
    def positive(self) -> bool:
        return True

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        kernel = cast(ExponentialKernel, self.kernel)
        return relative_variance(
            kernel.scaled(x),
            kernel.scaled(y),
            fitted.get("rho"),
            projection=self.projection,
            frequencies=self.num_frequencies,
            antithetic=self.columns == 2,
        )

    def drawn_side(self, dim: int, rng: np.random.Generator, rho: Host) -> Side:
        """`exponential_side` for frequencies that are drawn now."""
        kernel = cast(ExponentialKernel, self.kernel)
        growth = 0.5 * (1 + kernel.norm_weight)
        omega = self.frequencies(dim, rng)
        return exponential_side(omega, rho, kernel.unit(dim), growth, self.columns == 2)


@dataclass(frozen=True)
class FittedExponential(ExponentialSpec):
    """One whose ρ is fitted to moments, and kept under "rho"."""

    antithetic: bool = False

    @property
    def needs(self) -> Literal["moments"]:
        return "moments"

    @property
    def columns(self) -> int:
        return 2 if self.antithetic else 1


def optimal_rho(power: Any) -> Host:
    """The ρ of an axis on which (x + y)² has this mean: the minimum of log E f² in expectation.

    It solves d/dρ [log((1 + ρ)/2) − log(ρ)/2 + ρ λ] = 0, that is 2λρ² + (2λ + 1)ρ − 1 = 0, in a
    form that does not cancel for small λ.
    """
    power = np.asarray(power, dtype=np.float64)
    linear = 1.0 + 2.0 * power
    return 2.0 / (linear + np.sqrt(linear * linear + 8.0 * power))


def exponential_side(
    omega: Weight, rho: Host, unit: float, growth: float, antithetic: bool = False
) -> Side:
    """Arrays of the features for frequencies (d, n), parameters ρ (d,), and z = unit · point.

    The row term is −growth |z|²; ``antithetic`` gives columns for ω and for −ω.
    """
    a = (1.0 - 1.0 / rho) / 8.0
    stretch = np.sqrt((1.0 + 1.0 / rho) / 2.0)  # (1 − 4a)^(1/2)
    bias = quadratic_form(omega, a) + 0.5 * np.sum(np.log(stretch))
    weight = scaled(omega, unit * stretch)
    if antithetic:
        weight, bias = mirrored(weight), np.concatenate([bias, bias])
    quadratic = np.full(len(rho), growth * unit**2)
    return Side(weight, bias=bias if np.any(bias) else None, quadratic=quadratic)


def quadratic_form(omega: Weight, a: Host) -> Host:
    """Σ_l a_l ω_l² for each frequency (d, n): shape (n,)."""
    if not np.any(a):
        return np.zeros(omega.shape[-1])
    dense = omega.dense() if isinstance(omega, Structured) else omega
    return a @ (dense * dense)


def relative_variance(
    zx: Array,
    zy: Array,
    rho: Array | None,
    *,
    projection: Projection,
    frequencies: int,
    antithetic: bool,
) -> tuple[Array, Array] | None:
    """Variance over the squared kernel for points z (..., t, d) and (..., s, d), as (log, factor).

    ``rho`` has shape (d,), or (1,) for one on all axes, and perhaps an axis of heads; None is 1.
    With S the second moment over the squared kernel and C the coupling of the n rows,
    n Var = S − 1 + C. For pairs ±ω the mean of S and of
    E F(ω) F(−ω) = Π_l (1 + ρ_l)/2 ρ_l^(-1/2) exp(−(x + y)_l²) takes the place of S.
    """
    if not projection.gaussian_rows:
        return None
    xp, dim = namespace(zx), zx.shape[-1]
    near = squared_distance(zx, -zy)
    far, constant = near, xp.zeros_like(near)
    if rho is not None:
        root = xp.sqrt(rho)[..., None, :]
        far = squared_distance(root * zx, -root * zy)
        each = xp.log(0.5 * (1.0 + rho)) - 0.5 * xp.log(rho)
        axes = dim // rho.shape[-1]  # dim of them where one ρ serves all
        constant = axes * xp.sum(each, axis=-1)[..., None, None]
    coupling = _coupling(near, rho, projection, frequencies, dim, antithetic)
    if coupling is None:
        return None
    log = constant + far
    if antithetic:
        # (S + S₋)/2 − 1 over S, in differences that vanish with x + y where ρ = 1.
        rest, near_rest = -xp.expm1(-far), -xp.expm1(-near)
        single = 0.5 * (rest - near_rest + rest * near_rest)
        single = single - (1.0 - rest) * xp.expm1(-constant)
    else:
        single = -xp.expm1(-log)
    return log, (single + coupling * xp.exp(-log)) / frequencies


def _coupling(
    near: Array,
    rho: Array | None,
    projection: Projection,
    frequencies: int,
    dim: int,
    antithetic: bool,
) -> Array | None:
    """The coupling of the rows, where it is known for this ρ.

    Where all axes have one ρ it is that of ρ = 1 if norms are independent: the factor exp(ωᵀAω)
    then turns χ distributed norms into scaled ones, and (I − 4A)^(1/2) scales them back.
    """
    if not projection.coupled:
        return namespace(near).zeros_like(near)
    if rho is not None and not (rho.shape[-1] == 1 and projection.independent_norms):
        return None
    kind: Kind = "hyperbolic" if antithetic else "exponential"
    return projection.coupling(kind, near, frequencies, dim)
