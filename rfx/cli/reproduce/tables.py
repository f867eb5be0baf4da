"""Regression sets from npz archives, and their fixed splits, standardised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfx.cli.errors import UserError
from rfx.cli.reproduce.labelled import load_arrays

__all__ = ["Split", "Table", "read", "split"]


@dataclass(frozen=True, eq=False)
class Table:
    """Points of shape (n, d), targets (n,), and which rows are for testing in each split."""

    name: str
    points: np.ndarray
    targets: np.ndarray
    test_mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """Points and targets, float64, in standard deviations from the mean of the training part."""

    train: np.ndarray
    train_targets: np.ndarray
    test: np.ndarray
    test_targets: np.ndarray


def read(path: Path) -> Table:
    """Read ``X``, ``y`` and ``test_mask``, or refuse in one sentence."""
    points, targets, mask = load_arrays(
        path, {"X": "points", "y": "targets", "test_mask": "test rows by split"}
    )
    if points.ndim != 2 or not np.issubdtype(points.dtype, np.floating):
        raise UserError(
            f"array X in {path} must be floating of shape (n, d), got {points.dtype} of shape "
            f"{points.shape}; convert it with X.astype('float32')"
        )
    if targets.shape != points.shape[:1] or not np.issubdtype(targets.dtype, np.floating):
        raise UserError(
            f"array y in {path} must hold one floating number for each of the {len(points)} rows "
            f"of X, got {targets.dtype} of shape {targets.shape}; convert it with astype('float32')"
        )
    if mask.ndim != 2 or len(mask) != len(points) or mask.dtype != bool:
        raise UserError(
            f"array test_mask in {path} must be bool of shape ({len(points)}, splits), got "
            f"{mask.dtype} of shape {mask.shape}; its columns are True for test rows"
        )
    if not (np.isfinite(points).all() and np.isfinite(targets).all()):
        raise UserError(f"X or y in {path} holds NaN or infinity; remove those rows")
    tests = mask.sum(axis=0)
    if mask.shape[1] == 0 or tests.min() < 1 or (len(points) - tests).min() < 20:
        raise UserError(
            f"every split of test_mask in {path} needs a test row and 20 training rows; mark fewer"
        )
    return Table(path.stem, points.astype(np.float64), targets.astype(np.float64), mask)


def split(data: Table, number: int) -> Split:
    """Of the column ``number`` of the masks."""
    test = data.test_mask[:, number]
    points, targets = data.points, data.targets[:, None]
    (points, targets) = (
        (a - a[~test].mean(axis=0)) / _positive(a[~test].std(axis=0)) for a in (points, targets)
    )
    return Split(points[~test], targets[~test, 0], points[test], targets[test, 0])


def _positive(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0.0, scale, 1.0)
