"""Sums of products of kernels."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfx._xp import Array, full, working_dtype
from rfx.kernels._base import Kernel, SignedKernel
from rfx.kernels._scaled import Scaled, product, total

__all__ = ["Combination"]


@dataclass(frozen=True)
class Combination(SignedKernel):
    """Σ_terms c Π_i k_i(x, y), the kernel of sums and products of feature maps.

    Terms do not overflow one another: where the sum is representable it is found. With all c >= 0
    it is positive definite.

    Parameters
    ----------
    kernels : tuple of Kernel
        k_0, k_1, ...
    terms : tuple of (float, tuple of int)
        For each term its coefficient c and the indices i of its kernels, of which one may come
        repeatedly; () is the constant 1.

    Raises
    ------
    TypeError
        If a kernel is no record of `rfx.kernels`, or a term is no pair of a number and indices.
    ValueError
        If there is no term, a coefficient is not finite, or there is no kernel of an index. When
        called, if a point is outside the domain of one of the kernels.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 1.0]])
    >>> near, wide = rfx.kernels.Gaussian(1.0), rfx.kernels.Gaussian(10.0)
    >>> kernel = rfx.kernels.Combination((near, wide), ((0.5, (0, 1)), (2.0, ())))
    >>> kernel(x, y).round(4)  # 0.5 exp(-1) exp(-0.01) + 2
    array([[2.1821]])
    """

    kernels: tuple[Kernel, ...]
    terms: tuple[tuple[float, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        kernels = _items("kernels", self.kernels, "of records of rfx.kernels")
        for i, kernel in enumerate(kernels):
            if not isinstance(kernel, Kernel):
                raise TypeError(
                    f"`kernels[{i}]` must be a record of rfx.kernels, got {kernel!r}; "
                    "pass for example rfx.kernels.Gaussian()"
                )
        terms = _items("terms", self.terms, "of pairs (coefficient, indices)")
        if not terms:
            raise ValueError("`terms` must not be empty; pass for example ((1.0, (0,)),)")
        object.__setattr__(self, "kernels", kernels)
        checked = tuple(_term(n, term, len(kernels)) for n, term in enumerate(terms))
        object.__setattr__(self, "terms", checked)

    def check(self, x: Array, name: str, keep: Array | None = None) -> None:
        for kernel in self.kernels:
            kernel.check(x, name, keep)

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        used = {i for _, which in self.terms for i in which}
        parts = {i: Scaled(*self.kernels[i]._log_and_factor(x, y)) for i in used}
        like = full(x, (*x.shape[:-1], y.shape[-2]), 0.0, working_dtype(x))
        return total([product(like, c, [parts[i] for i in which]) for c, which in self.terms])


def _items(name: str, value: Any, what: str) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(f"`{name}` must be a tuple {what}, got {value!r}")
    return tuple(value)


def _term(n: int, term: Any, count: int) -> tuple[float, tuple[int, ...]]:
    name = f"terms[{n}]"
    pair = _items(name, term, "(coefficient, indices)")
    if len(pair) != 2 or not isinstance(pair[0], numbers.Real) or isinstance(pair[0], bool):
        raise TypeError(f"`{name}` must be a pair (coefficient, indices), got {term!r}")
    if not math.isfinite(pair[0]):
        raise ValueError(f"`{name}` must have a finite coefficient, got {pair[0]!r}")
    which = _items(f"{name}[1]", pair[1], "of indices of kernels")
    for i in which:
        if not isinstance(i, numbers.Integral) or isinstance(i, bool):
            raise TypeError(f"`{name}` must have whole numbers as indices, got {i!r}")
        if not 0 <= int(i) < count:
            raise ValueError(
                f"`{name}` must have indices from 0 to {count - 1}, of `kernels`, got {i}"
            )
    return float(pair[0]), tuple(int(i) for i in which)
