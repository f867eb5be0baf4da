"""Numbers as factor · exp(log), so that sums and products of them do not overflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rfx._xp import Array, constant, namespace

__all__ = ["Scaled", "product", "total"]


class Scaled(NamedTuple):
    """factor · exp(log); a factor of None is 1, and with a factor of 0 the log may be any."""

    log: Array
    factor: Array | None


def product(like: Array, c: float, parts: Sequence[Scaled]) -> Scaled:
    """c times all parts, in the shape and dtype of ``like``."""
    xp = namespace(like)
    log = xp.full_like(like, math.log(abs(c)) if c else 0.0)
    factor = xp.full_like(like, math.copysign(1.0, c) if c else 0.0)
    for part in parts:
        log = log + part.log
        factor = factor if part.factor is None else factor * part.factor
    return Scaled(log, factor)


def total(parts: Sequence[Scaled]) -> tuple[Array, Array]:
    """Log and factor of the sum; the log is that of the largest part, a constant to autograd.

    Parts that are equal but for their sign cancel exactly.
    """
    xp = namespace(parts[0].log)
    common = _largest(parts)
    most = math.log(float(xp.finfo(common.dtype).max)) - 1.0
    factor = xp.zeros_like(common)
    for part in parts:
        scale = xp.exp(xp.clip(part.log - common, None, most))
        factor = factor + (scale if part.factor is None else scale * part.factor)
    return common, factor


def _largest(parts: Sequence[Scaled]) -> Array:
    """max log|factor · exp(log)| over the parts, or 0 where all are 0."""
    xp = namespace(parts[0].log)
    none = xp.full_like(parts[0].log, -math.inf)
    largest = none
    for part in parts:
        size = constant(part.log)
        if part.factor is not None:
            factor = constant(part.factor)
            nothing = factor == 0.0
            power = xp.log(xp.where(nothing, xp.ones_like(factor), xp.abs(factor)))
            size = xp.where(nothing, none, size + power)
        largest = xp.maximum(largest, size)
    return xp.where(largest == -math.inf, xp.zeros_like(largest), largest)
