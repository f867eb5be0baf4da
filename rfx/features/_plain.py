"""A drawn map that has arrays of its own: the forms that are no combination of others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from rfx._xp import Array, library
from rfx.features._drawn import DrawnMap
from rfx.features._side import LogFeatures, Side
from rfx.features.preparation import Preparation
from rfx.projections.structured import Structured

if TYPE_CHECKING:
    from rfx.features._spec import Spec

__all__ = ["PlainMap"]

_SIDES = ("query", "key")


@dataclass(frozen=True, eq=False)
class PlainMap(DrawnMap):
    """A map whose features are made of projections of the points.

    Attributes
    ----------
    query_side, key_side : Side
        ``key_side`` is None where both sides share their arrays.
    fitted : mapping of str to Array
        Parameters that were fitted to data and that the variance depends on.
    preparation : Preparation, optional
        What is done to points before anything else.
    """

    array_fields: ClassVar[tuple[str, ...]] = ("query_side", "key_side", "fingerprint", "fitted")

    spec: Spec
    query_side: Side
    key_side: Side | None = None
    fingerprint: Array = field(default_factory=lambda: np.asarray(0.0))
    fitted: Mapping[str, Array] = field(default_factory=dict)
    preparation: Preparation | None = field(default=None, kw_only=True)

    @property
    def like(self) -> Array:
        weight = self.query_side.weight
        return weight.inner if isinstance(weight, Structured) else weight

    @property
    def dim(self) -> int:
        weight: Any = self.query_side.weight
        transform: Any = self.query_side.transform
        full = transform is not None and transform.ndim == weight.ndim
        axes = int((transform if full else weight).shape[-2])
        return axes if self.preparation is None else axes - self.preparation.added

    @property
    def heads(self) -> int | None:
        shape = self.query_side.weight.shape
        return int(shape[0]) if len(shape) == 3 else None

    @property
    def columns(self) -> int:
        """Output columns for each column of the weights."""
        return 1

    @property
    def num_features(self) -> int:
        return self.columns * int(self.query_side.weight.shape[-1])

    @property
    def log_constant(self) -> float:
        """Log of the factor that all features share, which makes the mean of `rfx.gram` right."""
        return self.spec.log_constant

    def side(self, name: str) -> Side:
        """The arrays for queries or for keys; ``name`` is "query" or "key"."""
        return self.query_side if name == "query" or self.key_side is None else self.key_side

    def moves(self, side: str) -> bool:
        return self.preparation is not None or self.side(side).moves

    def place(self, x: Array, side: str) -> Array:
        """(x − shift) T of prepared points; see `Side`."""
        return self.side(side).place(x if self.preparation is None else self.preparation(x))

    def log_query(self, z: Array) -> LogFeatures:
        return self.evaluate(self.query_side, z)

    def complete(self, z: Array, side: str) -> LogFeatures:
        arrays = self.side(side)
        log_scale, value = self.evaluate(arrays, z)
        return LogFeatures(log_scale + (arrays.row_term(z) + self.log_constant), value)

    @abstractmethod
    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        """Features of placed points without the row term and the constant."""

    def arrays(self) -> dict[str, Array]:
        named: dict[str, Array] = {}
        for prefix, side in zip(_SIDES, (self.query_side, self.key_side), strict=True):
            for name, value in zip(Side._fields, side or (), strict=False):
                if isinstance(value, Structured):
                    parts = zip(Structured._fields, value, strict=True)
                    named |= {f"{prefix}_{name}_{f}": a for f, a in parts if a is not None}
                elif value is not None:
                    named[f"{prefix}_{name}"] = value
        named |= {f"fitted_{name}": array for name, array in self.fitted.items()}
        return named | {"fingerprint": self.fingerprint}

    @classmethod
    def of(cls, spec: Spec, arrays: Mapping[str, Array], **statics: Any) -> Self:
        query, key = (_side_of(prefix, arrays) for prefix in _SIDES)
        if query is None:
            raise ValueError("`arrays` must hold query_weight; start from features.arrays()")
        fitted = {
            name.removeprefix("fitted_"): array
            for name, array in arrays.items()
            if name.startswith("fitted_")
        }
        return cls(spec, query, key, arrays["fingerprint"], fitted, **statics)

    def __repr__(self) -> str:
        weight = self.query_side.weight  # anything, while JAX maps over the leaves
        shape, dtype = getattr(weight, "shape", weight), getattr(weight, "dtype", "")
        return f"<{self.spec!r} drawn, frequencies {shape} {library(self.like)} {dtype}>"


def _side_of(prefix: str, arrays: Mapping[str, Array]) -> Side | None:
    """The side whose arrays have names with this prefix, or None if there is none."""
    found: dict[str, Any] = {}
    for name in Side._fields:
        whole = f"{prefix}_{name}"
        parts = {f: arrays.get(f"{whole}_{f}") for f in Structured._fields}
        found[name] = arrays.get(whole) if parts["inner"] is None else Structured(**parts)
    return None if found["weight"] is None else Side(**found)
