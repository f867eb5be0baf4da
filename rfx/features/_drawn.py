"""A drawn map: the arrays of a feature map, and the spec that they came from."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from rfx import _check, ops
from rfx._xp import Array, from_numpy, library, to_numpy, working_dtype
from rfx.dispatch import load
from rfx.features._side import LogFeatures
from rfx.kernels import Kernel

if TYPE_CHECKING:
    from rfx.features._spec import Spec

__all__ = ["DrawnMap", "check_drawn", "fingerprinted", "stacked", "the_one"]

Record = TypeVar("Record", bound=Hashable)


class DrawnMap(ABC):
    """A feature map with its frequencies drawn: arrays, and the spec that they came from.

    Attributes
    ----------
    spec : Spec
        What the map was drawn from; ``spec.unbiased`` and ``spec.positive`` are its claims.
    fingerprint : Array, 0-d
        A number below 2**24 that tells two draws apart, and is carried by states. It stays with
        the map when its arrays are trained or replaced.
    """

    spec: Spec
    fingerprint: Array

    array_fields: ClassVar[tuple[str, ...]]
    """Names of the fields that hold arrays, or records of them; the others are static."""

    description: ClassVar[str]
    """What such maps are called in a sentence, such as "exponential"."""

    @property
    @abstractmethod
    def scale_per_feature(self) -> bool:
        """Whether ``log_scale`` has a column for each feature, or one for the row."""

    @property
    @abstractmethod
    def like(self) -> Array:
        """One of the arrays, to ask for library, device and dtype."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Axes of the points, d."""

    @property
    @abstractmethod
    def heads(self) -> int | None:
        """Independent draws, one for each key head; None where all heads share one."""

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Output columns, m."""

    @property
    def kernel(self) -> Kernel:
        """The kernel that is estimated, and the exact target of attention with this map."""
        return self.spec.kernel

    def moves(self, side: str) -> bool:
        """Whether points of this side, "query" or "key", are placed elsewhere than they are."""
        return False

    def place(self, x: Array, side: str) -> Array:
        """Points where the features are made of them; ``x`` itself where they do not move."""
        return x

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
        return LogFeatures(*ops.features(self, self.place(x, "query"), side="query"))

    def key(self, y: Array) -> LogFeatures:
        """Features of keys, shape (..., s, d); as `query` otherwise."""
        self._check(y, "y")
        return LogFeatures(*ops.features(self, self.place(y, "key"), side="key"))

    def log_query(self, z: Array) -> LogFeatures:
        """Features of placed queries, unchecked, for ops: but for a factor that a row shares.

        Such a factor cancels in attention.
        """
        return self.complete(z, "query")

    def log_key(self, z: Array) -> LogFeatures:
        """Features of placed keys, unchecked: for ops."""
        return self.complete(z, "key")

    @abstractmethod
    def complete(self, z: Array, side: str) -> LogFeatures:
        """Features of placed points, unchecked: for ops."""

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

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The arrays by name: what to save, to train, or to register as buffers."""

    def statics(self) -> dict[str, Any]:
        """What is neither an array nor the spec, by the name of the field."""
        held = {"spec", *self.array_fields}
        return {name: value for name, value in self.__dict__.items() if name not in held}

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

    def for_heads(self, first: int, stop: int) -> DrawnMap:
        """The map of some key heads; itself where all heads share it. For backends."""
        if self.heads is None:
            return self
        arrays = self.arrays()
        return self.with_arrays({n: a[first:stop] if a.ndim else a for n, a in arrays.items()})

    @classmethod
    @abstractmethod
    def of(cls, spec: Spec, arrays: Mapping[str, Array], **statics: Any) -> Self:
        """A map of this form from its parts, as `arrays` and `statics` give them."""

    @classmethod
    def alike(cls, maps: Sequence[Any]) -> Sequence[Any]:
        """Maps of one head each, on the host, with arrays of equal shapes and equal statics."""
        return maps

    def check_values(self, x: Array, name: str, keep: Array | None = None) -> None:
        """Refuse points outside the domain of the kernel, as `rfx.kernels.Kernel.check` does."""
        self.kernel.check(x, name, keep)

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
        self.check_values(x, name)

    def __repr__(self) -> str:
        return f"<{self.spec!r} drawn, {library(self.like)} {getattr(self.like, 'dtype', '')}>"


def stacked(maps: Sequence[DrawnMap]) -> DrawnMap:
    """Maps of one head each as the map of all heads."""
    maps = maps[0].alike(maps)
    each = [drawn.arrays() for drawn in maps]
    joined = {name: np.stack([arrays[name] for arrays in each]) for name in each[0]}
    return maps[0].with_arrays(joined | {"fingerprint": maps[0].fingerprint})


def fingerprinted(drawn: DrawnMap) -> DrawnMap:
    """The map with its number below 2**24, which float32 holds exactly."""
    checksum = zlib.crc32(repr(drawn.spec).encode())
    arrays = drawn.arrays()
    for name, array in arrays.items():
        if name != "fingerprint":
            checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    return drawn.with_arrays(arrays | {"fingerprint": np.asarray(float(checksum % 2**24))})


@lru_cache(maxsize=1024)
def the_one(record: Record) -> Record:
    """The first of all equal records.

    A static field of a drawn map is to be such a record where it is more than a number or a name:
    torch.compile takes an object as a constant by its identity, but no tuple of specs, or of
    numbers that differ between two calls.
    """
    return record


def check_drawn(features: Any, like: str) -> None:
    """Refuse what is no drawn map; ``like`` names the array that it would be drawn for."""
    if not isinstance(features, DrawnMap):
        raise TypeError(
            f"`features` must be a drawn map, got {features!r}; "
            f"draw one with spec.draw(dim, seed=..., like={like})"
        )
