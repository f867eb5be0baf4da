"""The Walsh-Hadamard transform between two arrays in huge pages, where there is no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from rfx.ops.fwht import orders, sylvester
from rfx_torch.memory import empty
from rfx_torch.refusals import refuse_compiler, refuse_forward_mode, refuse_transforms

__all__ = ["fwht", "refuse_fwht"]

_FEW = 1 << 22


def fwht(_: None, x: Tensor) -> Tensor:
    """The op `rfx.ops.fwht`."""
    now = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    factors = [sylvester(now, order) for order in orders(x.shape[-1])]
    buffers = [empty(tuple(x.shape), now.dtype, x) for _ in factors[:2]]
    done = 1
    for i, factor in enumerate(factors):
        order, to = len(factor), buffers[i % 2]
        if i == 0:
            torch.mm(now.reshape(-1, order), factor, out=to.view(-1, order))
        else:
            shape = (x.numel() // (order * done), order, done)
            left = factor.expand(shape[0], -1, -1)
            torch.bmm(left, now.view(shape), out=to.view(shape))
        now, done = to, done * order
    return now.to(x.dtype)


def refuse_fwht(_: None, x: Tensor) -> str | None:
    """What the path does not serve."""
    if seen := refuse_compiler() or refuse_transforms() or refuse_forward_mode():
        return seen
    if torch.is_grad_enabled() and x.requires_grad:
        return "it has no gradient"
    if x.numel() < _FEW:
        return f"{x.numel()} numbers are too few for the memory to matter"
    return None
