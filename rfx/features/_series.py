"""Power series Σ_n c_n u^n with c_n >= 0, as factor · exp(log): what variances are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rfx._xp import Array, namespace
from rfx.features._bessel import log_i0
from rfx.kernels import DotProduct
from rfx.kernels._scaled import Scaled, total

__all__ = ["Argument", "Series", "argument", "squares", "tail"]

Host = np.ndarray[Any, Any]

_LOWEST = -1e5
"""Stands for log 0."""

_TERMS = 128


class Argument(NamedTuple):
    """sign · exp(log), which may exceed the dtype."""

    log: Array
    sign: Array


def argument(log: Array, factor: Array) -> Argument:
    """factor · exp(log)."""
    xp = namespace(factor)
    one, nothing = xp.ones_like(factor), factor == 0.0
    size = xp.log(xp.where(nothing, one, xp.abs(factor)))
    log = xp.clip(xp.where(nothing, xp.full_like(size, _LOWEST), log + size), _LOWEST, None)
    return Argument(log, xp.where(factor < 0.0, -one, one))


class Series(NamedTuple):
    """Σ_n c_n u^n from n = ``first`` on.

    coefficients : c_first, c_(first + 1), ..., a finite number of them
    reach : up to |u| = reach these are enough; inf for a polynomial
    radius : of convergence; closed where the series converges there, too
    beyond : the series between reach and radius
    """

    first: int
    coefficients: Host
    reach: float = math.inf
    radius: float = math.inf
    closed: bool = False
    beyond: Callable[[Array], Scaled] | None = None

    def diverges(self, at: Argument) -> Array:
        """Where the series has no value."""
        end = math.log(self.radius) if self.radius < math.inf else math.inf
        return at.log > end if self.closed else at.log >= end

    def __call__(self, at: Argument) -> Scaled:
        """The sum; any number where it diverges."""
        if self.reach == math.inf:
            return self._polynomial(at)
        xp, end = namespace(at.log), math.log(self.reach)
        far = at.log > end
        inside = self._horner(xp.clip(at.log, None, end), at.sign)
        if self.beyond is None:
            return inside
        u = at.sign * xp.exp(xp.where(far, at.log, xp.full_like(at.log, end)))
        log, factor = self.beyond(u)
        return Scaled(xp.where(far, log, inside.log), xp.where(far, factor, inside.factor))

    def _horner(self, log: Array, sign: Array) -> Scaled:
        """u^first Σ_k c_(first + k) u^k, with coefficients scaled to the reach."""
        ratio = sign * namespace(log).exp(log) / self.reach
        logs = np.log(self.coefficients) + np.arange(len(self.coefficients)) * math.log(self.reach)
        top = float(np.max(logs))
        value = _horner(np.exp(logs - top).tolist(), ratio)
        return Scaled(self.first * log + top, sign**self.first * value)

    def _polynomial(self, at: Argument) -> Scaled:
        parts = [
            Scaled(n * at.log + math.log(c), at.sign**n)
            for n, c in enumerate(self.coefficients, self.first)
            if c > 0.0
        ]
        return Scaled(*total(parts))


def tail(kernel: DotProduct, first: int) -> Series:
    """Σ_{n >= first} a_n u^n, the end of the kernel's own series."""
    if not isinstance(kernel.series, str):
        return Series(first, kernel.coefficients(len(kernel.series))[first:])
    rest = kernel.coefficients(first + _TERMS)[first:]
    if kernel.radius == math.inf:
        return Series(first, rest, _reach(rest), beyond=_exp)
    name, before = kernel.series, kernel.coefficients(first + 1)[:first].tolist()

    def beyond(u: Array) -> Scaled:
        xp = namespace(u)
        left = _left(u)
        if name == "sqrt":
            value = 2.0 - xp.sqrt(left)
        else:
            value = 1.0 / left if name == "inv" else 1.0 - xp.log(left)
        return Scaled(xp.zeros_like(u), value - _horner(before, u))

    return Series(first, rest, _reach(rest), 1.0, name == "sqrt", beyond)


def squares(kernel: DotProduct) -> Series:
    """Σ_n 2 a_n² u^n."""
    if not isinstance(kernel.series, str):
        return Series(0, 2.0 * kernel.coefficients(len(kernel.series)) ** 2)
    if kernel.radius == math.inf:
        found = 2.0 * kernel.coefficients(80) ** 2
        return Series(0, found, _reach(found), beyond=_bessel)
    if kernel.series == "sqrt":  # its terms fall as n^(-3): what is left out is below 1e-7
        return Series(0, 2.0 * kernel.coefficients(1024) ** 2, 1.0, 1.0, True)
    is_inv = kernel.series == "inv"
    found = 2.0 * kernel.coefficients(_TERMS) ** 2
    reach = 0.75 if is_inv else 0.5
    return Series(0, found, reach, 1.0, not is_inv, _geometric if is_inv else _dilogarithm)


def _reach(coefficients: Host) -> float:
    """Where the last term is eps times the first."""
    eps = np.finfo(np.float64).eps
    return float((eps * coefficients[0] / coefficients[-1]) ** (1.0 / (len(coefficients) - 1)))


def _horner(coefficients: Sequence[float], u: Array) -> Array:
    value = namespace(u).zeros_like(u)
    for c in reversed(coefficients):
        value = value * u + c
    return value


def _left(u: Array) -> Array:
    """1 − u, but above 0."""
    xp = namespace(u)
    return xp.clip(1.0 - u, float(xp.finfo(u.dtype).smallest_normal), None)


def _exp(u: Array) -> Scaled:
    """exp(u) for large u > 0, beside which its first terms are nothing.

    For u < 0 the sum is below the rounding of that at −u, beside which it stands in a variance.
    """
    return _of_positive(namespace(u).abs(u), u, 1.0)


def _bessel(u: Array) -> Scaled:
    """Σ_n 2 u^n / (n!)² = 2 I_0(2 √u) for large u > 0; J_0, for u < 0, is nothing beside it."""
    xp = namespace(u)
    return _of_positive(log_i0(2.0 * xp.sqrt(xp.abs(u))), u, 2.0)


def _of_positive(log: Array, u: Array, factor: float) -> Scaled:
    xp = namespace(u)
    return Scaled(log, xp.where(u > 0.0, xp.full_like(u, factor), xp.zeros_like(u)))


def _geometric(u: Array) -> Scaled:
    """Σ_n 2 u^n."""
    return Scaled(namespace(u).zeros_like(u), 2.0 / _left(u))


def _dilogarithm(u: Array) -> Scaled:
    """2 + Σ_{n > 0} 2 u^n / n² = 2 + 2 Li_2(u), by the reflections of Li_2 in 1 − u and u/(u − 1).

    Li_2(u) = π²/6 − log u log(1 − u) − Li_2(1 − u), for u < 0 −log²(1 − u)/2 − Li_2(u/(u − 1)).
    """
    xp = namespace(u)
    positive, left = u > 0.0, _left(u)
    log = xp.log(left)
    size = xp.clip(xp.abs(u), None, 1.0)
    other = xp.where(positive, xp.clip(1.0 - u, 0.0, 1.0), size / (1.0 + size))
    rest = _horner([0.0, *(1.0 / n**2 for n in range(1, 64))], other)
    known = xp.where(positive, math.pi**2 / 6.0 - xp.log(size) * log, -0.5 * log * log)
    return Scaled(xp.zeros_like(u), 2.0 + 2.0 * (known - rest))
