"""A spec: the hyperparameters of a feature map, its claims, and how its arrays are drawn."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._drawn import DrawnMap, fingerprinted, stacked
from rfx.features._side import Weight
from rfx.features.moments import Moments, Sample, samples
from rfx.kernels import ExponentialKernel, Kernel, Softmax
from rfx.projections import Orthogonal, Projection
from rfx.projections.structured import Structured, StructuredProjection

__all__ = [
    "Costs",
    "RandomSpec",
    "Spec",
    "check_kernel",
    "check_projection",
    "drawn_frequencies",
    "exp_times",
    "generator",
    "mirrored",
    "scaled",
]


class Costs(NamedTuple):
    """Operations up to a factor, as text for tables: n points of d axes, and m features."""

    fit: str | None
    """None for a map that needs no data."""
    draw: str
    apply: str
    """For each point."""


class Spec(ABC):
    """Hyperparameters of a feature map: frozen, hashable, and without any array.

    Subclasses are frozen dataclasses that hold the paper's formula, the claims that the tests read,
    and ``assemble``.
    """

    kernel: Kernel
    paper: ClassVar[str]

    changes_kernel: ClassVar[bool] = False
    """Whether arrays of the map are a part of its kernel, not only of the estimate: trained, it
    estimates another one. All other claims are of the map as it is drawn."""

    @property
    def needs(self) -> Literal["nothing", "moments", "points"]:
        """What of the data a map is fitted to."""
        return "nothing"

    @property
    def needs_data(self) -> bool:
        """Whether a map can only be fitted, not drawn."""
        return self.needs != "nothing"

    @property
    @abstractmethod
    def costs(self) -> Costs:
        """What fitting, drawing and applying a map cost."""

    @property
    @abstractmethod
    def positive(self) -> bool:
        """Whether no entry of `rfx.gram` is ever negative: attention then averages the values."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether the mean of `rfx.gram` over draws is the kernel, given what was fitted."""

    @property
    def log_constant(self) -> float:
        """Log of the factor that all features share, such as m ** -0.5."""
        return 0.0

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        """Variance of one entry of `rfx.gram` divided by the squared kernel, as (log, factor).

        It is exp(log) · factor, with factor at least 0 but for rounding; None where no closed form
        is known. ``x`` and ``y`` are placed (see `DrawnMap.place`), and ``fitted`` are the drawn
        map's parameters. A map whose kernel may be 0 has `absolute_variance` instead.
        """
        return None

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """Variance of one entry of `rfx.gram`, as (log, factor); for points as they are given."""
        found = self._relative_variance(x, y, drawn)
        if found is None:
            return None
        log, factor = found
        return 2.0 * self.kernel.log(x, y) + log, factor

    def prepared(self, x: Array) -> Array:
        """Points as `relative_variance` takes them, where no map was fitted to place them."""
        return x

    def parameters(self, dim: int, sample: Sample) -> Any:
        """What is fitted to a sample, for `assemble`; the sample itself by default."""
        return sample

    @abstractmethod
    def assemble(self, dim: int, rng: np.random.Generator, parameters: Any) -> DrawnMap:
        """Draw the arrays of one head on the host in float64.

        ``parameters`` are those that were fitted, or None for a map that needs no data.
        """

    def replace(self, **hyperparameters: Any) -> Self:
        """The same spec with other hyperparameters; what a wrapper has not is its base's."""
        return replace(cast(Any, self), **hyperparameters)

    def variance(self, x: Array, y: Array) -> Array | None:
        """Variance of one entry of `rfx.gram` over draws.

        Parameters
        ----------
        x : Array, shape (..., t, d)
        y : Array, shape (..., s, d)

        Returns
        -------
        Array, shape (..., t, s), in the working dtype, or None where no closed form is known
            Absolute, at this ``num_features``. None for a map that needs data: ask the fitted one.
        """
        _check.points(x, y)
        return None if self.needs_data else self.variance_of(x, y, None)

    def variance_of(self, x: Array, y: Array, drawn: DrawnMap | None) -> Array | None:
        """The variance of a drawn map, or of any map of this spec."""
        self._check_points(x, y, drawn)
        found = self.absolute_variance(x, y, drawn)
        return None if found is None else exp_times(*found)

    def log_relative_variance(self, x: Array, y: Array, drawn: DrawnMap | None) -> Array | None:
        """Log of the variance divided by the squared kernel."""
        self._check_points(x, y, drawn)
        xp = namespace(x)
        found = self._relative_variance(x, y, drawn)
        if found is None:
            found = self.absolute_variance(x, y, drawn)
            if found is None:
                return None
            found = found[0] - 2.0 * self.kernel.log(x, y), found[1]
        log, factor = found
        nothing = factor <= 0.0
        finite = log + xp.log(xp.where(nothing, xp.ones_like(factor), factor))
        return xp.where(nothing, xp.full_like(finite, -float("inf")), finite)

    def _check_points(self, x: Array, y: Array, drawn: DrawnMap | None) -> None:
        _check.points(x, y)
        for name, points in (("x", x), ("y", y)) if drawn is not None else ():
            _check.map_serves(drawn, points, name)
            _check.map_heads(drawn, points, name)
        self.kernel.check(x, "x")
        self.kernel.check(y, "y")

    def _relative_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        if drawn is None:
            return self.relative_variance(self.prepared(x), self.prepared(y), {})
        fitted = dict(getattr(drawn, "fitted", {}))
        return self.relative_variance(drawn.place(x, "query"), drawn.place(y, "key"), fitted)

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
            If ``seed`` is neither, ``like`` is no floating array, or the map needs data.
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
        if self.needs_data:
            also = ", or fit_moments(moments, ...)" if self.needs == "moments" else ""
            raise TypeError(
                f"{type(self).__name__} is fitted to data and cannot be drawn without any; "
                f"use spec.fit(query, key, seed=...){also}"
            )
        _check.positive_int("dim", dim)
        if heads is not None:
            _check.positive_int("heads", heads)
        return self._assembled(int(dim), seed, like, [None] * (heads or 1), heads is not None)

    def fit(
        self,
        query: Array,
        key: Array,
        *,
        seed: Any,
        mask: Array | None = None,
        query_mask: Array | None = None,
        per_head: bool = True,
    ) -> DrawnMap:
        """Draw a map for these queries and keys, with parameters fitted to them where it has any.

        A map that needs no data only reads their shapes, and is drawn with ``like=query``.

        Parameters
        ----------
        query, key : Array, shape (..., Hq, t, d) and (..., H, s, d)
            The parameters belong to the key heads; the query heads that share one are pooled, and
            so are all other batch axes.
        seed : int or numpy.random.Generator
        mask, query_mask : Array of bool, optional
            True for the keys and the queries that count, in shapes as in `rfx.linear_attention`.
            Where a padded sequence attends to itself, give its mask as both.
        per_head : bool
            Fit to each key head, and draw independent frequencies for it, if there is an axis of
            heads; else all heads share one map.

        Returns
        -------
        DrawnMap

        Raises
        ------
        ValueError
            If nothing is left to fit to, or a position that counts holds NaN or infinity.
        """
        _check.sample(query, key, mask, query_mask)
        by_head = per_head and key.ndim > 2
        if self.needs_data:
            masks = {"mask": mask, "query_mask": query_mask}
            found: Sequence[Sample | None] = samples(query, key, **masks, per_head=per_head)
        else:
            found = [None] * (int(key.shape[-3]) if by_head else 1)
        return self._assembled(int(query.shape[-1]), seed, query, found, by_head)

    def fit_moments(
        self, moments: Moments, *, seed: Any, like: Array, heads: int | None = None
    ) -> DrawnMap:
        """Draw a map with parameters fitted to moments that were recorded before.

        Parameters
        ----------
        moments : Moments
        seed : int or numpy.random.Generator
        like : Array
            As in `draw`.
        heads : int, optional
            Where the moments have no axis of heads, draw that many independent maps with the
            same parameters.

        Returns
        -------
        DrawnMap
            With an axis of heads if the moments have one, or if ``heads`` is given.

        Raises
        ------
        TypeError
            If ``moments`` is no record of moments, or the map needs the points themselves.
        ValueError
            If ``heads`` is given and the moments have another number of heads.
        """
        if not isinstance(moments, Moments):
            raise TypeError(
                f"`moments` must be a record of Moments, got {type(moments).__name__}; "
                "make one with rfx.features.Moments.of(query, key)"
            )
        if self.needs == "points":
            raise TypeError(
                f"{type(self).__name__} is fitted to points, of which moments say too little; "
                "use spec.fit(query, key, seed=...)"
            )
        if heads is not None:
            _check.positive_int("heads", heads)
        if moments.heads is None:
            found = [Sample(moments)] * (heads or 1)
        elif heads in (None, moments.heads):
            found = [Sample(moments.head(i)) for i in range(moments.heads)]
        else:
            raise ValueError(
                f"`heads` must be {moments.heads}, the heads of the moments, got {heads}; "
                "leave it out"
            )
        by_head = heads is not None or moments.heads is not None
        return self._assembled(moments.dim, seed, like, found, by_head)

    def _assembled(
        self, dim: int, seed: Any, like: Array, each: Sequence[Sample | None], by_head: bool
    ) -> DrawnMap:
        _check.array("like", like)
        rng = generator(seed)
        fitted = {s: None if s is None else self.parameters(dim, s) for s in dict.fromkeys(each)}
        maps = [self.assemble(dim, rng, fitted[sample]) for sample in each]
        return fingerprinted(stacked(maps) if by_head else maps[0]).to_like(like)


@dataclass(frozen=True)
class RandomSpec(Spec):
    """A spec of random frequencies, for one of the exponential kernels."""

    num_features: int
    kernel: Kernel = field(default_factory=Softmax)
    projection: Projection = field(default_factory=Orthogonal)

    @property
    def columns(self) -> int:
        """Output columns that a frequency gives."""
        return 1

    @property
    def num_frequencies(self) -> int:
        """Frequencies drawn, n."""
        return self.num_features // self.columns

    @property
    def costs(self) -> Costs:
        law = self.projection
        return Costs("n d²" if self.needs_data else None, law.cost, law.cost_to_apply)

    @property
    def unbiased(self) -> bool:
        return self.projection.gaussian_rows

    @property
    def log_constant(self) -> float:
        return -0.5 * float(np.log(self.num_features))

    def frequencies(self, dim: int, rng: np.random.Generator) -> Weight:
        """Frequencies as columns, shape (dim, n)."""
        return drawn_frequencies(self.projection, rng, self.num_frequencies, dim)

    def _check_fields(self, why: str, kinds: tuple[type, ...] = (ExponentialKernel,)) -> None:
        """Refuse a wrong number of columns, or a kernel or projection of the wrong kind."""
        columns = _check.positive_int("num_features", self.num_features, self.columns, why)
        object.__setattr__(self, "num_features", columns)
        check_kernel(self, kinds)
        check_projection(self.projection)


def check_kernel(spec: Spec, kinds: tuple[type, ...] = (ExponentialKernel,)) -> None:
    """Refuse a kernel of another kind; one that is not exponential is stationary."""
    if not isinstance(spec.kernel, kinds):
        also = ", or a stationary one," if len(kinds) > 1 else ""
        raise TypeError(
            f"`kernel` must be rfx.kernels.Softmax or Gaussian{also} for {type(spec).__name__}, "
            f"got {spec.kernel!r}; pass for example rfx.kernels.Softmax()"
        )


def check_projection(projection: object) -> None:
    """Refuse what is no projection."""
    if not isinstance(projection, Projection):
        raise TypeError(
            f"`projection` must be a record of rfx.projections, got {projection!r}; "
            "pass for example rfx.projections.Orthogonal()"
        )


def drawn_frequencies(
    projection: Projection, rng: np.random.Generator, num: int, dim: int
) -> Weight:
    """Frequencies as columns, shape (dim, num)."""
    if isinstance(projection, StructuredProjection):
        return projection.factors(rng, num, dim)
    return np.ascontiguousarray(projection.sample(rng, num, dim).T)


def scaled(weight: Weight, factor: Any) -> Weight:
    """Frequencies whose axes are multiplied by a number, or by one for each axis (d,)."""
    if isinstance(weight, Structured):
        return weight.scaled(factor)
    return np.asarray(factor)[..., None] * weight


def mirrored(weight: Weight) -> Weight:
    """Frequencies, and behind them their opposites."""
    if isinstance(weight, Structured):
        return weight.mirrored()
    return np.concatenate([weight, -weight], axis=-1)


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
