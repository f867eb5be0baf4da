"""Kernels that are a function of the inner product of two points."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx import _check
from rfx._xp import Array, constant, namespace, to_numpy, truth, working_dtype
from rfx.kernels._arc_cosine import root
from rfx.kernels._base import SignedKernel

__all__ = ["SERIES", "DotProduct", "Polynomial"]

SERIES = ("exp", "inv", "logi", "sqrt", "trigh")
"""Names of the series that `DotProduct` knows."""


@dataclass(frozen=True)
class DotProduct(SignedKernel):
    """f(scale · x·y) for a power series f(t) = Σ_n a_n t^n with no negative coefficient.

    ======= ==================== ============================= ===========
    series  f(t)                 a_n                           domain
    ======= ==================== ============================= ===========
    exp     exp(t)               1/n!                          all
    inv     1 / (1 − t)          1                             -1 < t < 1
    logi    1 − log(1 − t)       1, then 1/n                   -1 < t < 1
    sqrt    2 − √(1 − t)         1, 1/2, (2n − 3)!! / (2^n n!) -1 <= t <= 1
    trigh   sinh(t) + cosh(t)    1/n!, since it is exp(t)      all
    numbers Σ_n a_n t^n          as given, a_0 first           all
    ======= ==================== ============================= ===========

    With a_n >= 0 it is positive definite for every dimension. A polynomial with odd powers, so one
    with values below 0, is a kernel too.

    Parameters
    ----------
    series : str or sequence of float
        A name, or the coefficients of a polynomial.
    scale : float, optional
        Positive; ``dim ** -0.5`` by default, as in `Softmax`, which "exp" is equal to.

    Raises
    ------
    ValueError
        If there is no series of that name, if a coefficient is negative or not finite, if none is
        positive, or if ``scale`` is not a positive finite number. When called, if a pair of points
        is outside the domain; while `jax.jit` or `torch.compile` traces, it is NaN there.
    TypeError
        If ``series`` or ``scale`` is of another kind.

    Notes
    -----
    "sqrt" takes |t| up to 1 + 32 eps for 1, since the inner product of unit vectors is rounded.

    References
    ----------
    Kar and Karnick, Random feature maps for dot product kernels, 2012, section 2.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.5, 0.0]]), np.asarray([[1.0, 1.0]])
    >>> rfx.kernels.DotProduct("inv", scale=1.0)(x, y)  # 1 / (1 - 0.5)
    array([[2.]])
    >>> rfx.kernels.DotProduct((1.0, 0.0, 4.0), scale=1.0)(x, y)  # 1 + 4 · 0.5²
    array([[2.]])
    """

    series: str | tuple[float, ...] = "exp"
    scale: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.series, str):
            if self.series not in SERIES:
                raise ValueError(
                    f"`series` must be one of {', '.join(SERIES)}, or the coefficients of a "
                    f"polynomial, got {self.series!r}"
                )
        else:
            object.__setattr__(self, "series", _coefficients(self.series))
        _check_scale(self)

    def coefficients(self, count: int) -> np.ndarray:
        """The first a_n.

        Parameters
        ----------
        count : int

        Returns
        -------
        numpy.ndarray, shape (count,), float64
        """
        count = _check.positive_int("count", count)
        n = np.arange(1.0, count)
        if not isinstance(self.series, str):
            given = np.asarray(self.series[:count])
            return np.concatenate([given, np.zeros(count - given.size)])
        rest = {
            "inv": np.ones_like(n),
            "logi": 1.0 / n,
            "sqrt": np.cumprod(np.where(n == 1.0, 0.5, (n - 1.5) / n)),
        }.get(self.series)
        return np.concatenate([[1.0], np.cumprod(1.0 / n) if rest is None else rest])

    def unit(self, dim: int) -> float:
        """The root of the scale: f is taken at the inner product of points times this."""
        return _unit(self.scale, dim)

    @property
    def radius(self) -> float:
        """Where the series ceases to converge: 1 or inf."""
        return 1.0 if self.series in ("inv", "logi", "sqrt") else math.inf

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        if not isinstance(self.series, str):
            return _polynomial(self.series, *_inner(x, y, self.unit(x.shape[-1])))
        x, y = (xp.astype(a, working_dtype(a)) * self.unit(a.shape[-1]) for a in (x, y))
        t = xp.matmul(x, xp.matrix_transpose(y))
        if self.radius == math.inf:
            return t, xp.ones_like(t)
        t, outside = self._inside(t)
        nothing, nan = xp.zeros_like(t), xp.full_like(t, math.nan)
        if self.series == "inv":
            return xp.where(outside, nan, -xp.log1p(-t)), xp.ones_like(t)
        value = 2.0 - root(1.0 - t) if self.series == "sqrt" else 1.0 - xp.log1p(-t)
        return nothing, xp.where(outside, nan, value)

    def _inside(self, t: Array) -> tuple[Array, Array]:
        """t with 0 in the place of what is outside the domain, and where that is."""
        xp, size = namespace(t), namespace(t).abs(t)
        closed = self.series == "sqrt"
        outside = size > 1.0 + 32.0 * float(xp.finfo(t.dtype).eps) if closed else size >= 1.0
        if truth(xp.any(outside)):
            worst = float(np.nanmax(to_numpy(size)))
            raise ValueError(
                f"`x` and `y` must have |scale x·y| {'at most' if closed else 'below'} 1 for "
                f"{self!r}, got {worst:.6g}; shrink the points, for example by "
                "rfx.kernels.Normalized, or take a smaller `scale`"
            )
        t = xp.where(outside, xp.zeros_like(t), t)
        return (xp.clip(t, -1.0, 1.0) if closed else t), outside


@dataclass(frozen=True)
class Polynomial(SignedKernel):
    """(scale · x·y + offset)^degree.

    Parameters
    ----------
    degree : int
        Positive.
    offset : float
        At least 0; scikit-learn's ``coef0``.
    scale : float, optional
        Positive; ``dim ** -0.5`` by default. scikit-learn's ``gamma``, which is ``1 / dim`` there.

    Raises
    ------
    ValueError
        If a parameter is out of these bounds.
    TypeError
        If a parameter is of another kind.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, 2.0]])
    >>> rfx.kernels.Polynomial(degree=3, offset=1.0, scale=1.0)(x, -x)  # (1 - 5)³
    array([[-64.]])
    """

    degree: int = 2
    offset: float = 0.0
    scale: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "degree", _check.positive_int("degree", self.degree))
        object.__setattr__(self, "offset", _non_negative("offset", self.offset))
        _check_scale(self)

    def unit(self, dim: int) -> float:
        """The root of the scale."""
        return _unit(self.scale, dim)

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        log_size, inner = _inner(x, y, self.unit(x.shape[-1]))
        base = inner + self.offset * xp.exp(-log_size)
        size = xp.where(base == 0.0, xp.ones_like(base), xp.abs(base))
        return self.degree * (log_size + xp.log(size)), (base / size) ** self.degree


def _inner(x: Array, y: Array, unit: float) -> tuple[Array, Array]:
    """A log L >= 0, constant to autograd, and v, such that unit² x·y = exp(L) v: v is finite.

    L is 0 where no coordinate times the unit exceeds 1.
    """
    xp = namespace(x)
    x, y = (xp.astype(a, working_dtype(a)) * unit for a in (x, y))
    tops = [constant(xp.clip(xp.max(xp.abs(a), axis=-1, keepdims=True), 1.0, None)) for a in (x, y)]
    log = xp.log(tops[0]) + xp.matrix_transpose(xp.log(tops[1]))
    return log, xp.matmul(x / tops[0], xp.matrix_transpose(y / tops[1]))


def _polynomial(series: tuple[float, ...], log_size: Array, inner: Array) -> tuple[Array, Array]:
    """log and factor of Σ_n a_n t^n at t = exp(log_size) · inner, which may overflow.

    Up to |t| = 1 it is Horner's rule; beyond it is t^N Σ_n a_n t^(n − N), in powers of 1/t.
    """
    xp = namespace(inner)
    top = max(series)
    weights = [a / top for a in series]
    while weights[-1] == 0.0:
        weights.pop()
    degree = len(weights) - 1
    nothing = inner == 0.0
    log_t = log_size + xp.log(xp.where(nothing, xp.ones_like(inner), xp.abs(inner)))
    far = xp.logical_and(xp.logical_not(nothing), log_t > 0.0)
    zero = xp.zeros_like(inner)
    log_far = xp.where(far, log_t, zero)
    sign = xp.where(inner < 0.0, -xp.ones_like(inner), xp.ones_like(inner))
    finite = xp.clip(log_size, None, math.log(float(xp.finfo(inner.dtype).max)) - 1.0)
    near = _horner(weights, xp.where(far, zero, inner) * xp.exp(finite))
    beyond = sign**degree * _horner(weights[::-1], sign * xp.exp(-log_far))
    return degree * log_far + math.log(top), xp.where(far, beyond, near)


def _horner(weights: Sequence[float], t: Array) -> Array:
    value = namespace(t).zeros_like(t)
    for weight in reversed(weights):
        value = value * t + weight
    return value


def _unit(scale: float | None, dim: int) -> float:
    return float(dim) ** -0.25 if scale is None else math.sqrt(scale)


def _check_scale(kernel: DotProduct | Polynomial) -> None:
    if kernel.scale is not None:
        object.__setattr__(kernel, "scale", _check.positive_number("scale", kernel.scale))


def _coefficients(series: Any) -> tuple[float, ...]:
    if not isinstance(series, Sequence | np.ndarray) or np.ndim(series) != 1:
        raise TypeError(
            f"`series` must be a name or a tuple of coefficients, got {series!r}; "
            f"names are {', '.join(SERIES)}"
        )
    found = tuple(_non_negative(f"series[{n}]", a) for n, a in enumerate(series))
    if not any(found):
        raise ValueError(f"`series` must have a positive coefficient, got {found!r}")
    return found


def _non_negative(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {value!r}; pass a float of at least 0")
    if not (math.isfinite(value) and float(value) >= 0.0):
        raise ValueError(f"`{name}` must be at least 0 and finite, got {value!r}")
    return float(value)
