"""The functions that are registered: the loop in Python, or one operator where torch traces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.ops.carry import Carry
from rfx_torch.operator import attention
from rfx_torch.stream import stream

__all__ = ["bidirectional", "causal"]


def bidirectional(
    features: DrawnMap, query: Tensor, *args: Any, chunk_size: int
) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.bidirectional`."""
    if _compiles():
        return attention(features, query, *args, is_causal=False, chunk_size=chunk_size)
    return stream(False, features, query, *args, chunk_size=chunk_size)


def causal(features: DrawnMap, query: Tensor, *args: Any, chunk_size: int) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.causal`."""
    if _compiles():
        return attention(features, query, *args, is_causal=True, chunk_size=chunk_size)
    return stream(True, features, query, *args, chunk_size=chunk_size)


def _compiles() -> bool:
    """Whether torch.compile traces, outside of torch.func, which sees through no operator."""
    transforms = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() and not transforms
