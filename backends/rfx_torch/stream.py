"""Streaming attention in torch: the portable step, in a loop that keeps the backward pass small.

While autograd records, each step is a checkpoint: its features are computed again in the backward
pass, so that memory stays linear in length times head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rfx.features import DrawnMap
from rfx.ops import bidirectional, causal
from rfx.ops.carry import Carry
from rfx.ops.driver import Driver, branch, scan
from rfx.ops.gated import gated
from rfx.ops.window import Memory, windowed

__all__ = ["stream", "stream_gated", "stream_windowed"]


def stream(
    is_causal: bool,
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    """The op `causal` or `bidirectional`."""
    run = partial((causal if is_causal else bidirectional).portable, features, query, key, value)
    return _on_device(query, partial(run, mask, carry, chunk_size=chunk_size))


def stream_gated(
    features: DrawnMap, query: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, Carry]:
    """The op `gated`."""
    return _on_device(query, partial(gated.portable, features, query, *args, **options))


def stream_windowed(
    features: DrawnMap, query: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, Memory]:
    """The op `windowed`."""
    return _on_device(query, partial(windowed.portable, features, query, *args, **options))


def _on_device(query: Tensor, run: Callable[..., Any]) -> tuple[Tensor, Any]:
    if query.device.type == "cpu":
        return run(driver=STREAM)
    with _no_tf32():
        return _without_waiting(run)


def _without_waiting(run: Callable[..., Any]) -> Any:
    """Run as if no chunk were steep, look at all flags at once, and run again if one was.

    A branch on a value would make the host wait for the device at every chunk.
    """
    flags: list[Tensor] = []

    def hope(flag: Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        flags.append(flag)
        return yes()

    result = run(driver=Driver(_scan, hope))
    if not flags:
        return result
    return branch(
        torch.stack(flags).all(),
        lambda: result,
        lambda: run(driver=Driver(_scan, lambda flag, yes, no: no())),
    )


@contextmanager
def _no_tf32() -> Iterator[None]:
    """The log of a feature is a difference of large numbers."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _scan(
    step: Callable[..., Any],
    carry: Carry,
    arrays: Sequence[Tensor | None],
    length: int,
    chunk_size: int,
) -> tuple[Carry, Tensor | None]:
    # Transforms of torch.func have no checkpoints.
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return scan(step, carry, arrays, length, chunk_size)
    again = partial(checkpoint, step, use_reentrant=False, preserve_rng_state=False)
    inputs = chunk_size * sum(a.shape[-1] for a in arrays if a is not None)
    if math.prod(carry.numerator.shape[-2:]) <= 2 * inputs:
        return scan(again, carry, arrays, length, chunk_size)

    # The carry is large beside a chunk, so it is kept for groups of chunks only.
    def group(carry: Carry, part: Sequence[Tensor | None]) -> tuple[Carry, Tensor | None]:
        rows = next(a.shape[-2] for a in part if a is not None)
        return scan(again, carry, part, rows, chunk_size)

    outer = partial(checkpoint, group, use_reentrant=False, preserve_rng_state=False)
    chunks = max(1, math.isqrt(length // chunk_size))
    return scan(outer, carry, arrays, length, chunk_size * chunks)


STREAM = Driver(_scan, branch)
