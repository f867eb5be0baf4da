"""The loops of `rfx_numba` on tensors in the host's memory, which NumPy arrays share."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import rfx_numba
import torch
from torch import Tensor

from rfx.features import DrawnMap, ExponentialMap
from rfx.features.forms import TrigonometricMap, refuse_other
from rfx.ops import Carry
from rfx_torch.features import refuse_features as refuse_waves
from rfx_torch.refusals import (
    refuse_compiler,
    refuse_empty,
    refuse_forward_mode,
    refuse_gradient,
    refuse_transforms,
    refuse_witnesses,
)
from rfx_torch.step import refuse_long

__all__ = [
    "attention",
    "defer_attention",
    "features",
    "refuse_attention",
    "refuse_features",
    "refuse_step",
    "step",
]

Array = np.ndarray[Any, Any]


def attention(
    is_causal: bool, features: ExponentialMap, *arrays: Any, chunk_size: int
) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.causal` or `rfx.ops.bidirectional`."""
    sides = rfx_numba.Sides(features, _host)
    attend = partial(rfx_numba.attention, is_causal, sides, *_all_host(*arrays))
    return _tensors(*attend(chunk_size=chunk_size, threads=torch.get_num_threads()))


def step(features: ExponentialMap, *arrays: Any, chunk_size: int) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.bidirectional` for one query and one key."""
    sides, threads = rfx_numba.Sides(features, _host), torch.get_num_threads()
    return _tensors(*rfx_numba.step(sides, *_all_host(*arrays), threads=threads))


def features(features: TrigonometricMap, x: Tensor, *, side: str) -> tuple[Tensor, Tensor]:
    """The op `rfx.ops.features`."""
    threads = torch.get_num_threads()
    found = rfx_numba.features(_held(features), _host(x), side=side, threads=threads)
    log_scale, value = (torch.from_numpy(a) for a in found)
    return log_scale, value


def refuse_attention(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    **_: Any,
) -> str | None:
    """What `attention` does not serve."""
    return (
        refuse_other(features, ExponentialMap)
        or refuse_empty(query, key, value)
        or rfx_numba.refuse_dtype(torch.float32, query, key, value)
        or refuse_compiler()
        or refuse_transforms()
        or refuse_forward_mode()
        or refuse_gradient(features, query, key, value, *carry)
        or refuse_witnesses(features, query, key, value, *carry)
        or rfx_numba.refuse_missing()
    )


def defer_attention(
    features: DrawnMap, query: Tensor, key: Tensor, *_: Any, **__: Any
) -> str | None:
    """What others serve better: short calls, and few heads, since torch also shares out rows."""
    heads, threads = math.prod(key.shape[:-2]), torch.get_num_threads()
    rounds = -(-heads // threads)
    if 4 * heads < 3 * rounds * threads:
        return f"there are too few heads ({heads}) to keep {threads} threads busy"
    return rfx_numba.defer_little(features, query, key)


def refuse_step(features: DrawnMap, query: Tensor, key: Tensor, *args: Any, **_: Any) -> str | None:
    """What the step does not serve."""
    return refuse_long(query, key) or refuse_attention(features, query, key, *args)


def refuse_features(features: DrawnMap, x: Tensor, **_: Any) -> str | None:
    """What `features` does not serve."""
    return (
        refuse_waves(features, x)
        or rfx_numba.refuse_dtype(torch.float32, x)
        or refuse_witnesses(features, x)
        or rfx_numba.refuse_missing()
    )


def _host(tensor: Tensor) -> Array:
    """The tensor's memory as an array."""
    return tensor.detach().resolve_neg().numpy()


def _held(features: Any) -> Any:
    """The map with arrays in place of tensors."""
    return features.with_arrays({name: _host(a) for name, a in features.arrays().items()})


def _all_host(*arrays: Any) -> list[Any]:
    """Query, key, value, mask and carry."""
    *tensors, carry = arrays
    seen = [None if a is None else _host(a) for a in tensors]
    return [*seen, Carry(*(_host(a) for a in carry))]


def _tensors(out: Array, after: Carry) -> tuple[Tensor, Carry]:
    return torch.from_numpy(out), Carry(*(torch.from_numpy(a) for a in after))
