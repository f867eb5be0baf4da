"""Frequencies from Halton points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.projections._low_discrepancy import LowDiscrepancy

__all__ = ["Halton"]


@dataclass(frozen=True)
class Halton(LowDiscrepancy):
    """Rows Φ⁻¹(u) for scrambled Halton points u, which need no power of two.

    A row is N(0, I) but for clipping of u to 2⁻⁵³ from 0 and 1, so that maps are unbiased. As with
    `Sobol`, the gain over independent rows is large in few dimensions and fades as they grow.

    Raises
    ------
    ImportError
        By ``sample``, if SciPy is missing.

    References
    ----------
    Avron et al., Quasi-Monte Carlo feature maps for shift-invariant kernels, 2016;
    Owen, A randomized Halton algorithm in R, 2017 (the scrambling).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rfx.projections.Halton().sample(np.random.default_rng(0), num=6, dim=4).shape
    (6, 4)
    """

    def points(self, qmc: Any, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        return qmc.Halton(dim, scramble=True, rng=rng).random(num)
