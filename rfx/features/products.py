"""The form of maps whose features are products of linear forms: polynomials of the point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise, zip_longest
from typing import Any, ClassVar, Self

import numpy as np

from rfx._xp import Array, constant, exp_nonpositive, namespace
from rfx.features._drawn import the_one
from rfx.features._plain import PlainMap
from rfx.features._side import LogFeatures, Side

__all__ = ["Factors", "PolynomialMap"]

_OFTEN = 4
"""Factors after which a product is divided by its largest entry again."""

Parts = tuple[Array, ...]
"""A matrix (..., t, k), or the real and the imaginary part of one."""


@dataclass(frozen=True)
class Factors:
    """How many factors features have.

    Attributes
    ----------
    widths : tuple of int
        Features that have a first, a second, ... factor; it never rises.
    real : int
        How many complex features, the last ones, are real: they have no imaginary column.
    """

    widths: tuple[int, ...] = ()
    real: int = 0

    @classmethod
    def of(cls, widths: Iterable[int], real: int = 0) -> Factors:
        """One record for all equal ones."""
        return the_one(cls(tuple(int(width) for width in widths), real))


@dataclass(frozen=True, repr=False, eq=False)
class PolynomialMap(PlainMap):
    """φ_j(x) = exp(row term) s_j Π_i (z·w_ij + b_ij), z the placed point.

    Features are in the order of falling degree N_j. The factors of all features lie side by side:
    the first ``widths[0]`` columns of the weights are the first factor of as many features, the
    next ``widths[1]`` are the second factor of the first ones, and so on; ``widths`` are those of
    ``factors``. s is ``Side.scale``.

    Where a side has ``frequency`` and ``phase``, they are the imaginary parts of w and b. The
    columns are then all real parts, and behind them the imaginary parts, so that φ(x)·φ(y) is the
    real part of the product of complex features with the conjugates of others.
    """

    factors: Factors = Factors()

    scale_per_feature = False
    description: ClassVar[str] = "polynomial"

    @property
    def widths(self) -> tuple[int, ...]:
        """Features that have a first, a second, ... factor."""
        return self.factors.widths

    @property
    def real(self) -> int:
        """How many complex features, the last ones, are real."""
        return self.factors.real

    @property
    def columns(self) -> int:
        return 1 if self.query_side.frequency is None else 2

    @property
    def num_features(self) -> int:
        scale = self.query_side.scale
        features = self.widths[0] if scale is None else int(scale.shape[-1])
        return self.columns * features - self.real

    def check_values(self, x: Array, name: str, keep: Array | None = None) -> None:
        super().check_values(x, name, keep)
        check = getattr(self.spec, "check_points", None)  # of a spec whose kernel takes pairs
        if check is not None:
            check(x, name, keep)

    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        """Each degree on its own, divided by its largest entry, and then all at one scale.

        A product is of z divided by its largest coordinate, so that it neither overflows nor
        vanishes. All divisors are constants to autograd.
        """
        xp = namespace(z)
        z = xp.astype(z, side.weight.dtype, copy=False)
        size = constant(xp.max(xp.abs(z), axis=-1, keepdims=True))
        if side.bias is None and side.phase is None:
            size = xp.where(size == 0.0, xp.ones_like(size), size)
        else:
            size = xp.clip(size, 1.0, None)
        unit, log_size = z / size, xp.log(size)
        log, found = xp.zeros_like(size), []
        if side.scale is not None and side.scale.shape[-1] > sum(self.widths[:1]):
            found.append((log, self._constants(side, size)))
        values: Parts = ()
        starts = [0, *accumulate(self.widths)]
        for i, (first, stop) in enumerate(pairwise(starts)):
            width, rest = stop - first, sum(self.widths[i + 1 : i + 2])
            factor = _factor(side, unit, size, slice(first, stop), scaled=i == 0)
            values = _times(tuple(part[..., :width] for part in values), factor)
            log = log + log_size
            if rest < width:
                found.append((log, tuple(part[..., rest:] for part in values)))
            if rest and i % _OFTEN == _OFTEN - 1:
                log, values = _bounded(log, values)
        log, values = _joined([_bounded(*each) for each in reversed(found)])
        if len(values) == 1:
            return LogFeatures(log, values[0])
        imaginary = values[1][..., : values[1].shape[-1] - self.real]
        return LogFeatures(log, xp.concat([values[0], imaginary], axis=-1))

    def _constants(self, side: Side, like: Array) -> Parts:
        """Features of degree 0, in the shape (..., t, k) of rows (..., t, 1)."""
        assert side.scale is not None
        scale = side.scale[..., None, sum(self.widths[:1]) :]
        value = scale * namespace(like).ones_like(like)
        return (value,) if side.frequency is None else (value, namespace(like).zeros_like(value))

    @classmethod
    def alike(cls, maps: Sequence[Any]) -> Sequence[Any]:
        """The maps with as many factors each: those that are added are 1."""
        if len({m.widths for m in maps}) == 1:
            return maps
        each = zip_longest(*(m.widths for m in maps), fillvalue=0)
        widths = tuple(max(widths) for widths in each)
        return [m._with_widths(widths) for m in maps]

    def _with_widths(self, widths: tuple[int, ...]) -> Self:
        return replace(
            self,
            query_side=self._padded(self.query_side, widths),
            key_side=None if self.key_side is None else self._padded(self.key_side, widths),
            factors=Factors.of(widths, self.real),
        )

    def _padded(self, side: Side, widths: tuple[int, ...]) -> Side:
        """A side of one head, on the host, with features that have more factors."""
        starts = [0, *accumulate(self.widths)]
        added = [new - old for new, old in zip_longest(widths, self.widths, fillvalue=0)]
        places = np.repeat([*starts[1:], *starts[-1:] * len(widths)][: len(widths)], added)
        bias = np.zeros(starts[-1]) if side.bias is None else side.bias
        changed: dict[str, Array] = {"bias": np.insert(bias, places, 1.0)}
        for name in ("weight", "frequency", "phase"):
            array = getattr(side, name)
            if array is not None:
                changed[name] = np.insert(array, places, 0.0, axis=-1)
        return side._replace(**changed)


def _factor(side: Side, unit: Array, size: Array, columns: slice, *, scaled: bool) -> Parts:
    """z·w + b of some columns, divided by the size of z; with the features' scales if so asked."""

    def of(weight: Array, bias: Array | None) -> Array:
        weight = weight[..., columns]
        scale = side.scale[..., None, columns] if scaled and side.scale is not None else None
        value = namespace(unit).matmul(unit, weight if scale is None else weight * scale)
        if bias is None:
            return value
        bias = bias[..., None, columns]
        return value + (bias if scale is None else bias * scale) / size

    real = of(side.weight, side.bias)
    return (real,) if side.frequency is None else (real, of(side.frequency, side.phase))


def _times(left: Parts, right: Parts) -> Parts:
    if not left:
        return right
    if len(left) == 1:
        return (left[0] * right[0],)
    return (
        left[0] * right[0] - left[1] * right[1],
        left[0] * right[1] + left[1] * right[0],
    )


def _bounded(log: Array, values: Parts) -> tuple[Array, Parts]:
    """The same numbers, value · exp(log), with values of size at most 1; −inf for a row of zeros.

    Then the values are 0.
    """
    xp = namespace(log)
    top = _largest(xp.max(xp.abs(part), axis=-1, keepdims=True) for part in values)
    nothing = top == 0.0
    top = constant(xp.where(nothing, xp.ones_like(top), top))
    low = xp.full_like(log, -float("inf"))
    return xp.where(nothing, low, log + xp.log(top)), tuple(part / top for part in values)


def _largest(arrays: Iterable[Array]) -> Array:
    found = None
    for array in arrays:
        found = array if found is None else namespace(array).maximum(found, array)
    return found


def _joined(groups: Sequence[tuple[Array, Parts]]) -> tuple[Array, Parts]:
    """Groups of columns side by side, with the largest of their logs."""
    xp = namespace(groups[0][0])
    log = _largest(group[0] for group in groups)
    tiny = float(xp.finfo(log.dtype).smallest_normal)
    log = xp.where(log == -float("inf"), xp.log(xp.full_like(log, tiny)), log)
    if len(groups) == 1:
        return log, groups[0][1]
    scales = [exp_nonpositive(own - log) for own, _ in groups]
    return log, tuple(
        xp.concat([part * s for part, s in zip(parts, scales, strict=True)], axis=-1)
        for parts in zip(*(values for _, values in groups), strict=True)
    )
