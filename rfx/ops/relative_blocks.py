"""Attention with a relative bias by blocks of pairs: any bias, any logs, in quadratic time.

In a block of queries and keys the largest log of each feature is taken out of the keys, that of a
row out of the queries, and the largest bias out of the block; blocks are added in log space. The
keys that a row does not see may have the largest logs, though. Where that leaves a row with next to
nothing, its strip is computed again with the log of each pair and feature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rfx._xp import Array, constant, exp_nonpositive, full, namespace
from rfx.ops.bidirectional import divide, row_weights
from rfx.ops.carry import Keys, empty_log
from rfx.ops.driver import Driver
from rfx.ops.toeplitz import matrix

__all__ = ["by_blocks"]

_ROWS, _COLUMNS, _PAIRED_COLUMNS = 256, 256, 8


class Strip(NamedTuple):
    """Sums over keys for some queries, divided by exp(log_scale): shapes (..., H, g, r, e or 1).

    ``mass`` is the denominator with absolute values of the features.
    """

    numerator: Array
    denominator: Array
    mass: Array
    log_scale: Array


Block = Callable[[Array, Array, Array, "Array | None", Array], Strip]


def by_blocks(
    features: Any,
    query: Array,
    keys: Keys,
    bias: Array,
    seen: Array,
    last: int,
    driver: Driver,
) -> Array:
    """Output (..., H, g, t, e); ``last`` is the largest offset j - i that any query sees."""
    xp, t, s = namespace(query), query.shape[-2], keys.log.shape[-2]
    bias = xp.concat([bias, bias[..., :1]], axis=-1)  # so that a window never ends outside

    def strip(carry: tuple[()], chunk: tuple[Array, ...]) -> tuple[tuple[()], Array]:
        rows, its_seen, row = chunk
        log, feature = _features(features, rows)

        def over(block: Any, size: int, stop: int) -> Strip:
            def step(sums: Strip, chunk: tuple[Array, ...]) -> tuple[Strip, None]:
                key_log, key_feature, value, column = chunk
                offset = column[0, 0] - row[-1, 0] + (t - 1)
                count = rows.shape[-2] + column.shape[-2]
                at = offset + column[0, 0] * 0 + _range(column, count)
                window = xp.take(bias, at[:-1], axis=-1)
                part = block(log, feature, _one(key_log), _one(key_feature), window, rows.shape[-2])
                return _added(sums, *part, _one(value)), None

            arrays = (keys.log, keys.feature, keys.value, positions)
            arrays = tuple(None if a is None else a[..., :stop, :] for a in arrays)
            nothing = _nothing(log, keys.value.shape[-1])
            return driver.scan(step, nothing, arrays, stop, size)[0]

        stop = _stop(row, last, s)
        block = _by_row if keys.log.shape[-1] == 1 and log.shape[-1] == 1 else _by_scale
        sums = over(block, _COLUMNS, stop)
        if block is _by_row:
            return carry, divide(sums.numerator, sums.denominator)

        def plain() -> Array:
            return divide(sums.numerator, sums.denominator)

        def careful() -> Array:
            exact = over(_by_pair, _PAIRED_COLUMNS, stop)
            return divide(exact.numerator, exact.denominator)

        return carry, driver.branch(_is_gentle(sums, its_seen), plain, careful)

    positions = _positions(bias, s)
    rows = (query, seen, _positions(bias, t))
    return driver.scan(strip, (), rows, t, _ROWS)[1]
