"""Sums over keys weighted by products of features, without a denominator."""

from __future__ import annotations

from typing import Any

from rfx._xp import Array, full
from rfx.ops.bidirectional import absorb_all, read
from rfx.ops.carry import Carry, empty
from rfx.ops.chunks import before_triangle
from rfx.ops.driver import EAGER
from rfx.ops.gated import _sums, gated
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["feature_sums"]


def feature_sums(
    features: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    is_causal: bool,
) -> Array:
    """Σ_k φ(q)·φ(k) v_k for placed points, in time linear in the length; causal needs t <= s.

    Shapes: query (..., Hq, t, d); key (..., H, s, d); value (..., H, s, e); mask (..., s, 1) or
    None. Returns (..., Hq, t, e) in the map's dtype.
    """
    carry = empty(features, key, value)
    if not is_causal:
        carry = absorb_all(features, key, value, mask, carry, chunk_size=512)
        return _read_all(features, query, key, value, carry)
    _, early = before_triangle(query.shape[-2], key.shape[-2])
    first = early.stop

    def cut(rows: slice) -> tuple[Array, ...]:
        return tuple(None if a is None else a[..., rows, :] for a in (key, value, mask))

    past, rest = cut(slice(0, first)), cut(slice(first, key.shape[-2]))
    carry = absorb_all(features, past[0], past[1], past[2], carry, chunk_size=512)
    steps = full(key, (*key.shape[:-2], query.shape[-2], 1), 0.0, features.like.dtype)
    out, _ = gated(features, query, *rest, carry, steps, None, normalize=False, chunk_size=128)
    return out


def _read_all(features: Any, query: Array, key: Array, value: Array, carry: Carry) -> Array:
    """What each query sees of the carry, chunk by chunk."""

    def step(carry: Carry, chunk: tuple[Array]) -> tuple[Carry, Array]:
        log, feature = features.complete(fold_heads(chunk[0], key.shape[-3:-2]), "query")
        return carry, unfold_heads(_sums(read(carry, log, feature)), chunk[0])

    _, out = EAGER.scan(step, carry, (query,), query.shape[-2], 512)
    if out is None:
        return full(query, (*query.shape[:-1], value.shape[-1]), 0.0, features.like.dtype)
    return out
