"""The loops of `rfx_numba` on tensors in the host's memory, which NumPy arrays share."""

from __future__ import annotations

from typing import Any

import numpy as np
import rfx_numba
import torch
from torch import Tensor

from rfx.features import DrawnMap, ExponentialMap
from rfx.features.forms import refuse_other
from rfx.ops import Carry
from rfx_torch.refusals import (
    refuse_compiler,
    refuse_empty,
    refuse_forward_mode,
    refuse_gradient,
    refuse_transforms,
)

__all__ = ["attention", "refuse_attention"]

Array = np.ndarray[Any, Any]


def attention(
    is_causal: bool,
    features: ExponentialMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.causal` or `rfx.ops.bidirectional`."""
    held = features.with_arrays({name: _host(a) for name, a in features.arrays().items()})
    seen = None if mask is None else _host(mask)
    arrays = (is_causal, held, _host(query), _host(key), _host(value), seen)
    threads = torch.get_num_threads()
    sums = Carry(*(_host(a) for a in carry))
    out, after = rfx_numba.attention(*arrays, sums, chunk_size=chunk_size, threads=threads)
    return torch.from_numpy(out), Carry(*(torch.from_numpy(a) for a in after))


def refuse_attention(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    **_: Any,
) -> str | None:
    """What the path does not serve."""
    return (
        refuse_other(features, ExponentialMap)
        or refuse_empty(query, key, value)
        or _refuse_dtype(query, key, value)
        or refuse_compiler()
        or refuse_transforms()
        or refuse_forward_mode()
        or refuse_gradient(features, query, key, value, *carry)
        or rfx_numba.refuse_missing()
    )


def _host(tensor: Tensor) -> Array:
    """The tensor's memory as an array."""
    return tensor.detach().numpy()


def _refuse_dtype(*arrays: Tensor) -> str | None:
    for array in arrays:
        if array.dtype != torch.float32:
            return f"it serves float32, and an array is {array.dtype}"
    return None
