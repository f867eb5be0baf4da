"""Frequencies from Sobol' points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx.projections._low_discrepancy import LowDiscrepancy

__all__ = ["Sobol"]


@dataclass(frozen=True)
class Sobol(LowDiscrepancy):
    """Rows Φ⁻¹(u) for scrambled Sobol' points u: evenly spread, so that sums converge faster.

    A row is N(0, I) but for clipping of u to 2⁻⁵³ from 0 and 1, so that maps are unbiased. The gain
    over independent rows is large in few dimensions and fades as they grow; it is best where
    ``num`` is a power of two: others are drawn as the next power of two, and cut. SciPy has these
    points in up to 21,201 dimensions.

    Raises
    ------
    ImportError
        By ``sample``, if SciPy is missing.

    References
    ----------
    Avron et al., Quasi-Monte Carlo feature maps for shift-invariant kernels, 2016;
    Matoušek, On the L2-discrepancy for anchored boxes, 1998 (the scrambling).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rfx.projections.Sobol().sample(np.random.default_rng(0), num=6, dim=4).shape
    (6, 4)
    """

    def points(self, qmc: Any, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        engine = qmc.Sobol(dim, scramble=True, bits=53, rng=rng)
        return engine.random_base2((num - 1).bit_length())[:num]
