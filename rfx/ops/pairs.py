"""Sums over all pairs of a query and a key, block by block: what exact attention is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from rfx._xp import Array, full, namespace, working_dtype
from rfx.ops.chunks import chunks

__all__ = ["Pairs", "sum_pairs"]

_BLOCK = 512
Sums = TypeVar("Sums")


class Pairs(NamedTuple):
    """Some queries with some keys.

    query : shape (..., Hq, rows, d)
    key, value : shapes (..., H, columns, d) and (..., H, columns, e), 0 where masked
    mask : bool of shape (columns,) or (..., H, columns) with 1 for shared axes, or None for all
    first_row : query i sees the keys up to ``first_row`` + i; None for all
    """

    query: Array
    key: Array
    value: Array
    mask: Array | None
    first_row: int | None

    def before(self) -> Array | None:
        """Which keys are not in a query's future: bool (rows, columns), or None for all."""
        rows, columns = self.query.shape[-2], self.key.shape[-2]
        if self.first_row is None or self.first_row >= columns - 1:
            return None
        ones = full(self.query, (rows, columns), 1.0, working_dtype(self.query))
        return namespace(ones).tril(ones, k=self.first_row) > 0.0

    def seen(self) -> Array | None:
        """Which pairs count: bool that broadcasts to (..., Hq, rows, columns), or None for all."""
        xp, seen = namespace(self.query), self.before()
        if self.mask is None:
            return seen
        kept = self.mask[..., None, :]
        if kept.ndim > 2 and kept.shape[-3] not in (1, self.query.shape[-3]):
            kept = xp.repeat(kept, self.query.shape[-3] // kept.shape[-3], axis=-3)
        return kept if seen is None else xp.logical_and(seen, kept)


def sum_pairs(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    is_causal: bool,
    *,
    start: Callable[[slice], Sums],
    add: Callable[[Sums, Pairs], Sums],
    finish: Callable[[Sums], Any],
) -> Array:
    """The outputs (..., Hq, t, e), in the dtype of ``value``, of blocks of at most 512 queries.

    Parameters
    ----------
    query, key, value, mask, is_causal
        As in `rfx.kernel_attention`, checked.
    start : callable
        Rows of the queries to the sums before any key.
    add : callable
        The sums with a block of keys.
    finish : callable
        The sums over all keys to the output of these rows.
    """
    xp = namespace(query)
    t, s = query.shape[-2], key.shape[-2]
    outputs = []
    for rows in chunks(0, t, _BLOCK):
        sums = start(rows)
        for columns in chunks(0, min(s, rows.stop + s - t) if is_causal else s, _BLOCK):
            block = key[..., columns, :], value[..., columns, :]
            kept = None if mask is None else mask[..., columns]
            if kept is not None:  # masked keys and values may hold NaN
                block = tuple(xp.where(kept[..., None], a, xp.zeros_like(a)) for a in block)
            first = rows.start + s - t - columns.start if is_causal else None
            sums = add(sums, Pairs(query[..., rows, :], *block, kept, first))
        outputs.append(xp.astype(finish(sums), value.dtype, copy=False))
    if not outputs:
        return full(value, (*query.shape[:-1], value.shape[-1]), 0.0, value.dtype)
    return xp.concat(outputs, axis=-2)
