"""Frequencies as products of Hadamard matrices and diagonals, which are never formed."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from rfx import ops
from rfx._xp import Array, DType, from_numpy, full, namespace
from rfx.projections._base import Kind, Projection

__all__ = ["Structured", "StructuredProjection", "padded"]


class Structured(NamedTuple):
    """A matrix of frequencies (d, m) that is applied in O(m log d) and stored in O(m).

    Points are padded with zeros to p axes, the next power of two. With H the orthonormal Hadamard
    matrix and diag(·) diagonals, a block of frequencies is, as rows,
    H diag(signs[-1]) ··· H diag(signs[0]) Π H diag(inner). Those of all blocks are concatenated,
    cut to n, and multiplied by ``outer``. Each field may have one more axis, of heads, in front.

    inner : shape (blocks, d)
    signs : shape (k − 1, blocks, p)
    outer : shape (copies, n): two copies make a pair ±ω of each frequency, and m = copies · n
    order : shape (blocks, p), or None: the permutation Π, as numbers of the dtype of the others

    On CPUs this is faster than a product with the matrix from some 512 dimensions on.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> w = rfx.projections.Hadamard().factors(np.random.default_rng(0), num=100, dim=48)
    >>> w.shape, w.project(np.ones((5, 48))).shape
    ((48, 100), (5, 100))
    """

    inner: Array
    signs: Array
    outer: Array
    order: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(d, m), or (heads, d, m)."""
        *heads, copies, num = self.outer.shape
        return (*heads, self.inner.shape[-1], copies * num)

    @property
    def ndim(self) -> int:
        """2, or 3 with heads."""
        return len(self.shape)

    @property
    def dtype(self) -> DType:
        """That of the arrays."""
        return self.inner.dtype

    def project(self, x: Array) -> Array:
        """``x @ self.dense()`` for points (..., t, d), or (..., heads, t, d): shape (..., t, m).

        The points must have the dtype of the arrays. No array is larger than (..., t, blocks · p),
        but for the result of a pair.
        """
        xp, count = namespace(x), self.outer.shape[-1]
        (blocks, dim), width = self.inner.shape[-2:], padded(self.inner.shape[-1])
        wide = x[..., None, :] * self.inner[..., None, :, :]
        if width > dim:
            zeros = full(wide, (*wide.shape[:-1], width - dim), 0.0, wide.dtype)
            wide = xp.concat([wide, zeros], axis=-1)
        wide = ops.fwht(wide)
        if self.order is not None:
            wide = _permuted(wide, self.order)
        for i in range(self.signs.shape[-3]):
            wide = ops.fwht(wide * self.signs[..., i, None, :, :])
        flat = xp.reshape(wide, (*wide.shape[:-2], blocks * width))[..., :count]
        scaled = flat[..., None, :] * self.outer[..., None, :, :]
        return xp.reshape(scaled, (*scaled.shape[:-2], self.shape[-1]))

    def scaled(self, factor: Array | float) -> Structured:
        """The frequencies times a number, or times one of shape (d,) for each axis."""
        return self._replace(inner=self.inner * factor)

    def mirrored(self) -> Structured:
        """Each frequency and, behind all of them, its negative."""
        outer = namespace(self.outer).concat([self.outer, -self.outer], axis=-2)
        return self._replace(outer=outer)

    def dense(self) -> Array:
        """The matrix, shape (d, m) or (heads, d, m)."""
        xp, dim = namespace(self.inner), self.shape[-2]
        axes = from_numpy(np.eye(dim), self.inner, self.dtype)
        return self.project(xp.broadcast_to(axes, (*self.shape[:-2], dim, dim)))


class StructuredProjection(Projection):
    """A projection whose frequencies are `Structured`."""

    structured: ClassVar[bool] = True
    coupled = True
    cost: ClassVar[str] = "m"
    cost_to_apply: ClassVar[str] = "m log d"
    independent_norms = True

    @abstractmethod
    def factors(self, rng: np.random.Generator, num: int, dim: int) -> Structured:
        """Draw frequencies as factors, float64 on the host."""

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        return np.ascontiguousarray(self.factors(rng, num, dim).dense().T)

    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array | None:
        return None


def padded(dim: int) -> int:
    """The least power of two that is at least ``dim``."""
    return 1 << (dim - 1).bit_length()


def _permuted(wide: Array, order: Array) -> Array:
    """Reorder the last axis of (..., t, blocks, p) by (blocks, p), or (heads, blocks, p)."""
    xp, (blocks, width) = namespace(wide), wide.shape[-2:]
    integer = xp.arange(1).dtype
    if order.ndim > 2:
        index = xp.astype(order, integer)[..., None, :, :]
        return xp.take_along_axis(wide, xp.broadcast_to(index, wide.shape), axis=-1)
    # One list of places for all blocks: faster than an index for each number.
    first = from_numpy(np.arange(blocks)[:, None] * float(width), order, order.dtype)
    index = xp.reshape(xp.astype(order + first, integer), (blocks * width,))
    flat = xp.reshape(wide, (*wide.shape[:-2], blocks * width))
    return xp.reshape(xp.take(flat, index, axis=-1), wide.shape)
