"""Streaming attention in JAX: the portable step under ``lax.scan``, compiled.

Compilation does not depend on the number of chunks. There are two ways to walk over them. Chunks
that are cut out of the sequence where they are needed save a copy of it, but their gradient would
add to the whole sequence at each step. So what is differentiated scans over chunks that were laid
out beforehand; each step is then a checkpoint, so that the backward pass computes features again
and keeps a carry for each chunk, or for each group of chunks where the carry is large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp

from rfx.features import DrawnMap
from rfx.kernels import Kernel
from rfx.ops import bidirectional as bidirectional_op
from rfx.ops import causal as causal_op
from rfx.ops.carry import Carry
from rfx.ops.driver import Driver
from rfx.ops.gated import gated as gated_op
from rfx.ops.window import Memory
from rfx.ops.window import windowed as windowed_op
from rfx_jax.branch import branch

__all__ = ["bidirectional", "causal", "gated", "windowed"]

Step = Callable[[Any, Any], tuple[Any, Any]]


@partial(jax.jit, static_argnames="chunk_size")
def bidirectional(
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.bidirectional`."""
    t = query.shape[-2]
    chunk_size = min(chunk_size, max(t, key.shape[-2], 1))
    keys = _whole(key, value, mask, after=-key.shape[-2] % chunk_size)
    query = _pad(query, 0, -t % chunk_size)
    run = partial(bidirectional_op.portable, chunk_size=chunk_size)
    out, carry = _run(run, features, query, *keys, carry)
    return out[..., :t, :], carry


@partial(jax.jit, static_argnames="chunk_size")
def causal(
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.causal`."""
    t, s = query.shape[-2], key.shape[-2]
    chunk_size = min(chunk_size, max(t, 1))  # a decoding step is not padded
    after = -t % chunk_size if t <= s else 0
    before = -(s - t) % chunk_size if 0 < t < s else 0
    keys = _whole(key, value, mask, before, after)
    query = _pad(query, 0, after)
    run = partial(causal_op.portable, chunk_size=chunk_size)
    out, carry = _run(run, features, query, *keys, carry)
    return out[..., :t, :], carry


@partial(jax.jit, static_argnames=("normalize", "chunk_size"))
def gated(
    features: DrawnMap,
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
) -> tuple[Array, Carry]:
    """The op `rfx.ops.gated`."""
    t = query.shape[-2]
    chunk_size = min(chunk_size, max(t, 1))
    after = -t % chunk_size
    keys = _whole(key, value, mask, 0, after)
    gates = (None if a is None else _pad(a, 0, after) for a in (log_gate, log_weight))

    def attend(*args: Any, driver: Driver) -> tuple[Array, Carry]:
        *inputs, log_gate, log_weight, carry = args
        options = {"normalize": normalize, "chunk_size": chunk_size, "driver": driver}
        return gated_op.portable(*inputs, carry, log_gate, log_weight, **options)

    out, carry = _run(attend, features, _pad(query, 0, after), *keys, *gates, carry)
    return out[..., :t, :], carry


@partial(jax.jit, static_argnames=("kernel", "chunk_size"))
def windowed(
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    memory: Memory,
    *,
    kernel: Kernel,
    chunk_size: int,
) -> tuple[Array, Memory]:
    """The op `rfx.ops.window.windowed`, whose last chunk may be shorter: padding would be seen."""
    run = partial(windowed_op.portable, kernel=kernel, chunk_size=chunk_size)
    return _run(run, features, query, key, value, mask, memory)


def _run(op: Callable[..., Any], *args: Any) -> tuple[Array, Any]:
    """An op with the driver that suits: cutting chunks out, unless a derivative is wanted."""
    attend = jax.custom_jvp(partial(op, driver=_CUTTING))

    @attend.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(partial(op, driver=_SCANNING), primals, tangents)

    with jax.default_matmul_precision("highest"):  # no TF32: logs are differences of large numbers
        return attend(*args[:-1], _varying(args))


def _varying(args: tuple[Any, ...]) -> Carry:
    """The carry plus 0, made of all arguments.

    In ``jax.shard_map`` what enters a loop must be known to vary over the mesh as what leaves it.
    """
    *inputs, carry = args
    zeros = [jnp.sum(a.ravel()[:0], dtype=carry.numerator.dtype) for a in jax.tree.leaves(inputs)]
    return jax.tree.map(lambda array: array + sum(zeros), carry)


def _whole(
    key: Array, value: Array, mask: Array | None, before: int = 0, after: int = 0
) -> tuple[Array, Array, Array | None]:
    """Keys padded with masked ones, so that one compiled step serves all chunks."""
    if before + after == 0:
        return key, value, mask
    if mask is None:
        mask = jnp.ones((key.shape[-2], 1), dtype=bool)
    return _pad(key, before, after), _pad(value, before, after), _pad(mask, before, after)


def _pad(array: Array, before: int, after: int) -> Array:
    """Lengthen the second last axis with zeros."""
    return jnp.pad(array, [(0, 0)] * (array.ndim - 2) + [(before, after), (0, 0)])


def _cut(
    step: Step, carry: Carry, arrays: Sequence[Array | None], length: int, chunk_size: int
) -> tuple[Carry, Array | None]:
    """As `_scan`, of chunks that are cut out one by one."""
    if length == chunk_size:  # no loop, whose carry would be copied: a step of decoding
        return step(carry, tuple(arrays))

    def rows(start: Any, size: int) -> tuple[Array | None, ...]:
        cut = partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=-2)
        return tuple(None if a is None else cut(a) for a in arrays)

    chunks = length // chunk_size
    outputs: list[Any] = []
    if chunks > 0:
        starts = jnp.arange(chunks) * chunk_size
        carry, out = lax.scan(lambda c, start: step(c, rows(start, chunk_size)), carry, starts)
        outputs.append(None if out is None else _join(out))
    if chunks * chunk_size < length:
        carry, out = step(carry, rows(chunks * chunk_size, length - chunks * chunk_size))
        outputs.append(out)
    return carry, _concatenated(outputs)


def _concatenated(outputs: list[Any]) -> Array | None:
    if not outputs or outputs[0] is None:
        return None
    return jnp.concatenate(outputs, axis=-2) if len(outputs) > 1 else outputs[0]


def _scan(
    step: Step, carry: Carry, arrays: Sequence[Array | None], length: int, chunk_size: int
) -> tuple[Carry, Array | None]:
    """Full chunks under ``lax.scan``; a shorter remainder, if any, as a step of its own."""
    step = jax.checkpoint(step)
    inputs = chunk_size * sum(a.shape[-1] for a in arrays if a is not None)
    chunks = length // chunk_size
    large = math.prod(carry.numerator.shape[-2:]) > inputs / 4
    group = _group(chunks) if large else 1
    outputs: list[Any] = []
    grouped = chunks // group * group
    for start, stop, size in ((0, grouped, group), (grouped, chunks, 1)):
        if start < stop:
            rows = slice(start * chunk_size, stop * chunk_size)
            part = tuple(None if a is None else a[..., rows, :] for a in arrays)
            carry, out = _scan_groups(step, carry, part, chunk_size, size)
            outputs.append(out)
    if chunks * chunk_size < length:
        rest = slice(chunks * chunk_size, length)
        carry, out = step(carry, tuple(None if a is None else a[..., rest, :] for a in arrays))
        outputs.append(out)
    return carry, _concatenated(outputs)


def _group(chunks: int) -> int:
    """About the root of the number of chunks, and a divisor of it, if there is one near."""
    root = max(1, math.isqrt(chunks))
    return next((n for n in range(root, root // 2, -1) if chunks % n == 0), root)


def _scan_groups(
    step: Step, carry: Carry, arrays: Sequence[Array | None], chunk_size: int, group: int
) -> tuple[Carry, Array | None]:
    """Chunks in groups, each of which is a checkpoint too."""
    if group > 1:
        inner = partial(_scan_groups, step, chunk_size=chunk_size, group=1)
        step, chunk_size = jax.checkpoint(inner), chunk_size * group
    chunks = tuple(None if a is None else _split(a, chunk_size) for a in arrays)
    carry, out = lax.scan(step, carry, chunks)
    return carry, None if out is None else _join(out)


def _split(array: Array, size: int) -> Array:
    """(..., n size, d) -> (n, ..., size, d)."""
    split = array.reshape(*array.shape[:-2], array.shape[-2] // size, size, array.shape[-1])
    return jnp.moveaxis(split, -3, 0)


def _join(chunks: Array) -> Array:
    """(n, ..., size, e) -> (..., n size, e)."""
    joined = jnp.moveaxis(chunks, 0, -3)
    *batch, count, size, columns = joined.shape
    return joined.reshape(*batch, count * size, columns)


def _branch(flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    # Otherwise each branch would fill the memory that the other one needs for its gradient.
    return branch(flag, jax.checkpoint(yes), jax.checkpoint(no))


_CUTTING, _SCANNING = Driver(_cut, _branch), Driver(_scan, _branch)
