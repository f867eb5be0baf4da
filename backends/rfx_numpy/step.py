"""Decoding: one key is added to the sums, and one query reads them.

The sums are read once and written once, entry by entry of the batch, so that what lies between
stays in cache. `numpy.einsum` is the fastest of NumPy's ways to an outer product.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rfx.features import DrawnMap
from rfx.ops import Carry
from rfx.ops.bidirectional import divide, read
from rfx.ops.carry import highest, masked_keys
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["refuse_long", "step"]

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
    kept = np.broadcast_to(kept, weight.shape)
    for entry in np.ndindex(*key.shape[:-3]):
        total = after.numerator[entry]
        np.einsum("...me,...m->...me", carry.numerator[entry], kept[entry], out=total)
        total += np.einsum("...m,...e->...me", weight[entry], keys.value[entry][..., 0, :])
    log, feature = features.log_query(fold_heads(query, key.shape[-3:-2]))
    numerator, denominator, _ = read(after, log, feature)
    return unfold_heads(divide(numerator, denominator), query), after


def refuse_long(features: DrawnMap, query: Array, key: Array, *_: Any, **__: Any) -> str | None:
    """It is for decoding."""
    many = query.shape[-2] != 1 or key.shape[-2] != 1
    return "it serves one query and one key, a step of decoding" if many else None
