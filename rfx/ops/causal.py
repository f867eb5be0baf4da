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
from rfx.ops.bidirectional import Part, absorb_all, bidirectional, divide, row_weights
from rfx.ops.carry import Carry, Keys, add, empty_log, highest, masked_keys, rescaled
from rfx.ops.driver import EAGER, Driver
from rfx.ops.gates import repeat_rows
from rfx.ops.halving import halved
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["by_one_scale", "by_pair_logs", "causal", "is_gentle", "one_log", "pair_sums", "visible"]


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

    if one_log(features, carry):
        part = _by_running_maximum(carry, feature, keys)
        return after, unfold_heads(divide(*part[:2]), query)

    def plain() -> Array:
        return divide(*by_one_scale(past, log, feature, scaled, keys.value)[:2])

    def careful() -> Array:
        return divide(*halved(carry, log, feature, keys)[:2])

    gentle = is_gentle(carry, past.log_scale, keys)
    return after, unfold_heads(driver.branch(gentle, plain, careful), query)


def one_log(features: Any, carry: Carry) -> bool:
    """Whether keys and carry have one log for a row; a gate for each feature gives them more."""
    return not features.scale_per_feature and carry.log_scale.shape[-1] == 1


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


def by_one_scale(
    past: Carry, log: Array, feature: Array | None, scaled: Array, value: Array
) -> Part:
    """All keys of the chunk, and the carry, at the scale of the chunk's end."""
    xp = namespace(log)
    weight, log_scale = row_weights(log + past.log_scale[..., None, :], feature)
    pairs = xp.matmul(weight, xp.matrix_transpose(scaled))
    pairs = xp.where(visible(pairs, *pairs.shape[-2:]), pairs, xp.zeros_like(pairs))
    numerator = xp.matmul(pairs, value) + xp.matmul(weight, past.numerator)
    past_sum = xp.matmul(weight, past.denominator[..., None])
    return Part(numerator, xp.sum(pairs, axis=-1, keepdims=True) + past_sum, log_scale)


def _by_running_maximum(carry: Carry, feature: Array, keys: Keys) -> Part:
    """exp(log of key k − running maximum at query i), formed for each pair."""
    xp = namespace(feature)
    columns = keys.log.shape[-2]
    seen = visible(feature, columns, columns)
    if keys.mask is not None:
        seen = xp.logical_and(seen, xp.matrix_transpose(keys.mask))
    pair_log, carry_log = xp.matrix_transpose(keys.log), carry.log_scale[..., None, :]
    decay, kept, running = by_pair_logs(seen, pair_log, carry_log)
    return pair_sums(carry, feature, keys.feature, keys.value, decay, kept, running)


def by_pair_logs(seen: Array, pair_log: Array, carry_log: Array) -> tuple[Array, Array, Array]:
    """Weights of pairs and of the carry divided by exp of each row's largest log, and that log."""
    xp = namespace(pair_log)
    pair_log = xp.where(
        seen, pair_log, full(pair_log, (1, 1), empty_log(pair_log.dtype, xp), pair_log.dtype)
    )
    running = constant(xp.maximum(carry_log, xp.max(pair_log, axis=-1, keepdims=True)))
    decay = exp_nonpositive(pair_log - running)
    decay = xp.where(seen, decay, xp.zeros_like(decay))
    return decay, exp_nonpositive(carry_log - running), running


def pair_sums(
    carry: Carry,
    left: Array,
    right: Array,
    value: Array,
    decay: Array,
    kept: Array,
    log_scale: Array,
) -> Part:
    """Σ_k left_i·right_k decay_ik value_k, and the carry's part times ``kept``."""
    xp = namespace(left)
    rows, columns = left.shape[-2], right.shape[-2]
    # Grouped queries: the same keys for each of the group.
    decay, kept, log_scale = (repeat_rows(a, rows // columns) for a in (decay, kept, log_scale))
    pairs = xp.matmul(left, xp.matrix_transpose(right)) * decay
    numerator = xp.matmul(pairs, value) + xp.matmul(left, carry.numerator) * kept
    past_sum = xp.matmul(left, carry.denominator[..., None]) * kept
    return Part(numerator, xp.sum(pairs, axis=-1, keepdims=True) + past_sum, log_scale)


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
