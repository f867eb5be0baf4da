"""Functions that call the host on a CPU, and are ordinary JAX code wherever else they are needed.

A call of the host is opaque to JAX. So such a function comes with another of the same results,
which runs on other devices, under a vmap over the first argument, and for derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.custom_batching import custom_vmap

__all__ = ["on_cpu", "with_derivative"]

Function = Callable[..., Any]


def on_cpu(host: Function, other: Function) -> Function:
    """``host`` on a CPU and ``other`` elsewhere, both of a map and of arrays with batch axes.

    The arrays may have any number of those, so that an axis of vmap is one more.
    """
    fold = custom_vmap(host)

    @fold.def_vmap
    def _(size: int, batched: Any, features: Any, *arrays: Any) -> Any:
        its_map, *others = batched
        if any(jax.tree.leaves(its_map)):
            axes = jax.tree.map(lambda yes: 0 if yes else None, tuple(batched))
            out = jax.vmap(other, in_axes=axes, axis_size=size)(features, *arrays)
        else:

            def whole(array: Array, has_axis: bool) -> Array:
                return array if has_axis else jnp.broadcast_to(array, (size, *array.shape))

            out = fold(features, *jax.tree.map(whole, list(arrays), others))
        return out, jax.tree.map(lambda _: True, out)

    return lambda *args: lax.platform_dependent(*args, cpu=fold, default=other)


def with_derivative(host: Function, other: Function) -> Function:
    """`on_cpu`, with the derivative of ``other``."""
    function = jax.custom_jvp(on_cpu(host, other))

    @function.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(other, primals, tangents)

    return function
