"""What some maps do to points before they are placed: a fixed function of each point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from rfx._xp import Array, constant, namespace, working_dtype

__all__ = ["LogShift", "Preparation", "SquaredNorm", "UnitNorm"]


class Preparation(ABC):
    """A function of points (..., t, d), in their working dtype. Subclasses are frozen records."""

    added: ClassVar[int] = 0
    """Axes that prepared points have more."""

    def __call__(self, x: Array) -> Array:
        """Prepared points, shape (..., t, d + added)."""
        return self._prepare(namespace(x).astype(x, working_dtype(x), copy=False))

    @abstractmethod
    def _prepare(self, x: Array) -> Array: ...


@dataclass(frozen=True)
class UnitNorm(Preparation):
    """x / |x|; a point that is 0 stays where it is."""

    def _prepare(self, x: Array) -> Array:
        xp = namespace(x)
        top = constant(xp.max(xp.abs(x), axis=-1, keepdims=True))
        nothing = top == 0.0
        near = x / xp.where(nothing, xp.ones_like(top), top)  # so that no square overflows
        square = xp.sum(near * near, axis=-1, keepdims=True)
        return near / xp.sqrt(xp.where(nothing, xp.ones_like(square), square))


@dataclass(frozen=True)
class LogShift(Preparation):
    """log(1 + x / shift) of each coordinate, which must be above −shift; NaN elsewhere."""

    shift: float

    def _prepare(self, x: Array) -> Array:
        xp = namespace(x)
        outside = x <= -self.shift
        log = xp.log1p(xp.where(outside, xp.zeros_like(x), x) / self.shift)
        return xp.where(outside, xp.full_like(log, float("nan")), log)


@dataclass(frozen=True)
class SquaredNorm(Preparation):
    """The point, and |x|² behind its coordinates: row terms that differ between features.

    The last ``left_out`` coordinates are not in the sum.
    """

    left_out: int = 0
    added: ClassVar[int] = 1

    def _prepare(self, x: Array) -> Array:
        xp, inside = namespace(x), x[..., : x.shape[-1] - self.left_out]
        return xp.concat([x, xp.sum(inside * inside, axis=-1, keepdims=True)], axis=-1)
