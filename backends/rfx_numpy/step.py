"""Decoding: one key is added to the sums, and one query reads them.

The sums are read once and written once, entry by entry of the batch, so that what lies between
stays in cache. The outer product is a matrix product with an inner axis of 2, the second half of
which is zeros: from 2 on NumPy leaves it to BLAS, which takes a third of the time.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from rfx.features import DrawnMap
from rfx.ops import Carry
from rfx.ops.bidirectional import divide, read
from rfx.ops.carry import highest, masked_keys
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["step"]

Array = np.ndarray[Any, Any]


def step(
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.bidirectional` for one key."""
    keys = masked_keys(features, key, value, mask)
    log_scale = highest(carry, keys)
    kept = np.exp(carry.log_scale - log_scale)
    weight = keys.scaled(log_scale[..., None, :])[..., 0, :]
    after = Carry(np.empty_like(carry.numerator), carry.denominator * kept + weight, log_scale)
    kept = np.broadcast_to(kept, weight.shape)[..., None]
    left, right = _with_zeros(weight[..., None], -1), _with_zeros(keys.value, -2)
    products = _scratch(after.numerator.shape[-3:], after.numerator.dtype)
    for entry in np.ndindex(*key.shape[:-3]):
        total = np.multiply(carry.numerator[entry], kept[entry], out=after.numerator[entry])
        total += np.matmul(left[entry], right[entry], out=products)
    log, feature = features.log_query(fold_heads(query, key.shape[-3:-2]))
    numerator, denominator, _ = read(after, log, feature)
    return unfold_heads(divide(numerator, denominator), query), after


def _with_zeros(array: Array, axis: int) -> Array:
    """The array, and as many zeros behind it along an axis."""
    return np.concatenate([array, np.zeros_like(array)], axis=axis)


class _Scratch(threading.local):
    """The buffer of a thread's last step: a new one costs more than the step, in page faults."""

    array = np.empty(0)


_kept = _Scratch()


def _scratch(shape: tuple[int, ...], dtype: Any) -> Array:
    if _kept.array.shape != shape or _kept.array.dtype != dtype:
        _kept.array = np.empty(shape, dtype)
    return _kept.array
