"""Attention with a relative bias by blocks of pairs: any bias, any logs, in quadratic time.

In a block of queries and keys the largest log of each feature is taken out of the keys, that of a
row out of the queries, and the largest bias out of the block; blocks are added in log space. The
largest logs may be those of keys that a row does not see, though. Where that leaves a row with next
to nothing, its strip is computed again with the logs of each pair and feature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from rfx._xp import Array, constant, exp_nonpositive, full, namespace
from rfx.ops.bidirectional import divide, row_weights
from rfx.ops.carry import Keys, empty_log, smallest_denominator
from rfx.ops.driver import Driver
from rfx.ops.toeplitz import matrix

__all__ = ["STRIP", "by_blocks", "query_features"]

STRIP = 256
"""Queries that are computed together."""
_COLUMNS, _COLUMNS_BY_PAIR = 256, 8


class Block(NamedTuple):
    """A block of queries and keys.

    log, feature : of queries, shapes (..., H, g, r, m or 1) and (..., H, g, r, m)
    key_log, key_feature, value : (..., H, 1, c, m or 1), (..., H, 1, c, m), (..., H, 1, c, e)
    bias : shape (..., H, g, r + c - 1), by diagonals
    """

    log: Array
    feature: Any
    key_log: Array
    key_feature: Any
    value: Array
    bias: Array


class Strip(NamedTuple):
    """Sums over keys for some queries, divided by exp(log_scale): (..., H, g, r, e or 1).

    ``mass`` is the denominator with absolute values of the features.
    """

    numerator: Array
    denominator: Array
    mass: Array
    log_scale: Array


def by_blocks(
    features: Any,
    query: Array,
    keys: Keys,
    bias: Array,
    seen: Array,
    driver: Driver,
    known: tuple[Array, Array] | None = None,
) -> Array:
    """Output (..., H, g, t, e) for queries (..., H, g, t, d), biases with `empty_log` for unseen.

    ``seen`` (..., H, g, t, 1) says whether a query sees any key. ``known`` is an output, and for
    which queries it is good, (..., H, g, t, 1): strips of good ones alone are left at that.
    """
    t, s = query.shape[-2], keys.log.shape[-2]
    sources = (keys.log, keys.feature, keys.value, _positions(bias, s))

    @driver.again
    def strip(rows: Array, its_seen: Array, row: Array) -> Array:
        log, feature = query_features(features, rows)
        over = partial(_over, log, feature, row, sources, bias, t, driver)
        if not features.scale_per_feature:
            return over(_by_row, _COLUMNS)[1]
        sums, out = over(_by_scale, _COLUMNS)
        gentle = _is_gentle(sums, its_seen)
        return driver.branch(gentle, lambda: out, lambda: over(_by_pair, _COLUMNS_BY_PAIR)[1])

    def step(none: tuple[()], chunk: tuple[Any, ...]) -> tuple[tuple[()], Array]:
        *rows, its_out, good = chunk
        if known is None:
            return none, strip(*rows)
        good = namespace(good).all(good)
        return none, driver.branch(good, lambda: its_out, lambda: strip(*rows))

    arrays = (query, seen, _positions(bias, t), *(known or (None, None)))
    return driver.scan(step, (), arrays, t, STRIP)[1]


def query_features(features: Any, query: Array) -> tuple[Array, Array | None]:
    """Log and value of features of (..., H, g, t, d), or (g, t, d) for points without heads."""
    *heads, groups, rows, dim = query.shape
    xp = namespace(query)
    log, feature = features.log_query(xp.reshape(query, (*heads, groups * rows, dim)))
    log, feature = (
        None if a is None else xp.reshape(a, (*heads, groups, rows, a.shape[-1]))
        for a in (log, feature)
    )
    return log, feature


def _over(
    log: Array,
    feature: Array | None,
    row: Array,
    sources: tuple[Any, ...],
    bias: Array,
    t: int,
    driver: Driver,
    form: Callable[[Block], Strip],
    size: int,
) -> tuple[Strip, Array]:
    """All keys for one strip of queries, by a form of block; the sums, and the output."""
    xp, low = namespace(log), empty_log(log.dtype, namespace(log))

    def step(sums: Strip, chunk: tuple[Array, ...]) -> tuple[Strip, None]:
        *its_keys, column = chunk
        count = row.shape[0] + column.shape[0] - 1
        lowest = column[:1, 0] - row[-1:, 0] + (t - 1)
        window = xp.take(bias, lowest + _positions(bias, count)[:, 0], axis=-1)
        key_log, key_feature, value = (None if a is None else a[..., None, :, :] for a in its_keys)
        block = Block(log, feature, key_log, key_feature, value, window)
        unseen = xp.all(window <= low)
        add = driver.again(form)
        return driver.branch(unseen, lambda: sums, lambda: _sum(sums, add(block))), None

    none = full(log, (*log.shape[:-1], 1), 0.0, log.dtype)
    numerator = full(log, (*log.shape[:-1], sources[2].shape[-1]), 0.0, log.dtype)
    start = Strip(numerator, none, none, none + low)
    sums, _ = driver.scan(step, start, sources, sources[2].shape[-2], size)
    return sums, divide(sums.numerator, sums.denominator)


def _by_scale(block: Block) -> Strip:
    """Each feature at its largest log over the keys, each row at its largest over the features."""
    xp = namespace(block.log)
    low = empty_log(block.log.dtype, xp)
    top = constant(xp.max(block.key_log, axis=-2, keepdims=True))
    scaled = exp_nonpositive(block.key_log - top)
    scaled = xp.where(block.key_log <= low, xp.zeros_like(scaled), scaled)
    if block.key_feature is not None:
        scaled = scaled * block.key_feature
    weight, log_scale = row_weights(block.log + top, block.feature)
    highest = constant(xp.max(block.bias, axis=-1, keepdims=True))
    factor = exp_nonpositive(block.bias - highest)
    factor = xp.where(block.bias <= low, xp.zeros_like(factor), factor)
    factor = matrix(factor, weight.shape[-2], scaled.shape[-2])
    scaled = xp.matrix_transpose(scaled)
    pairs = xp.matmul(weight, scaled) * factor
    signed = block.feature is not None or block.key_feature is not None
    sizes = xp.matmul(xp.abs(weight), xp.abs(scaled)) * factor if signed else pairs
    return _strip(pairs, sizes, block.value, log_scale + highest[..., None])


def _by_row(block: Block) -> Strip:
    """For features with one log a row: each pair at the largest log of its row."""
    xp = namespace(block.log)
    low = empty_log(block.log.dtype, xp)
    bias = matrix(block.bias, block.feature.shape[-2], block.key_log.shape[-2])
    log = bias + xp.matrix_transpose(block.key_log)
    top = constant(xp.max(log, axis=-1, keepdims=True))
    weight = exp_nonpositive(log - top)
    weight = xp.where(log <= 0.5 * low, xp.zeros_like(weight), weight)
    pairs = xp.matmul(block.feature, xp.matrix_transpose(block.key_feature)) * weight
    return _strip(pairs, weight, block.value, top)


def _by_pair(block: Block) -> Strip:
    """Every pair and feature with its own log: memory is m times that of the pairs."""
    xp = namespace(block.log)
    low = empty_log(block.log.dtype, xp)
    bias = matrix(block.bias, block.log.shape[-2], block.key_log.shape[-2])[..., None]
    key_log = block.key_log[..., None, :, :]
    hidden = xp.logical_or(bias <= low, key_log <= low)
    log = block.log[..., :, None, :] + key_log + bias
    log = xp.where(hidden, xp.full_like(log, low), log)
    top = constant(xp.max(log, axis=(-2, -1)))[..., None]
    weight = exp_nonpositive(log - top[..., None])
    weight = xp.where(hidden, xp.zeros_like(weight), weight)
    if block.feature is not None:
        weight = weight * block.feature[..., :, None, :]
    if block.key_feature is not None:
        weight = weight * block.key_feature[..., None, :, :]
    pairs = xp.sum(weight, axis=-1)
    return _strip(pairs, pairs, block.value, top)


def _strip(pairs: Array, sizes: Array, value: Array, log_scale: Array) -> Strip:
    xp = namespace(pairs)
    total = xp.sum(pairs, axis=-1, keepdims=True)
    mass = total if sizes is pairs else xp.sum(sizes, axis=-1, keepdims=True)
    return Strip(xp.matmul(pairs, value), total, constant(mass), log_scale)


def _sum(first: Strip, second: Strip) -> Strip:
    """Two sets of keys together."""
    top = namespace(first.log_scale).maximum(first.log_scale, second.log_scale)
    a, b = exp_nonpositive(first.log_scale - top), exp_nonpositive(second.log_scale - top)
    sums = [x * a + y * b for x, y in zip(first[:3], second[:3], strict=True)]
    return Strip(sums[0], sums[1], sums[2], top)


def _is_gentle(sums: Strip, seen: Array) -> Array:
    """Whether every row that sees a key kept enough at its scale for what was lost not to count.

    Terms below the smallest number are lost, and `divide` takes denominators near its root for 0.
    True for NaN, which is no matter of scale.
    """
    xp = namespace(sums.mass)
    limit = 2.0**16 * smallest_denominator(sums.mass.dtype, xp)
    return xp.all(xp.logical_not(xp.logical_and(seen, sums.mass < limit)))


def _positions(like: Array, length: int) -> Array:
    """0, 1, 2, ... as a column, beside ``like``."""
    xp = namespace(like)
    return xp.cumulative_sum(full(like, (length, 1), 1, xp.int32), axis=0, dtype=xp.int32) - 1
