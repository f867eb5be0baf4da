"""Sums and predictions of regression in JAX: the portable steps under ``lax.scan``, compiled."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import Array

from rfx.ops.normal import Sums
from rfx.ops.normal import normal as normal_op
from rfx.ops.normal import predicted as predicted_op
from rfx_jax.relative import DRIVER

__all__ = ["normal", "predicted"]


@partial(jax.jit, static_argnames="chunk_size")
def normal(*args: Any, chunk_size: int) -> Sums:
    """The op `rfx.ops.normal.normal`."""
    sums: Sums = normal_op.portable(*args, chunk_size=chunk_size, driver=DRIVER)
    return sums


@partial(jax.jit, static_argnames="chunk_size")
def predicted(*args: Any, chunk_size: int) -> Array | None:
    """The op `rfx.ops.normal.predicted`."""
    out: Array | None = predicted_op.portable(*args, chunk_size=chunk_size, driver=DRIVER)
    return out
