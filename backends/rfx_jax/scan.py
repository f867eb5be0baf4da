"""Streaming attention in JAX: the portable step under ``lax.scan``, compiled.

Compilation does not depend on the number of chunks. Each step is a checkpoint, so that the backward
pass computes features again and keeps a carry for each chunk, or for each group of chunks where the
carry is large.
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
from rfx.ops import bidirectional as bidirectional_op
from rfx.ops import causal as causal_op
from rfx.ops.carry import Carry
from rfx.ops.driver import Driver

__all__ = ["bidirectional", "causal"]

Step = Callable[[Any, Any], tuple[Any, Any]]


@partial(jax.jit, static_argnames="chunk_size")
def bidirectional(
    features: DrawnMap, query: Array, *args: Any, chunk_size: int
) -> tuple[Array, Carry]:
    """The op `rfx.ops.bidirectional`."""
    with jax.default_matmul_precision("highest"):  # no TF32: logs are differences of large numbers
        run = bidirectional_op.portable
        return run(features, query, *args, chunk_size=chunk_size, driver=_DRIVER)


@partial(jax.jit, static_argnames="chunk_size")
def causal(features: DrawnMap, query: Array, *args: Any, chunk_size: int) -> tuple[Array, Carry]:
    """The op `rfx.ops.causal`."""
    with jax.default_matmul_precision("highest"):
        run = causal_op.portable
        return run(features, query, *args, chunk_size=chunk_size, driver=_DRIVER)


def _scan(
    step: Step, carry: Carry, arrays: Sequence[Array | None], length: int, chunk_size: int
) -> tuple[Carry, Array | None]:
    """Full chunks under ``lax.scan``, and what remains as one shorter step."""
    step = jax.checkpoint(step)
    inputs = chunk_size * sum(a.shape[-1] for a in arrays if a is not None)
    chunks = length // chunk_size
    group = 1
    if math.prod(carry.numerator.shape[-2:]) > 2 * inputs:
        group = max(1, math.isqrt(chunks))
    outputs: list[Any] = []
    if chunks // group:
        stop = chunks // group * group * chunk_size
        whole = tuple(None if a is None else _split(a[..., :stop, :], chunk_size) for a in arrays)
        carry, out = _scan_groups(step, carry, whole, group)
        outputs.append(None if out is None else _join(out))
    for start in range(chunks // group * group * chunk_size, length, chunk_size):
        end = min(start + chunk_size, length)
        part = tuple(None if a is None else a[..., start:end, :] for a in arrays)
        carry, out = step(carry, part)
        outputs.append(out)
    if not outputs or outputs[0] is None:
        return carry, None
    return carry, jnp.concatenate(outputs, axis=-2)


def _scan_groups(step: Step, carry: Carry, chunks: Any, group: int) -> tuple[Carry, Any]:
    if group == 1:
        return lax.scan(step, carry, chunks)
    grouped = jax.tree.map(lambda a: a.reshape(-1, group, *a.shape[1:]), chunks)

    @jax.checkpoint
    def outer(carry: Carry, part: Any) -> tuple[Carry, Any]:
        return lax.scan(step, carry, part)

    carry, out = lax.scan(outer, carry, grouped)
    return carry, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)


def _split(array: Array, size: int) -> Array:
    """(..., n size, d) -> (n, ..., size, d)."""
    split = array.reshape(*array.shape[:-2], -1, size, array.shape[-1])
    return jnp.moveaxis(split, -3, 0)


def _join(chunks: Array) -> Array:
    """(n, ..., size, e) -> (..., n size, e)."""
    joined = jnp.moveaxis(chunks, 0, -3)
    return joined.reshape(*joined.shape[:-3], -1, joined.shape[-1])


def _branch(flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    return lax.cond(flag, yes, no)


_DRIVER = Driver(_scan, _branch)
