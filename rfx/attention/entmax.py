"""Attention with entmax for softmax: most keys get a weight of exactly 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rfx import _check
from rfx._xp import Array, full, full_precision, namespace, working_dtype
from rfx.attention.products import default_scale, visible
from rfx.dispatch import planned
from rfx.ops.chunks import chunks
from rfx.ops.entmax import check_alpha, entmax
from rfx.ops.heads import fold_heads, unfold_heads
from rfx.ops.pairs import Pairs

__all__ = ["Known", "attend_by_rows", "default_scale", "entmax_attention"]

_PAIRS, _MOST, _LEAST = 2**20, 512, 16
"""Pairs of a block for each head, and the most and fewest queries in it."""


class Known(NamedTuple):
    """What is known of a block of pairs, of shapes that broadcast to (..., Hq, rows, columns).

    seen : bool, False for pairs that do not count
    log : to be added to the scores
    """

    seen: Array | None = None
    log: Array | None = None


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    alpha: float = 1.5,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    _check.mask(mask, key)
    check_alpha(alpha)
    if scale is not None:
        _check.positive_number("scale", scale)
    if is_causal:
        _check.causal_lengths(query, key)
    return None, (query, key, value), {}


@planned(_plan)
def entmax_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    alpha: float = 1.5,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """Σ_k p_k v_k with p = entmax(scale · q·k), whose weights are 0 but for the nearest keys.

    p_k = [(α − 1) scale · q·k − τ]₊^(1 / (α − 1)), where τ makes the weights of a query sum to 1.
    It is computed by blocks of queries: memory beyond inputs and output is that of one block,
    linear in the number of keys. Time is quadratic, and more than that of softmax, since each row
    is sorted.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    alpha : {1.5, 1.0, 2.0}
        1.0 is softmax attention, 2.0 sparsemax; the larger, the fewer keys get a weight.
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
        As `rfx.linear_attention`, and if ``alpha`` is another number or ``scale`` not positive.

    Notes
    -----
    Computed in float32, or in float64 for float64. The gradient is exact where no score is at its
    threshold. What autodiff keeps for it is quadratic in the length. NaN in a query touches its own
    row; in a key, the rows that may see it; in a value, these and, if causal, no more than its own
    block of 512 rows besides.

    References
    ----------
    Correia, Niculae and Martins, Adaptively sparse transformers, 2019; Peters, Niculae and Martins,
    Sparse sequence-to-sequence models, 2019.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.entmax import entmax_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 16))
    >>> weights = entmax_attention(q, k, np.broadcast_to(np.eye(50), (2, 50, 50)))
    >>> round(float((weights > 0).mean()), 2)
    0.19
    >>> same = entmax_attention(q, k, v, alpha=1.0) - rfx.kernel_attention(q, k, v)
    >>> bool(abs(same).max() < 1e-12)
    True
    """
    _plan(query, key, value, alpha=alpha, scale=scale, is_causal=is_causal, mask=mask)
    scale = default_scale(query, scale)
    return attend_by_rows(
        query, key, value, alpha=alpha, scale=scale, is_causal=is_causal, mask=mask
    )


def attend_by_rows(
    query: Array,
    key: Array,
    value: Array,
    *,
    alpha: float,
    scale: float,
    is_causal: bool,
    mask: Array | None,
    known: Callable[[slice, slice], Known] | None = None,
) -> Array:
    """Entmax attention by blocks of queries, over the pairs that ``known`` says.

    It is called with the queries and keys of a block. A score of NaN counts as seen, whatever it
    says, so that no NaN is hidden.
    """
    xp, dtype = namespace(query), working_dtype(query)
    t, s = query.shape[-2], key.shape[-2]
    shape = (*query.shape[:-1], value.shape[-1])
    if t == 0 or s == 0:
        return full(value, shape, 0.0, value.dtype)
    k, v = (xp.astype(visible(a, mask), dtype, copy=False) for a in (key, value))
    outputs = []
    for rows in chunks(0, t, min(_MOST, max(_LEAST, _PAIRS // s))):
        last = rows.stop + s - t if is_causal else s
        columns = slice(0, last)
        part = xp.astype(query[..., rows, :], dtype, copy=False)
        kept = None if mask is None else mask[..., columns]
        first_row = rows.start + s - t if is_causal else None
        pairs = Pairs(part, k[..., columns, :], v[..., columns, :], kept, first_row)
        out = _block(pairs, alpha, scale, Known() if known is None else known(rows, columns))
        outputs.append(xp.astype(out, value.dtype, copy=False))
    return xp.concat(outputs, axis=-2)


def _block(pairs: Pairs, alpha: float, scale: float, known: Known) -> Array:
    """Output of a block of queries."""
    query, heads = pairs.query, pairs.key.shape[-3:-2]
    xp = namespace(query)
    with full_precision(query):
        inner = xp.matmul(fold_heads(query * scale, heads), xp.matrix_transpose(pairs.key))
    scores, seen = unfold_heads(inner, query), pairs.seen()
    if known.seen is not None:
        open_ = xp.logical_or(known.seen, xp.isnan(scores))
        seen = open_ if seen is None else xp.logical_and(seen, open_)
    if known.log is not None:
        scores = scores + known.log
    weight = entmax(scores, alpha=alpha, mask=seen)
    with full_precision(query):
        return unfold_heads(xp.matmul(fold_heads(weight, heads), pairs.value), query)
