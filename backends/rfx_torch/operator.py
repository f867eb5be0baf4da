"""The loop over chunks as one operator, for torch.compile: traced, it would unroll every chunk.

The operator takes its tensors as one list: the arrays of a map, then query, key, value, the carry,
and logs of gates and weights where there are any. A number stands for the rest of the map, found
while compiling. The gradient is another operator, which runs the loop again with autograd.
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
from rfx_torch.stream import stream, stream_gated

__all__ = ["LOOPS", "attention", "gated_attention"]

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
    kind = "causal" if is_causal else "bidirectional"
    return _opaque(features, [query, key, value, *carry], mask, loop, kind, chunk_size)


def gated_attention(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    log_gate: Tensor,
    log_weight: Tensor | None,
    *,
    normalize: bool,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    """As `rfx_torch.stream.stream_gated`, opaque to the compiler."""
    weights = [] if log_weight is None else [log_weight]
    inputs = [query, key, value, *carry, log_gate, *weights]
    kind = "normalized" if normalize else "sums"
    return _opaque(features, inputs, mask, "torch-stream", kind, chunk_size)


def _opaque(
    features: DrawnMap,
    inputs: list[Tensor],
    mask: Tensor | None,
    loop: str,
    kind: str,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    arrays = features.arrays()
    statics = features.statics()
    values, names = statics.values(), tuple(statics)
    skeleton = _skeleton(type(features), features.spec, tuple(arrays), names, *values)
    tensors = [*arrays.values(), *inputs]
    out, *rest = _forward(tensors, mask, loop, skeleton, kind, len(inputs), chunk_size)
    return out, Carry(*rest)


@torch.compiler.assume_constant_result
def _skeleton(
    form: type[DrawnMap], spec: Any, arrays: tuple[str, ...], names: tuple[str, ...], *values: Any
) -> int:
    """The number of a map that is this one with other arrays; statics are names and values.

    The compiler takes a record as a constant where it is an argument, not inside of a tuple.
    """
    empty = {name: torch.empty(0) for name in arrays}
    wanted = form.of(spec, empty, **dict(zip(names, values, strict=True)))
    for number, known in enumerate(_skeletons):
        same = type(known) is form and known.spec == spec and tuple(known.arrays()) == arrays
        if same and known.statics() == wanted.statics():
            return number
    _skeletons.append(wanted)
    return len(_skeletons) - 1


def _run(
    tensors: list[Tensor],
    mask: Tensor | None,
    loop: str,
    skeleton: int,
    kind: str,
    inputs: int,
    chunk_size: int,
) -> tuple[Tensor, ...]:
    arrays = tensors[:-inputs]
    query, key, value, *sums = tensors[-inputs:]
    carry, gates = Carry(*sums[:3]), sums[3:]
    record = _skeletons[skeleton]
    features = record.with_arrays(dict(zip(record.arrays(), arrays, strict=True)))
    args = (features, query, key, value, mask, carry)
    with torch.autocast(query.device.type, enabled=False):
        if gates:
            log_gate, log_weight = [*gates, None][:2]
            normalize = kind == "normalized"
            options: dict[str, Any] = {"normalize": normalize, "chunk_size": chunk_size}
            out, after = stream_gated(*args, log_gate, log_weight, **options)
        else:
            out, after = LOOPS[loop](kind == "causal", *args, chunk_size=chunk_size)
    return out.to(carry.numerator.dtype), *after


@torch.library.custom_op("rfx::attention", mutates_args=())
def _forward(
    tensors: list[Tensor],
    mask: Tensor | None,
    loop: str,
    skeleton: int,
    kind: str,
    inputs: int,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.no_grad():
        outputs = _run(tensors, mask, loop, skeleton, kind, inputs, chunk_size)
    given = {id(a) for a in tensors}  # an operator's outputs are never its inputs
    out, *carry = (a.clone() if id(a) in given else a.contiguous() for a in outputs)
    return out, carry[0], carry[1], carry[2]


@_forward.register_fake
def _(
    tensors: list[Tensor],
    mask: Tensor | None,
    loop: str,
    skeleton: int,
    kind: str,
    inputs: int,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, _, value, *carry = tensors[-inputs:][:6]
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
    kind: str,
    inputs: int,
    chunk_size: int,
) -> list[Tensor]:
    def differentiate() -> list[Tensor]:
        with torch.enable_grad():
            leaves = [a.detach().requires_grad_() for a in tensors]
            outputs = _run(leaves, mask, loop, skeleton, kind, inputs, chunk_size)
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
    kind: str,
    inputs: int,
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
    return found, None, None, None, None, None, None


_forward.register_autograd(_backward, setup_context=_keep)
