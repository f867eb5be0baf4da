"""A drawn map: the arrays of a feature map, and the spec that they came from."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from rfx import _check, ops
from rfx._xp import Array, from_numpy, library, to_numpy, working_dtype
from rfx.dispatch import load
from rfx.features._side import LogFeatures, Side
from rfx.kernels import Kernel
from rfx.projections.structured import Structured

if TYPE_CHECKING:
    from rfx.features._spec import Spec

__all__ = ["DrawnMap", "check_drawn", "stacked"]

_SIDES = ("query", "key")
_PARTS = ("spec", "query_side", "key_side", "fingerprint", "fitted")


@dataclass(frozen=True, eq=False)
class DrawnMap(ABC):
    """A feature map with its frequencies drawn: arrays, and the spec that they came from.

    Attributes
    ----------
    spec : Spec
        What the map was drawn from; ``spec.unbiased`` and ``spec.positive`` are its claims.
    query_side, key_side : Side
        ``key_side`` is None where both sides share their arrays.
    fingerprint : Array, 0-d
        A number below 2**24 that tells two draws apart, and is carried by states. It stays with
        the map when its arrays are trained or replaced.
    fitted : mapping of str to Array
        Parameters that were fitted to data and that the variance depends on.
    """

    spec: Spec
    query_side: Side
    key_side: Side | None = None
    fingerprint: Array = field(default_factory=lambda: np.asarray(0.0))
    fitted: Mapping[str, Array] = field(default_factory=dict)

    scale_per_feature: ClassVar[bool]
    """Whether ``log_scale`` has a column for each feature, or one for the row."""

    description: ClassVar[str]
    """What such maps are called in a sentence, such as "exponential"."""

    @property
    def like(self) -> Array:
        """One of the arrays, to ask for library, device and dtype."""
        weight = self.query_side.weight
        return weight.inner if isinstance(weight, Structured) else weight

    @property
    def dim(self) -> int:
        """Axes of the points, d."""
        weight: Any = self.query_side.weight
        transform: Any = self.query_side.transform
        full = transform is not None and transform.ndim == weight.ndim
        return int((transform if full else weight).shape[-2])

    @property
    def heads(self) -> int | None:
        """Independent draws, one for each key head; None where all heads share one."""
        shape = self.query_side.weight.shape
        return int(shape[0]) if len(shape) == 3 else None

    @property
    def columns(self) -> int:
        """Output columns for each column of the weights."""
        return 1

    @property
    def num_features(self) -> int:
        """Output columns, m."""
        return self.columns * int(self.query_side.weight.shape[-1])

    @property
    def log_constant(self) -> float:
        """Log of the factor that all features share, which makes the mean of `rfx.gram` right."""
        return self.spec.log_constant

    @property
    def kernel(self) -> Kernel:
        """The kernel that is estimated, and the exact target of attention with this map."""
        return self.spec.kernel

    def side(self, name: str) -> Side:
        """The arrays for queries or for keys; ``name`` is "query" or "key"."""
        return self.query_side if name == "query" or self.key_side is None else self.key_side

    def query(self, x: Array) -> LogFeatures:
        """Features of queries.

        Parameters
        ----------
        x : Array, shape (..., t, d)
            In half precision or the map's own dtype.

        Returns
        -------
        LogFeatures
            In the map's dtype.

        Raises
        ------
        TypeError, ValueError
            If ``x`` is not what the map was drawn for.
        """
        self._check(x, "x")
        return LogFeatures(*ops.features(self, self.query_side.place(x), side="query"))

    def key(self, y: Array) -> LogFeatures:
        """Features of keys, shape (..., s, d); as `query` otherwise."""
        self._check(y, "y")
        return LogFeatures(*ops.features(self, self.side("key").place(y), side="key"))

    def log_query(self, z: Array) -> LogFeatures:
        """Features of placed queries without the row term and the constant, unchecked: for ops.

        What is common to all features of a query cancels in attention.
        """
        return self.evaluate(self.query_side, z)

    def log_key(self, z: Array) -> LogFeatures:
        """Features of placed keys, unchecked: for ops."""
        return self.complete(z, "key")

    def complete(self, z: Array, side: str) -> LogFeatures:
        """Features of placed points with the row term and the constant, unchecked: for ops."""
        arrays = self.side(side)
        log_scale, value = self.evaluate(arrays, z)
        return LogFeatures(log_scale + (arrays.row_term(z) + self.log_constant), value)

    @abstractmethod
    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        """Features of placed points without the row term and the constant."""

    def variance(self, x: Array, y: Array) -> Array | None:
        """Variance of one entry of `rfx.gram` over draws, given what was fitted.

        Parameters
        ----------
        x : Array, shape (..., t, d)
        y : Array, shape (..., s, d)

        Returns
        -------
        Array, shape (..., t, s), in the working dtype, or None where no closed form is known
        """
        return self.spec.variance_of(x, y, self)

    def log_relative_variance(self, x: Array, y: Array) -> Array | None:
        """Log of the variance divided by the squared kernel: finite where both would overflow.

        A rule of thumb: attention with a map is useful where the mean of this over the pairs is
        below 0. It is -inf where an estimate is exact.
        """
        return self.spec.log_relative_variance(x, y, self)

    def arrays(self) -> dict[str, Array]:
        """The arrays by name: what to save, to train, or to register as buffers."""
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

    def statics(self) -> dict[str, Any]:
        """What is neither an array nor the spec, by the name of the field."""
        return {name: value for name, value in self.__dict__.items() if name not in _PARTS}

    def with_arrays(self, arrays: Mapping[str, Array]) -> Self:
        """The same map with other arrays, named as in `arrays`.

        Raises
        ------
        ValueError
            If the names are not those of this map.
        """
        if set(arrays) != set(self.arrays()):
            raise ValueError(
                f"`arrays` must have the names {sorted(self.arrays())}, got {sorted(arrays)}; "
                "start from features.arrays()"
            )
        return self.of(self.spec, arrays, **self.statics())

    @classmethod
    def of(cls, spec: Spec, arrays: Mapping[str, Array], **statics: Any) -> Self:
        """A map of this form from its parts, as `arrays` and `statics` give them."""
        query, key = (_side_of(prefix, arrays) for prefix in _SIDES)
        if query is None:
            raise ValueError("`arrays` must hold query_weight; start from features.arrays()")
        fitted = {
            name.removeprefix("fitted_"): array
            for name, array in arrays.items()
            if name.startswith("fitted_")
        }
        return cls(spec, query, key, arrays["fingerprint"], fitted, **statics)

    def to_like(self, array: Array) -> Self:
        """The same map on the library and device of ``array``, in its working dtype.

        Frequencies drawn for float32 stay rounded to it: draw again with a float64 ``like`` to have
        all their bits.
        """
        _check.array("array", array)
        load(str(library(array)))
        dtype = working_dtype(array)
        moved = {
            name: from_numpy(to_numpy(value), array, dtype) for name, value in self.arrays().items()
        }
        return self.with_arrays(moved)

    def _check(self, x: Array, name: str) -> None:
        _check.array(name, x)
        _check.map_serves(self, x, name)
        _check.map_heads(self, x, name)

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


def stacked(maps: Sequence[DrawnMap]) -> DrawnMap:
    """Maps of one head each as the map of all heads."""
    each = [drawn.arrays() for drawn in maps]
    joined = {name: np.stack([arrays[name] for arrays in each]) for name in each[0]}
    return maps[0].with_arrays(joined | {"fingerprint": maps[0].fingerprint})


def fingerprinted(drawn: DrawnMap) -> DrawnMap:
    """The map with its number below 2**24, which float32 holds exactly."""
    checksum = zlib.crc32(repr(drawn.spec).encode())
    for name, array in drawn.arrays().items():
        if name != "fingerprint":
            checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    return replace(drawn, fingerprint=np.asarray(float(checksum % 2**24)))


def check_drawn(features: Any, like: str) -> None:
    """Refuse what is no drawn map; ``like`` names the array that it would be drawn for."""
    if not isinstance(features, DrawnMap):
        raise TypeError(
            f"`features` must be a drawn map, got {features!r}; "
            f"draw one with spec.draw(dim, seed=..., like={like})"
        )
