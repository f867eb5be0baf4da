"""What attentions share: the scale of scores, products of a kernel matrix by blocks, and heads."""

from __future__ import annotations

from rfx._xp import Array, full, full_precision, namespace
from rfx.kernels import Kernel
from rfx.ops.chunks import chunks
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["default_scale", "kernel_product", "repeat_heads", "visible"]

_BLOCK = 1024


def default_scale(query: Array, scale: float | None) -> float:
    """The scale of scores, d ** -0.5 for None."""
    return max(int(query.shape[-1]), 1) ** -0.5 if scale is None else float(scale)


def kernel_product(kernel: Kernel, x: Array, y: Array, value: Array) -> Array:
    """Σ_j κ(x_i, y_j) v_j for x (..., Hq, t, d), y (..., H, s, d) and value (..., H, s, e)."""
    xp, heads = namespace(x), y.shape[-3:-2]
    outputs = []
    for rows in chunks(0, x.shape[-2], _BLOCK):
        part = x[..., rows, :]
        folded = fold_heads(part, heads)
        total = full(value, (*folded.shape[:-1], value.shape[-1]), 0.0, value.dtype)
        for columns in chunks(0, y.shape[-2], _BLOCK):
            with full_precision(x):
                block = kernel(folded, y[..., columns, :])
                total = total + xp.matmul(block, value[..., columns, :])
        outputs.append(unfold_heads(total, part))
    if not outputs:
        return full(value, (*x.shape[:-1], value.shape[-1]), 0.0, value.dtype)
    return xp.concat(outputs, axis=-2)


def visible(array: Array, mask: Array | None) -> Array:
    """Rows with zeros for those that are masked, which may hold NaN."""
    xp = namespace(array)
    return array if mask is None else xp.where(mask[..., None], array, xp.zeros_like(array))


def repeat_heads(array: Array, heads: int, axis: int) -> Array:
    """Each key head on ``axis`` once for every query head of its group."""
    if array.shape[axis] == heads:
        return array
    return namespace(array).repeat(array, heads // array.shape[axis], axis=axis)
