"""Softmax attention that is exact in windows and sees groups of keys beyond, each as one key."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rfx._xp import Array, constant, exp_nonpositive, from_numpy, full, library, namespace
from rfx.ops.bidirectional import divide
from rfx.ops.carry import empty_log
from rfx.ops.chunks import chunks
from rfx.ops.randomized import Summary, normals, summarize

__all__ = ["Layout", "attend_windows"]

_ROWS = 2048
"""Queries that are worked on at once, or one window if it is longer."""


class Layout(NamedTuple):
    """How a sequence is cut: into windows, and into groups of windows or windows of groups."""

    length: int
    window: int
    group_size: int
    is_causal: bool

    @property
    def padded(self) -> int:
        """The length, up to a whole number of windows and of groups."""
        unit = max(self.window, self.group_size)
        return -(-self.length // unit) * unit

    @property
    def per_group(self) -> int:
        """Windows in a group; 1 where windows are as long or longer."""
        return max(self.group_size // self.window, 1)

    def groups_before(self, windows: int) -> int:
        """How many groups any of the first windows sees, in causal attention; else all."""
        last = (windows - 1) * self.window if self.is_causal else self.padded
        return last // self.group_size

    def groups_seen(self, windows: np.ndarray) -> np.ndarray:
        """The groups that windows see: bool (windows, groups). Their own are not among them."""
        first = windows[:, None] * self.window
        begin = np.arange(0, self.padded, self.group_size)
        before = begin + self.group_size <= first
        return before if self.is_causal else before | (begin >= first + self.window)

    def neighbours_seen(self, windows: np.ndarray) -> np.ndarray:
        """The windows of their own group that windows see: bool (windows, per_group)."""
        inside = np.arange(self.per_group)
        own = windows[:, None] % self.per_group
        return inside < own if self.is_causal else inside != own


class _Part(NamedTuple):
    """What W windows of w queries see: logs (..., W, w, n), which there are, and their values.

    Values are (..., W, n, e), or (..., 1, n, e) where all windows see the same.
    """

    log: Array
    seen: Array
    value: Array


def attend_windows(
    x: Array, y: Array, v: Array, mask: Array | None, layout: Layout, seed: int
) -> Array:
    """Attention of scaled queries x to scaled keys y of as many heads: shape (..., n, e).

    y and v are 0 where masked; ``mask`` has shape (n,), or that of y without its last axis, with 1
    for shared axes.
    """
    xp, size = namespace(x), layout.window
    present = full(x, (layout.length, 1), 1.0, x.dtype)
    if mask is not None:
        present = xp.astype(mask[..., None], x.dtype)
    x, y, v, present = (_padded(a, layout) for a in (x, y, v, present))
    tokens = xp.where(present > 0.0, x, xp.zeros_like(x))  # masked queries may hold NaN
    groups = _summary(tokens, y, v, present, layout.group_size, seed, 0)
    nearby = None
    if layout.per_group > 1:
        nearby = _summary(tokens, y, v, present, size, seed, 1)
    x, y, v, present = (_segments(a, size) for a in (x, y, v, present))
    outputs = []
    for rows in chunks(0, layout.padded // size, max(_ROWS // size, 1)):
        query, key, value, kept = (a[..., rows, :, :] for a in (x, y, v, present))
        parts = [_own(query, key, value, kept, layout.is_causal)]
        count = layout.groups_before(rows.stop)
        if count > 0:
            parts.append(_far(query, groups.first(count), layout, rows))
        if nearby is not None:
            parts.append(_near(query, nearby, layout, rows))
        outputs.append(_average(parts))
    out = xp.concat(outputs, axis=-3)
    out = xp.reshape(out, (*out.shape[:-3], layout.padded, out.shape[-1]))
    return out[..., : layout.length, :]


def _padded(array: Array, layout: Layout) -> Array:
    """With rows of 0 up to a whole number of windows and groups."""
    *batch, length, columns = array.shape
    if length == layout.padded:
        return array
    more = full(array, (*batch, layout.padded - length, columns), 0.0, array.dtype)
    return namespace(array).concat([array, more], axis=-2)


def _segments(array: Array, size: int) -> Array:
    """(..., n, d) as (..., n / size, size, d)."""
    *batch, length, columns = array.shape
    return namespace(array).reshape(array, (*batch, length // size, size, columns))


def _summary(
    x: Array, y: Array, v: Array, present: Array, size: int, seed: int, stream: int
) -> Summary:
    """Of each segment of a size."""
    noise = normals(seed, stream, x.shape[-2] // size, x)
    query, key, value, kept = (_segments(a, size) for a in (x, y, v, present))
    return summarize(query, key, value, kept[..., 0] > 0.0, noise)


def _own(query: Array, key: Array, value: Array, present: Array, is_causal: bool) -> _Part:
    """The keys of the window itself."""
    xp = namespace(query)
    log = xp.matmul(query, xp.matrix_transpose(key))
    seen = xp.matrix_transpose(present) > 0.0
    if is_causal:
        ones = full(log, tuple(log.shape[-2:]), 1.0, log.dtype)
        seen = xp.logical_and(seen, xp.tril(ones) > 0.0)
    return _Part(log, seen, value)


def _far(query: Array, groups: Summary, layout: Layout, rows: slice) -> _Part:
    """The groups that are not the window's own."""
    xp = namespace(query)
    log = _times(query, xp.matrix_transpose(groups.key)[..., None, :, :])
    flags = layout.groups_seen(np.arange(rows.start, rows.stop))[:, None, : log.shape[-1]]
    seen = xp.logical_and(_on_device(flags, query), groups.present[..., None, None, :])
    return _Part(log + groups.log_count[..., None, None, :], seen, groups.value[..., None, :, :])


def _near(query: Array, nearby: Summary, layout: Layout, rows: slice) -> _Part:
    """The other windows of the same group, each as one key."""
    xp = namespace(query)
    windows = np.arange(rows.start, rows.stop)
    whole = np.int32 if library(query) == "jax" else np.int64
    own = from_numpy((windows // layout.per_group).astype(whole), query, None)

    def of_own_group(array: Array) -> Array:
        return xp.take(_segments(array, layout.per_group), own, axis=-3)

    key, value = of_own_group(nearby.key), of_own_group(nearby.value)
    log_count, present = (
        of_own_group(a[..., None])[..., None, :, 0] for a in (nearby.log_count, nearby.present)
    )
    seen = _on_device(layout.neighbours_seen(windows)[:, None, :], query)
    seen = xp.logical_and(seen, present)
    value = xp.where(xp.matrix_transpose(seen), value, xp.zeros_like(value))  # it may be NaN
    log = xp.matmul(query, xp.matrix_transpose(key)) + log_count
    return _Part(log, seen, value)


def _average(parts: list[_Part]) -> Array:
    """The softmax over all parts together, of their values; 0 where nothing is seen."""
    xp = namespace(parts[0].log)
    low = empty_log(parts[0].log.dtype, xp)
    logs = [xp.where(part.seen, part.log, xp.full_like(part.log, low)) for part in parts]
    tops = [xp.max(log, axis=-1, keepdims=True) for log in logs]
    top = tops[0]
    for other in tops[1:]:
        top = xp.maximum(top, other)
    top = constant(top)
    numerator, denominator = 0.0, 0.0
    for part, log in zip(parts, logs, strict=True):
        weight = exp_nonpositive(log - top)
        weight = xp.where(part.seen, weight, xp.zeros_like(weight))
        numerator = numerator + _times(weight, part.value)
        denominator = denominator + xp.sum(weight, axis=-1, keepdims=True)
    return divide(numerator, denominator)


def _times(rows: Array, matrix: Array) -> Array:
    """rows (..., W, w, n) times matrices (..., W, n, e), or one (..., 1, n, e) as one product."""
    xp = namespace(rows)
    *batch, windows, size, columns = rows.shape
    if matrix.shape[-3] == windows:
        return xp.matmul(rows, matrix)
    together = xp.reshape(rows, (*batch, windows * size, columns))
    out = xp.matmul(together, matrix[..., 0, :, :])
    return xp.reshape(out, (*batch, windows, size, matrix.shape[-1]))


def _on_device(flags: np.ndarray, like: Array) -> Array:
    return from_numpy(flags, like, namespace(like).bool)
