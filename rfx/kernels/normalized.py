"""Kernels of the directions of points."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rfx._xp import Array, namespace
from rfx.kernels._arc_cosine import angles, polar
from rfx.kernels._base import Kernel, SignedKernel, any_kept

__all__ = ["Angular", "Normalized"]


@dataclass(frozen=True)
class Normalized(SignedKernel):
    """kernel(x / |x|, y / |y|): another kernel on the sphere.

    Norms neither overflow nor vanish. A point that is 0 has no direction: it is refused, and while
    `jax.jit` or `torch.compile` traces it stays 0.

    Parameters
    ----------
    kernel : Kernel

    Raises
    ------
    TypeError
        If ``kernel`` is no record of `rfx.kernels`.
    ValueError
        When called, if a point is 0, or a direction is outside the kernel's domain.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[3.0, 4.0]]), np.asarray([[0.0, 2.0]])
    >>> cosine = rfx.kernels.Normalized(rfx.kernels.Polynomial(degree=1, scale=1.0))
    >>> cosine(x, y).round(4)
    array([[0.8]])
    """

    kernel: Kernel

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            raise TypeError(
                f"`kernel` must be a record of rfx.kernels, got {self.kernel!r}; "
                "pass for example rfx.kernels.Gaussian()"
            )

    def check(self, x: Array, name: str, keep: Array | None = None) -> None:
        direction, _, nothing = polar(x)
        if any_kept(nothing, keep):
            raise ValueError(
                f"`{name}` must have no point that is 0, which has no direction; leave it out, or "
                "add a constant coordinate to all points"
            )
        self.kernel.check(direction, name, keep)

    def _values(self, x: Array, y: Array) -> Array:
        return self.kernel._values(polar(x)[0], polar(y)[0])

    def _log(self, x: Array, y: Array) -> Array:
        return self.kernel._log(polar(x)[0], polar(y)[0])

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        log, factor = self.kernel._log_and_factor(polar(x)[0], polar(y)[0])
        return log, namespace(log).ones_like(log) if factor is None else factor


@dataclass(frozen=True)
class Angular(SignedKernel):
    """1 − 2θ/π for points at an angle θ: E[sgn(ω·x) sgn(ω·y)] for ω ~ N(0, I).

    1 for parallel points, −1 for opposite ones, and 0 where a point is 0, as sgn(0) is. In the
    arc-cosine kernel of order 0 it is 2 k − 1 otherwise.

    References
    ----------
    Goemans and Williamson, Improved approximation algorithms for maximum cut and satisfiability
    problems using semidefinite programming, 1995, section 3, for the probability of unequal signs.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[1.0, 0.0], [0.0, -2.0]]), np.asarray([[3.0, 3.0]])
    >>> rfx.kernels.Angular()(x, y)
    array([[ 0.5],
           [-0.5]])
    """

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        (x, _, x_nothing), (y, _, y_nothing) = polar(x), polar(y)
        theta, rest = angles(x, y)
        value = (rest - theta) / math.pi
        nothing = xp.logical_or(x_nothing, xp.matrix_transpose(y_nothing))
        zero = xp.zeros_like(value)
        return zero, xp.where(nothing, zero, value)
