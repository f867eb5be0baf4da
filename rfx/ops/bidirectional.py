"""Attention of every query to every key: keys into the carry, then queries out of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from rfx._xp import Array, constant, exp_nonpositive, namespace
from rfx.dispatch import op
from rfx.ops.carry import Carry, absorb, masked_keys, smallest_denominator
from rfx.ops.driver import EAGER, Driver
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["Part", "absorb_all", "bidirectional", "divide", "read", "row_weights"]


class Part(NamedTuple):
    """Sums (..., t, e) and (..., t, 1) of queries, divided by exp(log_scale) (..., t, 1)."""

    numerator: Array
    denominator: Array
    log_scale: Array


def absorb_all(
    features: Any,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
    driver: Driver = EAGER,
) -> Carry:
    """Add all keys to the carry, chunk by chunk; ``mask`` has shape (..., s, 1)."""

    def step(carry: Carry, chunk: tuple[Array, Array, Array | None]) -> tuple[Carry, None]:
        return absorb(carry, masked_keys(features, *chunk)), None

    carry, _ = driver.scan(step, carry, (key, value, mask), key.shape[-2], chunk_size)
    return carry


def read(carry: Carry, log: Array, feature: Array | None) -> Part:
    """What queries see of the carry.

    The carry's log scale moves into the queries' logs; the row's maximum is then taken out, so
    that every exponential is at most 1.
    """
    xp = namespace(log)
    weight, log_scale = row_weights(log + carry.log_scale[..., None, :], feature)
    numerator = xp.matmul(weight, carry.numerator)
    return Part(numerator, xp.matmul(weight, carry.denominator[..., None]), log_scale)


def row_weights(log: Array, feature: Array | None) -> tuple[Array, Array]:
    """Features of queries divided by exp of their row's largest log, and that log (..., t, 1)."""
    log_scale = constant(namespace(log).max(log, axis=-1, keepdims=True))
    weight = exp_nonpositive(log - log_scale)
    return (weight if feature is None else weight * feature), log_scale


def divide(numerator: Array, denominator: Array) -> Array:
    """The quotient, 0 where the denominator is 0; never 0/0, in the gradient neither.

    The scale is such that a positive map's denominator is at least exp(-40) in float32 (exp(-300)
    in float64) where anything is seen, and the terms of a signed one are of the order of 1. So what
    is below the root of the smallest number counts as 0: its square, which the gradient divides by,
    would be.
    """
    xp = namespace(numerator)
    nothing = xp.abs(denominator) < smallest_denominator(denominator.dtype, xp)
    safe = xp.where(nothing, xp.ones_like(denominator), denominator)
    return xp.where(nothing, xp.zeros_like(numerator), numerator / safe)


@op("bidirectional")
def bidirectional(
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
    """Linear attention in which every query sees the carry and all keys.

    Shapes: query (..., Hq, t, d); key (..., H, s, d); value (..., H, s, e); mask (..., s, 1) or
    None. Returns the output (..., Hq, t, e) in the map's dtype, and the carry with the keys added.

    A backend may run this body with a driver of its own.
    """
    carry = absorb_all(features, key, value, mask, carry, chunk_size=chunk_size, driver=driver)

    def attend(carry: Carry, chunk: tuple[Array]) -> tuple[Carry, Array]:
        folded = fold_heads(chunk[0], carry.numerator.shape[-3:-2])
        log, feature = features.log_query(folded)
        numerator, denominator, _ = read(carry, log, feature)
        return carry, unfold_heads(divide(numerator, denominator), chunk[0])

    if query.shape[-2] == 0:
        return attend(carry, (query,))[1], carry
    _, out = driver.scan(attend, carry, (query,), query.shape[-2], chunk_size)
    return out, carry
