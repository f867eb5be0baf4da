"""Labelled points from npz archives, split and standardised."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rfx.cli.errors import UserError

__all__ = ["Labelled", "Split", "load_arrays", "read", "split"]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A data set: points of shape (n, d) in float64, and classes 0 ... c − 1 of shape (n,)."""

    name: str
    points: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """Points standardised by the training part, and their classes; training classes one-hot."""

    train: np.ndarray
    onehot: np.ndarray
    valid: np.ndarray
    valid_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray


def read(path: Path) -> Labelled:
    """Read ``X`` and ``y``, or refuse in one sentence."""
    points, classes = load_arrays(path, {"X": "points", "y": "classes"})
    if points.ndim != 2 or not np.issubdtype(points.dtype, np.floating):
        raise UserError(
            f"array X in {path} must be floating of shape (n, d), got {points.dtype} of shape "
            f"{points.shape}; convert it with X.astype('float32')"
        )
    if classes.shape != points.shape[:1] or not np.issubdtype(classes.dtype, np.integer):
        raise UserError(
            f"array y in {path} must hold one integer for each of the {len(points)} rows of X, got "
            f"{classes.dtype} of shape {classes.shape}; number the classes 0, 1, ..."
        )
    if not np.isfinite(points).all():
        raise UserError(f"array X in {path} holds NaN or infinity; remove those rows")
    found, numbered = np.unique(classes, return_inverse=True)
    if len(points) < 40 or len(found) < 2:
        raise UserError(
            f"{path} holds {len(points)} points of {len(found)} classes, too few to split; it "
            "needs 40 points of 2 classes"
        )
    return Labelled(path.stem, points.astype(np.float64), numbered)


def load_arrays(path: Path, wanted: dict[str, str]) -> list[np.ndarray]:
    """Arrays of an archive by name, with a word on what each is; or refuse in one sentence."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(
                    f"{path} is not an npz archive; write one with numpy.savez(path, "
                    f"{', '.join(f'{name}={name}' for name in wanted)})"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return _arrays(archive, path, wanted)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is a damaged npz archive ({error}); write it again") from error


def _arrays(archive: np.lib.npyio.NpzFile, path: Path, wanted: dict[str, str]) -> list[np.ndarray]:
    missing = [name for name in wanted if name not in archive.files]
    if missing:
        raise UserError(
            f"{path} has no array {' and no array '.join(missing)} (found: "
            f"{', '.join(archive.files) or 'nothing'}); each npz file of --data must hold "
            f"{' and '.join(f'{what} {name}' for name, what in wanted.items())}"
        )
    try:
        return [np.asarray(archive[name]) for name in wanted]
    except ValueError as error:
        raise UserError(
            f"an array in {path} cannot be read ({error}); pickled objects are refused, save "
            "plain numbers"
        ) from error


def split(data: Labelled, seed: int) -> Split:
    """Split into 90 % for training and two halves of the rest, for validation and test."""
    n = len(data.points)
    order = np.random.default_rng(seed).permutation(n)
    first = n * 9 // 10
    second = first + (n - first) // 2
    train = data.points[order[:first]]
    scale = train.std(axis=0)
    points = (data.points[order] - train.mean(axis=0)) / np.where(scale > 0.0, scale, 1.0)
    classes = data.classes[order]
    onehot = np.eye(int(data.classes.max()) + 1)[classes[:first]]
    return Split(
        points[:first],
        onehot,
        points[first:second],
        classes[first:second],
        points[second:],
        classes[second:],
    )
