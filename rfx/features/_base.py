"""What a feature map is: a spec of hyperparameters, and the map of arrays that is drawn from it."""

from __future__ import annotations

import numbers
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from rfx import _check, ops
from rfx._xp import (
    Array,
    device_kind,
    from_numpy,
    library,
    namespace,
    to_numpy,
    truth,
    working_dtype,
)
from rfx.dispatch import load
from rfx.kernels import ExponentialKernel, Kernel, Softmax
from rfx.projections import Orthogonal, Projection

__all__ = ["DrawnMap", "LogFeatures", "Side", "Spec", "check_drawn", "exp_times", "generator"]


class LogFeatures(NamedTuple):
    """Features as ``value * exp(log_scale)``, so that no unbounded number is exponentiated.

    ``log_scale`` has shape (..., t, m) or (..., t, 1); ``value`` has shape (..., t, m) and is
    bounded, or is None for 1.
    """

    log_scale: Array
    value: Array | None

    def exp(self) -> Array:
        """The plain feature matrix, shape (..., t, m); may overflow where the logs are large."""
        xp, on_cpu = namespace(self.log_scale), device_kind(self.log_scale) == "cpu"
        if self.value is not None and on_cpu and truth(xp.all(self.log_scale == 0.0)):
            return self.value  # a product with ones would cost a pass over the matrix
        scale = xp.exp(self.log_scale)
        return scale if self.value is None else self.value * scale


class Side(NamedTuple):
    """Arrays of one side of a map, the query's or the key's; a leading axis of heads is optional.

    weight : shape (d, w) or (heads, d, w): the frequencies, in the unit of the kernel.
    bias : shape (w,) or (heads, w), added to ``x @ weight``, or None for 0.
    quadratic : shape (d,) or (heads, d): the row term is ``-sum(quadratic * x ** 2)``; None for 0.
    """

    weight: Array
    bias: Array | None = None
    quadratic: Array | None = None

    def project(self, x: Array) -> Array:
        """``x @ weight + bias`` in the map's dtype, shape (..., t, w)."""
        x = namespace(x).astype(x, self.weight.dtype, copy=False)
        projected = namespace(x).matmul(x, self.weight)
        return projected if self.bias is None else projected + self.bias[..., None, :]

    def row_term(self, x: Array) -> Array:
        """The part of the log that is common to all features of a row, shape (..., t, 1)."""
        xp = namespace(x)
        x = xp.astype(x, self.weight.dtype, copy=False)
        if self.quadratic is None:
            return xp.zeros_like(x[..., :1])
        return xp.matmul(x * x, -self.quadratic[..., :, None])


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
    """

    spec: Spec
    query_side: Side
    key_side: Side | None
    fingerprint: Array

    scale_per_feature: ClassVar[bool]
    """Whether ``log_scale`` has a column for each feature, or one for the row."""

    @property
    def dim(self) -> int:
        """Axes of the points, d."""
        return int(self.query_side.weight.shape[-2])

    @property
    def heads(self) -> int | None:
        """Independent draws, one for each key head; None where all heads share one."""
        weight = self.query_side.weight
        return int(weight.shape[0]) if weight.ndim == 3 else None

    @property
    def num_features(self) -> int:
        """Output columns, m."""
        return self.spec.num_features

    @property
    def log_constant(self) -> float:
        """Log of the factor that all features share, which makes the mean of `rfx.gram` right."""
        return self.spec.log_constant

    @property
    def kernel(self) -> Kernel:
        """The kernel that is estimated, and the exact target of attention with this map."""
        return self.spec.kernel

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
        return LogFeatures(*ops.features(self, x, side="query"))

    def key(self, y: Array) -> LogFeatures:
        """Features of keys, shape (..., s, d); as `query` otherwise."""
        self._check(y, "y")
        return LogFeatures(*ops.features(self, y, side="key"))

    def log_query(self, x: Array) -> LogFeatures:
        """Features of queries without the row term and the constant, unchecked: for ops.

        What is common to all features of a query cancels in attention.
        """
        return self.evaluate(self.query_side, x)

    def log_key(self, y: Array) -> LogFeatures:
        """Features of keys, unchecked: for ops."""
        return self.complete(y, "key")

    def complete(self, x: Array, side: str) -> LogFeatures:
        """Features of points with the row term and the constant, unchecked: for ops."""
        arrays = self.query_side if side == "query" or self.key_side is None else self.key_side
        log_scale, value = self.evaluate(arrays, x)
        return LogFeatures(log_scale + (arrays.row_term(x) + self.log_constant), value)

    @abstractmethod
    def evaluate(self, side: Side, x: Array) -> LogFeatures:
        """Features of points without the row term and the constant."""

    def variance(self, x: Array, y: Array) -> Array | None:
        """Variance of one entry of `rfx.gram` over draws, as `Spec.variance`."""
        return self.spec.variance(x, y)

    def arrays(self) -> dict[str, Array]:
        """The arrays by name: what to save, to train, or to register as buffers."""
        named = {}
        for prefix, side in (("query", self.query_side), ("key", self.key_side)):
            for name, value in zip(Side._fields, side or (), strict=False):
                if value is not None:
                    named[f"{prefix}_{name}"] = value
        return named | {"fingerprint": self.fingerprint}

    def statics(self) -> dict[str, Any]:
        """What is neither an array nor the spec, by the name of the field."""
        others = ("spec", "query_side", "key_side", "fingerprint")
        return {name: value for name, value in self.__dict__.items() if name not in others}

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
        sides = []
        for prefix in ("query", "key"):
            given: dict[str, Any] = {f: arrays.get(f"{prefix}_{f}") for f in Side._fields}
            sides.append(None if given["weight"] is None else Side(**given))
        if sides[0] is None:
            raise ValueError("`arrays` must hold query_weight; start from features.arrays()")
        return cls(spec, sides[0], sides[1], arrays["fingerprint"], **statics)

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
        return f"<{self.spec!r} drawn, frequencies {shape} {library(weight)} {dtype}>"


@dataclass(frozen=True)
class Spec(ABC):
    """Hyperparameters of a feature map: frozen, hashable, and without any array.

    Subclasses hold the paper's formula, the claims that the tests read, and ``assemble``.
    """

    num_features: int
    kernel: Kernel = field(default_factory=Softmax)
    projection: Projection = field(default_factory=Orthogonal)

    needs_data: ClassVar[bool] = False
    paper: ClassVar[str]

    @property
    @abstractmethod
    def positive(self) -> bool:
        """Whether every feature is positive, so that attention is an average of the values."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether the mean of `rfx.gram` over draws is the kernel."""

    @property
    @abstractmethod
    def log_constant(self) -> float:
        """Log of the factor that all features share, such as n ** -0.5."""

    @abstractmethod
    def variance(self, x: Array, y: Array) -> Array | None:
        """Variance of one entry of `rfx.gram` over draws.

        Parameters
        ----------
        x : Array, shape (..., t, d)
        y : Array, shape (..., s, d)

        Returns
        -------
        Array, shape (..., t, s), in the working dtype, or None where no closed form is known
            Absolute, at this ``num_features``.
        """

    @abstractmethod
    def assemble(self, dim: int, rng: np.random.Generator, heads: int | None) -> DrawnMap:
        """Draw the arrays on the host in float64."""

    def draw(self, dim: int, *, seed: Any, like: Array, heads: int | None = None) -> DrawnMap:
        """Draw the frequencies.

        Parameters
        ----------
        dim : int
            Axes of the points.
        seed : int or numpy.random.Generator
            The same seed gives the same frequencies on every library.
        like : Array
            The map is made for the library, device and working dtype of this array: float64 for
            float64, else float32.
        heads : int, optional
            Draw that many independent maps, one for each key head; by default all heads share one.

        Returns
        -------
        DrawnMap

        Raises
        ------
        TypeError
            If ``seed`` is neither, or ``like`` is no floating array.
        ValueError
            If ``dim`` or ``heads`` is not positive.

        Examples
        --------
        >>> import numpy as np, rfx
        >>> spec = rfx.features.Positive(num_features=8)
        >>> phi = spec.draw(4, seed=0, like=np.zeros(1, dtype=np.float32))
        >>> phi.query(np.zeros((5, 4), dtype=np.float32)).exp().shape
        (5, 8)
        """
        _check.positive_int("dim", dim)
        if heads is not None:
            _check.positive_int("heads", heads)
        _check.array("like", like)
        drawn = self.assemble(int(dim), generator(seed), heads)
        return replace(drawn, fingerprint=_fingerprint(drawn)).to_like(like)

    def fit(
        self,
        query: Array,
        key: Array,
        *,
        seed: Any,
        mask: Array | None = None,
        per_head: bool = True,
    ) -> DrawnMap:
        """Draw a map for these queries and keys.

        A map that needs no data only reads their shapes, and is drawn with ``like=query``.

        Parameters
        ----------
        query, key : Array, shape (..., heads, t, d) and (..., heads, s, d)
        seed : int or numpy.random.Generator
        mask : Array of bool, optional
            Keys to keep, as in `rfx.linear_attention`.
        per_head : bool
            Draw independent frequencies for each key head, if there is an axis of heads.

        Returns
        -------
        DrawnMap
        """
        _check.attention(query, key, key)
        _check.mask(mask, key)
        heads = int(key.shape[-3]) if per_head and key.ndim > 2 else None
        return self.draw(query.shape[-1], seed=seed, like=query, heads=heads)

    def frequencies(
        self, num: int, dim: int, rng: np.random.Generator, heads: int | None
    ) -> np.ndarray:
        """Frequencies as columns, shape (dim, num) or (heads, dim, num)."""
        draws = [self.projection.sample(rng, num, dim).T for _ in range(heads or 1)]
        return np.ascontiguousarray(draws[0] if heads is None else np.stack(draws))

    def _check_fields(self, multiple: int, why: str) -> None:
        """Refuse a wrong number of columns, or a kernel or projection of the wrong kind."""
        columns = _check.positive_int("num_features", self.num_features, multiple, why)
        object.__setattr__(self, "num_features", columns)
        if not isinstance(self.kernel, ExponentialKernel):
            raise TypeError(
                f"`kernel` must be rfx.kernels.Softmax or Gaussian for {type(self).__name__}, got "
                f"{self.kernel!r}; pass for example rfx.kernels.Softmax()"
            )
        if not isinstance(self.projection, Projection):
            raise TypeError(
                f"`projection` must be a record of rfx.projections, got {self.projection!r}; "
                "pass for example rfx.projections.Orthogonal()"
            )


def check_drawn(features: Any, like: str) -> None:
    """Refuse what is no drawn map; ``like`` names the array that it would be drawn for."""
    if not isinstance(features, DrawnMap):
        raise TypeError(
            f"`features` must be a drawn map, got {features!r}; "
            f"draw one with spec.draw(dim, seed=..., like={like})"
        )


def generator(seed: Any) -> np.random.Generator:
    """The random generator that ``seed`` stands for."""
    if isinstance(seed, np.random.Generator):
        return seed
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise TypeError(
            f"`seed` must be an int or a numpy.random.Generator, got {seed!r}; "
            "pass for example seed=0"
        )
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}; pass for example seed=0")
    return np.random.default_rng(int(seed))


def exp_times(log: Array, factor: Array) -> Array:
    """exp(log) · factor for a factor at least 0 but for rounding; never inf · 0."""
    xp = namespace(log)
    nothing = factor <= 0.0
    return xp.where(nothing, 0.0, factor) * xp.exp(xp.where(nothing, 0.0, log))


def _fingerprint(drawn: DrawnMap) -> np.ndarray:
    """A number below 2**24, which float32 holds exactly, from the spec and the arrays."""
    checksum = zlib.crc32(repr(drawn.spec).encode())
    for name, array in drawn.arrays().items():
        if name != "fingerprint":
            checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    return np.asarray(float(checksum % 2**24))
