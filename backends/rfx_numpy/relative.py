"""Attention with a relative bias, head by head in threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.features import DrawnMap
from rfx.ops.refusals import refuse_empty
from rfx.ops.relative import relative as op
from rfx_numpy import threads

__all__ = ["refuse_relative", "relative"]

Array = np.ndarray[Any, Any]


def relative(
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    bias: Array,
    **options: Any,
) -> Array:
    """The op `rfx.ops.relative`."""
    out = np.empty((*query.shape[:-1], value.shape[-1]), features.like.dtype)
    heads = key.shape[-3]
    groups = query.shape[-3] // heads
    bias = np.broadcast_to(bias, (*query.shape[:-2], bias.shape[-1]))
    if mask is not None:
        mask = np.broadcast_to(mask, (*key.shape[:-1], 1))

    def work(tasks: Iterator[tuple[int, ...]]) -> None:
        for *index, head in tasks:
            mine: Any = (*index, slice(head, head + 1))
            grouped: Any = (*index, slice(head * groups, (head + 1) * groups))
            arrays = (query[grouped], key[mine], value[mine], None if mask is None else mask[mine])
            its_map = features.for_heads(head, head + 1)
            out[grouped] = op.portable(its_map, *arrays, bias[grouped], **options)

    threads.run(work, list(np.ndindex(*key.shape[:-2])))
    return out


def refuse_relative(features: DrawnMap, query: Array, key: Array, *_: Any, **__: Any) -> str | None:
    """One head is no work for threads."""
    few = "there is one head alone" if math.prod(key.shape[:-2]) < 2 else None
    return refuse_empty(query, key) or few
