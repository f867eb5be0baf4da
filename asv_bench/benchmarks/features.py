"""Feature matrices, beside those of scikit-learn at equal columns."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

import rfx

from ._cases import NAMES, QUICK, axis
from ._clock import medians
from ._libraries import Call, start
from ._rows import Prepared, Timed

__all__ = ["CountSketch", "Matrix", "Sampler", "matrix"]

ROWS, DIM, COLUMNS = (100, 64, 64) if QUICK else (20_000, 64, 1024)
DEGREE = 3
# exp(-|x - y|^2 / 2), which is gamma = 0.5 in scikit-learn, and (x.y)^3.
GAUSSIAN, CUBIC = rfx.kernels.Gaussian(), rfx.kernels.Polynomial(DEGREE, scale=1.0)
SAMPLED = {
    "trigonometric": rfx.features.Trigonometric(COLUMNS, kernel=GAUSSIAN),
    "positive": rfx.features.Positive(COLUMNS, kernel=GAUSSIAN),
}
SKETCH = rfx.features.TensorSketch(COLUMNS, kernel=CUBIC)
MAPS = SAMPLED | {"tensorsketch": SKETCH}


class Matrix(Timed):
    """Time of the features of 20,000 points of dimension 64, in 1,024 columns."""

    params = (axis(*MAPS), NAMES)
    param_names = ("map", "library")

    def prepare(self, kind: str, name: str) -> None:
        self.keep(matrix(kind, name))

    def time_features(self, kind: str, name: str) -> None:
        self.run()


class Sampler(Prepared):
    """Time over that of RBFSampler, which computes on NumPy arrays, called in turn."""

    params = (axis(*SAMPLED), NAMES)
    param_names = ("map", "library")
    unit = "ratio"

    def prepare(self, kind: str, name: str) -> None:
        module, x = _scikit_learn(), _points()
        sampler = module.RBFSampler(gamma=0.5, n_components=COLUMNS, random_state=0).fit(x)
        assert sampler.transform(x).dtype == x.dtype, "both are to compute in float32"
        self.calls = {
            "rfx": matrix(kind, name),
            "RBFSampler": lambda: sampler.transform(x),
        }

    def track_ratio_to_sampler(self, kind: str, name: str) -> float:
        found = self.seconds(kind, name)
        return found["rfx"] / found["RBFSampler"]

    def seconds(self, kind: str, name: str) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


class CountSketch(Prepared):
    """Time of TensorSketch over that of PolynomialCountSketch on NumPy arrays, called in turn.

    Both of degree 3. It computes in float64 where rfx has float32.
    """

    params = (NAMES,)
    param_names = ("library",)
    unit = "ratio"

    def prepare(self, name: str) -> None:
        module, library, host = _scikit_learn(), start(name), _points()
        sketch = module.PolynomialCountSketch(
            gamma=1.0, degree=DEGREE, n_components=COLUMNS, random_state=0
        ).fit(host)
        x = library.move(host)
        phi = SKETCH.draw(DIM, seed=0, like=x)
        self.calls = {
            "rfx": library.finished(library.features(phi, x)),
            "PolynomialCountSketch": lambda: sketch.transform(host),
        }

    def track_ratio_to_count_sketch(self, name: str) -> float:
        found = self.seconds(name)
        return found["rfx"] / found["PolynomialCountSketch"]

    def seconds(self, name: str) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


def matrix(kind: str, name: str) -> Call:
    """The features of the points, on a library's arrays."""
    library = start(name)
    x = library.move(_points())
    return library.finished(library.features(MAPS[kind].draw(DIM, seed=0, like=x), x))


def _scikit_learn() -> Any:
    try:
        return import_module("sklearn.kernel_approximation")
    except ImportError as error:
        raise NotImplementedError(f"scikit-learn cannot be imported: {error}") from error


def _points() -> np.ndarray:
    """Of norm near 1, so that features are of usual size."""
    points = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    return points / np.float32(DIM**0.5)
