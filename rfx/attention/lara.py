"""LARA: softmax attention by importance sampling from a few proposals, in linear time."""

from __future__ import annotations

import math
from typing import Any

from rfx import _check
from rfx._xp import (
    Array,
    constant,
    exp_nonpositive,
    full,
    full_precision,
    namespace,
    working_dtype,
)
from rfx.attention.landmarks import SegmentMeans
from rfx.attention.products import default_scale, repeat_heads, visible
from rfx.dispatch import planned
from rfx.kernels import squared_distance
from rfx.ops.bidirectional import divide, read
from rfx.ops.carry import Carry, Keys, absorb, empty_log
from rfx.ops.driver import EAGER
from rfx.ops.heads import fold_heads, unfold_heads
from rfx.ops.randomized import log_weight, normals

__all__ = ["lara_attention"]

_CHUNK = 1024
_LOG_LEAST = -69.0
"""Log of the least weight of a proposal, so that outputs are averages whatever the weights."""


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    num_proposals: int = 64,
    seed: int = 0,
    correction: float = 1.0,
    scale: float | None = None,
    mask: Array | None = None,
    query_mask: Array | None = None,
    is_causal: bool = False,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    _check.mask(mask, key)
    _check.mask(query_mask, query, ("query_mask", "query"))
    if is_causal:
        raise ValueError(
            "causal proposals are not possible: they are means over the whole sequence, of which "
            "a query would see its future; use rfx.eva_attention with is_causal=True"
        )
    num = _check.positive_int("num_proposals", num_proposals)
    for what, tokens in (("queries", query.shape[-2]), ("keys", key.shape[-2])):
        if num > tokens > 0:
            raise ValueError(
                f"`num_proposals` must be at most the number of {what}, got {num} proposals and "
                f"{tokens} {what}; pass num_proposals={tokens} or fewer"
            )
    _check.seed(seed)
    if _check.number("correction", correction) < 0.0:
        raise ValueError(f"`correction` must be at least 0, got {correction}")
    if scale is not None:
        _check.positive_number("scale", scale)
    return None, (query, key, value), {}


@planned(_plan)
def lara_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    num_proposals: int = 64,
    seed: int = 0,
    correction: float = 1.0,
    scale: float | None = None,
    mask: Array | None = None,
    query_mask: Array | None = None,
    is_causal: bool = False,
) -> Array:
    """Σ_c w_c(q) Σ_k ξ(k, ω_c) v_k / Σ_c w_c(q) Σ_k ξ(k, ω_c) with ω_c from N(μ_c, I).

    The target is softmax attention, ``rfx.kernel_attention(query, key, value)``. The means μ_c are
    those of segments, of the queries plus of the keys, and the weights are those of self-normalised
    importance sampling: w_c(q) = α_c(q) ξ(q, ω_c) exp(|μ_c|²/2 − ω_c·μ_c), with
    ξ(x, ω) = exp(ω·x − |x|²/2) and points scaled by d ** -0.25. α_c(q) is the balance heuristic
    N(ω_c; μ_c) / Σ_b N(ω_c; μ_b) plus a correction that belongs to the query: its softmax weight on
    the mean query of segment c, less the average of these weights. Time and memory are linear in
    the length.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    num_proposals : int
        C, of segments and of random frequencies for each query head; at most t and s, unless one of
        them is 0.
    seed : int
        Of the frequencies, which are drawn by NumPy: the same on every library, and the same noise
        in every head and batch entry.
    correction : float
        Factor of the correction, at least 0. Without it all queries share the weights α_c.
    scale : float, optional
        d ** -0.5 by default.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`. A masked key is absent from the output
        and from the means. A query with no key gives zeros.
    query_mask : Array of bool, optional
        True for queries that are averaged, of shape (t,) or of the shape of ``query`` without its
        last axis, where an axis may be 1. Give it where padding is among the queries.
    is_causal : bool
        Refused: the means are those of the whole sequence.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``
        Averages of the values. Consistent in the number of frequencies, not unbiased.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together, there are more proposals than queries or keys, ``seed`` or
        ``correction`` is negative, ``scale`` not positive, or ``is_causal`` is set.

    Notes
    -----
    Computed in float32, or in float64 for float64. A weight α_c(q) below 1e-30, which a difference
    may be, counts as 1e-30: no denominator vanishes. Where fewer tokens are visible than there are
    proposals, the mean of an empty segment is 0. NaN in a query or key touches its own head.
    Gradients flow through the means and so through the frequencies.

    References
    ----------
    Zheng, Wang, and Kong, Linear complexity randomized self-attention mechanism, 2022.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.lara import lara_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 200, 16))
    >>> out = lara_attention(q / 2, k / 2, v, num_proposals=100)
    >>> exact = rfx.kernel_attention(q / 2, k / 2, v)
    >>> bool((rfx.diagnostics.relative_error(out, exact) < 1.0).all())
    True
    """
    _plan(
        query,
        key,
        value,
        num_proposals=num_proposals,
        seed=seed,
        correction=correction,
        scale=scale,
        mask=mask,
        query_mask=query_mask,
        is_causal=is_causal,
    )
    xp, dtype = namespace(query), working_dtype(query)
    if 0 in (query.shape[-2], key.shape[-2]):
        return full(value, (*query.shape[:-1], value.shape[-1]), 0.0, value.dtype)
    root = math.sqrt(default_scale(query, scale))
    x, y = (root * xp.astype(a, dtype, copy=False) for a in (query, key))
    y, v = visible(y, mask), visible(xp.astype(value, dtype, copy=False), mask)
    with full_precision(query):
        noise = normals(seed, 0, num_proposals, x)
        out = _estimate(x, y, v, mask, query_mask, noise, float(correction))
    return xp.astype(out, value.dtype, copy=False)


def _estimate(
    x: Array,
    y: Array,
    v: Array,
    mask: Array | None,
    query_mask: Array | None,
    noise: Array,
    correction: float,
) -> Array:
    """Attention of scaled queries x to scaled keys y, which are 0 where masked."""
    xp, num = namespace(x), noise.shape[-2]
    centre, present = SegmentMeans(num).choose(x, query_mask)
    mean_key, _ = SegmentMeans(num).choose(y, mask)
    mean = centre + (mean_key if x.ndim < 3 else repeat_heads(mean_key, x.shape[-3], axis=-3))
    frequency = mean + noise
    balance = _balance(frequency, mean, noise)
    ratio = 0.5 * xp.sum(mean * mean, axis=-1) - xp.sum(frequency * mean, axis=-1)
    carry = _absorb(fold_heads(frequency, y.shape[-3:-2]), y, v, mask)
    seen = Carry(
        unfold_heads(carry.numerator, mean),
        *(unfold_heads(a[..., None], mean)[..., 0] for a in carry[1:]),
    )

    def attend(carry: Carry, chunk: tuple[Array]) -> tuple[Carry, Array]:
        share = _shares(chunk[0], centre, present)
        share = share - xp.mean(share, axis=-1, keepdims=True)
        alpha = balance[..., None, :] + correction * share
        log_alpha = xp.log(xp.clip(alpha, math.exp(_LOG_LEAST), None))
        log = xp.matmul(chunk[0], xp.matrix_transpose(frequency)) + ratio[..., None, :]
        numerator, denominator, _ = read(carry, log + log_alpha, None)
        return carry, divide(numerator, denominator)

    return EAGER.scan(attend, seen, (x,), x.shape[-2], _CHUNK)[1]


def _balance(frequency: Array, mean: Array, noise: Array) -> Array:
    """N(ω_c; μ_c) / Σ_b N(ω_c; μ_b): shape (..., C), between 0 and 1."""
    xp = namespace(mean)
    own = -0.5 * xp.sum(noise * noise, axis=-1)
    log = -0.5 * squared_distance(frequency, mean)
    diagonal = xp.tril(xp.triu(xp.ones_like(log))) > 0.0
    log = xp.where(diagonal, own, log)  # it is known without the rounding of large norms
    top = constant(xp.max(log, axis=-1, keepdims=True))
    return exp_nonpositive(own - top[..., 0]) / xp.sum(exp_nonpositive(log - top), axis=-1)


def _shares(x: Array, centre: Array, present: Array | None) -> Array:
    """Softmax weights of queries on the mean queries of segments: shape (..., rows, C)."""
    xp = namespace(x)
    log = xp.matmul(x, xp.matrix_transpose(centre))
    if present is not None:
        low = xp.full_like(log, empty_log(log.dtype, xp))
        log = xp.where(present[..., None, :], log, low)
    weight = exp_nonpositive(log - constant(xp.max(log, axis=-1, keepdims=True)))
    return weight / xp.sum(weight, axis=-1, keepdims=True)


def _absorb(frequency: Array, y: Array, v: Array, mask: Array | None) -> Carry:
    """Sums over keys of ξ(k, ω) for frequencies (..., H, m, d)."""
    xp, shape = namespace(y), tuple(frequency.shape[:-1])
    carry = Carry(
        full(y, (*shape, v.shape[-1]), 0.0, y.dtype),
        full(y, shape, 0.0, y.dtype),
        full(y, shape, empty_log(y.dtype, xp), y.dtype),
    )
    rows = None if mask is None else mask[..., None]

    def step(carry: Carry, chunk: tuple[Array, Array, Array | None]) -> tuple[Carry, None]:
        key, value, kept = chunk
        log = log_weight(key, frequency)
        if kept is not None:
            log = xp.where(kept, log, xp.full_like(log, empty_log(log.dtype, xp)))
        return absorb(carry, Keys(log, None, value, kept)), None

    return EAGER.scan(step, carry, (y, v, rows), y.shape[-2], _CHUNK)[0]
