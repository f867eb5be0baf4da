"""Decoding: one key is added to the sums, and one query reads them, in few calls.

At the size of a single token a call of torch costs more than what it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.features.forms import ExponentialMap, refuse_other
from rfx.ops import Carry
from rfx.ops.carry import smallest_denominator
from rfx.ops.heads import fold_heads, unfold_heads
from rfx.ops.refusals import refuse_long
from rfx_torch.refusals import refuse_transforms

_TINY = {t: smallest_denominator(t, torch) for t in (torch.float32, torch.float64)}

__all__ = ["compiled_step", "refuse_step", "step"]


def step(
    features: ExponentialMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.bidirectional` for one query and one key."""
    side, whole = features.query_side, query
    dtype, heads = side.weight.dtype, key.shape[-3:-2]
    query, key, value = fold_heads(query, heads).to(dtype), key.to(dtype), value.to(dtype)
    if mask is not None:
        hidden = ~mask
        key, value = key.masked_fill(hidden, 0), value.masked_fill(hidden, 0)
    if features.key_side is None:  # one product for both
        log, query_log = side.project(torch.cat([key, query], -2)).split([1, query.shape[-2]], -2)
    else:
        log, query_log = features.key_side.project(key), side.project(query)
        side = features.key_side
    log = log + features.log_constant
    if side.quadratic is not None:
        log = log - (key * key * side.quadratic[..., None, :]).sum(-1, keepdim=True)
    log_scale = log.detach()[..., 0, :]
    if mask is not None:
        log_scale = torch.where(mask[..., 0, :], log_scale, carry.log_scale)
    log_scale = torch.maximum(carry.log_scale, log_scale)
    kept = torch.exp(carry.log_scale - log_scale)
    weight = torch.exp(log - log_scale[..., None, :])
    if mask is not None:
        weight = weight.masked_fill(hidden, 0)
    numerator = (carry.numerator * kept[..., None]).addcmul_(weight.mT, value)
    denominator = torch.addcmul(weight[..., 0, :], carry.denominator, kept)

    share = torch.softmax(query_log + log_scale[..., None, :], -1)
    total = torch.matmul(share, denominator[..., None])
    # Shares add up to 1, so only a denominator of zeros is that small, and its numerator is 0 too.
    out = torch.matmul(share, numerator) / total.clamp_(min=_TINY[dtype])
    return unfold_heads(out, whole), Carry(numerator, denominator, log_scale)


def compiled_step(*args: Any, **kwargs: Any) -> tuple[Tensor, Carry]:
    """`step`, compiled by torch on its first call, which takes seconds and a C++ compiler."""
    if torch.compiler.is_compiling():
        return step(*args, **kwargs)
    return _compiled()(*args, **kwargs)


@cache
def _compiled() -> Callable[..., tuple[Tensor, Carry]]:
    return torch.compile(step)


def refuse_step(features: DrawnMap, query: Tensor, key: Tensor, *_: Any, **__: Any) -> str | None:
    """What the path does not serve."""
    return (
        refuse_long(features, query, key)
        or refuse_other(features, ExponentialMap)
        or refuse_transforms()
    )
