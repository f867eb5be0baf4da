"""Nyströmformer: softmax attention through landmarks of queries and of keys."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, full, namespace, working_dtype
from rfx.attention.exact import kernel_attention
from rfx.attention.landmarks import Rule, SegmentMeans, check_call, check_number, check_rule
from rfx.attention.products import repeat_heads, visible
from rfx.dispatch import planned
from rfx.kernels import Kernel
from rfx.ops.inverse import Inverse, least_squares

__all__ = ["nystrom_attention"]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    landmarks: int | Rule = 128,
    ridge: float = 1e-3,
    mask: Array | None = None,
    query_mask: Array | None = None,
    inverse: Inverse = "iteration",
    is_causal: bool = False,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    _check.mask(mask, key)
    _check.mask(query_mask, query, ("query_mask", "query"))
    check_call(kernel, ridge, inverse, is_causal)
    rule = check_rule(landmarks, SegmentMeans)
    check_number(rule, query.shape[-2], "queries")
    check_number(rule, key.shape[-2], "keys")
    return None, (query, key, value, rule), {}


@planned(_plan)
def nystrom_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    landmarks: int | Rule = 128,
    ridge: float = 1e-3,
    mask: Array | None = None,
    query_mask: Array | None = None,
    inverse: Inverse = "iteration",
    is_causal: bool = False,
) -> Array:
    """A(Q, K̃) A(Q̃, K̃)⁺ A(Q̃, K) V with landmarks Q̃ and K̃, where rows of each A sum to 1.

    The target is ``rfx.kernel_attention(query, key, value, kernel=kernel)``, softmax attention by
    default, A(x, y) being the attention weights of x on y. With all tokens for landmarks, no ridge
    and ``inverse="decomposition"`` it is exact. Time and memory are linear in the length.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    kernel : Kernel, optional
        ``Softmax()`` by default, with scale d ** -0.5.
    landmarks : int or Rule
        As many of queries as of keys, chosen apart; a number stands for
        `rfx.landmarks.SegmentMeans`.
    ridge : float
        A⁺ is (AᵀA + ridge I)⁻¹ Aᵀ.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`. A masked key is absent from the output
        and from the landmarks. A query with no key gives zeros.
    query_mask : Array of bool, optional
        True for queries that make landmarks, of shape (t,) or of the shape of ``query`` without its
        last axis, where an axis may be 1. Give it where padding is among the queries.
    inverse : {"iteration", "decomposition"}
        Matrix products only, or singular values.
    is_causal : bool
        Refused: a landmark that one query may see would be in the future of another.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together, there are more landmarks than queries or keys, ``ridge`` is
        negative or ``is_causal`` is set.

    Notes
    -----
    Computed in float32, or in float64 for float64. The weights may be negative, and their rows sum
    to 1 as nearly as A A⁺ is the identity. NaN in a query or key touches its own head.

    References
    ----------
    Xiong et al., Nyströmformer: a Nyström-based algorithm for approximating self-attention, 2021,
    equation 14; segment means, equation 13. The paper has no ridge, and six steps of its iteration.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 16))
    >>> call = {"landmarks": 50, "ridge": 0.0, "inverse": "decomposition"}
    >>> exact = rfx.kernel_attention(q, k, v)
    >>> bool(abs(rfx.nystrom_attention(q, k, v, **call) - exact).max() < 1e-10)
    True
    """
    *_, rule = _plan(
        query,
        key,
        value,
        kernel=kernel,
        landmarks=landmarks,
        ridge=ridge,
        mask=mask,
        query_mask=query_mask,
        inverse=inverse,
        is_causal=is_causal,
    )[1]
    xp, dtype = namespace(query), working_dtype(query)
    q, k, v = (xp.astype(a, dtype, copy=False) for a in (query, key, value))
    from_query, query_present = rule.choose(q, query_mask)
    from_key, key_present = rule.choose(k, mask)
    seen = visible(kernel_attention(from_query, k, v, kernel=kernel, mask=mask), query_present)
    if from_key.ndim > 2:
        heads = query.shape[-3]
        from_key = repeat_heads(from_key, heads, axis=-3)
        if key_present is not None:
            key_present = repeat_heads(key_present, heads, axis=-2)
    ones = full(q, (*from_key.shape[:-1], rule.num), 1.0, dtype)
    each = xp.tril(xp.triu(ones))  # as values these give the weights
    among = kernel_attention(from_query, from_key, each, kernel=kernel, mask=key_present)
    weights = least_squares(visible(among, query_present), seen, ridge=ridge, inverse=inverse)
    out = kernel_attention(q, from_key, weights, kernel=kernel, mask=key_present)
    return xp.astype(out, value.dtype, copy=False)
