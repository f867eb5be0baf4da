"""The canonical forms of drawn maps, so that one fast path serves a family of papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from rfx._xp import Array, namespace
from rfx.features._drawn import DrawnMap
from rfx.features._plain import PlainMap
from rfx.features._side import LogFeatures, Side
from rfx.features.cell_map import CellMap
from rfx.features.chi_squared_map import ChiSquaredMap
from rfx.features.composite import CompositeMap
from rfx.features.products import PolynomialMap
from rfx.kernels import functions
from rfx.kernels.functions import FunctionName
from rfx.projections.structured import Structured

__all__ = [
    "FORMS",
    "CellMap",
    "ChiSquaredMap",
    "ComplexMap",
    "CompositeMap",
    "ExponentialMap",
    "MonomialMap",
    "PointwiseMap",
    "PolynomialMap",
    "TrigonometricMap",
    "refuse_other",
]


@dataclass(frozen=True, repr=False, eq=False)
class ExponentialMap(PlainMap):
    """log φ_j(x) = z·w_j + b_j + row term, z the placed point: every feature is positive."""

    scale_per_feature = True
    description: ClassVar[str] = "exponential"

    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        return LogFeatures(side.project(z), None)


@dataclass(frozen=True, repr=False, eq=False)
class TrigonometricMap(PlainMap):
    """φ(x) = exp(row term) · [cos(z·w + b), sin(z·w + b)], or the cosines alone."""

    paired: bool = True
    """Whether the sines follow the cosines, so that there are two columns for each frequency."""

    scale_per_feature = False
    description: ClassVar[str] = "trigonometric"

    @property
    def columns(self) -> int:
        return 2 if self.paired else 1

    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        angle = side.project(z)
        nothing = namespace(angle).zeros_like(angle[..., :1])
        return LogFeatures(nothing, _waves(angle, self.paired))


@dataclass(frozen=True, repr=False, eq=False)
class ComplexMap(PlainMap):
    """φ_j(x) = exp(z·w_j + b_j + row term) · exp(i (z·f_j + p_j)), as cosines and sines.

    Re(φ(x) φ(y)) of complex features is the product of [Re, Im] with [Re, −Im], so the frequencies
    f and phases p of the key side have the other sign, and no complex number is ever formed. A side
    without frequencies is real; where one is, the other needs its cosines alone.
    """

    paired: bool = True
    """Whether the sines follow the cosines, so that there are two columns for each frequency."""

    scale_per_feature = True
    description: ClassVar[str] = "complex exponential"

    @property
    def columns(self) -> int:
        return 2 if self.paired else 1

    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        log = side.project(z)
        if side.frequency is None:
            return LogFeatures(log, None)
        wave = _waves(side.angle(z), self.paired)
        return LogFeatures(namespace(log).concat([log, log], axis=-1) if self.paired else log, wave)


@dataclass(frozen=True, repr=False, eq=False)
class MonomialMap(PlainMap):
    """φ_j(x) = exp(b_j + row term) Π_l z_l^w_jl for whole numbers w_jl at least 0, with 0⁰ = 1.

    A feature that is 0 because a coordinate is has the value 0, the log as if the coordinate were
    1, and no gradient to that coordinate.
    """

    scale_per_feature = True
    description: ClassVar[str] = "monomial"

    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        xp = namespace(z)
        z = xp.astype(z, side.weight.dtype, copy=False)
        nothing, ones, zeros = z == 0.0, xp.ones_like(z), xp.zeros_like(z)
        log = xp.log(xp.abs(xp.where(nothing, ones, z)))
        # Exact whole numbers: how many factors are below 0, and how many are 0.
        negative = xp.matmul(xp.where(z < 0.0, ones, zeros), side.weight)
        absent = xp.matmul(xp.where(nothing, ones, zeros), side.weight)
        sign = 1.0 - 2.0 * xp.remainder(negative, xp.full_like(negative, 2.0))
        return LogFeatures(side.project(log), xp.where(absent > 0.0, xp.zeros_like(sign), sign))


@dataclass(frozen=True, repr=False, eq=False)
class PointwiseMap(PlainMap):
    """φ(x) = exp(row term) · (f(z·w + b) + ε) for a function f of each number, or of the row."""

    function: FunctionName = "relu"
    """A name (see `rfx.features.Generalized`), or a hashable callable."""

    scale_per_feature = False
    description: ClassVar[str] = "pointwise"

    @property
    def columns(self) -> int:
        return functions.known(self.function).columns

    @property
    def epsilon(self) -> float:
        """ε of the spec, or 0; a number of the map's own would become an input of graphs."""
        return float(getattr(self.spec, "epsilon", 0.0))

    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        return LogFeatures(*functions.scaled(self.function, side.project(z), self.epsilon))


FORMS: tuple[type[DrawnMap], ...] = (
    ExponentialMap,
    TrigonometricMap,
    ComplexMap,
    MonomialMap,
    PointwiseMap,
    PolynomialMap,
    CompositeMap,
    ChiSquaredMap,
    CellMap,
)


def refuse_other(features: Any, form: type[PlainMap]) -> str | None:
    """For fast paths: why a map is not of a form, with dense frequencies and plain row terms."""
    if not isinstance(features, form):
        return f"it serves {form.description} maps, and this is a {type(features).__name__}"
    if isinstance(features.query_side.weight, Structured):
        return "it serves dense frequencies, and these are structured"
    if not features.side("key").has_plain_row_term:
        return "it serves keys whose row term is a sum of squares of their coordinates"
    return None


def _waves(angle: Array, paired: bool) -> Array:
    xp = namespace(angle)
    value = xp.cos(angle)
    return xp.concat([value, xp.sin(angle)], axis=-1) if paired else value
