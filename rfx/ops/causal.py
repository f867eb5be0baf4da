"""Attention of each query to the carry and to the keys up to its own, by chunks.

Inside a chunk the weights of all pairs are formed and the future ones dropped. What takes care is
the scale of the keys. A map with one log for a row (signed maps) uses the running maximum, pair by
pair. A map with a log for each feature uses one scale for the chunk, which is right only while the
logs do not rise steeply inside it: a late key with far larger logs would push the earlier ones
below the smallest number. That is tested, and where it fails the chunk is halved instead (see
`rfx.ops.halving`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rfx._xp import Array, constant, exp_nonpositive, full, namespace
from rfx.dispatch import op
from rfx.ops.bidirectional import absorb_all, bidirectional, divide, row_weights
from rfx.ops.carry import Carry, Keys, add, empty_log, highest, masked_keys, rescaled
from rfx.ops.driver import EAGER, Driver
from rfx.ops.halving import halved
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["causal", "is_gentle", "visible"]


def _rows(mask: Array | None, start: int, stop: int) -> Array | None:
    return None if mask is None else mask[..., start:stop, :]


def _step(
    features: Any, carry: Carry, chunk: tuple[Array, ...], driver: Driver
) -> tuple[Carry, Array]:
    query, key, value, mask = chunk
    keys = masked_keys(features, key, value, mask)
    log, feature = features.log_query(fold_heads(query, key.shape[-3:-2]))
    past = rescaled(carry, highest(carry, keys))
    scaled = keys.scaled(past.log_scale[..., None, :])
    after = add(past, scaled, keys.value)

    if not features.scale_per_feature:
        out = _by_running_maximum(carry, feature, keys)
        return after, unfold_heads(out, query)

    def plain() -> Array:
        return _by_one_scale(past, log, feature, scaled, keys.value)

    def careful() -> Array:
        return halved(carry, log, feature, keys)

    gentle = is_gentle(carry, past.log_scale, keys)
    return after, unfold_heads(driver.branch(gentle, plain, careful), query)


def is_gentle(carry: Carry, log_scale: Array, keys: Keys) -> Array:
    """Whether the scale after a chunk hides nothing that its queries see; False for NaN."""
    xp = namespace(log_scale)
    limit = 300.0 if log_scale.dtype == xp.float64 else 40.0
    return xp.all(log_scale - _lowest(carry, keys) <= limit)


def _lowest(carry: Carry, keys: Keys) -> Array:
    """For each feature, a log that every query of the chunk that sees anything sees.

    That is the carry's, or the first key's where it is visible. With nothing in the carry, queries
    before the first visible key see nothing, so it is that key's.
    """
    xp = namespace(keys.log)
    first = keys.log[..., 0, :]
    if keys.mask is not None:
        place = xp.argmax(xp.astype(keys.mask, xp.int32), axis=-2, keepdims=True)
        index = xp.broadcast_to(place, (*keys.log.shape[:-2], 1, keys.log.shape[-1]))
        visible_first = xp.take_along_axis(keys.log, index, axis=-2)[..., 0, :]
        nothing = xp.max(carry.log_scale, axis=-1, keepdims=True) <= empty_log(first.dtype, xp)
        first = xp.where(nothing, visible_first, first)
    return constant(xp.maximum(carry.log_scale, first))


def visible(like: Array, rows: int, columns: int) -> Array:
    """Whether row r, query r modulo ``columns``, sees key c: bool of shape (rows, columns)."""
    xp = namespace(like)
    ones = full(like, (columns, columns), 1.0, like.dtype)
    return xp.tile(xp.tril(ones) > 0.0, (rows // columns, 1))


def _by_one_scale(
    past: Carry, log: Array, feature: Array | None, scaled: Array, value: Array
) -> Array:
    """All keys of the chunk, and the carry, at the scale of the chunk's end."""
    xp = namespace(log)
    weight, _ = row_weights(log + past.log_scale[..., None, :], feature)
    pairs = xp.matmul(weight, xp.matrix_transpose(scaled))
    pairs = xp.where(visible(pairs, *pairs.shape[-2:]), pairs, xp.zeros_like(pairs))
    numerator = xp.matmul(pairs, value) + xp.matmul(weight, past.numerator)
    past_sum = xp.matmul(weight, past.denominator[..., None])
    return divide(numerator, xp.sum(pairs, axis=-1, keepdims=True) + past_sum)


def _by_running_maximum(carry: Carry, feature: Array, keys: Keys) -> Array:
    """exp(log of key k − running maximum at query i), formed for each pair."""
    xp = namespace(feature)
    rows, columns = feature.shape[-2], keys.log.shape[-2]
    seen = visible(feature, columns, columns)
    if keys.mask is not None:
        seen = xp.logical_and(seen, xp.matrix_transpose(keys.mask))
    pair_log = xp.where(
        seen,
        xp.matrix_transpose(keys.log),
        full(feature, (1, 1), empty_log(feature.dtype, xp), feature.dtype),
    )
    running = constant(
        xp.maximum(carry.log_scale[..., None, :], xp.max(pair_log, axis=-1, keepdims=True))
    )
    decay = exp_nonpositive(pair_log - running)
    decay = xp.where(seen, decay, xp.zeros_like(decay))
    kept = exp_nonpositive(carry.log_scale[..., None, :] - running)
    if rows != columns:  # grouped queries: the same keys for each of the group
        decay, kept = (_repeat_rows(a, rows // columns) for a in (decay, kept))
    pairs = xp.matmul(feature, xp.matrix_transpose(keys.feature)) * decay
    numerator = xp.matmul(pairs, keys.value) + xp.matmul(feature, carry.numerator) * kept
    past_sum = xp.matmul(feature, carry.denominator[..., None]) * kept
    return divide(numerator, xp.sum(pairs, axis=-1, keepdims=True) + past_sum)


def _repeat_rows(array: Array, times: int) -> Array:
    return namespace(array).concat([array] * times, axis=-2)


@op("causal")
def causal(
    features: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
    driver: Driver = EAGER,
) -> tuple[Array, Carry]:
    """Linear attention in which query i sees the carry and the keys j <= i + s - t.

    Shapes as in `rfx.ops.bidirectional.bidirectional`. Where t > s, the first t - s queries see
    the carry alone.

    A backend may run this body with a driver of its own.
    """
    t, s = query.shape[-2], key.shape[-2]
    everyone = partial(bidirectional.portable, chunk_size=chunk_size, driver=driver)
    if min(t, s) == 0:
        return everyone(features, query, key, value, mask, carry)
    if t > s:  # the first queries see the carry alone
        late = (query[..., t - s :, :], key, value, mask, carry)
        out, after = causal.portable(features, *late, chunk_size=chunk_size, driver=driver)
        nothing = (key[..., :0, :], value[..., :0, :], None, carry)
        first, _ = everyone(features, query[..., : t - s, :], *nothing)
        return namespace(out).concat([first, out], axis=-2), after
    past = s - t
    if past > 0:  # these keys are seen by every query
        old = (key[..., :past, :], value[..., :past, :], _rows(mask, 0, past))
        carry = absorb_all(features, *old, carry, chunk_size=chunk_size, driver=driver)
        key, value, mask = key[..., past:, :], value[..., past:, :], _rows(mask, past, s)

    def step(carry: Carry, chunk: tuple[Array, ...]) -> tuple[Carry, Array]:
        return _step(features, carry, chunk, driver)

    carry, out = driver.scan(step, carry, (query, key, value, mask), t, chunk_size)
    return out, carry
