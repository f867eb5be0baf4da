"""Attention that takes recent keys exactly, and older ones through their features.

A query weighs the last keys up to its own, ``window`` of them, by a kernel, and all keys before
them by φ(q)·φ(k), under one denominator. What is carried from chunk to chunk is the sums over older
keys and the window itself. With the chunk's keys behind it, query i sees exactly the keys i + 1 to
i + window of that row, and through features those up to the i-th: a triangle, as in causal
attention of the chunk to as many keys that came before. The two parts are added in log space.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rfx._xp import Array, constant, exp_nonpositive, full, namespace
from rfx.dispatch import op
from rfx.ops.bidirectional import Part, absorb_all, divide
from rfx.ops.carry import Carry, add, empty, empty_log, highest, masked_keys, rescaled
from rfx.ops.causal import (
    by_one_scale,
    by_pair_logs,
    is_gentle,
    one_log,
    pair_sums,
    visible,
)
from rfx.ops.driver import EAGER, Driver
from rfx.ops.halving import halved
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["Memory", "added", "nothing_seen", "windowed"]


class Memory(NamedTuple):
    """Sums over older keys as a `Carry` has them, and the window; all of the map's dtype.

    key : shape (..., w, d), 0 where absent
    value : shape (..., w, e), 0 where absent
    present : shape (..., w, 1), 1 or 0; a number, since some loops carry numbers alone
    """

    numerator: Array
    denominator: Array
    log_scale: Array
    key: Array
    value: Array
    present: Array

    @property
    def older(self) -> Carry:
        """The sums over older keys."""
        return Carry(*self[:3])

    def followed_by(self, key: Array, value: Array, mask: Array | None) -> Memory:
        """The window with keys behind it; ``mask`` has shape (..., s, 1)."""
        xp, dtype = namespace(key), self.key.dtype
        key, value = (xp.astype(a, dtype, copy=False) for a in (key, value))
        if mask is None:
            present = full(key, (*key.shape[:-1], 1), 1.0, dtype)
        else:
            key, value = (xp.where(mask, a, xp.zeros_like(a)) for a in (key, value))
            present = xp.broadcast_to(xp.astype(mask, dtype), (*key.shape[:-1], 1))
        pairs = zip(self[3:], (key, value, present), strict=True)
        return Memory(*self[:3], *(xp.concat(pair, axis=-2) for pair in pairs))

    def rows(self, rows: slice) -> tuple[Array, Array, Array]:
        """Some keys of the window, their values, and whether they are present."""
        key, value, present = (a[..., rows, :] for a in self[3:])
        return key, value, present > 0.0


def nothing_seen(features: Any, key: Array, value: Array, window: int) -> Memory:
    """The memory before any key; ``key`` (..., s, d) and ``value`` (..., s, e) give the axes."""
    like, batch = features.like, tuple(key.shape[:-2])
    columns = (key.shape[-1], value.shape[-1], 1)
    held = (full(like, (*batch, window, n), 0.0, like.dtype) for n in columns)
    return Memory(*empty(features, key, value), *held)


def added(first: Part, second: Part) -> Part:
    """The sums of both, at the larger of their log scales."""
    log_scale = constant(namespace(first.log_scale).maximum(first.log_scale, second.log_scale))
    a, b = (exp_nonpositive(part.log_scale - log_scale) for part in (first, second))
    return Part(
        first.numerator * a + second.numerator * b,
        first.denominator * a + second.denominator * b,
        log_scale,
    )


def _step(
    features: Any, kernel: Any, memory: Memory, chunk: tuple[Array, ...], driver: Driver
) -> tuple[Memory, Array]:
    query, key, value, mask = chunk
    length = query.shape[-2]
    folded = fold_heads(namespace(query).astype(query, memory.key.dtype, copy=False), _heads(key))
    row = memory.followed_by(key, value, mask)
    older, far = _far(features, memory.older, folded, row.rows(slice(0, length)), driver)
    near = _near(kernel, folded, row, length)
    left = (a[..., length:, :] for a in row[3:])
    return Memory(*older, *left), unfold_heads(divide(*added(far, near)[:2]), query)


def _heads(key: Array) -> tuple[int, ...]:
    return tuple(key.shape[-3:-2])


def _far(
    features: Any,
    carry: Carry,
    query: Array,
    older: tuple[Array, Array, Array],
    driver: Driver,
) -> tuple[Carry, Part]:
    """The carry with as many older keys as queries, and the sums over those up to a query's."""
    keys = masked_keys(features, _placed(features, older[0], "key"), *older[1:])
    log, feature = features.complete(_placed(features, query, "query"), "query")
    past = rescaled(carry, highest(carry, keys))
    scaled = keys.scaled(past.log_scale[..., None, :])
    after = add(past, scaled, keys.value)
    if one_log(features, carry):
        xp, columns = namespace(log), keys.log.shape[-2]
        seen = xp.logical_and(visible(log, columns, columns), xp.matrix_transpose(older[2]))
        logs = (xp.matrix_transpose(keys.log), carry.log_scale[..., None, :])
        part = pair_sums(carry, feature, keys.feature, keys.value, *by_pair_logs(seen, *logs))
        return after, part._replace(log_scale=part.log_scale + log)

    def plain() -> Part:
        return by_one_scale(past, log, feature, scaled, keys.value)

    def careful() -> Part:
        return halved(carry, log, feature, keys)

    return after, driver.branch(is_gentle(carry, past.log_scale, keys), plain, careful)


def _placed(features: Any, x: Array, side: str) -> Array:
    return features.place(x, side) if features.moves(side) else x


def _near(kernel: Any, query: Array, row: Memory, length: int) -> Part:
    """Exact sums of query i over the keys i + 1 to i + window of the row."""
    xp = namespace(query)
    columns = row.key.shape[-2]
    log, factor = kernel._log_and_factor(query, row.key)
    log = xp.astype(log, row.value.dtype, copy=False)
    ones = full(log, (length, columns), 1.0, log.dtype)
    band = xp.tril(ones, k=columns - length) - xp.tril(ones)
    band = xp.tile(band > 0.0, (query.shape[-2] // length, 1))
    seen = xp.logical_and(band, xp.matrix_transpose(row.present > 0.0))
    low = full(log, (1, 1), empty_log(log.dtype, xp), log.dtype)
    log = xp.where(seen, log, low)
    top = constant(xp.max(log, axis=-1, keepdims=True))
    weight = exp_nonpositive(log - top)
    if factor is not None:
        weight = weight * xp.astype(factor, log.dtype, copy=False)
    weight = xp.where(seen, weight, xp.zeros_like(weight))
    return Part(xp.matmul(weight, row.value), xp.sum(weight, axis=-1, keepdims=True), top)


def _passed_by(
    features: Any, memory: Memory, chunk_size: int, driver: Driver, *keys: Array | None
) -> Memory:
    """The memory after keys that no query is aligned with."""
    key, value, mask = keys
    row = memory.followed_by(key, value, mask)
    count = row.key.shape[-2] - memory.key.shape[-2]
    gone, values, present = row.rows(slice(0, count))
    old = (_placed(features, gone, "key"), values, present)
    carry = absorb_all(features, *old, memory.older, chunk_size=chunk_size, driver=driver)
    return Memory(*carry, *(a[..., count:, :] for a in row[3:]))


@op("windowed")
def windowed(
    features: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    memory: Memory,
    *,
    kernel: Any,
    chunk_size: int,
    driver: Driver = EAGER,
) -> tuple[Array, Memory]:
    """Attention of query i to the memory and the keys j <= i + s - t, of which t <= s.

    Shapes: query (..., Hq, t, d); key (..., H, s, d); value (..., H, s, e); mask (..., s, 1) or
    None. Points are not placed yet. Returns the output (..., Hq, t, e) in the map's dtype, and the
    memory with the keys added.

    A backend may run this body with a driver of its own.
    """
    t, s = query.shape[-2], key.shape[-2]

    def rows(start: int, stop: int) -> tuple[Array, Array, Array | None]:
        own = None if mask is None else mask[..., start:stop, :]
        return key[..., start:stop, :], value[..., start:stop, :], own

    if s > t:  # these keys come before every query
        memory = _passed_by(features, memory, chunk_size, driver, *rows(0, s - t))
    if t == 0:
        dtype = memory.numerator.dtype
        return full(query, (*query.shape[:-1], value.shape[-1]), 0.0, dtype), memory

    def step(memory: Memory, chunk: tuple[Array, ...]) -> tuple[Memory, Array]:
        return _step(features, kernel, memory, chunk, driver)

    memory, out = driver.scan(step, memory, (query, *rows(s - t, s)), t, chunk_size)
    return out, memory
