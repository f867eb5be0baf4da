"""The loops of `rfx_numba` on tensors in the host's memory, which NumPy arrays share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import rfx_numba
import torch
from torch import Tensor

from rfx.features import DrawnMap, ExponentialMap
from rfx.features.forms import TrigonometricMap, refuse_other
from rfx.ops import Carry
from rfx.ops.refusals import refuse_empty, refuse_long
from rfx_torch.features import refuse_features as refuse_waves
from rfx_torch.fused import save, way_back
from rfx_torch.refusals import (
    refuse_compiler,
    refuse_forward_mode,
    refuse_gradient,
    refuse_log_scale,
    refuse_transforms,
    refuse_witnesses,
)

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
    tensors = (query, key, value, *carry)
    if torch.is_grad_enabled() and any(a.requires_grad for a in tensors):
        tensors = (*tensors, *features.arrays().values())
        out, *after = _Attention.apply(is_causal, features, chunk_size, mask, *tensors)
        return out, Carry(*after)
    return _forward(is_causal, features, chunk_size, mask, query, key, value, carry)


def _forward(
    is_causal: bool, features: ExponentialMap, size: int, mask: Tensor | None, *tensors: Any
) -> tuple[Tensor, Carry]:
    query, key, value, carry = tensors
    args = _all_host(query, key, value, mask, carry)
    options: dict[str, Any] = {"chunk_size": size, "threads": torch.get_num_threads()}
    sides = rfx_numba.Sides.of(features, _host)
    return _tensors(*rfx_numba.attention(is_causal, sides, *args, **options))


class _Attention(torch.autograd.Function):
    """With the gradient of the loops, which autograd cannot follow."""

    @staticmethod
    def forward(
        ctx: Any, is_causal: bool, features: Any, size: int, mask: Any, *tensors: Any
    ) -> Any:
        inputs = (*tensors[:3], Carry(*tensors[3:6]))
        out, after = _forward(is_causal, features, size, mask, *inputs)
        return save(ctx, is_causal, features, size, mask, tensors, out, after)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return way_back(ctx, gradients, _backward)


def _backward(ctx: Any, needed: tuple[bool, ...], gradients: tuple[Any, ...]) -> list[Any]:
    mask, out, *tensors = ctx.saved_tensors  # asked for once: hooks may have packed them
    sums, tensors = tensors[:3], tensors[3:]
    *inputs, before = _all_host(*tensors[:3], mask, Carry(*tensors[3:6]))
    out, *after = (_host(a) for a in (out, *sums))
    out_back, *sums_back = (_host(a) for a in gradients[:3])
    args = (*inputs, before, Carry(*after), out, out_back, tuple(sums_back))
    options = {"chunk_size": ctx.size, "threads": torch.get_num_threads()}
    sides = rfx_numba.Sides.of(ctx.features, _host)
    found = rfx_numba.gradient(ctx.is_causal, sides, *args, **options)
    rest = [None] * (len(tensors) - len(found))
    given = [*(torch.from_numpy(a) for a in found), *rest]
    return [a if need else None for a, need in zip(given, needed, strict=True)]


def step(features: ExponentialMap, *arrays: Any, chunk_size: int) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.bidirectional` for one query and one key."""
    sides, threads = rfx_numba.Sides.of(features, _host), torch.get_num_threads()
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
        _refuse(features, query, key, value, carry)
        or refuse_log_scale(carry)
        or _refuse_learned(features)
    )


def _refuse(
    features: DrawnMap, query: Tensor, key: Tensor, value: Tensor, carry: Carry
) -> str | None:
    return (
        refuse_other(features, ExponentialMap)
        or refuse_empty(query, key, value)
        or rfx_numba.refuse_dtype(torch.float32, query, key, value)
        or refuse_compiler()
        or refuse_transforms()
        or refuse_forward_mode()
        or refuse_witnesses(features, query, key, value, *carry)
        or rfx_numba.refuse_missing()
    )


def _refuse_learned(features: DrawnMap) -> str | None:
    """Maps whose arrays are trained."""
    if refuse_gradient(features):
        return "it has no gradient for the arrays of a map"
    return None


def defer_attention(
    features: DrawnMap, query: Tensor, key: Tensor, *_: Any, **__: Any
) -> str | None:
    """What others serve better: short calls, and few heads, since torch also shares out rows."""
    heads, threads = math.prod(key.shape[:-2]), torch.get_num_threads()
    rounds = -(-heads // threads)
    if 4 * heads < 3 * rounds * threads:
        return f"there are too few heads ({heads}) to keep {threads} threads busy"
    return rfx_numba.defer_little(features, query, key)


def refuse_step(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    **_: Any,
) -> str | None:
    """What the step does not serve."""
    return (
        refuse_long(features, query, key)
        or _refuse(features, query, key, value, carry)
        or refuse_gradient(features, query, key, value, *carry)
    )


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
