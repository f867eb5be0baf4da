"""A choice between two computations, made for all entries of a vmap together.

A ``lax.cond`` whose flags differ between entries computes both, and its tangents, where a custom
derivative is batched, cannot be transposed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array, lax
from jax import numpy as jnp
from jax.custom_batching import custom_vmap

__all__ = ["branch"]


@custom_vmap
def _of_all(flag: Array) -> Array:
    return flag


@_of_all.def_vmap
def _(size: int, batched: Any, flags: Array) -> tuple[Array, bool]:
    return _of_all(jnp.all(flags, axis=0)), False


def branch(flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """As `rfx.ops.driver.Driver` has it."""
    return lax.cond(_of_all(flag), yes, no)
