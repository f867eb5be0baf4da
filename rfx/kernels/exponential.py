"""The softmax and the Gaussian kernel."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from rfx import _check
from rfx._xp import Array, namespace, working_dtype
from rfx.kernels._base import Kernel

__all__ = ["ExponentialKernel", "Gaussian", "Softmax", "squared_distance"]


class ExponentialKernel(Kernel):
    """The two kernels whose log is a quadratic form, in one formula.

    log k(x, y) = u² x·y − (ρ/2) (|u x|² + |u y|²), with u = ``unit(dim)`` and ρ = ``norm_weight``:
    0 for the softmax kernel, 1 for the Gaussian kernel. A feature of one is a feature of the other
    times exp of a multiple of the squared norm, so each map is written for both.
    """

    norm_weight: ClassVar[int]

    @abstractmethod
    def unit(self, dim: int) -> float:
        """Factor u that brings points of ``dim`` axes to unit temperature."""

    def scaled(self, x: Array) -> Array:
        """Points at unit temperature, in the working dtype."""
        return namespace(x).astype(x, working_dtype(x)) * self.unit(x.shape[-1])


def squared_distance(x: Array, y: Array) -> Array:
    """|x_i − y_j|² for points of shapes (..., t, d) and (..., s, d), never negative."""
    xp = namespace(x)
    inner = xp.matmul(x, xp.matrix_transpose(y))
    norms = xp.sum(x * x, axis=-1)[..., :, None] + xp.sum(y * y, axis=-1)[..., None, :]
    return xp.clip(norms - 2.0 * inner, 0.0, None)


@dataclass(frozen=True)
class Softmax(ExponentialKernel):
    """exp(scale · q·k), the unnormalised weight of dot-product attention.

    Parameters
    ----------
    scale : float, optional
        Positive; ``dim ** -0.5`` by default, as in attention.

    Raises
    ------
    ValueError
        If ``scale`` is not a positive finite number.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, 0.0, 0.0, 2.0]])
    >>> rfx.kernels.Softmax()(x, x).round(3)  # exp(5 / sqrt(4))
    array([[12.182]])
    """

    scale: float | None = None
    norm_weight: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if self.scale is not None:
            object.__setattr__(self, "scale", _check.positive_number("scale", self.scale))

    def _log(self, x: Array, y: Array) -> Array:
        xp = namespace(x)
        return xp.matmul(self.scaled(x), xp.matrix_transpose(self.scaled(y)))

    def unit(self, dim: int) -> float:
        return float(dim) ** -0.25 if self.scale is None else math.sqrt(self.scale)


@dataclass(frozen=True)
class Gaussian(ExponentialKernel):
    """exp(−|x − y|² / (2 bandwidth²)), the radial basis function kernel.

    Parameters
    ----------
    bandwidth : float
        Standard deviation, in the unit of the points. scikit-learn's ``gamma`` is
        ``1 / (2 * bandwidth ** 2)``.

    Raises
    ------
    ValueError
        If ``bandwidth`` is not a positive finite number.

    Notes
    -----
    The squared distance is |x|² + |y|² − 2 x·y, so its rounding error is of the size of the squared
    norms times eps: centre points that lie far from the origin.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 0.0]]), np.asarray([[1.0, 1.0]])
    >>> rfx.kernels.Gaussian(bandwidth=1.0)(x, y).round(4)  # exp(-1)
    array([[0.3679]])
    """

    bandwidth: float = 1.0
    norm_weight: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidth", _check.positive_number("bandwidth", self.bandwidth))

    def _log(self, x: Array, y: Array) -> Array:
        return -0.5 * squared_distance(self.scaled(x), self.scaled(y))

    def unit(self, dim: int) -> float:
        return 1.0 / self.bandwidth
