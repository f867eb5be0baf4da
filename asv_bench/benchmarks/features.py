"""Feature matrices, beside scikit-learn's RBFSampler at equal columns."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

import rfx

from ._cases import NAMES, QUICK, axis
from ._clock import medians
from ._libraries import start
from ._rows import Prepared, Timed

__all__ = ["Matrix", "Sampler"]

ROWS, DIM, COLUMNS = (100, 64, 64) if QUICK else (20_000, 64, 1024)
MAPS = {"trigonometric": rfx.features.Trigonometric, "positive": rfx.features.Positive}


class Matrix(Timed):
    """Time of the features of 20,000 points of dimension 64, in 1,024 columns."""

    params = (axis(*MAPS), NAMES)
    param_names = ("map", "library")

    def prepare(self, kind: str, name: str) -> None:
        library = start(name)
        x = library.move(_points())
        self.keep(library.finished(library.features(_map(kind, x), x)))

    def time_features(self, kind: str, name: str) -> None:
        self.run()


class Sampler(Prepared):
    """Time over that of RBFSampler, which computes on NumPy arrays too, called in turn."""

    params = (axis(*MAPS),)
    param_names = ("map",)
    unit = "ratio"

    def prepare(self, kind: str) -> None:
        try:
            module = import_module("sklearn.kernel_approximation")
        except ImportError as error:
            raise NotImplementedError(f"scikit-learn cannot be imported: {error}") from error
        x = _points()
        sampler = module.RBFSampler(gamma=0.5, n_components=COLUMNS, random_state=0).fit(x)
        assert sampler.transform(x).dtype == x.dtype, "both are to compute in float32"
        self.calls = {
            "rfx": start("numpy").features(_map(kind, x), x),
            "RBFSampler": lambda: sampler.transform(x),
        }

    def track_ratio_to_sampler(self, kind: str) -> float:
        found = self.seconds(kind)
        return found["rfx"] / found["RBFSampler"]

    def seconds(self, kind: str) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


def _points() -> np.ndarray:
    """Of norm near 1, so that features are of usual size."""
    points = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    return points / np.float32(DIM**0.5)


def _map(kind: str, x: Any) -> Any:
    # exp(-|x - y|^2 / 2), which is gamma = 0.5 there.
    spec = MAPS[kind](num_features=COLUMNS, kernel=rfx.kernels.Gaussian())
    return spec.draw(DIM, seed=0, like=x)
