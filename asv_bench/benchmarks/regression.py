"""Ridge regression in feature space, beside scikit-learn's RBFSampler followed by Ridge."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import rfx

from ._cases import NAMES, QUICK
from ._clock import medians
from ._libraries import start
from ._rows import Prepared

__all__ = ["Ridge"]

ROWS, DIM, COLUMNS = (500, 8, 32) if QUICK else (100_000, 32, 1024)
BANDWIDTH = 6.0


class Ridge(Prepared):
    """Time of a fit over that of scikit-learn's two steps on NumPy arrays, called in turn.

    All in float32. scikit-learn holds the features of all rows.
    """

    params = (NAMES,)
    param_names = ("library",)
    unit = "ratio"

    def prepare(self, name: str) -> None:
        approximation, linear = _scikit_learn()
        library = start(name)
        rng = np.random.default_rng(0)
        points = rng.standard_normal((ROWS, DIM), dtype=np.float32)
        targets = np.sin(points[:, :4].sum(axis=-1))
        gamma = 0.5 / BANDWIDTH**2
        sampler = approximation.RBFSampler(gamma=gamma, n_components=COLUMNS, random_state=0)
        sampler.fit(points)
        x, y = library.move(points), library.move(targets)
        kernel = rfx.kernels.Gaussian(bandwidth=BANDWIDTH)
        spec = rfx.features.Trigonometric(COLUMNS, kernel=kernel)
        phi = spec.draw(DIM, seed=0, like=x)
        fit = partial(rfx.ridge_regression, x, y, features=phi, ridge=1.0)
        self.calls = {
            "rfx": library.finished(lambda: fit().coefficients),
            "two steps": lambda: linear.Ridge(alpha=1.0).fit(sampler.transform(points), targets),
        }

    def track_ratio_to_two_steps(self, name: str) -> float:
        found = self.seconds(name)
        return found["rfx"] / found["two steps"]

    def seconds(self, name: str) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


def _scikit_learn() -> tuple[Any, Any]:
    try:
        return import_module("sklearn.kernel_approximation"), import_module("sklearn.linear_model")
    except ImportError as error:
        raise NotImplementedError(f"scikit-learn cannot be imported: {error}") from error
