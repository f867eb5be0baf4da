"""Moments of queries and keys: all that most maps need to be fitted, in a small record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx import _check
from rfx._xp import Array, to_numpy
from rfx.features import archive

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Moments", "PointMoments", "Sample", "samples"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class PointMoments:
    """Moments of one set of points; each array may have a leading axis of heads.

    Attributes
    ----------
    count : numpy.ndarray, shape ()
        Points seen; those of a moving average are weighted.
    mean : numpy.ndarray, shape (d,)
    covariance : numpy.ndarray, shape (d, d)
        Mean of (x − mean)(x − mean)ᵀ.
    low : numpy.ndarray, shape (d,)
        The least of each coordinate.
    """

    count: Host
    mean: Host
    covariance: Host
    low: Host

    @property
    def second(self) -> Host:
        """Second moment about the origin, mean of x xᵀ: shape (d, d)."""
        return self.covariance + self.mean[..., :, None] * self.mean[..., None, :]

    def mapped(self, shift: Host, transform: Host) -> PointMoments:
        """Moments of (x − shift) T, one head; ``low`` becomes unknown."""
        turned = transform.T @ self.covariance @ transform
        unknown = np.full(transform.shape[-1], np.nan)
        return PointMoments(self.count, (self.mean - shift) @ transform, turned, unknown)

    def mixed(self, other: PointMoments, weight: Host) -> PointMoments:
        """Moments of a mixture of both, in which ``other`` has this weight."""
        step = other.mean - self.mean
        w = weight[..., None]
        between = (w * (1.0 - w) * step)[..., :, None] * step[..., None, :]
        w2 = w[..., None]
        covariance = (1.0 - w2) * self.covariance + w2 * other.covariance + between
        low = np.minimum(self.low, other.low)
        return PointMoments(self.count + other.count, self.mean + w * step, covariance, low)


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of queries and of keys, for each key head or for all heads together.

    Record them over batches, merge them, keep a moving average, save them: `Spec.fit_moments`
    then draws a map. So a causal model is calibrated once, on text other than its own future.

    Attributes
    ----------
    query, key : PointMoments
        NumPy arrays in float64, with a leading axis of heads or without.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k = np.random.default_rng(0).standard_normal((2, 3, 100, 8))
    >>> first = rfx.features.Moments.of(q[:, :50], k[:, :50])
    >>> both = first.merge(rfx.features.Moments.of(q[:, 50:], k[:, 50:]))
    >>> bool(np.allclose(both.query.mean, q.mean(axis=1)))
    True
    >>> phi = rfx.features.named("dense", num_features=32).fit_moments(both, seed=0, like=q)
    >>> phi.heads
    3
    """

    query: PointMoments
    key: PointMoments

    @property
    def dim(self) -> int:
        """Axes of the points, d."""
        return int(self.query.mean.shape[-1])

    @property
    def heads(self) -> int | None:
        """Key heads, or None where all heads are pooled."""
        return int(self.query.mean.shape[0]) if self.query.mean.ndim == 2 else None

    def total(self) -> Host:
        """Mean of (q + k)(q + k)ᵀ over all pairs of a query and a key, shape (d, d)."""
        cross = self.query.mean[..., :, None] * self.key.mean[..., None, :]
        return self.query.second + self.key.second + cross + np.swapaxes(cross, -1, -2)

    @classmethod
    def of(
        cls,
        query: Array,
        key: Array,
        *,
        mask: Array | None = None,
        query_mask: Array | None = None,
        per_head: bool = True,
    ) -> Moments:
        """Record the moments of queries and keys, in float64 on the host.

        Parameters
        ----------
        query, key : Array, shape (..., Hq, t, d) and (..., H, s, d)
            The query heads that share a key head are pooled, as are all batch axes.
        mask, query_mask : Array of bool, optional
            True for the keys and the queries to count; shapes as in `rfx.linear_attention`. Where
            a padded sequence attends to itself, give its mask as both.
        per_head : bool
            Keep the axis of heads, if there is one.

        Raises
        ------
        ValueError
            If a head has no point left, or a point that counts is not finite.
        """
        _check.sample(query, key, mask, query_mask)
        found = samples(query, key, mask=mask, query_mask=query_mask, per_head=per_head)
        each = [sample.moments for sample in found]
        if not (per_head and key.ndim > 2):
            return each[0]
        return cls(*(_stacked([m._sides()[i] for m in each]) for i in range(2)))

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of points together; associative and commutative to rounding."""
        self._check(other)
        return Moments(
            *(
                mine.mixed(its, its.count / (mine.count + its.count))
                for mine, its in self._pairs(other)
            )
        )

    def averaged(self, other: Moments, rate: float) -> Moments:
        """A moving average: ``1 - rate`` of these moments and ``rate`` of the other ones.

        Raises
        ------
        ValueError
            If ``rate`` is not between 0 and 1, or the records are of other shapes.
        """
        self._check(other)
        if not 0.0 < _check.positive_number("rate", rate) <= 1.0:
            raise ValueError(f"`rate` must be above 0 and at most 1, got {rate}; pass 0.1")
        pairs = self._pairs(other)
        return Moments(*(a.mixed(b, np.full_like(b.count, rate)) for a, b in pairs))

    def head(self, index: int) -> Moments:
        """The moments of one head."""
        sides = ([getattr(side, f.name)[index] for f in fields(side)] for side in self._sides())
        return Moments(*(PointMoments(*arrays) for arrays in sides))

    def save(self, path: str | Path) -> None:
        """Write the record to ``path``, an npz archive of its arrays."""
        arrays = {
            f"{name}_{f.name}": getattr(side, f.name)
            for name, side in zip(("query", "key"), self._sides(), strict=True)
            for f in fields(side)
        }
        archive.write(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Moments:
        """Read a record that `save` wrote.

        Raises
        ------
        ValueError
            If the file was not written by `save`.
        """
        names = [f.name for f in fields(PointMoments)]

        def record(arrays: dict[str, Host]) -> Moments:
            sides = ([arrays[f"{side}_{n}"] for n in names] for side in ("query", "key"))
            return cls(*(PointMoments(*each) for each in sides))

        return archive.read(path, record, "moments written by Moments.save", "save them again")

    def _sides(self) -> tuple[PointMoments, PointMoments]:
        return self.query, self.key

    def _pairs(self, other: Moments) -> Iterator[tuple[PointMoments, PointMoments]]:
        return zip(self._sides(), other._sides(), strict=True)

    def _check(self, other: Any) -> None:
        if not isinstance(other, Moments):
            raise TypeError(
                f"`other` must be a record of Moments, got {type(other).__name__}; "
                "make one with Moments.of(query, key)"
            )
        mine, its = self.query.mean.shape, other.query.mean.shape
        if mine != its:
            raise ValueError(
                f"`other` must have the heads and axes {mine}, got {its}; "
                "record both from arrays of the same heads"
            )


@dataclass(frozen=True, eq=False)
class Sample:
    """What a map of one head is fitted to: moments, and the points themselves where known."""

    moments: Moments
    query: Host | None = None
    """shape (n, d)"""
    key: Host | None = None


def samples(
    query: Array,
    key: Array,
    *,
    mask: Array | None = None,
    query_mask: Array | None = None,
    per_head: bool = True,
) -> list[Sample]:
    """The points of each key head, or of all heads together, without those that are masked.

    The arguments have passed `rfx._check.sample`.
    """
    heads = int(key.shape[-3]) if per_head and key.ndim > 2 else 1
    sides = (("query", query, query_mask), ("key", key, mask))
    found = [_points(name, array, kept, heads) for name, array, kept in sides]
    return [Sample(Moments(_moments(q), _moments(k)), q, k) for q, k in zip(*found, strict=True)]


def _stacked(heads: list[PointMoments]) -> PointMoments:
    arrays = ([getattr(head, f.name) for head in heads] for f in fields(PointMoments))
    return PointMoments(*(np.stack(each) for each in arrays))


def _points(name: str, array: Array, kept: Array | None, heads: int) -> list[Host]:
    """For each head its points, shape (n, d)."""
    host = to_numpy(array).astype(np.float64)
    seen = np.ones(host.shape[:-1], dtype=bool)
    if kept is not None:
        seen = np.broadcast_to(to_numpy(kept), seen.shape)
    share = host.shape[-3] // heads if heads > 1 else 1
    shape = (-1, heads, share, host.shape[-2])
    by_head = np.moveaxis(host.reshape(*shape, host.shape[-1]), 1, 0)
    seen = np.moveaxis(seen.reshape(shape), 1, 0)
    points = [p[s] for p, s in zip(by_head, seen, strict=True)]
    for head, rows in enumerate(points):
        where = f" of head {head}" if heads > 1 else ""
        if len(rows) == 0:
            raise ValueError(
                f"`{name}`{where} has no position left to fit a map to; "
                "give at least one that is not masked"
            )
        if not np.all(np.isfinite(rows)):
            raise ValueError(
                f"`{name}`{where} holds NaN or infinity where a map is to be fitted; "
                "mask those positions out"
            )
    return points


def _moments(points: Host) -> PointMoments:
    mean = np.mean(points, axis=0)
    centred = points - mean
    covariance = centred.T @ centred / len(points)
    return PointMoments(np.asarray(float(len(points))), mean, covariance, np.min(points, axis=0))
