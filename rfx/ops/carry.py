"""What attention remembers of the keys it has passed: sums of features, scaled feature by feature.

The carry stands for Σ_k φ_j(k) v_k and Σ_k φ_j(k), each divided by exp(log_scale_j), where
``log_scale`` is the largest log of a visible key so far: for each feature, or one for the row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rfx._xp import Array, DType, constant, exp_nonpositive, full, namespace

__all__ = [
    "Carry",
    "absorb",
    "empty",
    "empty_log",
    "masked_keys",
    "merge",
    "smallest_denominator",
]


class Carry(NamedTuple):
    """Sums over keys; an ordinary tuple, so that every library can carry it through a loop.

    numerator : shape (..., m, e)
    denominator : shape (..., m)
    log_scale : shape (..., m) or (..., 1); a large negative finite number where no key was seen, so
        that differences of logs are never inf − inf.
    """

    numerator: Array
    denominator: Array
    log_scale: Array


def empty_log(dtype: DType, xp: Any) -> float:
    """Stands for log 0 inside the ops: half the most negative number."""
    return 0.5 * float(xp.finfo(dtype).min)


def smallest_denominator(dtype: DType, xp: Any) -> float:
    """Below it a denominator counts as 0: the root of the smallest normal number."""
    return float(xp.finfo(dtype).smallest_normal) ** 0.5


def empty(features: Any, key: Array, value: Array) -> Carry:
    """The carry before any key; ``key`` (..., s, d) and ``value`` (..., s, e) give the axes."""
    xp = namespace(key)
    weight = features.like
    batch, dtype = tuple(key.shape[:-2]), weight.dtype
    width, columns = features.num_features, value.shape[-1]
    scales = width if features.scale_per_feature else 1
    return Carry(
        full(weight, (*batch, width, columns), 0.0, dtype),
        full(weight, (*batch, width), 0.0, dtype),
        full(weight, (*batch, scales), empty_log(dtype, xp), dtype),
    )


class Keys(NamedTuple):
    """A chunk of keys made ready: what is masked is absent, in gradients too.

    log : shape (..., s, m) or (..., s, 1), `empty_log` where masked
    feature : shape (..., s, m) or None for 1
    value : shape (..., s, e), 0 where masked
    mask : shape (..., s, 1) or None
    """

    log: Array
    feature: Array | None
    value: Array
    mask: Array | None

    def scaled(self, log_scale: Array) -> Array:
        """Features divided by exp(log_scale), which must be at least the logs: (..., s, m)."""
        weight = exp_nonpositive(self.log - log_scale)
        if self.mask is not None:
            xp = namespace(weight)
            weight = xp.where(self.mask, weight, xp.zeros_like(weight))
        return weight if self.feature is None else weight * self.feature


def masked_keys(features: Any, key: Array, value: Array, mask: Array | None) -> Keys:
    """Features and values of a chunk, with masked ones taken out before anything is computed.

    The keys themselves are replaced too: padding may hold NaN, and 0 · NaN would come back through
    the gradient.
    """
    xp = namespace(key)
    value = xp.astype(value, features.like.dtype, copy=False)
    if mask is None:
        log, feature = features.log_key(key)
        return Keys(log, feature, value, None)
    key = xp.where(mask, key, xp.zeros_like(key))
    value = xp.where(mask, value, xp.zeros_like(value))
    log, feature = features.log_key(key)
    log = xp.where(mask, log, xp.full_like(log, empty_log(log.dtype, xp)))
    return Keys(log, feature, value, mask)


def absorb(carry: Carry, keys: Keys) -> Carry:
    """Add a chunk of keys, moving the scale up to the new maximum."""
    past = rescaled(carry, highest(carry, keys))
    return add(past, keys.scaled(past.log_scale[..., None, :]), keys.value)


def highest(carry: Carry, keys: Keys) -> Array:
    """The largest logs of the carry and of a chunk of keys."""
    xp = namespace(keys.log)
    return xp.maximum(carry.log_scale, constant(xp.max(keys.log, axis=-2)))


def rescaled(carry: Carry, log_scale: Array) -> Carry:
    """The same sums at another scale, which must be at least the carry's."""
    kept = exp_nonpositive(carry.log_scale - log_scale)
    return Carry(carry.numerator * kept[..., None], carry.denominator * kept, log_scale)


def add(carry: Carry, scaled: Array, value: Array) -> Carry:
    """The carry with keys added that are at its scale already."""
    xp = namespace(scaled)
    columns = xp.matrix_transpose(scaled)
    # An inner product of length 1 is no work for a matrix library.
    products = columns * value if value.shape[-2] == 1 else xp.matmul(columns, value)
    numerator = carry.numerator + products
    return Carry(numerator, carry.denominator + xp.sum(scaled, axis=-2), carry.log_scale)


def merge(first: Carry, second: Carry) -> Carry:
    """The carry of two sets of keys together; associative and commutative."""
    log_scale = namespace(first.log_scale).maximum(first.log_scale, second.log_scale)
    a, b = rescaled(first, log_scale), rescaled(second, log_scale)
    return Carry(a.numerator + b.numerator, a.denominator + b.denominator, log_scale)
