"""Attention with a relative bias in torch: the portable steps, computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rfx.features import DrawnMap
from rfx.ops.driver import Driver, branch, scan
from rfx.ops.relative import by_head
from rfx.ops.relative import relative as op

__all__ = ["relative"]


def relative(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor,
    *,
    is_causal: bool,
    method: str,
) -> Tensor:
    """The op `rfx.ops.relative`."""
    run = partial(op.portable, is_causal=is_causal, method=method, driver=_DRIVER)
    if not by_head(features, query, key, method):
        return run(features, query, key, value, mask, bias)
    heads = key.shape[-3]
    bias = bias.broadcast_to(*query.shape[:-2], bias.shape[-1])
    if mask is not None:
        mask = mask.broadcast_to(*key.shape[:-1], 1)
    groups = query.shape[-3] // heads
    each = (
        query.split(groups, -3),
        *(a.split(1, -3) for a in (key, value)),
        heads * [None] if mask is None else mask.split(1, -3),
        bias.split(groups, -2),
    )
    return torch.cat([run(features, *mine) for mine in zip(*each, strict=True)], dim=-3)


def _again(function: Callable[..., Any]) -> Callable[..., Any]:
    """A checkpoint, where autograd records and there are such."""
    transforms = torch._C._are_functorch_transforms_active()
    if not torch.is_grad_enabled() or transforms or torch.compiler.is_compiling():
        return function
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)


_DRIVER = Driver(scan, branch, _again)
