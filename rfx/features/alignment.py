"""Where points are moved to so that a dot product has less variance: shifts and changes of axes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from rfx.features.moments import Moments, Sample

__all__ = ["Center", "Placement", "Transform", "placed", "placements"]

Host = np.ndarray[Any, Any]
Center = Literal["mean", "low"] | None
Transform = Literal["full", "diagonal"] | None
_RIDGE = 1e-6


class Placement(NamedTuple):
    """Points x of one side go to (x − shift) @ matrix."""

    shift: Host
    matrix: Host
    inverse: Host

    def __call__(self, points: Host) -> Host:
        return np.asarray((points - self.shift) @ self.matrix)


def placements(
    moments: Moments, center: Center, transform: Transform, *, together: bool
) -> tuple[Placement, Placement]:
    """The placement of queries and of keys; ``together`` shifts both by the same."""
    shifts = _shifts(moments, center, together)
    eye = np.eye(moments.dim)
    sides = (moments.query, moments.key)
    first, second = (m.mapped(s, eye).second for m, s in zip(sides, shifts, strict=True))
    change, inverse = _change(*_regular(first, second), transform)
    # P acts on columns and P⁻ᵀ on those of the keys; points are rows.
    return Placement(shifts[0], change.T, inverse.T), Placement(shifts[1], inverse, change)


def placed(sample: Sample, query: Placement, key: Placement) -> Sample:
    """What the map on the new points is fitted to."""
    moments = Moments(
        sample.moments.query.mapped(query.shift, query.matrix),
        sample.moments.key.mapped(key.shift, key.matrix),
    )
    points = (
        None if points is None else place(points)
        for points, place in ((sample.query, query), (sample.key, key))
    )
    return Sample(moments, *points)


def _shifts(moments: Moments, center: Center, together: bool) -> tuple[Host, Host]:
    query, key = moments.query, moments.key
    if center is None:
        nothing = np.zeros(moments.dim)
        return nothing, nothing
    if center == "low":
        common = np.minimum(query.low, key.low)
        return (common, common) if together else (query.low, key.low)
    common = 0.5 * (query.mean + key.mean)
    return (common, common) if together else (query.mean, key.mean)


def _regular(first: Host, second: Host) -> tuple[Host, Host]:
    """Second moments with a ridge, so that both are invertible.

    A side without any spread takes that of the other one, much reduced; two such sides are 1.
    """
    sizes = [float(np.trace(m)) / len(m) for m in (first, second)]
    if max(sizes) == 0.0:
        return np.eye(len(first)), np.eye(len(first))
    sizes = [size or _RIDGE * max(sizes) for size in sizes]
    ridges = (_RIDGE * size * np.eye(len(first)) for size in sizes)
    one, two = (m + ridge for m, ridge in zip((first, second), ridges, strict=True))
    return one, two


def _change(first: Host, second: Host, transform: Transform) -> tuple[Host, Host]:
    """P with P M₁ Pᵀ = P⁻ᵀ M₂ P⁻¹, and its inverse."""
    if transform is None:
        return np.eye(len(first)), np.eye(len(first))
    if transform == "diagonal":
        scale = (np.diagonal(second) / np.diagonal(first)) ** 0.25
        return np.diag(scale), np.diag(1.0 / scale)
    # With M = R Rᵀ for both and R₁ᵀ R₂ = U S Vᵀ, P = S^(1/2) Uᵀ R₁⁻¹ takes M₁ to S, and
    # P⁻ᵀ = S^(-1/2) Uᵀ R₁ᵀ takes M₂ there too.
    root, other = (_root(m) for m in (first, second))
    left, size, _ = np.linalg.svd(root.T @ other)
    change = np.sqrt(size)[:, None] * np.linalg.solve(root.T, left).T
    inverse = (root @ left) / np.sqrt(size)
    return change, inverse


def _root(moment: Host) -> Host:
    """A square root R with R Rᵀ = M."""
    power, axes = np.linalg.eigh(moment)
    floor = 0.5 * _RIDGE * float(np.trace(moment)) / len(moment)
    return np.asarray(axes * np.sqrt(np.maximum(power, floor)))
