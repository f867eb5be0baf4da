"""Which rows a loop over chunks takes, in one direction and in causal attention."""

from __future__ import annotations

__all__ = ["before_triangle", "chunks", "triangle"]


def chunks(start: int, stop: int, size: int) -> list[slice]:
    """Rows of each chunk; the last one may be shorter."""
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def before_triangle(t: int, s: int) -> tuple[slice, slice]:
    """Of t queries and s keys, the queries before every key, and the keys before every query."""
    return slice(0, max(t - s, 0)), slice(0, max(s - t, 0))


def triangle(t: int, s: int, size: int) -> list[tuple[slice, slice]]:
    """Queries and keys of each chunk in which the i-th query sees the keys up to the i-th."""
    rows = chunks(max(t - s, 0), t, size)
    return [(r, slice(r.start + s - t, r.stop + s - t)) for r in rows]
