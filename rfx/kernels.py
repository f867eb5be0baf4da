"""Exact kernels: frozen records that, when called, give the Gram matrix of two sets of points."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from rfx import _check, _functions
from rfx._arc_cosine import log_arc_cosine
from rfx._expectation import expectation
from rfx._functions import FunctionName
from rfx._xp import Array, full_precision, namespace, working_dtype

__all__ = [
    "ArcCosine",
    "Expectation",
    "ExponentialKernel",
    "Gaussian",
    "Kernel",
    "Pointwise",
    "SignedKernel",
    "Softmax",
    "squared_distance",
]


class Kernel(ABC):
    """A positive definite function of two points.

    Subclasses are frozen dataclasses, so that a kernel can be compared, hashed and be a static
    argument of ``jax.jit``.
    """

    def __call__(self, x: Array, y: Array) -> Array:
        """Gram matrix k(x_i, y_j).

        Parameters
        ----------
        x : Array, shape (..., t, d)
        y : Array, shape (..., s, d)
            Of the library, device and dtype of ``x``.

        Returns
        -------
        Array, shape (..., t, s), dtype of ``x``
            ``inf`` where the value exceeds the dtype; `log` has no such limit.

        Raises
        ------
        TypeError
            If an argument is no floating array, or the two are of different libraries or dtypes.
        ValueError
            If the last axes or the batch axes differ.
        """
        _check.points(x, y)
        xp = namespace(x)
        with full_precision(x):
            return xp.astype(self._values(x, y), x.dtype)

    def log(self, x: Array, y: Array) -> Array:
        """Log of the Gram matrix, in the working dtype (float64 for float64, else float32).

        −inf where the kernel is 0; of its absolute value where it is negative.
        """
        _check.points(x, y)
        with full_precision(x):
            return self._log(x, y)

    def log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array | None]:
        """A log and a factor, such that the Gram matrix is factor · exp(log).

        The factor is None for 1; a kernel that may be negative has one.
        """
        _check.points(x, y)
        with full_precision(x):
            return self._log_and_factor(x, y)

    def _values(self, x: Array, y: Array) -> Array:
        return namespace(x).exp(self._log(x, y))

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array | None]:
        return self._log(x, y), None

    @abstractmethod
    def _log(self, x: Array, y: Array) -> Array: ...


class SignedKernel(Kernel):
    """A kernel that may be negative, given as factor · exp(log) with a finite log."""

    @abstractmethod
    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]: ...

    def _values(self, x: Array, y: Array) -> Array:
        xp = namespace(x)
        log, factor = self._log_and_factor(x, y)
        nothing = factor == 0.0  # exp may overflow, and inf · 0 is no number
        return factor * xp.exp(xp.where(nothing, xp.zeros_like(log), log))

    def _log(self, x: Array, y: Array) -> Array:
        xp = namespace(x)
        log, factor = self._log_and_factor(x, y)
        nothing = factor == 0.0
        size = xp.log(xp.where(nothing, xp.ones_like(factor), xp.abs(factor)))
        return xp.where(nothing, xp.full_like(log, -float("inf")), log + size)


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


@dataclass(frozen=True)
class ArcCosine(Kernel):
    """|x|^n |y|^n J_n(θ) / π for points at an angle θ: 2 E[f(ω·x) f(ω·y)] with f(u) = max(u, 0)^n.

    J_0 = π − θ, J_1 = sin θ + (π − θ) cos θ, J_2 = 3 sin θ cos θ + (π − θ)(1 + 2 cos² θ). ω is
    N(0, I), and for n = 0 f is the step, 1 where u > 0 and else 0. It is 0 at θ = π, and where a
    point is 0: there f is 0 for every ω, also for n = 0.

    Parameters
    ----------
    order : 0, 1 or 2
        n. Order 1 is the kernel of ReLU features.

    Raises
    ------
    ValueError
        If ``order`` is none of these.

    References
    ----------
    Cho and Saul, Kernel methods for deep learning, 2009, section 2.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[3.0, 4.0]]), np.asarray([[-4.0, 3.0]])
    >>> kernel = rfx.kernels.ArcCosine(order=1)
    >>> kernel(x, x), kernel(x, y).round(4)  # |x|² and, at right angles, |x| |y| / π
    (array([[25.]]), array([[7.9577]]))
    """

    order: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (0, 1, 2):
            raise ValueError(f"`order` must be 0, 1 or 2, got {self.order!r}; 1 is for ReLU")
        object.__setattr__(self, "order", int(self.order))

    def _log(self, x: Array, y: Array) -> Array:
        return log_arc_cosine(self.order, x, y)


@dataclass(frozen=True)
class Expectation(SignedKernel):
    """E[f(ω·x) f(ω·y)] for ω ~ N(0, I): the kernel of random features f(ω·x), for any f.

    It is computed by quadrature, with some nine thousand values of f a pair: as a target to compare
    with, not for speed. Where f is smooth but for a kink at 0 the error is at rounding for points
    of norms up to about 1, and below 1e-4 sqrt(k(x, x) k(y, y)) up to 8.

    Parameters
    ----------
    function : str or callable
        f: the name of an elementwise function of `rfx.features.Generalized`, or a hashable callable
        that takes and returns an array.

    Raises
    ------
    ValueError
        If there is no elementwise function of that name.
    TypeError
        If ``function`` is neither a name nor a hashable callable.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[3.0, 4.0]])
    >>> rfx.kernels.Expectation("relu")(x, x).round(6)  # |x|² / 2
    array([[12.5]])
    """

    function: FunctionName

    def __post_init__(self) -> None:
        if not _functions.known(self.function).elementwise:
            raise ValueError(
                f"`function` must be elementwise, got {self.function!r}, which is of a whole row; "
                "rfx.features.Deterministic takes it"
            )

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        values = expectation(self.function, x, y)
        return namespace(x).zeros_like(values), values


@dataclass(frozen=True)
class Pointwise(SignedKernel):
    """f(x)·f(y) for a function f of each coordinate, or of the row: features without randomness.

    Parameters
    ----------
    function : str or callable
        A name such as "elu+1", or a hashable callable that takes and returns an array.

    Raises
    ------
    ValueError
        If there is no function of that name.
    TypeError
        If ``function`` is neither a name nor a hashable callable.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, -2.0]])
    >>> rfx.kernels.Pointwise("identity")(x, -x)
    array([[-5.]])
    """

    function: FunctionName

    def __post_init__(self) -> None:
        _functions.known(self.function)

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        (x_log, x_value), (y_log, y_value) = (
            _functions.scaled(self.function, xp.astype(a, working_dtype(a))) for a in (x, y)
        )
        log = x_log + xp.matrix_transpose(y_log)
        return log, xp.matmul(x_value, xp.matrix_transpose(y_value))
