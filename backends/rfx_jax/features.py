"""Trigonometric features in JAX with a cosine of our own, in float32.

XLA's takes ten times as long on a CPU, since it reduces arguments of any size exactly. An angle in
float32 is off by eps times its size anyway, and so is this reduction.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from rfx.features import DrawnMap
from rfx.features.forms import TrigonometricMap, refuse_other
from rfx.ops.features import log_and_factor

__all__ = ["features", "refuse_features"]

# cos(2 pi u) for |u| <= 1/4 as a polynomial in u**2: its Taylor series, cut at an error of 1e-9.
_COEFFICIENTS = [(-1) ** k * (2 * math.pi) ** (2 * k) / math.factorial(2 * k) for k in range(8)]


@partial(jax.jit, static_argnames="side")
def features(features: TrigonometricMap, x: Array, *, side: str) -> tuple[Array, Array]:
    """The op `rfx.ops.features`."""
    arrays = features.query_side
    if side == "key" and features.key_side is not None:
        arrays = features.key_side
    weight = arrays.weight
    bias = jnp.zeros((), weight.dtype) if arrays.bias is None else arrays.bias
    bias = jnp.broadcast_to(bias, weight.shape[1:])
    if features.paired:  # projected twice, which is less work than joining cosines and sines
        weight = jnp.concatenate([weight, weight], axis=-1)
        bias = jnp.concatenate([bias, bias - 0.5 * math.pi])
    with jax.default_matmul_precision("highest"):
        turns = arrays._replace(weight=weight, bias=bias).project(x) * (0.5 / math.pi)
    log_scale, factor = log_and_factor(features, arrays, x)
    return log_scale, _cosine(turns) * factor


def _cosine(turns: Array) -> Array:
    """cos(2 pi turns)."""
    distance = jnp.abs(turns - jnp.round(turns))  # from a whole turn, at most 1/2
    far = distance > 0.25
    square = jnp.square(jnp.where(far, 0.5 - distance, distance))
    value = jnp.polyval(jnp.asarray(_COEFFICIENTS[::-1], turns.dtype), square, unroll=8)
    return jnp.where(far, -value, value)


def refuse_features(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """What the path does not serve."""
    if other := refuse_other(features, TrigonometricMap):
        return other
    if features.heads is not None:
        return "it serves maps that all heads share"
    if features.like.dtype != jnp.float32:
        return "it serves float32"
    return None
