"""The functions that are registered, and when each of them steps back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from rfx.dispatch import Op
from rfx.features import DrawnMap
from rfx.features.forms import ExponentialMap
from rfx.ops import Carry
from rfx_numpy.heads import Worker, each_head
from rfx_numpy.workspace import Workspace

__all__ = ["fused", "refuse_form", "refuse_short", "threaded"]

Array = np.ndarray[Any, Any]
_LARGEST_CHUNK = 256  # with four heads at once, more leaves the cache


def fused(
    is_causal: bool,
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    *rest: Any,
    chunk_size: int,
) -> tuple[Array, Carry]:
    """Exponential maps, in place."""
    size = min(chunk_size, _LARGEST_CHUNK, max(query.shape[-2], key.shape[-2]))
    start = partial(_fused_worker, is_causal, features, value.shape[-1], size)
    return each_head(start, features, query, key, value, *rest)


def _fused_worker(
    is_causal: bool, features: DrawnMap, columns: int, size: int, heads: int
) -> Worker:
    workspace = Workspace(features, heads, columns, size, is_causal)

    def bidirectional(
        query: Array, key: Array, value: Array, mask: Array | None, out: Array
    ) -> None:
        for rows in _chunks(key.shape[1], size):
            workspace.absorb(key[:, rows], value[:, rows], None if mask is None else mask[:, rows])
        for each, its_out in zip(query.swapaxes(0, 1), out.swapaxes(0, 1), strict=True):
            for rows in _chunks(each.shape[1], size):
                workspace.attend(each[:, rows], its_out[:, rows])

    def causal(query: Array, key: Array, value: Array, mask: Array | None, out: Array) -> None:
        t, s = query.shape[-2], key.shape[1]
        alone, past = max(t - s, 0), max(s - t, 0)  # one of them is 0
        first = None if mask is None else mask[:, :past]
        bidirectional(query[:, :, :alone], key[:, :past], value[:, :past], first, out[:, :, :alone])
        query, out = query[:, :, alone:], out[:, :, alone:]
        key, value = key[:, past:], value[:, past:]
        mask = None if mask is None else mask[:, past:]
        for rows in _chunks(key.shape[1], size):
            seen = None if mask is None else mask[:, rows]
            queries, its_out = query[:, :, rows], out[:, :, rows]
            workspace.step(queries, key[:, rows], value[:, rows], seen, its_out)

    def run(features: DrawnMap, *arrays: Any) -> Carry:
        *inputs, carry, out = arrays
        workspace.begin(features, carry)
        attend: Callable[..., None] = causal if is_causal else bidirectional
        attend(*inputs, out)
        return workspace.carry()

    return run


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def threaded(
    op: Op, features: DrawnMap, query: Array, *rest: Any, chunk_size: int
) -> tuple[Array, Carry]:
    """Any map: the portable op, head by head."""

    def run(features: DrawnMap, query: Array, *arrays: Any) -> Carry:
        *inputs, out = arrays
        heads = query.reshape(-1, *query.shape[2:])
        found, after = op.portable(features, heads, *inputs, chunk_size=chunk_size)
        out[...] = found.reshape(out.shape)
        return after

    return each_head(lambda _: run, features, query, *rest)


def refuse_short(features: DrawnMap, query: Array, key: Array, *_: Any, **__: Any) -> str | None:
    """All heads at once are faster where there is little to do for each."""
    if 0 in query.shape or 0 in key.shape:
        return "there is nothing to compute"
    rows = max(query.shape[-2], key.shape[-2])
    return f"{rows} rows are too few to work head by head" if rows < 32 else None


def refuse_form(features: DrawnMap, *args: Any, **kwargs: Any) -> str | None:
    """Only exponential maps are fused."""
    if not isinstance(features, ExponentialMap):
        return f"it serves exponential maps, and this is a {type(features).__name__}"
    return refuse_short(features, *args, **kwargs)
