"""Rules that predict which keys a query attends to, from a few coordinates of either.

A rule codes one token at a time, so that masks change nothing and no future is seen. It is made of
a projection to few axes and of what is compared there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx import _check
from rfx._xp import Array, constant, full_precision, namespace, working_dtype
from rfx.attention.products import repeat_heads
from rfx.attention.support_projection import Projection, beside, check_finite, host_points
from rfx.features.kmeans import centres_of
from rfx.kernels import squared_distance

__all__ = ["Bins", "Clusters", "Distance", "Rule"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Rule(ABC):
    """How pairs of a query and a key are predicted.

    Parameters
    ----------
    projection : Projection, optional
        None compares all coordinates.

    Raises
    ------
    TypeError
        If ``projection`` is none.
    """

    projection: Projection | None

    def __post_init__(self) -> None:
        if not isinstance(self.projection, Projection | None):
            raise TypeError(
                f"`projection` must be an rfx.supports.Projection, got {self.projection!r}; make "
                "one with rfx.supports.fit_projection"
            )

    def codes(self, query: Array, key: Array) -> tuple[Array, Array]:
        """What is compared, (..., Hq, t, c) and (..., Hq, s, c), for points of either side."""
        xp, dtype = namespace(query), working_dtype(query)
        left, right = (xp.astype(constant(a), dtype, copy=False) for a in (query, key))
        if left.ndim > 2:
            right = repeat_heads(right, left.shape[-3], axis=-3)
        if self.projection is not None:
            left, right = self.projection.apply(left, right)
        return self.encode(left), self.encode(right)

    @abstractmethod
    def encode(self, points: Array) -> Array:
        """What is compared of projected points (..., n, r): (..., n, c)."""

    @abstractmethod
    def match(self, query: Array, key: Array) -> Array:
        """Which pairs are predicted, bool (..., t, s), from codes; NaN of distances matches."""

    def check(self, query: Array) -> None:
        """Refuse queries that the rule was not made for."""
        if self.projection is not None:
            self.projection.check(query)

    def _check_parts(self, table: str, axes: tuple[str, str], count: str) -> None:
        """Refuse a table that is not (..., parts, numbers), and more than its parts."""
        array, (parts, numbers) = getattr(self, table), axes
        _check.array(table, array)
        if array.ndim not in (2, 3) or array.shape[-2] == 0:
            raise ValueError(
                f"`{table}` must have shape ({parts}, {numbers}), or (heads, {parts}, {numbers}), "
                f"got {tuple(array.shape)}; give a row of numbers to each of the {parts}"
            )
        check_finite(table, array)
        number, most = _check.positive_int(count, getattr(self, count)), array.shape[-2]
        if number > most:
            raise ValueError(
                f"`{count}` must be at most the {most} {parts} of `{table}`, got {number}; pass "
                f"{most} or fewer"
            )
        object.__setattr__(self, count, number)

    def _check_table(self, name: str, table: Array, axis: int, query: Array) -> None:
        """Refuse an array (..., r, ...) that does not fit the projected queries."""
        axes = query.shape[-1] if self.projection is None else self.projection.num_axes
        if table.shape[axis] != axes:
            raise ValueError(
                f"`{name}` of `rule` is for {table.shape[axis]} axes, but there are {axes}; give "
                f"it {axes}"
            )
        heads = query.shape[-3] if query.ndim > 2 else None
        if table.ndim > 2 and table.shape[0] != heads:
            raise ValueError(
                f"`{name}` of `rule` is for {table.shape[0]} heads, but query has "
                f"{heads or 'no axis of heads'}; make one for each query head, or one for all"
            )


@dataclass(frozen=True, eq=False)
class Distance(Rule):
    """Pairs with |q' − k'| <= threshold.

    Parameters
    ----------
    projection : Projection, optional
    threshold : float
        Positive. A fitted projection has pairs in the support nearer than 1.

    Raises
    ------
    TypeError, ValueError
        If ``threshold`` is no positive number.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import supports
    >>> x = np.asarray([[0.0], [1.0], [3.0]])
    >>> supports.predicted_pairs(x, x, rule=supports.Distance(None, 1.5), window=None)
    array([[ True,  True, False],
           [ True,  True, False],
           [False, False,  True]])
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        value = _check.positive_number("threshold", self.threshold)
        object.__setattr__(self, "threshold", value)

    def encode(self, points: Array) -> Array:
        return points

    def match(self, query: Array, key: Array) -> Array:
        with full_precision(query):
            distance = squared_distance(query, key)
        xp = namespace(query)
        limit = min(self.threshold * self.threshold, float(xp.finfo(distance.dtype).max))
        return xp.logical_not(distance > limit)


@dataclass(frozen=True, eq=False)
class Bins(Rule):
    """Pairs in the same bin on one projected axis, or on ``shared`` of them.

    Parameters
    ----------
    projection : Projection, optional
    edges : Array, shape (r, b - 1) or (Hq, r, b - 1)
        What divides the b bins of each axis, rising.
    shared : int

    Raises
    ------
    TypeError, ValueError
        If ``edges`` is no such array, or ``shared`` not between 1 and r.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import supports
    >>> x = np.asarray([[0.0], [1.0], [3.0]])
    >>> rule = supports.Bins(None, np.asarray([[0.5, 4.0]]))
    >>> supports.predicted_pairs(x, x, rule=rule, window=None)
    array([[ True, False, False],
           [False,  True,  True],
           [False,  True,  True]])
    """

    edges: Array
    shared: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_parts("edges", ("axes", "bins - 1"), "shared")

    def encode(self, points: Array) -> Array:
        xp = namespace(points)
        edges = beside(self.edges, points, "edges")[..., None, :, :]
        return xp.sum(xp.astype(points[..., None] > edges, xp.int32), axis=-1, dtype=xp.int32)

    def match(self, query: Array, key: Array) -> Array:
        xp = namespace(query)
        count: Any = 0
        for axis in range(query.shape[-1]):
            same = query[..., axis][..., :, None] == key[..., axis][..., None, :]
            count = count + xp.astype(same, xp.int32)
        return count >= self.shared

    def check(self, query: Array) -> None:
        super().check(query)
        self._check_table("edges", self.edges, -2, query)

    @classmethod
    def fit(
        cls,
        query: Array,
        key: Array,
        /,
        *,
        projection: Projection | None,
        num: int,
        shared: int = 1,
        mask: Array | None = None,
    ) -> Bins:
        """Bins that hold equally many points of a sample, queries and keys together.

        Parameters
        ----------
        query, key : Array, shape (..., Hq, t, d) and (..., H, s, d), or (t, d) and (s, d)
        projection : Projection or None
        num : int
            Bins on each axis.
        shared : int
        mask : Array of bool, optional
            True for keys to keep.
        """
        num = _check.positive_int("num", num)
        shares = np.arange(1, num) / num
        tokens = _projected(query, key, projection, mask)
        edges = np.stack([np.quantile(points, shares, axis=0).T for points in tokens])
        return cls(projection, edges if query.ndim > 2 else edges[0], shared)


@dataclass(frozen=True, eq=False)
class Clusters(Rule):
    """Pairs with a cluster in common, where a token belongs to those of its nearest centres.

    Parameters
    ----------
    projection : Projection, optional
    centres : Array, shape (c, r) or (Hq, c, r)
    nearest : int
        Clusters that each token belongs to.

    Raises
    ------
    TypeError, ValueError
        If ``centres`` is no such array, or ``nearest`` not between 1 and c.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import supports
    >>> x = np.asarray([[0.0], [1.0], [3.0]])
    >>> rule = supports.Clusters(None, np.asarray([[0.0], [4.0]]))
    >>> supports.predicted_pairs(x, x, rule=rule, window=None)
    array([[ True,  True, False],
           [ True,  True, False],
           [False, False,  True]])
    """

    centres: Array
    nearest: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_parts("centres", ("clusters", "axes"), "nearest")

    def encode(self, points: Array) -> Array:
        xp = namespace(points)
        centres = beside(self.centres, points, "centres")
        with full_precision(points):
            distance = squared_distance(points, centres)
        limit = xp.sort(distance, axis=-1)[..., self.nearest - 1 : self.nearest]
        return xp.astype(distance <= limit, points.dtype)

    def match(self, query: Array, key: Array) -> Array:
        xp = namespace(query)
        with full_precision(query):
            return xp.matmul(query, xp.matrix_transpose(key)) > 0.5

    def check(self, query: Array) -> None:
        super().check(query)
        self._check_table("centres", self.centres, -1, query)

    @classmethod
    def fit(
        cls,
        query: Array,
        key: Array,
        /,
        *,
        projection: Projection | None,
        num: int,
        nearest: int = 1,
        mask: Array | None = None,
        seed: int = 0,
    ) -> Clusters:
        """Clusters of a sample by k-means, queries and keys together.

        Parameters
        ----------
        query, key : Array, shape (..., Hq, t, d) and (..., H, s, d), or (t, d) and (s, d)
        projection : Projection or None
        num : int
            Number of clusters.
        nearest : int
        mask : Array of bool, optional
            True for keys to keep.
        seed : int
        """
        num = _check.positive_int("num", num)
        _check.seed(seed)
        rng = np.random.default_rng(seed)
        tokens = _projected(query, key, projection, mask)
        centres = np.stack([centres_of(points, num, rng) for points in tokens])
        return cls(projection, centres if query.ndim > 2 else centres[0], nearest)


def _projected(
    query: Array, key: Array, projection: Projection | None, mask: Array | None
) -> list[Host]:
    """Queries and visible keys of each head together, projected: (n, r) in float64."""
    _check.attention(query, key, key)
    _check.mask(mask, key)
    q, k, pairs = host_points(query, key, mask, is_causal=False)
    left, right = (a.reshape(len(q), -1, a.shape[-1]) for a in (q, k))
    if projection is not None:
        left, right = projection.on_host().apply(left, right)
    seen = pairs.any(axis=-2).reshape(len(q), -1)
    return [np.concatenate([x, y[kept]]) for x, y, kept in zip(left, right, seen, strict=True)]
