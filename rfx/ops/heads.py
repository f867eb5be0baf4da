"""Grouped queries: the query heads that share a key head become rows of that head."""

from __future__ import annotations

from rfx._xp import Array, namespace

__all__ = ["fold_heads", "unfold_heads"]


def fold_heads(query: Array, key_heads: tuple[int, ...]) -> Array:
    """(..., Hq, t, d) -> (..., H, g t, d) for H key heads and groups of g = Hq / H.

    Query head i belongs to key head i // g, and g is the slower axis of the rows. ``key_heads`` is
    (H,), or () where there is no axis of heads.
    """
    if query.ndim == 2 or query.shape[-3] == key_heads[0]:
        return query
    *batch, heads, length, dim = query.shape
    groups = heads // key_heads[0]
    return namespace(query).reshape(query, (*batch, key_heads[0], groups * length, dim))


def unfold_heads(folded: Array, query: Array) -> Array:
    """The inverse of `fold_heads` for an output (..., H, g t, e) of ``query``."""
    shape = (*query.shape[:-1], folded.shape[-1])
    return folded if tuple(folded.shape) == shape else namespace(folded).reshape(folded, shape)
