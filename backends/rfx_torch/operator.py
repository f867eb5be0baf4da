"""The loop over chunks as one operator, for torch.compile: traced, it would unroll every chunk.

The operator takes its tensors as one list: the arrays of a map, then query, key, value and the
carry. A number stands for the rest of the map, found while compiling. The gradient is another
operator, which runs the loop again with autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.ops import Carry
from rfx_torch.fused import fused
from rfx_torch.stream import stream

__all__ = ["LOOPS", "attention"]

LOOPS: dict[str, Callable[..., tuple[Tensor, Carry]]] = {
    "torch-fused": fused,
    "torch-stream": stream,
}
_skeletons: list[DrawnMap] = []


def attention(
    loop: str,
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
    """As the loop of this name, opaque to the compiler."""
    arrays = features.arrays()
    statics = tuple(features.statics().items())
    skeleton = _skeleton(type(features), features.spec, statics, tuple(arrays))
    tensors = [*arrays.values(), query, key, value, *carry]
    out, *rest = _forward(tensors, mask, loop, skeleton, is_causal, chunk_size)
    return out, Carry(*rest)


@torch.compiler.assume_constant_result
def _skeleton(
    form: type[DrawnMap], spec: Any, statics: tuple[tuple[str, Any], ...], names: tuple[str, ...]
) -> int:
    """The number of a map that is this one with other arrays."""
    for number, known in enumerate(_skeletons):
        if type(known) is form and known.spec == spec and tuple(known.arrays()) == names:
            return number
    empty = {name: torch.empty(0) for name in names}
    _skeletons.append(form.of(spec, empty, **dict(statics)))
    return len(_skeletons) - 1


def _run(
    tensors: list[Tensor],
    mask: Tensor | None,
    loop: str,
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> tuple[Tensor, ...]:
    *arrays, query, key, value, numerator, denominator, log_scale = tensors
    record = _skeletons[skeleton]
    features = record.with_arrays(dict(zip(record.arrays(), arrays, strict=True)))
    carry = Carry(numerator, denominator, log_scale)
    args = (features, query, key, value, mask, carry)
    with torch.autocast(query.device.type, enabled=False):
        out, after = LOOPS[loop](is_causal, *args, chunk_size=chunk_size)
    return out.to(numerator.dtype), *after


@torch.library.custom_op("rfx::attention", mutates_args=())
def _forward(
    tensors: list[Tensor],
    mask: Tensor | None,
    loop: str,
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.no_grad():
        outputs = _run(tensors, mask, loop, skeleton, is_causal, chunk_size)
    given = {id(a) for a in tensors}  # an operator's outputs are never its inputs
    out, *carry = (a.clone() if id(a) in given else a.contiguous() for a in outputs)
    return out, carry[0], carry[1], carry[2]


@_forward.register_fake
def _(
    tensors: list[Tensor],
    mask: Tensor | None,
    loop: str,
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, _, value, *carry = tensors[-6:]
    out = carry[0].new_empty((*query.shape[:-1], value.shape[-1]))
    numerator, denominator, log_scale = (_like(a) for a in carry)
    return out, numerator, denominator, log_scale


@torch.library.custom_op("rfx::attention_gradient", mutates_args=())
def _gradient(
    tensors: list[Tensor],
    mask: Tensor | None,
    gradients: list[Tensor],
    loop: str,
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> list[Tensor]:
    def differentiate() -> list[Tensor]:
        with torch.enable_grad():
            leaves = [a.detach().requires_grad_() for a in tensors]
            outputs = _run(leaves, mask, loop, skeleton, is_causal, chunk_size)
            both = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
            outs, backs = zip(*both, strict=True)
            found = torch.autograd.grad(outs, leaves, backs, materialize_grads=True)
        return [a.contiguous() for a in found]

    return _in_another_thread(differentiate, gradients[0].device)


def _in_another_thread(function: Callable[[], list[Tensor]], device: torch.device) -> list[Tensor]:
    """Inside an operator autograd is off for this thread, whatever the mode; not for a new one."""
    current = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def on_this_stream() -> list[Tensor]:
        with torch.cuda.stream(current):  # does nothing for None
            return function()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(on_this_stream).result()


@_gradient.register_fake
def _(
    tensors: list[Tensor],
    mask: Tensor | None,
    gradients: list[Tensor],
    loop: str,
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> list[Tensor]:
    return [_like(a) for a in tensors]


def _like(array: Tensor) -> Tensor:
    return torch.empty_like(array, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, mask, *ctx.options = inputs
    ctx.save_for_backward(*tensors, mask)


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    *tensors, mask = ctx.saved_tensors
    found = _gradient(tensors, mask, list(gradients), *ctx.options)
    return found, None, None, None, None, None


_forward.register_autograd(_backward, setup_context=_keep)
