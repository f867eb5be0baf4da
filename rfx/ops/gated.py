"""Causal attention to sums that a gate multiplies at each step, by chunks.

The weight of key k for query i is φ(q_i)·φ(k_k) times the gates behind k up to i. Logs of gates are
added up inside a chunk only: over a whole sequence their sums would grow until float32 no longer
tells their differences.

- One gate for all features of a row gives a matrix of factors at most 1, for each pair of a chunk.
  The rest is as in `rfx.ops.causal`.
- A gate for each feature moves into the logs: of a key those from the chunk's start on are taken
  away, to a query's they are added. That is right while they do not add up to much; where they do,
  or where one is closed, the chunk is halved (`rfx.ops.halving`), and each block adds up its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rfx._xp import Array, constant, exp_nonpositive, full, namespace
from rfx.dispatch import op
from rfx.ops.bidirectional import Part, divide, row_weights
from rfx.ops.carry import Carry, Keys, absorb, add, empty_log, highest, masked_keys, rescaled
from rfx.ops.causal import by_one_scale, by_pair_logs, is_gentle, one_log, pair_sums, visible
from rfx.ops.driver import EAGER, Driver
from rfx.ops.gates import Gates, made, repeat_rows, running_sums
from rfx.ops.halving import halved
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = [
    "carry_gates",
    "decayed",
    "gated",
    "is_level",
    "limit",
    "pair_gates",
    "seen_pairs",
]

Result = tuple[Carry, Part]


def _step(
    features: Any,
    carry: Carry,
    chunk: tuple[Array, ...],
    driver: Driver,
    finish: Callable[[Part], Array],
    complete: bool,
) -> tuple[Carry, Array]:
    query, key, value, mask, log_gate, log_weight = chunk
    keys = _weighted(masked_keys(features, key, value, mask), log_weight)
    gates = made(log_gate, mask, keys.log.dtype)
    folded = fold_heads(query, key.shape[-3:-2])
    log, feature = features.complete(folded, "query") if complete else features.log_query(folded)
    one_gate = gates.log.shape[-1] == 1
    if one_gate and one_log(features, carry):
        after, part = _by_running_maximum(carry, log, feature, keys, gates, driver)
    elif one_gate:
        after, part = _by_row(carry, log, feature, keys, gates, driver)
    else:
        after, part = _by_feature(carry, log, feature, keys, gates, driver)
    return after, unfold_heads(finish(part), query)


def _weighted(keys: Keys, log_weight: Array | None) -> Keys:
    """Keys times a factor each, absent where it is 0."""
    if log_weight is None:
        return keys
    xp = namespace(keys.log)
    log_weight = xp.astype(log_weight, keys.log.dtype, copy=False)
    absent = log_weight == -float("inf")
    if keys.mask is not None:
        absent = xp.logical_or(absent, xp.logical_not(keys.mask))
    low = full(keys.log, (1, 1), empty_log(keys.log.dtype, xp), keys.log.dtype)
    log_weight = xp.where(absent, xp.zeros_like(low), log_weight)
    log = xp.where(absent, low, keys.log + log_weight)
    value = xp.where(absent, xp.zeros_like(low), keys.value)
    return Keys(log, keys.feature, value, xp.logical_not(absent))


def _absorb(carry: Carry, keys: Keys, gates: Gates) -> Carry:
    """The carry through all gates of a chunk, with its keys through those behind them."""
    xp = namespace(keys.log)
    behind, gone = gates.to_end()
    if keys.mask is not None:
        gone = xp.logical_or(gone, xp.logical_not(keys.mask))
    log = keys.log + behind
    gone = xp.broadcast_to(gone, log.shape)
    log = xp.where(gone, full(log, (1, 1), empty_log(log.dtype, xp), log.dtype), log)
    before, shut = gates.from_start()
    past = decayed(carry, before[..., -1, :], shut[..., -1, :])
    return absorb(past, Keys(log, keys.feature, keys.value, xp.logical_not(gone)))


def decayed(carry: Carry, log_gate: Array, closed: Array) -> Carry:
    """The carry times a gate (..., m) or (..., 1); ``log_gate`` is finite where it is closed."""
    xp = namespace(log_gate)
    low = empty_log(log_gate.dtype, xp)
    log_scale = xp.clip(carry.log_scale + constant(log_gate), low, None)
    log_scale = xp.where(closed, full(log_gate, (1,), low, log_gate.dtype), log_scale)
    kept = _one(log_gate)
    kept = xp.astype(xp.logical_not(closed), log_gate.dtype) * (1.0 if kept is None else kept)
    return Carry(carry.numerator * kept[..., None], carry.denominator * kept, log_scale)


def _one(log: Array) -> Array | None:
    """1, with the gradient of exp(log) where there are gradients: a scale's log has none itself."""
    fixed = constant(log)
    return None if fixed is log else namespace(log).exp(log - fixed)


def _is_flat(gates: Gates) -> Array:
    """Whether sums of the chunk's gates are small enough for their differences to be exact."""
    xp = namespace(gates.log)
    return xp.all(xp.sum(gates.log, axis=-2) >= -limit(gates.log))


def limit(log: Array) -> float:
    """How much logs may differ before numbers are hidden, or digits of their sums lost."""
    return 300.0 if log.dtype == namespace(log).float64 else 40.0


def pair_gates(gates: Gates, driver: Driver) -> tuple[Array, Array]:
    """Log (..., C, C) of the gates behind key k up to query i, and whether one is closed."""
    xp = namespace(gates.log)

    def differences() -> Array:
        before, _ = gates.from_start()
        return before - xp.matrix_transpose(before)

    def sums() -> Array:
        return gates.between()[0][..., 0]

    count = xp.cumulative_sum(xp.astype(gates.closed, xp.int32), axis=-2)
    shut = count > xp.matrix_transpose(count)
    return driver.branch(_is_flat(gates), differences, sums), shut


def seen_pairs(keys: Keys, shut: Array) -> Array:
    """Which pairs of a chunk there are: bool (..., C, C)."""
    xp = namespace(keys.log)
    columns = keys.log.shape[-2]
    seen = xp.logical_and(visible(keys.log, columns, columns), xp.logical_not(shut))
    return seen if keys.mask is None else xp.logical_and(seen, xp.matrix_transpose(keys.mask))


def carry_gates(gates: Gates) -> tuple[Array, Array]:
    """Log (..., C, 1) of the gates up to each query, and 1, or 0 where one of them is closed."""
    xp = namespace(gates.log)
    before, shut = gates.from_start()
    before = xp.where(shut, xp.full_like(before, empty_log(before.dtype, xp)), before)
    return before, xp.astype(xp.logical_not(shut), before.dtype)


def _by_running_maximum(
    carry: Carry, log: Array, feature: Array, keys: Keys, gates: Gates, driver: Driver
) -> Result:
    """One log for a row: that of each pair is the key's and the gates' together."""
    xp = namespace(keys.log)
    between, shut = pair_gates(gates, driver)
    before, is_open = carry_gates(gates)
    low = empty_log(before.dtype, xp)
    carry_log = xp.clip(carry.log_scale[..., None, :] + before, low, None)
    pair_log = xp.matrix_transpose(keys.log) + between
    decay, kept, running = by_pair_logs(seen_pairs(keys, shut), pair_log, carry_log)
    sums = (feature, keys.feature, keys.value, decay, kept * is_open, running)
    part = pair_sums(carry, *sums)
    return _absorb(carry, keys, gates), part._replace(log_scale=part.log_scale + log)


def _by_row(
    carry: Carry, log: Array, feature: Array | None, keys: Keys, gates: Gates, driver: Driver
) -> Result:
    """A log for each feature and one gate for a row: pairs at one scale, times their gates."""
    past = rescaled(carry, highest(carry, keys))

    def plain() -> Result:
        between, shut = pair_gates(gates, driver)
        before, is_open = carry_gates(gates)
        scaled = keys.scaled(past.log_scale[..., None, :])
        weight, log_scale = row_weights(log + past.log_scale[..., None, :], feature)
        decay, kept, most = by_pair_logs(seen_pairs(keys, shut), between, before)
        sums = (weight, scaled, keys.value, decay, kept * is_open, most)
        part = pair_sums(past, *sums)
        after = _after_row(carry, past, scaled, keys, gates, between, shut)
        return after, part._replace(log_scale=part.log_scale + log_scale)

    def careful() -> Result:
        return _absorb(carry, keys, gates), halved(carry, log, feature, keys, gates)

    return driver.branch(is_level(carry, past.log_scale, keys), plain, careful)


def is_level(carry: Carry, log_scale: Array, keys: Keys) -> Array:
    """Whether the scale hides no key at all, and the carry neither where it is seen alone.

    A gate may hide any key but one, so that it is not enough to look at the first. NaN is False.
    """
    xp = namespace(log_scale)
    log, alone = keys.log, None
    if keys.mask is not None:
        log = xp.where(keys.mask, log, log_scale[..., None, :])
        empty = xp.max(carry.log_scale, axis=-1, keepdims=True) <= empty_log(log.dtype, xp)
        alone = xp.logical_not(xp.logical_or(keys.mask[..., 0, :], empty))
    lowest = xp.min(log, axis=-2)
    if alone is not None:
        lowest = xp.minimum(lowest, xp.where(alone, carry.log_scale, log_scale))
    return xp.all(log_scale - lowest <= limit(log))


def _after_row(
    carry: Carry,
    past: Carry,
    scaled: Array,
    keys: Keys,
    gates: Gates,
    between: Array,
    shut: Array,
) -> Carry:
    """`_absorb` with the features at hand: only what shrinks is multiplied, the values."""
    xp = namespace(scaled)
    low = empty_log(scaled.dtype, xp)
    behind, gone = (xp.matrix_transpose(a[..., -1:, :]) for a in (between, shut))
    if keys.mask is not None:
        gone = xp.logical_or(gone, xp.logical_not(keys.mask))
    behind = xp.where(gone, xp.full_like(behind, low), behind)
    before, is_open = (a[..., -1, :] for a in carry_gates(gates))
    most = constant(xp.maximum(xp.max(behind, axis=-2), before))
    share = exp_nonpositive(behind - most[..., None, :])
    share = xp.where(gone, xp.zeros_like(share), share)
    kept = exp_nonpositive(before - most) * is_open
    # Sums stay at the scale of what is left of them: an early large key does not raise it for ever.
    top = xp.maximum(xp.max(keys.log + behind, axis=-2), carry.log_scale + before)
    top = xp.clip(constant(top), low, None)
    growth = xp.clip(past.log_scale + most - top, None, 2.0 * limit(scaled))
    factor = xp.exp(xp.where(top <= low, xp.zeros_like(growth), growth))
    kept = kept * factor
    past = Carry(past.numerator * kept[..., None], past.denominator * kept, top)
    return add(past, scaled * (share * factor[..., None, :]), keys.value)


def _by_feature(
    carry: Carry, log: Array, feature: Array | None, keys: Keys, gates: Gates, driver: Driver
) -> Result:
    """A gate for each feature: it moves into the logs of queries and keys."""
    xp = namespace(keys.log)
    groups = log.shape[-2] // keys.log.shape[-2]
    before = running_sums(gates.log)
    low = empty_log(before.dtype, xp)
    moved = keys.log - before
    if keys.mask is not None:
        moved = xp.where(keys.mask, moved, xp.full_like(moved, low))
    relative = Keys(moved, keys.feature, keys.value, keys.mask)
    past = rescaled(carry, highest(carry, relative))

    def plain() -> Result:
        scaled = relative.scaled(past.log_scale[..., None, :])
        part = by_one_scale(past, log + repeat_rows(before, groups), feature, scaled, keys.value)
        total = before[..., -1, :]
        shut = full(total, (1,), 0.0, total.dtype) > 0.0
        return decayed(add(past, scaled, keys.value), total, shut), part

    def careful() -> Result:
        return _absorb(carry, keys, gates), halved(carry, log, feature, keys, gates)

    gentle = xp.logical_and(
        xp.logical_and(_is_flat(gates), xp.logical_not(xp.any(gates.closed))),
        is_gentle(carry, past.log_scale, relative),
    )
    return driver.branch(gentle, plain, careful)


def _sums(part: Part) -> Array:
    """The sums themselves. The log is halved, since exp of it may be out of range alone."""
    xp = namespace(part.numerator)
    largest = 700.0 if part.log_scale.dtype == xp.float64 else 88.0
    half = xp.exp(xp.clip(0.5 * part.log_scale, -2.0 * largest, largest))
    return part.numerator * half * half


@op("gated")
def gated(
    features: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    log_gate: Array,
    log_weight: Array | None,
    *,
    normalize: bool,
    chunk_size: int,
    driver: Driver = EAGER,
) -> tuple[Array, Carry]:
    """Attention of query i to S_i = g_i S_{i-1} + w_i φ(k_i) v_i, of as many queries as keys.

    Shapes as in `rfx.ops.bidirectional.bidirectional`; log_gate (..., t, m) or (..., t, 1) and
    log_weight (..., t, 1), either for key heads, with 1 or nothing for shared axes. A carry for
    gates of m columns has a log scale of m columns.

    A backend may run this body with a driver of its own.
    """

    def finish(part: Part) -> Array:
        return divide(part.numerator, part.denominator) if normalize else _sums(part)

    def step(carry: Carry, chunk: tuple[Array, ...]) -> tuple[Carry, Array]:
        return _step(features, carry, chunk, driver, finish, not normalize)

    arrays = (query, key, value, mask, log_gate, log_weight)
    if query.shape[-2] == 0:
        return _nothing(query, value, carry), carry
    carry, out = driver.scan(step, carry, arrays, query.shape[-2], chunk_size)
    return out, carry


def _nothing(query: Array, value: Array, carry: Carry) -> Array:
    return full(query, (*query.shape[:-1], value.shape[-1]), 0.0, carry.numerator.dtype)
