"""Exact attention with any kernel: the target of every estimate."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

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
from rfx.dispatch import planned
from rfx.kernels import Kernel, Softmax
from rfx.ops.bidirectional import divide
from rfx.ops.carry import empty_log
from rfx.ops.heads import fold_heads, unfold_heads
from rfx.ops.pairs import Pairs, sum_pairs

__all__ = ["kernel_attention"]


class _Sums(NamedTuple):
    numerator: Array
    denominator: Array
    log_scale: Array


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    _check.mask(mask, key)
    if not isinstance(kernel, Kernel | None):
        raise TypeError(
            f"`kernel` must be a record of rfx.kernels, got {kernel!r}; "
            "pass for example rfx.kernels.Softmax()"
        )
    if is_causal:
        _check.causal_lengths(query, key)
    kernel = Softmax() if kernel is None else kernel
    kernel.check(query, "query")
    kernel.check(key, "key", mask)
    return None, (query, key, value), {}


@planned(_plan)
def kernel_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """Exact attention Σ_k κ(q, k) v_k / Σ_k κ(q, k), by blocks.

    With the default kernel this is softmax attention. Memory beyond inputs and output is that of
    one block of pairs; time is quadratic.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    kernel : Kernel, optional
        ``Softmax()`` by default, with scale d ** -0.5.
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
        As `rfx.linear_attention`.

    Notes
    -----
    NaN in a key touches the rows that may see it; in a value, if causal, no more than its own block
    of 512 rows besides.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 5, 4))
    >>> weights = rfx.kernels.Softmax()(q, k)
    >>> want = weights @ v / weights.sum(axis=-1, keepdims=True)
    >>> bool(abs(rfx.kernel_attention(q, k, v) - want).max() < 1e-14)
    True
    """
    _plan(query, key, value, kernel=kernel, is_causal=is_causal, mask=mask)
    kernel = Softmax() if kernel is None else kernel
    return sum_pairs(
        query,
        key,
        value,
        mask,
        is_causal,
        start=lambda rows: _no_keys(query, value, rows.stop - rows.start),
        add=partial(_add_block, kernel),
        finish=lambda sums: divide(sums.numerator, sums.denominator),
    )


def _no_keys(query: Array, value: Array, rows: int) -> _Sums:
    dtype, shape = working_dtype(query), (*query.shape[:-2], rows)
    low = empty_log(dtype, namespace(query))
    zero = full(query, (*shape, 1), 0.0, dtype)
    numerator = full(query, (*shape, value.shape[-1]), 0.0, dtype)
    return _Sums(numerator, zero, full(query, (*shape, 1), low, dtype))


def _add_block(kernel: Kernel, sums: _Sums, pairs: Pairs) -> _Sums:
    """The sums with a block of keys, all at the scale of the largest log so far."""
    query, key = pairs.query, pairs.key
    xp, dtype, heads = namespace(query), sums.numerator.dtype, key.shape[-3:-2]
    with full_precision(query):  # unchecked: masked keys, which are 0 now, may be refused
        folded, factor = kernel._log_and_factor(fold_heads(query, heads), key)
    log = xp.astype(unfold_heads(folded, query), dtype, copy=False)
    seen = pairs.seen()
    if seen is not None:
        log = xp.where(seen, log, xp.full_like(log, empty_log(dtype, xp)))
    top = xp.maximum(sums.log_scale, constant(xp.max(log, axis=-1, keepdims=True)))
    weight = exp_nonpositive(log - top)
    if factor is not None:
        weight = weight * xp.astype(unfold_heads(factor, query), dtype, copy=False)
    if seen is not None:
        weight = xp.where(seen, weight, xp.zeros_like(weight))
    kept = exp_nonpositive(sums.log_scale - top)
    value = xp.astype(pairs.value, dtype, copy=False)
    with full_precision(query):
        numerator = unfold_heads(xp.matmul(fold_heads(weight, heads), value), query)
    return _Sums(
        sums.numerator * kept + numerator,
        sums.denominator * kept + xp.sum(weight, axis=-1, keepdims=True),
        top,
    )
