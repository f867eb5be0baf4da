"""Gaussian frequencies made of two Hadamard matrices, a permutation and Gaussian diagonals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx.projections._base import row_norms
from rfx.projections.structured import Structured, StructuredProjection, padded

__all__ = ["Fastfood"]


@dataclass(frozen=True)
class Fastfood(StructuredProjection):
    """W = S H (p^(1/2) G / |G|) Π H B: rows that are exactly N(0, I), in O(log d) a frequency.

    H is the orthonormal Walsh-Hadamard matrix of p rows, the next power of two above dim, B a
    diagonal of random signs, Π a permutation, G one of standard normals and S one of χ_p. The rows
    of a block share G, so that the mean of several rows varies more than that of orthogonal ones.

    Notes
    -----
    Why a row is Gaussian: row i of p^(1/2) H G is (±g_1, ..., ±g_p), a standard normal vector, of
    the norm |G| that all rows share. ΠHB is orthogonal and independent of it, so that the product
    is standard normal too; division by |G| leaves a uniform direction, which is independent of |G|,
    and S gives each row a χ_p norm of its own. Of p Gaussian axes the first dim are kept.

    References
    ----------
    Le, Sarlós and Smola, Fastfood: approximating kernel expansions in loglinear time, 2013. There
    H has entries ±1, and S has the 1/|G|.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.Fastfood().factors(np.random.default_rng(0), num=1024, dim=64)
    >>> w.shape, sum(array.size for array in w)
    ((64, 1024), 4096)
    """

    gaussian_rows = True

    def factors(self, rng: np.random.Generator, num: int, dim: int) -> Structured:
        width = padded(dim)
        blocks = -(-num // width)
        signs = rng.integers(0, 2, (blocks, dim)) * 2.0 - 1.0
        normals = rng.standard_normal((1, blocks, width))
        normals *= width**0.5 / np.linalg.norm(normals, axis=-1, keepdims=True)
        order = rng.permuted(np.tile(np.arange(float(width)), (blocks, 1)), axis=-1)
        return Structured(signs, normals, row_norms("chi", rng, num, width).T, order)
