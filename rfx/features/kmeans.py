"""Clusters of points by k-means, on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["centres_of", "nearest"]

Host = np.ndarray[Any, Any]
_MOST = 2**14
"""Points that centres are found from; of more, every second, third, ... is taken."""
_STEPS = 50


def centres_of(points: Host, num: int, rng: np.random.Generator, tries: int = 3) -> Host:
    """Centres (num, d) of points (n, d): Lloyd's steps from k-means++, the best of some tries.

    A cluster that loses its last point keeps its centre. Where there are fewer distinct points than
    clusters, some centres are equal.
    """
    some = points[:: -(-len(points) // _MOST)]
    if num == 1:
        return np.mean(points, axis=0, keepdims=True)
    middle = np.mean(some, axis=0)
    some = some - middle  # so that squares of distances do not cancel
    powers = np.sum(some * some, axis=-1)
    found = [_lloyd(some, _spread(some, powers, num, rng)) for _ in range(tries)]
    errors = [float(np.sum(powers - 2.0 * np.max(_scores(some, c), axis=-1))) for c in found]
    return found[int(np.argmin(errors))] + middle


def nearest(points: Host, centres: Host) -> Host:
    """The number of the nearest centre, the first of equals, for each point: shape (n,)."""
    return np.asarray(np.argmax(_scores(points, centres), axis=-1))


def _scores(points: Host, centres: Host) -> Host:
    """x·c − |c|²/2: the larger, the nearer."""
    return points @ centres.T - 0.5 * np.sum(centres * centres, axis=-1)


def _spread(points: Host, powers: Host, num: int, rng: np.random.Generator) -> Host:
    """k-means++: each next centre is a point, drawn by its squared distance to the nearest one."""
    chosen = [points[rng.integers(len(points))]]
    far = np.full(len(points), np.inf)
    while len(chosen) < num:
        last = chosen[-1]
        distance = np.maximum(powers - 2.0 * (points @ last) + last @ last, 0.0)
        far = np.minimum(far, distance)
        along = np.cumsum(far)
        place = np.searchsorted(along, rng.random() * along[-1], side="right")
        chosen.append(points[min(int(place), len(points) - 1)])
    return np.stack(chosen)


def _lloyd(points: Host, centres: Host) -> Host:
    before = None
    for _ in range(_STEPS):
        member = nearest(points, centres)
        if before is not None and np.array_equal(member, before):
            break
        before = member
        one = (member == np.arange(len(centres))[:, None]).astype(points.dtype)
        count = np.sum(one, axis=-1, keepdims=True)
        means = (one @ points) / np.maximum(count, 1.0)
        centres = np.where(count > 0.0, means, centres)
    return centres
