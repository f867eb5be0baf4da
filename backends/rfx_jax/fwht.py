"""The Walsh-Hadamard transform, compiled: each factor is multiplied from the right."""

from __future__ import annotations

import math

import jax
from jax import Array
from jax import numpy as jnp

from rfx.ops.fwht import matrix, orders

__all__ = ["fwht"]


@jax.jit
def fwht(_: None, x: Array) -> Array:
    """The op `rfx.ops.fwht`.

    After its turn a factor's axis goes to the front, so that the next one is the last: XLA
    multiplies many small matrices from the left more slowly than it transposes them.
    """
    length, rows = x.shape[-1], math.prod(x.shape[:-1])
    working = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    for order in orders(length):
        working = working.reshape(rows * (length // order), order)
        working = working @ jnp.asarray(matrix(order), working.dtype)
        working = working.reshape(rows, length // order, order).swapaxes(1, 2)
    return working.reshape(x.shape).astype(x.dtype)
