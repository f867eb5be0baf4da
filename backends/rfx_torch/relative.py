"""Attention with a relative bias in torch: the portable steps, computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rfx.ops.driver import Driver, branch, scan
from rfx.ops.relative import relative as op

__all__ = ["relative"]


def relative(*args: Any, is_causal: bool, method: str) -> Tensor:
    """The op `rfx.ops.relative`."""
    return op.portable(*args, is_causal=is_causal, method=method, driver=_DRIVER)


def _again(function: Callable[..., Any]) -> Callable[..., Any]:
    """A checkpoint, where autograd records and there are such."""
    transforms = torch._C._are_functorch_transforms_active()
    if not torch.is_grad_enabled() or transforms or torch.compiler.is_compiling():
        return function
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)


_DRIVER = Driver(scan, branch, _again)
