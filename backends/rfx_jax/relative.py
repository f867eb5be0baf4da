"""Attention with a relative bias in JAX: the portable steps under ``lax.scan``, compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp

from rfx.ops import relative as op
from rfx.ops.driver import Driver

__all__ = ["relative"]


@partial(jax.jit, static_argnames=("is_causal", "method"))
def relative(*args: Any, is_causal: bool, method: str) -> Array:
    """The op `rfx.ops.relative`."""
    return op.portable(*args, is_causal=is_causal, method=method, driver=_DRIVER)


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
        if out is not None:
            joined = jnp.moveaxis(out, 0, -3)
            outputs.append(joined.reshape(*joined.shape[:-3], whole, joined.shape[-1]))
    if whole < length:
        carry, out = step(carry, tuple(None if a is None else a[..., whole:, :] for a in arrays))
        outputs.append(out)
    if outputs[0] is None:
        return carry, None
    return carry, jnp.concatenate(outputs, axis=-2)


def _split(array: Array, size: int) -> Array:
    """(..., n size, d) -> (n, ..., size, d)."""
    split = array.reshape(*array.shape[:-2], array.shape[-2] // size, size, array.shape[-1])
    return jnp.moveaxis(split, -3, 0)


def _branch(flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    return lax.cond(flag, yes, no)


_DRIVER = Driver(_scan, _branch, jax.checkpoint)
