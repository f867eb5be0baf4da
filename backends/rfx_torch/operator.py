"""The loop over chunks as one operator, for torch.compile: traced, it would unroll every chunk.

The operator takes the arrays of a map and a number that stands for the rest of it, found while
compiling. Its gradient is another operator, which runs the loop again under torch.func.vjp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap, Side
from rfx.ops.carry import Carry
from rfx_torch.stream import stream

__all__ = ["attention"]

_skeletons: list[DrawnMap] = []


def attention(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    *,
    is_causal: bool,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    """As the ops `bidirectional` and `causal`, opaque to the compiler."""
    arrays = features.arrays()
    statics = tuple(features.statics().items())
    skeleton = _skeleton(type(features), features.spec, statics, tuple(arrays))
    options = (skeleton, is_causal, chunk_size)
    out, *rest = _forward(list(arrays.values()), query, key, value, mask, *carry, *options)
    return out, Carry(*rest)


@torch.compiler.assume_constant_result
def _skeleton(
    form: type[DrawnMap], spec: Any, statics: tuple[tuple[str, Any], ...], names: tuple[str, ...]
) -> int:
    """The number of a map that is this one with other arrays."""
    empty = torch.empty(0)
    sides = [
        Side(**{f: empty if f"{p}_{f}" in names else None for f in Side._fields})
        for p in ("query", "key")
    ]
    key_side = None if sides[1].weight is None else sides[1]
    record = form(spec, sides[0], key_side, empty, **dict(statics))
    for number, known in enumerate(_skeletons):
        if type(known) is form and known.spec == spec and tuple(known.arrays()) == names:
            return number
    _skeletons.append(record)
    return len(_skeletons) - 1


def _run(
    skeleton: int, is_causal: bool, chunk_size: int, mask: Tensor | None, *inputs: Tensor
) -> Any:
    """The loop, as a function of tensors: the map's arrays, then query, key, value and carry."""
    *arrays, query, key, value, numerator, denominator, log_scale = inputs
    record = _skeletons[skeleton]
    features = record.with_arrays(dict(zip(record.arrays(), arrays, strict=True)))
    carry = Carry(numerator, denominator, log_scale)
    args = (features, query, key, value, mask, carry)
    out, after = stream(is_causal, *args, chunk_size=chunk_size)
    return out, *after


@torch.library.custom_op("rfx::attention", mutates_args=())
def _forward(
    arrays: list[Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    numerator: Tensor,
    denominator: Tensor,
    log_scale: Tensor,
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (*arrays, query, key, value, numerator, denominator, log_scale)
    outputs = _run(skeleton, is_causal, chunk_size, mask, *inputs)
    given = {id(a) for a in inputs}  # an operator's outputs are never its inputs
    return tuple(a.clone() if id(a) in given else a.contiguous() for a in outputs)


@_forward.register_fake
def _(
    arrays: list[Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    numerator: Tensor,
    denominator: Tensor,
    log_scale: Tensor,
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out = numerator.new_empty((*query.shape[:-1], value.shape[-1]))
    like = torch.empty_like
    return out, like(numerator), like(denominator), like(log_scale)


@torch.library.custom_op("rfx::attention_gradient", mutates_args=())
def _gradient(
    arrays: list[Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    numerator: Tensor,
    denominator: Tensor,
    log_scale: Tensor,
    gradients: list[Tensor],
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> list[Tensor]:
    def run(*inputs: Tensor) -> Any:
        return _run(skeleton, is_causal, chunk_size, mask, *inputs)

    inputs = (*arrays, query, key, value, numerator, denominator, log_scale)
    pull = torch.func.vjp(run, *inputs)[1]
    return [a.contiguous() for a in pull(tuple(gradients))]


@_gradient.register_fake
def _(
    arrays: list[Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    numerator: Tensor,
    denominator: Tensor,
    log_scale: Tensor,
    gradients: list[Tensor],
    skeleton: int,
    is_causal: bool,
    chunk_size: int,
) -> list[Tensor]:
    inputs = (*arrays, query, key, value, numerator, denominator, log_scale)
    return [torch.empty_like(a, memory_format=torch.contiguous_format) for a in inputs]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    arrays, query, key, value, mask, numerator, denominator, log_scale, *options = inputs
    ctx.count, ctx.options = len(arrays), options
    ctx.save_for_backward(*arrays, query, key, value, mask, numerator, denominator, log_scale)


def _backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
    saved, count = ctx.saved_tensors, ctx.count
    found = _gradient(list(saved[:count]), *saved[count:], list(gradients), *ctx.options)
    query, key, value, *carry = found[count:]
    return found[:count], query, key, value, None, *carry, None, None, None


_forward.register_autograd(_backward, setup_context=_keep)
