"""Points that fill the unit cube evenly, as Gaussian frequencies, by SciPy."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from rfx._xp import Array
from rfx.projections._base import Kind, Projection

__all__ = ["LowDiscrepancy"]

_TINY = 2.0**-53


class LowDiscrepancy(Projection):
    """Rows Φ⁻¹(u) for points u of a scrambled sequence, each of which is uniform alone."""

    gaussian_rows = True
    coupled = True
    cost: ClassVar[str] = "d m"

    @abstractmethod
    def points(self, qmc: Any, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        """Draw (num, dim) points of the unit cube; ``qmc`` is the module scipy.stats.qmc."""

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        points = self.points(self._scipy("stats.qmc"), rng, num, dim)
        return self._scipy("special").ndtri(np.clip(points, _TINY, 1.0 - _TINY))

    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array | None:
        return None

    def _scipy(self, name: str) -> Any:
        try:
            return importlib.import_module(f"scipy.{name}")
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__} frequencies need SciPy, which cannot be imported "
                f'({error}); install it with pip install -e ".[qmc]"'
            ) from error
