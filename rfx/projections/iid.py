"""Independent Gaussian frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx._xp import Array, namespace
from rfx.projections._base import Projection

__all__ = ["IID"]


@dataclass(frozen=True)
class IID(Projection):
    """Rows drawn independently from N(0, I).

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, 2007, algorithm 1.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rfx.projections.IID().sample(np.random.default_rng(0), num=6, dim=4).shape
    (6, 4)
    """

    gaussian_rows: ClassVar[bool] = True

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        return rng.standard_normal((num, dim))

    def coupled_rows(self, num: int, dim: int) -> float:
        return 0.0

    def positive_covariance(self, squared_norm: Array, dim: int) -> Array:
        return namespace(squared_norm).zeros_like(squared_norm)

    def trigonometric_covariance(self, squared_norm: Array, dim: int) -> Array:
        return namespace(squared_norm).zeros_like(squared_norm)
