"""The pairs that get a weight in sparse attention: predicted, exact, and how well they agree."""

from __future__ import annotations

import numbers
from collections.abc import Callable

import numpy as np

from rfx import _check
from rfx._xp import Array, full, full_precision, namespace, working_dtype
from rfx.attention.entmax import Known
from rfx.attention.products import default_scale, repeat_heads, visible
from rfx.attention.support_projection import Projection, fit_projection
from rfx.attention.support_rules import Bins, Clusters, Distance, Rule
from rfx.ops.entmax import check_alpha, entmax
from rfx.ops.heads import fold_heads, unfold_heads
from rfx.ops.pairs import Pairs

__all__ = [
    "Bins",
    "Clusters",
    "Distance",
    "Projection",
    "Rule",
    "exact_pairs",
    "fit_projection",
    "predicted_pairs",
    "recall",
    "sparsity",
    "visible_pairs",
]


def predicted_pairs(
    query: Array,
    key: Array,
    /,
    *,
    rule: Rule | None,
    window: int | None = 0,
    global_tokens: int = 0,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """Which pairs `rfx.sparsefinder_attention` attends to, as a matrix.

    Parameters
    ----------
    query, key, rule, window, global_tokens, is_causal, mask
        As there.

    Returns
    -------
    Array of bool, shape (..., Hq, t, s)

    Raises
    ------
    TypeError, ValueError
        As there.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import supports
    >>> x = np.zeros((4, 2))
    >>> supports.predicted_pairs(x, x, rule=None, window=1, is_causal=True).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    """
    check_pairs(query, key, rule, window, global_tokens, is_causal, mask)
    xp = namespace(query)
    t, s = query.shape[-2], key.shape[-2]
    known = prediction(query, key, rule, window, global_tokens, mask)
    found = known(slice(0, t), slice(0, s)).seen
    return xp.logical_and(found, visible_pairs(query, key, is_causal=is_causal, mask=mask))


def exact_pairs(
    query: Array,
    key: Array,
    /,
    *,
    alpha: float = 1.5,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """Which pairs have a weight in `rfx.entmax_attention`, as a matrix.

    Parameters
    ----------
    query, key, alpha, scale, is_causal, mask
        As there.

    Returns
    -------
    Array of bool, shape (..., Hq, t, s)

    Raises
    ------
    TypeError, ValueError
        As there.
    """
    _check.attention(query, key, key)
    _check.mask(mask, key)
    check_alpha(alpha)
    if scale is not None:
        _check.positive_number("scale", scale)
    seen = visible_pairs(query, key, is_causal=is_causal, mask=mask)
    xp, dtype = namespace(query), working_dtype(query)
    q, k = (xp.astype(a, dtype, copy=False) for a in (query, visible(key, mask)))
    with full_precision(query):
        folded = fold_heads(q * default_scale(query, scale), key.shape[-3:-2])
        scores = unfold_heads(xp.matmul(folded, xp.matrix_transpose(k)), query)
    return entmax(scores, alpha=alpha, mask=seen) > 0.0


def visible_pairs(
    query: Array, key: Array, /, *, is_causal: bool = False, mask: Array | None = None
) -> Array:
    """Which pairs there are: all, but for masked keys and, if causal, those of the future.

    Parameters
    ----------
    query, key, is_causal, mask
        As in `rfx.kernel_attention`.

    Returns
    -------
    Array of bool, shape (..., Hq, t, s)
    """
    _check.attention(query, key, key)
    _check.mask(mask, key)
    if is_causal:
        _check.causal_lengths(query, key)
    t, s = query.shape[-2], key.shape[-2]
    ones = full(query, (*query.shape[:-1], s), 1.0, working_dtype(query)) > 0.0
    seen = Pairs(query, key, key, mask, s - t if is_causal else None).seen()
    return ones if seen is None else namespace(query).logical_and(ones, seen)


def recall(predicted: Array, exact: Array, /) -> Array:
    """Share of the exact pairs that are predicted; 1 where there is none.

    Parameters
    ----------
    predicted, exact : Array of bool, shape (..., t, s)

    Returns
    -------
    Array, shape (...,), float32

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import supports
    >>> exact = np.asarray([[True, True], [False, True]])
    >>> round(float(supports.recall(np.eye(2) > 0, exact)), 3)
    0.667
    """
    _check_pairs("predicted", predicted)
    _check_pairs("exact", exact)
    _check_alike("exact", exact, "predicted", predicted)
    both = namespace(exact).logical_and(predicted, exact)
    return _share(both, exact)


def sparsity(predicted: Array, visible: Array | None = None, /) -> Array:
    """Share of the visible pairs that are not predicted; 0 where none is visible.

    Parameters
    ----------
    predicted : Array of bool, shape (..., t, s)
    visible : Array of bool, optional
        See `visible_pairs`; all by default.

    Returns
    -------
    Array, shape (...,), float32
    """
    _check_pairs("predicted", predicted)
    xp = namespace(predicted)
    if visible is None:
        visible = xp.ones_like(predicted)
    _check_pairs("visible", visible)
    _check_alike("predicted", predicted, "visible", visible)
    visible = xp.logical_and(visible, xp.ones_like(predicted))
    return 1.0 - _share(xp.logical_and(predicted, visible), visible)


def check_pairs(
    query: Array,
    key: Array,
    rule: Rule | None,
    window: int | None,
    global_tokens: int,
    is_causal: bool,
    mask: Array | None,
) -> None:
    """Refuse what pairs cannot be predicted of."""
    _check.attention(query, key, key)
    _check.mask(mask, key)
    if is_causal:
        _check.causal_lengths(query, key)
    if not isinstance(rule, Rule | None):
        raise TypeError(
            f"`rule` must be a rule of rfx.supports or None, got {rule!r}; pass for example "
            "rfx.supports.Distance(rfx.supports.fit_projection(query, key))"
        )
    for name, count in (("window", window), ("global_tokens", global_tokens)):
        if count is None and name == "window":
            continue
        if isinstance(count, bool) or not isinstance(count, numbers.Integral):
            raise TypeError(f"`{name}` must be an int, got {count!r}; pass a number of tokens")
        if count < 0:
            raise ValueError(f"`{name}` must be at least 0, got {count}")
    if rule is not None:
        rule.check(query)


def prediction(
    query: Array,
    key: Array,
    rule: Rule | None,
    window: int | None,
    global_tokens: int,
    mask: Array | None,
) -> Callable[[slice, slice], Known]:
    """The predicted pairs of a block of queries and keys; they may include pairs of the future."""
    xp = namespace(query)
    t, s = query.shape[-2], key.shape[-2]
    codes = None if rule is None else rule.codes(query, visible(key, mask))
    global_key = _global_keys(query, key, global_tokens, mask) if global_tokens else None
    global_query = None if global_key is None else _of_queries(global_key, t, s)

    def known(rows: slice, columns: slice) -> Known:
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        ones = full(query, shape, 1.0, working_dtype(query))
        found = []
        if window is not None:
            middle = rows.start + s - t - columns.start
            near = min(window, t + s)
            found.append(xp.tril(xp.triu(ones, k=middle - near), k=middle + near) > 0.0)
        if rule is not None and codes is not None:
            found.append(rule.match(codes[0][..., rows, :], codes[1][..., columns, :]))
        if global_key is not None and global_query is not None:
            found += [global_key[..., None, columns], global_query[..., rows, None]]
        seen = ones < 0.0
        for part in found:
            seen = xp.logical_or(seen, part)
        return Known(seen)

    return known


def _global_keys(query: Array, key: Array, number: int, mask: Array | None) -> Array:
    """The first visible keys, bool of shape (s,) or (..., Hq or 1, s)."""
    xp = namespace(key)
    if mask is None:
        mask = full(key, (key.shape[-2],), 1.0, working_dtype(key)) > 0.0
    elif mask.ndim > 1 and mask.shape[-2] != 1:
        mask = repeat_heads(mask, query.shape[-3], axis=-2)
    rank = xp.cumulative_sum(xp.astype(mask, xp.int32), axis=-1, dtype=xp.int32)
    return xp.logical_and(mask, rank <= number)


def _of_queries(global_key: Array, t: int, s: int) -> Array:
    """The queries at the places of global keys, of which the last of both is the same."""
    xp = namespace(global_key)
    if t <= s:
        return global_key[..., s - t :]
    none = full(global_key, (*global_key.shape[:-1], t - s), 0.0, xp.float32) > 0.0
    return xp.concat([none, global_key], axis=-1)


def _share(part: Array, whole: Array) -> Array:
    """Pairs in the part over those in the whole, 1 for none."""
    xp = namespace(whole)
    number, total = (
        xp.astype(xp.sum(xp.astype(a, xp.int32), axis=(-2, -1)), xp.float32) for a in (part, whole)
    )
    nothing = total == 0.0
    one = xp.ones_like(total)
    return xp.where(nothing, one, number / xp.where(nothing, one, total))


def _check_pairs(name: str, given: Array) -> None:
    if not hasattr(given, "dtype") or given.dtype != namespace(given).bool or given.ndim < 2:
        raise TypeError(
            f"`{name}` must be a bool array of shape (..., queries, keys), got "
            f"{getattr(given, 'dtype', type(given).__name__)}; see rfx.supports.predicted_pairs"
        )


def _check_alike(first_name: str, first: Array, name: str, given: Array) -> None:
    """Refuse pairs that are not of the same queries and keys."""
    _check.together(first_name, first, name, given)
    shapes = tuple(first.shape), tuple(given.shape)
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"`{first_name}` and `{name}` must have shapes that broadcast, got {shapes[0]} and "
            f"{shapes[1]}; make both of the same queries and keys"
        ) from None
