"""Linear attention with a bias that depends on the distance, by blocks of pairs or by FFT.

Query heads that share a key head are an axis of their own here, before the length: keys have the
axes (..., H, s, m), queries and biases (..., H, g, t, m) and (..., H, g, t + s - 1).
"""

from __future__ import annotations

from typing import Any

from rfx._xp import Array, constant, full, namespace
from rfx.dispatch import op
from rfx.ops.carry import empty_log, masked_keys
from rfx.ops.driver import EAGER, Driver
from rfx.ops.relative_blocks import by_blocks
from rfx.ops.relative_fourier import by_fourier
from rfx.ops.toeplitz import transform

__all__ = ["by_head", "relative"]

_LONG = 1024
"""Positions from which on heads go one by one."""


@op("relative")
def relative(
    features: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    bias: Array,
    *,
    is_causal: bool,
    method: str,
    driver: Driver = EAGER,
) -> Array:
    """Attention with weights exp(b_{j−i}) φ(q_i)·φ(k_j), divided by their sum.

    Shapes: query (..., Hq, t, d); key (..., H, s, d); value (..., H, s, e); mask (..., s, 1) or
    None; bias of the map's dtype with the query's number of axes less one, each 1 or the query's,
    then t + s - 1. Returns the output (..., Hq, t, e) in the map's dtype.

    ``method`` "fft" is taken where it proves accurate, and the blocks of "direct" otherwise. A
    backend may run this body with a driver of its own.
    """
    xp, t, s = namespace(query), query.shape[-2], key.shape[-2]
    heads, shape = tuple(key.shape[:-2]), (*query.shape[:-1], value.shape[-1])
    if 0 in shape or s == 0:
        return full(query, shape, 0.0, features.like.dtype)
    groups = 1 if query.ndim == 2 else query.shape[-3] // heads[-1]
    query = xp.reshape(query, (*heads, groups, t, query.shape[-1]))
    bias = xp.broadcast_to(bias, (*shape[:-2], bias.shape[-1]))
    bias = _closed(xp.reshape(bias, (*heads, groups, t + s - 1)), s - 1 if is_causal else None)
    keys = masked_keys(features, key, value, mask)
    seen = _sees_any(keys.mask, bias, heads, s)
    problem = (features, query, keys, bias, seen, driver)
    known = None if method == "direct" else by_fourier(*problem)
    return xp.reshape(by_blocks(*problem, known), shape)


def by_head(features: Any, query: Array, key: Array, method: str) -> bool:
    """Whether a backend is to take heads one by one, where it takes them together otherwise.

    By FFT long sequences go so: which rows need float64, or are left to blocks, differs by head.
    """
    long = max(query.shape[-2], key.shape[-2]) >= _LONG
    return method != "direct" and features.heads is None and key.shape[-3:-2] > (1,) and long


def _closed(bias: Array, last: int | None) -> Array:
    """Minus infinity, and in causal attention all that lies ahead, as `empty_log`.

    Query i sees key j where j - i <= s - t, which is entry s - 1.
    """
    xp = namespace(bias)
    low = empty_log(bias.dtype, xp)
    bias = xp.where(bias <= low, xp.full_like(bias, low), bias)
    if last is None:
        return bias
    ahead = bias[..., last + 1 :]
    return xp.concat([bias[..., : last + 1], xp.full_like(ahead, low)], axis=-1)


def _sees_any(mask: Array | None, bias: Array, heads: tuple[int, ...], s: int) -> Array:
    """Whether a query sees any key, (..., H, g, t, 1): their number is a product too."""
    xp = namespace(bias)
    bias = constant(bias)
    is_open = xp.astype(xp.logical_not(bias <= empty_log(bias.dtype, xp)), bias.dtype)
    if mask is None:
        there = xp.ones_like(bias[..., :s])
    else:
        there = xp.astype(xp.broadcast_to(mask[..., 0], (*heads, s)), bias.dtype)[..., None, :]
    return (transform.portable(None, there, is_open) > 0.5)[..., None]
