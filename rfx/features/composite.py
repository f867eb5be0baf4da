"""Sums and products of drawn maps, as a drawn map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np

from rfx._xp import Array, full, namespace
from rfx.features._drawn import DrawnMap, the_one
from rfx.features._side import LogFeatures

if TYPE_CHECKING:
    from rfx.features._spec import Spec

__all__ = ["CompositeMap", "Layout", "Part", "Term", "columns"]

Term: TypeAlias = tuple[float, tuple[int, ...]]
"""A factor, and which maps are multiplied."""


class Part(NamedTuple):
    """What a map is but for its arrays."""

    form: type[DrawnMap]
    spec: Spec
    statics: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Layout:
    """What a composite is but for its spec and its arrays.

    One record for all equal ones (`the_one`).
    """

    terms: tuple[Term, ...]
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        terms = tuple((float(c), tuple(int(i) for i in which)) for c, which in self.terms)
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "parts", tuple(Part(*part) for part in self.parts))


@dataclass(frozen=True, repr=False, eq=False)
class CompositeMap(DrawnMap):
    """φ(x)·φ(y) = Σ_terms c Π_i φ_i(x)·φ_i(y): a polynomial in the estimates of other maps.

    The features of a product are all products of one feature of each map (the Kronecker product),
    those of a sum stand side by side, times |c|^(1/2). The sign of c is on the query side. The
    empty product is the constant 1.

    Attributes
    ----------
    maps : tuple of DrawnMap
        For the same points, with the same axis of heads or none.
    layout : Layout
        The terms: c, and the numbers of the maps that are multiplied.
    """

    array_fields = ("maps", "fingerprint")

    spec: Spec
    maps: tuple[DrawnMap, ...]
    fingerprint: Array
    layout: Layout

    description = "composite"

    @classmethod
    def made(cls, spec: Spec, maps: Sequence[DrawnMap], terms: Sequence[Term]) -> Self:
        """A map whose arrays are on the host, without its fingerprint yet."""
        parts = tuple(Part(type(m), m.spec, tuple(m.statics().items())) for m in maps)
        layout = the_one(Layout(tuple(terms), parts))
        return cls(spec, tuple(maps), np.asarray(0.0), layout)

    @property
    def terms(self) -> tuple[Term, ...]:
        """c, and the numbers of the maps that are multiplied."""
        return self.layout.terms

    @property
    def scale_per_feature(self) -> bool:
        return len(self.terms) > 1 or any(m.scale_per_feature for m in self.maps)

    @property
    def like(self) -> Array:
        return self.maps[0].like

    @property
    def dim(self) -> int:
        return self.maps[0].dim

    @property
    def heads(self) -> int | None:
        return self.maps[0].heads

    @property
    def num_features(self) -> int:
        return columns([m.num_features for m in self.maps], self.terms)

    def complete(self, z: Array, side: str) -> LogFeatures:
        each = {
            i: self.maps[i].complete(self.maps[i].place(z, side), side)
            for i in sorted({i for _, which in self.terms for i in which})
        }
        zero = full(self.like, (*z.shape[:-1], 1), 0.0, self.like.dtype)
        terms = [_term(zero, [each[i] for i in which], c, side) for c, which in self.terms]
        if not self.scale_per_feature:
            return terms[0]
        xp = namespace(zero)
        logs = [_wide(log, value) for log, value in terms]
        if len(terms) == 1:
            return LogFeatures(logs[0], terms[0].value)
        if all(value is None for _, value in terms):
            return LogFeatures(xp.concat(logs, axis=-1), None)
        values = [
            xp.ones_like(log) if value is None else value
            for log, (_, value) in zip(logs, terms, strict=True)
        ]
        return LogFeatures(xp.concat(logs, axis=-1), xp.concat(values, axis=-1))

    def arrays(self) -> dict[str, Array]:
        named = {
            f"map{i}_{name}": array
            for i, m in enumerate(self.maps)
            for name, array in m.arrays().items()
            if name != "fingerprint"
        }
        return named | {"fingerprint": self.fingerprint}

    def statics(self) -> dict[str, Any]:
        return {"layout": self.layout}

    @classmethod
    def of(cls, spec: Spec, arrays: Mapping[str, Array], **statics: Any) -> Self:
        layout, maps = statics["layout"], []
        for i, (form, of_map, its_statics) in enumerate(layout.parts):
            start = f"map{i}_"
            own = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
            own["fingerprint"] = arrays["fingerprint"]
            maps.append(form.of(of_map, own, **dict(its_statics)))
        return cls(spec, tuple(maps), arrays["fingerprint"], layout)

    @classmethod
    def alike(cls, maps: Sequence[Any]) -> Sequence[Any]:
        columns = (type(own[0]).alike(own) for own in zip(*(m.maps for m in maps), strict=True))
        rows = zip(*columns, strict=True)
        return [cls.made(m.spec, row, m.terms) for m, row in zip(maps, rows, strict=True)]

    def check_values(self, x: Array, name: str, keep: Array | None = None) -> None:
        for drawn in self.maps:
            drawn.check_values(x, name, keep)


def columns(widths: Sequence[int], terms: Sequence[Term]) -> int:
    """Output columns of terms, where map i has widths[i] of them."""
    total = 0
    for _, which in terms:  # written out for torch.compile, which cannot follow math.prod
        width = 1
        for i in which:
            width *= widths[i]
        total += width
    return total


def _term(zero: Array, factors: Sequence[LogFeatures], c: float, side: str) -> LogFeatures:
    """Features of one term; ``zero`` is a log (..., t, 1)."""
    if factors:
        log, value = reduce(_product, factors)
    else:
        log, value = zero, namespace(zero).ones_like(zero)
    log = log if abs(c) == 1.0 else log + 0.5 * math.log(abs(c))
    if c > 0.0:
        return LogFeatures(log, value)
    value = namespace(log).ones_like(log) if value is None else value  # on both sides or on none
    return LogFeatures(log, -value if side == "query" else value)


def _product(left: LogFeatures, right: LogFeatures) -> LogFeatures:
    """All products of a feature of either."""
    log = _outer(left.log_scale, right.log_scale, namespace(left.log_scale).add)
    if left.value is None and right.value is None:
        return LogFeatures(log, None)
    # A map without values has as many features as logs.
    xp = namespace(log)
    values = [
        xp.ones_like(part.log_scale) if part.value is None else part.value for part in (left, right)
    ]
    log_width = (left.log_scale.shape[-1], right.log_scale.shape[-1])
    width = tuple(v.shape[-1] for v in values)
    if log.shape[-1] > 1 and log_width != width:
        logs = [_wide(part.log_scale, v) for part, v in zip((left, right), values, strict=True)]
        log = _outer(logs[0], logs[1], xp.add)
    return LogFeatures(log, _outer(values[0], values[1], xp.multiply))


def _outer(left: Array, right: Array, combine: Any) -> Array:
    """Each entry of the last axis with each, (..., a) and (..., b) -> (..., a b)."""
    if left.shape[-1] == 1 or right.shape[-1] == 1:
        return combine(left, right)
    pairs = combine(left[..., :, None], right[..., None, :])
    return namespace(left).reshape(pairs, (*pairs.shape[:-2], pairs.shape[-2] * pairs.shape[-1]))


def _wide(log: Array, value: Array | None) -> Array:
    """A log for each feature."""
    return log if value is None else namespace(log).broadcast_to(log, value.shape)
