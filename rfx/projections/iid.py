"""Independent frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx._xp import Array, namespace
from rfx.projections._base import Kind, row_norms
from rfx.projections._isotropic import Isotropic

__all__ = ["IID"]


@dataclass(frozen=True)
class IID(Isotropic):
    """Independent rows: N(0, I), or of norm sqrt(dim) in uniform directions.

    Parameters
    ----------
    norms : "chi" or "fixed"
        With "fixed" each row has the norm sqrt(dim): maps are biased then, by the means that
        `exponential_mean`, at most 1, and `trigonometric_mean` give.

    Raises
    ------
    ValueError
        If ``norms`` is neither.

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, 2007, algorithm 1.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rfx.projections.IID().sample(np.random.default_rng(0), num=6, dim=4).shape
    (6, 4)
    """

    coupled = False
    cost: ClassVar[str] = "d m"
    independent_norms = True

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        rows = rng.standard_normal((num, dim))
        if self.norms == "fixed":
            rows *= row_norms("fixed", rng, num, dim) / np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array:
        return namespace(squared_norm).zeros_like(squared_norm)
