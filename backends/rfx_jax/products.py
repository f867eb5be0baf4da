"""Polynomial features in JAX as one compiled function: their factors are many small steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import Array

from rfx.features import DrawnMap, PolynomialMap
from rfx.features.forms import refuse_other

__all__ = ["polynomial_features", "refuse_polynomial"]


@partial(jax.jit, static_argnames="side")
def polynomial_features(features: PolynomialMap, x: Array, *, side: str) -> tuple[Array, Array]:
    """The op `rfx.ops.features`."""
    with jax.default_matmul_precision("highest"):
        log_scale, value = features.complete(x, side)
    assert value is not None
    return log_scale, value


def refuse_polynomial(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """What the path does not serve."""
    return refuse_other(features, PolynomialMap)
