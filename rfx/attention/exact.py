"""Exact attention with any kernel: the target of every estimate."""

from __future__ import annotations

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

__all__ = ["kernel_attention"]

_BLOCK = 512


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
    xp = namespace(query)
    kernel = Softmax() if kernel is None else kernel
    t, s = query.shape[-2], key.shape[-2]
    outputs = []
    for start in range(0, t, _BLOCK):
        stop = min(start + _BLOCK, t)
        last = min(s, stop + s - t) if is_causal else s
        rows = query[..., start:stop, :]
        sums = _no_keys(query, value, stop - start)
        for left in range(0, last, _BLOCK):
            right = min(left + _BLOCK, last)
            block = (key[..., left:right, :], value[..., left:right, :])
            kept = None if mask is None else mask[..., left:right]
            first_row = start + s - t - left if is_causal else None
            sums = _add_block(sums, kernel, rows, *block, kept, first_row)
        out = divide(sums.numerator, sums.denominator)
        outputs.append(xp.astype(out, value.dtype, copy=False))
    if not outputs:
        return full(value, (*query.shape[:-1], value.shape[-1]), 0.0, value.dtype)
    return xp.concat(outputs, axis=-2)


def _no_keys(query: Array, value: Array, rows: int) -> _Sums:
    dtype, shape = working_dtype(query), (*query.shape[:-2], rows)
    low = empty_log(dtype, namespace(query))
    zero = full(query, (*shape, 1), 0.0, dtype)
    numerator = full(query, (*shape, value.shape[-1]), 0.0, dtype)
    return _Sums(numerator, zero, full(query, (*shape, 1), low, dtype))


def _add_block(
    sums: _Sums,
    kernel: Kernel,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    first_row: int | None,
) -> _Sums:
    """Add a block of keys; query row i sees its keys up to ``first_row`` + i, or all for None."""
    xp, dtype = namespace(query), sums.numerator.dtype
    rows, columns, heads = query.shape[-2], key.shape[-2], key.shape[-3:-2]
    if mask is not None:  # masked keys and values may hold NaN
        key = xp.where(mask[..., None], key, xp.zeros_like(key))
        value = xp.where(mask[..., None], value, xp.zeros_like(value))
    with full_precision(query):  # unchecked: masked keys, which are 0 now, may be refused
        folded, factor = kernel._log_and_factor(fold_heads(query, heads), key)
    log = xp.astype(unfold_heads(folded, query), dtype, copy=False)
    seen = _seen(log, query, rows, columns, mask, first_row)
    if seen is not None:
        log = xp.where(seen, log, xp.full_like(log, empty_log(dtype, xp)))
    top = xp.maximum(sums.log_scale, constant(xp.max(log, axis=-1, keepdims=True)))
    weight = exp_nonpositive(log - top)
    if factor is not None:
        weight = weight * xp.astype(unfold_heads(factor, query), dtype, copy=False)
    if seen is not None:
        weight = xp.where(seen, weight, xp.zeros_like(weight))
    kept = exp_nonpositive(sums.log_scale - top)
    value = xp.astype(value, dtype, copy=False)
    with full_precision(query):
        numerator = unfold_heads(xp.matmul(fold_heads(weight, heads), value), query)
    return _Sums(
        sums.numerator * kept + numerator,
        sums.denominator * kept + xp.sum(weight, axis=-1, keepdims=True),
        top,
    )


def _seen(
    log: Array, query: Array, rows: int, columns: int, mask: Array | None, first_row: int | None
) -> Array | None:
    """Which pairs count: bool of a shape that broadcasts to (..., rows, columns), or None."""
    xp = namespace(log)
    seen = None
    if first_row is not None and first_row < columns - 1:
        ones = full(log, (rows, columns), 1.0, log.dtype)
        seen = xp.tril(ones, k=first_row) > 0.0
    if mask is not None:
        kept = mask[..., None, :]
        if kept.ndim > 2 and kept.shape[-3] not in (1, query.shape[-3]):
            kept = xp.repeat(kept, query.shape[-3] // kept.shape[-3], axis=-3)
        seen = kept if seen is None else xp.logical_and(seen, kept)
    return seen
