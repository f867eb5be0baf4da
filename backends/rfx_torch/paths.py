"""The functions that are registered: a loop in Python, or one operator where torch traces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.ops import Carry
from rfx.ops.window import Memory, windowed
from rfx_torch.operator import LOOPS, attention, gated_attention
from rfx_torch.stream import stream_gated, stream_windowed

__all__ = ["run", "run_gated", "run_windowed"]


def run(
    name: str, is_causal: bool, features: DrawnMap, query: Tensor, *args: Any, chunk_size: int
) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.causal` or `rfx.ops.bidirectional`, by the loop of this name."""
    if _compiles():
        return attention(name, is_causal, features, query, *args, chunk_size=chunk_size)
    return LOOPS[name](is_causal, features, query, *args, chunk_size=chunk_size)


def run_gated(
    features: DrawnMap, query: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, Carry]:
    """The op `rfx.ops.gated`."""
    loop = gated_attention if _compiles() else stream_gated
    return loop(features, query, *args, **options)


def run_windowed(
    features: DrawnMap, query: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, Memory]:
    """The op `rfx.ops.window.windowed`; a compiler sees its chunks one by one."""
    loop = windowed.portable if _compiles() else stream_windowed
    return loop(features, query, *args, **options)


def _compiles() -> bool:
    """Whether torch.compile traces, outside of torch.func, which sees through no operator."""
    transforms = torch._C._are_functorch_transforms_active()
    return torch.compiler.is_compiling() and not transforms
