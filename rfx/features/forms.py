"""The canonical forms of drawn maps, so that one fast path serves a family of papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rfx._xp import Array, namespace
from rfx.features._base import DrawnMap, LogFeatures, Side

__all__ = ["FORMS", "ExponentialMap", "TrigonometricMap"]


@dataclass(frozen=True, repr=False, eq=False)
class ExponentialMap(DrawnMap):
    """log φ_j(x) = x·w_j + b_j + row term: every feature is positive."""

    scale_per_feature: ClassVar[bool] = True

    def evaluate(self, side: Side, x: Array) -> LogFeatures:
        return LogFeatures(side.project(x), None)


@dataclass(frozen=True, repr=False, eq=False)
class TrigonometricMap(DrawnMap):
    """φ(x) = exp(row term) · [cos(x·w + b), sin(x·w + b)], or the cosines alone."""

    paired: bool = True
    """Whether the sines follow the cosines, so that there are two columns for each frequency."""

    scale_per_feature: ClassVar[bool] = False

    def evaluate(self, side: Side, x: Array) -> LogFeatures:
        xp = namespace(x)
        angle = side.project(x)
        value = xp.cos(angle)
        if self.paired:
            value = xp.concat([value, xp.sin(angle)], axis=-1)
        return LogFeatures(xp.zeros_like(angle[..., :1]), value)


FORMS: tuple[type[DrawnMap], ...] = (ExponentialMap, TrigonometricMap)
