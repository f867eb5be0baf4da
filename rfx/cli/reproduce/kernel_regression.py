"""Classification by kernel regression, exact or with random features, in linear time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rfx.cli.reproduce.labelled import Split
from rfx.cli.reproduce.maps import Method, drawn
from rfx.features import DrawnMap
from rfx.kernels import Gaussian, squared_distance
from rfx.projections import Projection

__all__ = [
    "BANDWIDTHS",
    "Tuned",
    "class_scores",
    "exact_scores",
    "feature_scores",
    "paired_gap",
    "tune",
]

BANDWIDTHS = tuple(float(factor) for factor in np.geomspace(4.0, 0.0625, 9))
"""In units of sqrt(dim), the typical distance of standardised points; the widest first."""

Scores = Callable[[Split, float], np.ndarray]
"""Scores of validation and test points, one after another, at a bandwidth."""


class Tuned(NamedTuple):
    """Test accuracy in percent, at the bandwidth that was best on the validation part."""

    accuracy: float
    bandwidth: float
    at_edge: bool


def class_scores(
    phi: DrawnMap, points: np.ndarray, train: np.ndarray, onehot: np.ndarray
) -> np.ndarray:
    """Σ_i k(x, x_i) 1[y_i = c] as φ(x)·(Σ_i φ(x_i) onehot_i), shape (n, c).

    Each row is right up to a positive factor, which keeps exp within range and changes no argmax.
    Scores are not divided by their sum: of a signed map that sum may be negative.
    """
    left, right = phi.query(points), phi.key(train)
    top = right.log_scale.max(axis=-2, keepdims=True)  # moved into the points: exact
    keys = np.exp(right.log_scale - top)
    row = left.log_scale + top
    queries = np.exp(row - row.max(axis=-1, keepdims=True))
    if right.value is not None and left.value is not None:
        keys, queries = keys * right.value, queries * left.value
    return queries @ (keys.T @ onehot)


def feature_scores(
    method: Method, num_features: int, seed: int, law: Projection | None = None
) -> Scores:
    """Scores of a map that is drawn, or fitted to the training points."""

    def scores(split: Split, bandwidth: float) -> np.ndarray:
        spec = method.spec(num_features, Gaussian(bandwidth=bandwidth), law)
        phi = drawn(spec, split.train, split.train, seed, method.map)
        points = np.concatenate([split.valid, split.test])
        return class_scores(phi, points, split.train, split.onehot)

    return scores


def exact_scores(split: Split, bandwidth: float) -> np.ndarray:
    """Scores of the exact kernel, in blocks of points; rows up to a positive factor."""
    points = np.concatenate([split.valid, split.test])
    found = []
    for block in np.array_split(points, 1 + len(points) // 256):
        log = -0.5 * squared_distance(block, split.train) / bandwidth**2
        found.append(np.exp(log - log.max(axis=-1, keepdims=True)) @ split.onehot)
    return np.concatenate(found)


def tune(split: Split, scores: Scores) -> Tuned:
    """Choose the bandwidth on the validation part, the widest of equals; judge on the test part."""
    best, chosen = -1.0, Tuned(0.0, 0.0, False)
    for i, factor in enumerate(BANDWIDTHS):
        bandwidth = factor * split.train.shape[-1] ** 0.5
        classes = scores(split, bandwidth).argmax(axis=-1)
        valid, test = np.split(classes, [len(split.valid)])
        accuracy = float(np.mean(valid == split.valid_classes))
        if accuracy > best:
            best = accuracy
            right = 100.0 * float(np.mean(test == split.test_classes))
            chosen = Tuned(right, bandwidth, i in (0, len(BANDWIDTHS) - 1))
    return chosen


def paired_gap(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean of first − second over seeds, and its standard error (NaN for one seed)."""
    gap = first - second
    error = float(gap.std(ddof=1)) / len(gap) ** 0.5 if len(gap) > 1 else float("nan")
    return float(gap.mean()), error
