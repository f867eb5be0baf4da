"""The path of exponential maps on a CPU: batch entry by batch entry, with a gradient of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product, repeat
from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.features.forms import ExponentialMap, refuse_other
from rfx.ops import Carry
from rfx.ops.refusals import refuse_empty
from rfx_torch.exponential import Heads, chunks_per_kept_carry
from rfx_torch.gradient import Gradient, Inputs, Sequence
from rfx_torch.memory import empty, empty_like
from rfx_torch.refusals import (
    refuse_forward_mode,
    refuse_log_scale,
    refuse_transforms,
)
from rfx_torch.stream import stream

__all__ = ["fused", "refuse", "save", "way_back"]


def fused(
    is_causal: bool,
    features: ExponentialMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    """The op `causal` or `bidirectional`."""
    tensors = (query, key, value, *carry, *features.arrays().values())
    if torch.is_grad_enabled() and any(a.requires_grad for a in tensors):
        out, *after = _Attention.apply(is_causal, features, chunk_size, mask, *tensors)
        return out, Carry(*after)
    out, after, _ = _forward(is_causal, features, chunk_size, mask, query, key, value, carry, False)
    return out, after


def refuse(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    **_: Any,
) -> str | None:
    """What the path does not serve."""
    return (
        refuse_log_scale(carry)
        or refuse_empty(query, key)
        or refuse_other(features, ExponentialMap)
        or refuse_transforms()
        or refuse_forward_mode()
    )


def _entries(key: Tensor, mask: Tensor | None, *others: Tensor) -> Iterator[list[Any]]:
    """Each batch entry's part of arrays with the axes (batch..., heads, ...); None stays None.

    They are views. The key tells the batch axes, to which the mask is broadcast; heads become an
    axis of length 1 where there is none.
    """
    arrays = (key, None if mask is None else mask.expand(*key.shape[:-1], 1), *others)
    if key.ndim == 2:
        arrays = tuple(None if a is None else a[None] for a in arrays)
    for index in product(*(range(n) for n in key.shape[:-3])):
        yield [None if a is None else a[index] for a in arrays]


def _grouped(array: Tensor, key: Tensor) -> Tensor:
    """(..., g h, t, d) -> (..., h, g, t, d) for h key heads, and (t, d) -> (1, t, d)."""
    if key.ndim == 2:
        return array[None]
    heads = key.shape[-3]
    return array.unflatten(-3, (heads, array.shape[-3] // heads))


def _forward(
    is_causal: bool,
    features: ExponentialMap,
    size: int,
    mask: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    carry: Carry,
    keep: bool,
) -> tuple[Tensor, Carry, list[list[Carry]]]:
    """Output, carry, and for the gradient of causal attention some carries of each entry."""
    halves = _in_halves(key, value)
    dtype = value.dtype if halves else carry.numerator.dtype
    out = empty((*query.shape[:-1], value.shape[-1]), dtype, carry.numerator)
    after = Carry(*(empty_like(a) for a in carry))
    heads = Heads(features, key.shape[-3] if key.ndim > 2 else 1, halves)
    group = chunks_per_kept_carry(features.num_features, size)
    kept: list[list[Carry]] = []
    queries = (_grouped(a, key) for a in (query, out))
    for k, seen, v, q, o, *sums in _entries(key, mask, value, *queries, *carry, *after):
        heads.set(Carry(*sums[:3]))
        if is_causal:
            steps = enumerate(heads.causal(q, k, v, seen, o, size))
            kept.append([_copy(heads.carry()) for i, _ in steps if keep and i % group == 0])
        else:
            heads.bidirectional(q, k, v, seen, o, size)
        for target, source in zip(sums[3:], heads.carry(), strict=True):
            target.copy_(source)
    return out, after, kept


def _copy(carry: Carry) -> Carry:
    return Carry(*(a.clone() for a in carry))


def _in_halves(key: Tensor, value: Tensor) -> bool:
    """Whether products with values are of bfloat16, for which the processor has instructions."""
    half = key.dtype == value.dtype == torch.bfloat16
    return half and bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


class _Attention(torch.autograd.Function):
    """The path with its gradient, which autograd cannot follow through writes in place."""

    @staticmethod
    def forward(
        ctx: Any, is_causal: bool, features: Any, size: int, mask: Any, *tensors: Any
    ) -> Any:
        query, key, value, n, d, c, *_ = tensors
        args = (mask, query, key, value, Carry(n, d, c), True)
        out, after, kept = _forward(is_causal, features, size, *args)
        ctx.kept = kept
        return save(ctx, is_causal, features, size, mask, tensors, out, after)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return way_back(ctx, gradients, _backward)


def save(
    ctx: Any,
    is_causal: bool,
    features: ExponentialMap,
    size: int,
    mask: Tensor | None,
    tensors: tuple[Tensor, ...],
    out: Tensor,
    after: Carry,
) -> tuple[Tensor, ...]:
    """Keep what `way_back` needs of a forward pass, whose results these are, and return them.

    ``tensors`` are query, key, value, carry and the arrays of the map.
    """
    ctx.is_causal, ctx.features, ctx.size = is_causal, features, size
    ctx.save_for_backward(mask, out, *after, *tensors)
    ctx.mark_non_differentiable(after.log_scale)
    ctx.set_materialize_grads(True)
    return out, *after


def way_back(
    ctx: Any, gradients: tuple[Any, ...], find: Callable[[Any, tuple[bool, ...], Any], list[Any]]
) -> tuple[Any, ...]:
    """What ``backward`` returns: of four options None, and of the tensors what ``find`` finds.

    Where the gradient is to have one itself, autograd finds it.
    """
    needed = ctx.needs_input_grad[4:]
    found = (_differentiable if torch.is_grad_enabled() else find)(ctx, needed, gradients)
    return None, None, None, None, *found


def _differentiable(ctx: Any, needed: tuple[bool, ...], gradients: tuple[Any, ...]) -> list[Any]:
    """The gradient as autograd finds it, so that it has one itself."""
    mask, _, _, _, _, *tensors = ctx.saved_tensors
    query, key, value, n, d, c, *arrays = tensors
    features = ctx.features.with_arrays(dict(zip(ctx.features.arrays(), arrays, strict=True)))
    args = (features, query, key, value, mask, Carry(n, d, c))
    out, after = stream(ctx.is_causal, *args, chunk_size=ctx.size)
    wanted = [a for a, need in zip(tensors, needed, strict=True) if need]
    outputs, back = zip(
        *((a, g) for a, g in zip((out, *after), gradients, strict=True) if a.requires_grad),
        strict=True,
    )
    found = iter(torch.autograd.grad(outputs, wanted, back, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needed]


def _backward(ctx: Any, needed: tuple[bool, ...], gradients: tuple[Any, ...]) -> list[Any]:
    mask, out, *after, query, key, value, n, d, c = ctx.saved_tensors[:11]
    names = list(ctx.features.arrays())
    trained = [name for name, need in zip(names, needed[6:], strict=True) if need]
    work = Gradient(ctx.features, key.shape[-3] if key.ndim > 2 else 1, trained)
    found, sums = ([empty_like(a) for a in group] for group in ((query, key, value), (n, d)))
    out_gradient, n_gradient, d_gradient, _ = gradients
    queries = (_grouped(a, key) for a in (query, out, out_gradient, found[0]))
    arrays = (key, mask, value, *queries, *found[1:], c, *after, n_gradient, d_gradient, *sums)
    for entry, carries in zip(_entries(*arrays), ctx.kept or repeat([]), strict=False):
        k, seen, v, q, o, back, q_found, k_found, v_found, first_scale = entry[:10]
        *last, n_back, d_back, n_found, d_found = entry[10:]
        work.begin(n_back, d_back)
        sequence = Sequence(Inputs(q, k, v), seen, o, back, Inputs(q_found, k_found, v_found))
        if ctx.is_causal:
            work.causal_back(sequence, first_scale, Carry(*last), carries, ctx.size)
        else:
            work.bidirectional_back(sequence, first_scale, Carry(*last), ctx.size)
        n_found.copy_(work.numerator_gradient)
        d_found.copy_(work.denominator_gradient[:, 0])
    results = [*found, *sums, None, *(work.learned.get(name) for name in names)]
    return [a if need else None for a, need in zip(results, needed, strict=True)]
