"""Numbers as factor · exp(log), so that products of them do not overflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rfx._xp import Array, namespace

__all__ = ["Scaled", "product", "total"]


class Scaled(NamedTuple):
    """factor · exp(log); a factor of None is 1."""

    log: Array
    factor: Array | None


def product(like: Scaled, c: float, parts: Sequence[Scaled]) -> Scaled:
    """c times all parts, in the shape of ``like``."""
    xp = namespace(like.log)
    log, factor = xp.zeros_like(like.log), xp.full_like(like.log, c)
    for part in parts:
        log = log + part.log
        factor = factor if part.factor is None else factor * part.factor
    return Scaled(log, factor)


def total(parts: Sequence[Scaled]) -> Scaled:
    """The sum, with the largest log as the common one."""
    xp = namespace(parts[0].log)
    top = parts[0].log
    for part in parts[1:]:
        top = xp.maximum(top, part.log)
    top = xp.where(top == -float("inf"), xp.zeros_like(top), top)
    factor = xp.zeros_like(top)
    for part in parts:
        scale = xp.exp(part.log - top)
        factor = factor + (scale if part.factor is None else scale * part.factor)
    return Scaled(top, factor)
