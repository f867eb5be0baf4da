"""Frequencies made of Hadamard matrices and random signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx import _check
from rfx.projections._base import Norms, check_norms, row_norms
from rfx.projections.structured import Structured, StructuredProjection, padded

__all__ = ["Hadamard"]


@dataclass(frozen=True)
class Hadamard(StructuredProjection):
    """W = S H D ··· H D: orthogonal rows in O(log d) a frequency, with nearly Gaussian rows.

    H is the orthonormal Walsh-Hadamard matrix of p rows, the next power of two above dim, and each
    D a diagonal of random signs. Rows are not Gaussian: an entry of the product takes finitely many
    values, and a map with them is slightly biased, most for points that lie along few axes.

    Parameters
    ----------
    norms : "chi" or "fixed"
        S: χ_p for each row, so that |ω·z|² has the mean of a Gaussian row's, or sqrt(p).
    blocks : int
        How many pairs H D; 3 by default. With 1 points along an axis see signs only.

    Raises
    ------
    ValueError
        If ``norms`` is neither, or ``blocks`` is below 1.
    TypeError
        If ``blocks`` is no int.

    References
    ----------
    Yu et al., Orthogonal random features, 2016, section 4 (three blocks, norms sqrt(d));
    Choromanski et al., The unreasonable effectiveness of structured random orthogonal embeddings,
    2017, section 2 (other numbers of blocks).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.Hadamard().sample(np.random.default_rng(0), num=3, dim=4)
    >>> bool(abs(w[0] @ w[1]) < 1e-12)
    True
    """

    norms: Norms = "chi"
    blocks: int = 3

    gaussian_rows = False

    def __post_init__(self) -> None:
        check_norms(self.norms)
        object.__setattr__(self, "blocks", _check.positive_int("blocks", self.blocks))

    def factors(self, rng: np.random.Generator, num: int, dim: int) -> Structured:
        width = padded(dim)
        copies = -(-num // width)
        signs = rng.integers(0, 2, (self.blocks, copies, width)) * 2.0 - 1.0
        outer = row_norms(self.norms, rng, num, width)
        return Structured(signs[0, :, :dim], signs[1:], outer.T)
