"""The functions that are registered, and when each of them steps back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rfx.dispatch import Op
from rfx.features import DrawnMap
from rfx.features.forms import ExponentialMap, refuse_other
from rfx.ops import Carry
from rfx.ops.chunks import before_triangle, chunks, triangle
from rfx.ops.gated import gated
from rfx.ops.refusals import refuse_empty
from rfx_numpy.heads import Worker, each_head
from rfx_numpy.workspace import Workspace

__all__ = ["fused", "refuse_form", "refuse_short", "threaded", "threaded_gated"]

Array = np.ndarray[Any, Any]
_LARGEST_CHUNK = 256  # with four heads at once, more leaves the cache


def fused(
    is_causal: bool,
    features: ExponentialMap,
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
    is_causal: bool, features: ExponentialMap, columns: int, size: int, heads: int
) -> Worker:
    workspace = Workspace(features, heads, columns, size, is_causal)

    def bidirectional(
        query: Array, key: Array, value: Array, mask: Array | None, out: Array
    ) -> None:
        for rows in chunks(0, key.shape[1], size):
            workspace.absorb(key[:, rows], value[:, rows], None if mask is None else mask[:, rows])
        for each, its_out in zip(query.swapaxes(0, 1), out.swapaxes(0, 1), strict=True):
            for rows in chunks(0, each.shape[1], size):
                workspace.attend(each[:, rows], its_out[:, rows])

    def causal(query: Array, key: Array, value: Array, mask: Array | None, out: Array) -> None:
        t, s = query.shape[2], key.shape[1]
        rows, keys = before_triangle(t, s)
        seen = None if mask is None else mask[:, keys]
        bidirectional(query[:, :, rows], key[:, keys], value[:, keys], seen, out[:, :, rows])
        for rows, keys in triangle(t, s, size):
            seen = None if mask is None else mask[:, keys]
            workspace.step(query[:, :, rows], key[:, keys], value[:, keys], seen, out[:, :, rows])

    def run(features: Any, *arrays: Any) -> Carry:
        *inputs, carry, out = arrays
        workspace.begin(features, carry)
        attend: Callable[..., None] = causal if is_causal else bidirectional
        attend(*inputs, out)
        return workspace.carry()

    return run


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


def threaded_gated(
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *gates: Array | None,
    **options: Any,
) -> tuple[Array, Carry]:
    """The op `gated` for any map, head by head."""

    def run(features: DrawnMap, query: Array, *arrays: Any) -> Carry:
        key, value, mask, log_gate, log_weight, carry, out = arrays
        heads = query.reshape(-1, *query.shape[2:])
        args = (heads, key, value, mask, carry, log_gate, log_weight)
        found, after = gated.portable(features, *args, **options)
        out[...] = found.reshape(out.shape)
        return after

    return each_head(lambda _: run, features, query, key, value, mask, carry, *gates)


def refuse_short(features: DrawnMap, query: Array, key: Array, *_: Any, **__: Any) -> str | None:
    """All heads at once are faster where there is little to do for each."""
    rows = max(query.shape[-2], key.shape[-2])
    few = f"{rows} rows are too few to work head by head" if rows < 32 else None
    return refuse_empty(query, key) or few


def refuse_form(features: DrawnMap, *args: Any, **kwargs: Any) -> str | None:
    """Only exponential maps are fused."""
    return refuse_other(features, ExponentialMap) or refuse_short(features, *args, **kwargs)
