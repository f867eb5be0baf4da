"""Decoding: one key is added to the sums, and one query reads them, in as few calls as there can be.

At the size of a single token a call of torch costs more than what it computes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.features.forms import ExponentialMap
from rfx.ops import Carry
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["refuse_step", "step"]


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
    dtype = features.query_side.weight.dtype
    value = value.to(dtype)
    if mask is not None:
        key, value = key.masked_fill(~mask, 0), value.masked_fill(~mask, 0)
    log = features.log_key(key).log_scale
    seen = log.detach()[..., 0, :]
    if mask is not None:
        seen = torch.where(mask[..., 0, :], seen, carry.log_scale)
    log_scale = torch.maximum(carry.log_scale, seen)
    kept = torch.exp(carry.log_scale - log_scale)
    weight = torch.exp(log - log_scale[..., None, :])
    if mask is not None:
        weight = weight.masked_fill(~mask, 0)
    numerator = (carry.numerator * kept[..., None]).addcmul_(weight.mT, value)
    denominator = torch.addcmul(weight[..., 0, :], carry.denominator, kept)

    log = features.log_query(fold_heads(query, key.shape[-3:-2])).log_scale
    share = torch.softmax(log + log_scale[..., None, :], -1)
    total = torch.matmul(share, denominator[..., None])
    # Shares add up to 1, so only a denominator of zeros is that small, and its numerator is 0 too.
    tiny = torch.finfo(dtype).smallest_normal ** 0.5
    out = torch.matmul(share, numerator) / total.clamp(min=tiny)
    return unfold_heads(out, query), Carry(numerator, denominator, log_scale)


def refuse_step(features: DrawnMap, query: Tensor, key: Tensor, *_: Any, **__: Any) -> str | None:
    """What the path does not serve."""
    if query.shape[-2] != 1 or key.shape[-2] != 1:
        return "it serves one query and one key, a step of decoding"
    if not isinstance(features, ExponentialMap):
        return f"it serves exponential maps, and this is a {type(features).__name__}"
    if torch._C._are_functorch_transforms_active():
        return "it writes in place, which torch.func does not see through"
    return None
