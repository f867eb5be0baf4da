"""Attention with a relative bias in JAX: the portable steps under ``lax.scan``, compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp

from rfx.ops.driver import Driver
from rfx.ops.relative import by_head
from rfx.ops.relative import relative as op
from rfx.ops.relative_blocks import STRIP
from rfx_jax.branch import branch

__all__ = ["DRIVER", "relative"]

_FEW = 8
"""Short sequences of keys are a multiple of this."""


def relative(
    features: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    bias: Array,
    *,
    is_causal: bool,
    method: str,
) -> Array:
    """The op `rfx.ops.relative`, of lengths that chunks of one size make up.

    The distances that padding adds have a bias of minus infinity.
    """
    t, s = query.shape[-2], key.shape[-2]
    if is_causal:
        ahead = jnp.full_like(bias[..., s:], -jnp.inf)
        bias = jnp.concatenate([bias[..., :s], ahead], axis=-1)
    rows = -t % STRIP if t > STRIP else 0
    columns = -s % (STRIP if s > STRIP else _FEW)
    if columns:
        mask = jnp.ones((s, 1), dtype=bool) if mask is None else mask
        key, value, mask = (_pad(a, columns) for a in (key, value, mask))
    sides = [(0, 0)] * (bias.ndim - 1) + [(rows, columns)]
    bias = jnp.pad(bias, sides, constant_values=-jnp.inf)
    args = (features, _pad(query, rows), key, value, mask, bias)
    return _run(*args, method=method)[..., :t, :]


@partial(jax.jit, static_argnames="method")
def _run(features: Any, query: Array, key: Array, *rest: Any, method: str) -> Array:
    run = partial(op.portable, features, is_causal=False, method=method, driver=DRIVER)
    if not by_head(features, query, key, method):
        return run(query, key, *rest)
    heads, (value, mask, bias) = key.shape[-3], rest
    bias = jnp.broadcast_to(bias, (*query.shape[:-2], bias.shape[-1]))
    masks = () if mask is None else (jnp.broadcast_to(mask, (*key.shape[:-1], 1)),)
    arrays = [_heads_first(a, heads, -3) for a in (query, key, value, *masks)]

    def of_head(mine: tuple[Array, ...]) -> Array:
        *inputs, its_bias = mine
        return run(*inputs, *(() if masks else (None,)), its_bias)

    out = lax.map(of_head, (*arrays, _heads_first(bias, heads, -2)))
    return jnp.moveaxis(out, 0, -4).reshape(*query.shape[:-1], out.shape[-1])


def _heads_first(array: Array, heads: int, axis: int) -> Array:
    """Axis of query or key heads split into key heads, first, and the query heads of each."""
    axis %= array.ndim
    shape = (*array.shape[:axis], heads, -1, *array.shape[axis + 1 :])
    return jnp.moveaxis(array.reshape(shape), axis, 0)


def _pad(array: Array, after: int) -> Array:
    """Lengthen the second last axis with zeros."""
    return jnp.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, after), (0, 0)])


def _scan(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    arrays: Sequence[Array | None],
    length: int,
    chunk_size: int,
) -> tuple[Any, Array | None]:
    """Full chunks under ``lax.scan``; a shorter remainder, if any, as a step of its own."""
    whole = length // chunk_size * chunk_size
    outputs: list[Any] = []
    if whole:
        chunks = tuple(None if a is None else _split(a[..., :whole, :], chunk_size) for a in arrays)
        carry, out = lax.scan(step, carry, chunks)
        outputs.append(None if out is None else _join(out))
    if whole < length:
        carry, out = step(carry, tuple(None if a is None else a[..., whole:, :] for a in arrays))
        outputs.append(out)
    outputs = [out for out in outputs if out is not None]
    return carry, jnp.concatenate(outputs, axis=-2) if outputs else None


def _split(array: Array, size: int) -> Array:
    """(..., n size, d) -> (n, ..., size, d)."""
    split = array.reshape(*array.shape[:-2], array.shape[-2] // size, size, array.shape[-1])
    return jnp.moveaxis(split, -3, 0)


def _join(chunks: Array) -> Array:
    """(n, ..., size, e) -> (..., n size, e)."""
    joined = jnp.moveaxis(chunks, 0, -3)
    return joined.reshape(*joined.shape[:-3], -1, joined.shape[-1])


DRIVER = Driver(_scan, branch, jax.checkpoint)
