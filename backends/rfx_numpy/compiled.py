"""The loops of `rfx_numba` on NumPy arrays."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import rfx_numba

from rfx.features import DrawnMap, ExponentialMap
from rfx.features.forms import TrigonometricMap, refuse_other
from rfx.ops import Carry
from rfx.ops.refusals import refuse_empty, refuse_long
from rfx_numpy import threads
from rfx_numpy.features import refuse_features as refuse_waves

__all__ = [
    "attention",
    "features",
    "refuse_attention",
    "refuse_features",
    "refuse_step",
    "step",
]

Array = np.ndarray[Any, Any]


def attention(
    is_causal: bool, features: ExponentialMap, *arrays: Any, chunk_size: int
) -> tuple[Array, Carry]:
    """The op `rfx.ops.causal` or `rfx.ops.bidirectional`."""
    attend = partial(rfx_numba.attention, is_causal, rfx_numba.Sides.of(features), *arrays)
    return attend(chunk_size=chunk_size, threads=threads.available())


def step(features: ExponentialMap, *arrays: Any, chunk_size: int) -> tuple[Array, Carry]:
    """The op `rfx.ops.bidirectional` for one query and one key."""
    return rfx_numba.step(rfx_numba.Sides.of(features), *arrays, threads=threads.available())


def features(features: TrigonometricMap, x: Array, *, side: str) -> tuple[Array, Array]:
    """The op `rfx.ops.features`."""
    return rfx_numba.features(features, x, side=side, threads=threads.available())


def refuse_attention(
    features: DrawnMap, query: Array, key: Array, value: Array, *_: Any, **__: Any
) -> str | None:
    """What the path does not serve."""
    return (
        refuse_other(features, ExponentialMap)
        or refuse_empty(query, key, value)
        or rfx_numba.refuse_dtype(np.float32, query, key, value)
        or rfx_numba.refuse_missing()
    )


def refuse_step(features: DrawnMap, query: Array, key: Array, *args: Any, **_: Any) -> str | None:
    """What the step does not serve."""
    return refuse_long(features, query, key) or refuse_attention(features, query, key, *args)


def refuse_features(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """What `features` does not serve."""
    return (
        refuse_waves(features, x)
        or rfx_numba.refuse_dtype(np.float32, x)
        or rfx_numba.refuse_missing()
    )
