"""Sparsefinder: attention over the pairs that a rule predicts to have a weight."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array
from rfx.attention.entmax import attend_by_rows
from rfx.attention.products import default_scale
from rfx.attention.supports import Rule, check_pairs, prediction
from rfx.dispatch import planned
from rfx.ops.entmax import check_alpha

__all__ = ["sparsefinder_attention"]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    rule: Rule | None,
    alpha: float = 1.5,
    window: int | None = 0,
    global_tokens: int = 0,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    check_pairs(query, key, rule, window, global_tokens, is_causal, mask)
    check_alpha(alpha)
    if scale is not None:
        _check.positive_number("scale", scale)
    return None, (query, key, value), {}


@planned(_plan)
def sparsefinder_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    rule: Rule | None,
    alpha: float = 1.5,
    window: int | None = 0,
    global_tokens: int = 0,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """Σ_k p_k v_k with p = entmax(scale · q·k) over the keys that a rule predicts for a query.

    The target is `rfx.entmax_attention`, and it is reached where all keys with a weight there are
    predicted: those that are predicted besides change nothing. Here the pairs are left out by a
    mask, block by block, so that memory is linear in the length; all scores are computed, and no
    time is saved.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    rule : Rule or None
        See `rfx.supports`; None for window and global tokens alone.
    alpha : {1.5, 1.0, 2.0}
        1.0 is softmax over the predicted pairs.
    window : int, optional
        Keys at most so many places away from the query's own are predicted too, the last query
        being at the place of the last key. None for no window.
    global_tokens : int
        The first so many visible keys are seen by all queries, and the queries at their places see
        all keys.
    scale : float, optional
        ``d ** -0.5`` by default.
    is_causal : bool
        Query i sees the keys j <= i + s - t; needs t <= s.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`. A query with no key gives zeros.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``

    Raises
    ------
    TypeError, ValueError
        As `rfx.entmax_attention`, and if ``rule`` is none or was made for other points.

    Notes
    -----
    Computed in float32, or in float64 for float64. The prediction is a constant to the gradient.
    NaN is never hidden by a prediction; it spreads as in `rfx.entmax_attention`.

    References
    ----------
    Treviso et al., Predicting attention sparsity in transformers, 2022.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention import supports
    >>> from rfx.attention.sparsefinder import sparsefinder_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 16))
    >>> rule = supports.Distance(supports.fit_projection(q, k, num_axes=8), threshold=1.0)
    >>> sparsefinder_attention(q, k, v, rule=rule, window=2).shape
    (2, 50, 16)
    """
    _plan(
        query,
        key,
        value,
        rule=rule,
        alpha=alpha,
        window=window,
        global_tokens=global_tokens,
        scale=scale,
        is_causal=is_causal,
        mask=mask,
    )
    return attend_by_rows(
        query,
        key,
        value,
        alpha=alpha,
        scale=default_scale(query, scale),
        is_causal=is_causal,
        mask=mask,
        known=prediction(query, key, rule, window, global_tokens, mask),
    )
