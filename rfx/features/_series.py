"""Power series Σ_n c_n u^n with c_n >= 0, as factor · exp(log): what variances are made of."""

from __future__ import annotations

import math
from collections.abc import Callable
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
        if self.reach == self.radius and not self.closed:
            end -= float(xp.finfo(at.log.dtype).eps)
        far = at.log > end
        inside = self._horner(xp.clip(at.log, None, end), at.sign)
        if self.beyond is None:
            return inside
        u = at.sign * xp.exp(xp.where(far, at.log, xp.full_like(at.log, end)))
        log, factor = self.beyond(u)
        return Scaled(xp.where(far, log, inside.log), xp.where(far, factor, inside.factor))

    def _horner(self, log: Array, sign: Array) -> Scaled:
        """u^first Σ_k c_(first + k) u^k, with coefficients scaled to the reach.

        What is left out is summed as if the ratio of the last two coefficients were that of all
        later ones.
        """
        ratio = sign * namespace(log).exp(log) / self.reach
        logs = np.log(self.coefficients) + np.arange(len(self.coefficients)) * math.log(self.reach)
        top = float(np.max(logs))
        *rest, last = (float(c) for c in np.exp(logs - top))
        value = last / (1.0 - math.exp(logs[-1] - logs[-2]) * ratio)
        for c in reversed(rest):
            value = value * ratio + c
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
    before = kernel.coefficients(first + 1)[:first]
    rest = kernel.coefficients(first + 128)[first:]
    if kernel.radius == math.inf:
        return Series(first, rest, _reach(rest), beyond=lambda u: _exp_without(before, u))
    name = kernel.series

    def beyond(u: Array) -> Scaled:
        xp = namespace(u)
        left = xp.clip(1.0 - u, float(xp.finfo(u.dtype).smallest_normal), None)
        if name == "sqrt":
            value = 2.0 - xp.sqrt(left)
        else:
            value = 1.0 / left if name == "inv" else 1.0 - xp.log(left)
        for n, c in enumerate(before):
            value = value - float(c) * u**n
        return Scaled(xp.zeros_like(u), value)

    return Series(first, rest, _reach(rest), 1.0, name == "sqrt", beyond)


def squares(kernel: DotProduct) -> Series:
    """Σ_n 2 a_n² u^n."""
    if not isinstance(kernel.series, str):
        return Series(0, 2.0 * kernel.coefficients(len(kernel.series)) ** 2)
    if kernel.radius == math.inf:
        found = 2.0 * kernel.coefficients(80) ** 2
        return Series(0, found, _reach(found), beyond=_bessel)
    found = 2.0 * kernel.coefficients(1024) ** 2
    return Series(0, found, 1.0, 1.0, kernel.series == "sqrt")


def _reach(coefficients: Host) -> float:
    """Where the last term is eps times the first."""
    eps = np.finfo(np.float64).eps
    return float((eps * coefficients[0] / coefficients[-1]) ** (1.0 / (len(coefficients) - 1)))


def _exp_without(before: Host, u: Array) -> Scaled:
    """exp(u) without its first terms for large u > 0.

    For u < 0 it is below the rounding of the same at −u, beside which it stands in a variance.
    """
    xp = namespace(u)
    size = xp.abs(u)
    share = xp.zeros_like(u)
    for n, c in enumerate(before):
        share = share + xp.exp(n * xp.log(size) - size + math.log(c))
    return Scaled(size, xp.where(u > 0.0, 1.0 - share, xp.zeros_like(u)))


def _bessel(u: Array) -> Scaled:
    """Σ_n 2 u^n / (n!)² = 2 I_0(2 √u) for large u > 0; J_0, for u < 0, is nothing beside it."""
    xp = namespace(u)
    two = xp.full_like(u, 2.0)
    return Scaled(log_i0(2.0 * xp.sqrt(xp.abs(u))), xp.where(u > 0.0, two, xp.zeros_like(u)))
