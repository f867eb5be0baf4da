"""A causal chunk whose keys' logs rise steeply, computed block by block, each at its own scale.

The chunk's triangle of pairs is cut into squares: the keys of the first half against the queries of
the second, the same inside each half, and so on. All keys of a square are visible to all its
queries, so the maximum over those keys is a scale that hides nothing. In the small triangles that
remain, each pair has its own logs. The parts of a query, the carry among them, are added in log
space.
"""

from __future__ import annotations

from rfx._xp import Array, constant, exp_nonpositive, full, namespace
from rfx.ops.bidirectional import Part, read, row_weights
from rfx.ops.carry import Carry, Keys, empty_log
from rfx.ops.gates import Gates, repeat_rows

__all__ = ["halved"]

_TRIANGLE = 8


def halved(
    carry: Carry, log: Array, feature: Array | None, keys: Keys, gates: Gates | None = None
) -> Part:
    """Sums of a chunk: logs of queries (..., g C, m) against C keys and the carry.

    With gates (..., C, m) or (..., C, 1), each block adds up those between its keys and queries.
    """
    xp = namespace(log)
    rows, columns = log.shape[-2], keys.log.shape[-2]
    past = _past(carry, log, feature, gates, rows // columns)
    size = 1
    while size < columns:
        size *= 2

    def queries(array: Array) -> Array:
        """(..., g C, m) -> (..., g, size, m)."""
        split = xp.reshape(array, (*array.shape[:-2], rows // columns, columns, array.shape[-1]))
        return _pad(split, size, 0.0)

    def whole(array: Array) -> Array:
        """(..., C, m) -> (..., 1, size, m)."""
        return _pad(array, size, 0.0)[..., None, :, :]

    low = empty_log(log.dtype, xp)
    log, feature = queries(log), None if feature is None else queries(feature)
    key_log = _pad(keys.log, size, low)[..., None, :, :]
    key_feature = None if keys.feature is None else whole(keys.feature)
    value = whole(keys.value)
    if gates is not None:
        gates = Gates(whole(gates.log), whole(gates.closed))
    half = min(_TRIANGLE, size)
    parts = [_triangles(half, log, feature, key_log, key_feature, value, low, gates)]
    while half < size:
        parts.append(_squares(half, log, feature, key_log, key_feature, value, low, gates))
        half *= 2
    shape = tuple(past.numerator.shape[:-1])
    flat = [
        Part(*(xp.reshape(a[..., :columns, :], (*shape, a.shape[-1])) for a in part))
        for part in parts
    ]
    return _total([past, *flat])


def _past(
    carry: Carry, log: Array, feature: Array | None, gates: Gates | None, groups: int
) -> Part:
    """The carry's part, seen through all gates up to a query's own."""
    if gates is None:
        return read(carry, log, feature)
    xp = namespace(log)
    before, shut = (repeat_rows(a, groups) for a in gates.from_start())
    log = log + before + carry.log_scale[..., None, :]
    weight, log_scale = _open_weights(log, feature, shut)
    numerator = xp.matmul(weight, carry.numerator)
    return Part(numerator, xp.matmul(weight, carry.denominator[..., None]), log_scale)


def _open_weights(log: Array, feature: Array | None, shut: Array) -> tuple[Array, Array]:
    """As `row_weights`, with what is shut absent."""
    xp = namespace(log)
    shut = xp.broadcast_to(shut, log.shape)
    low = full(log, (1, 1), empty_log(log.dtype, xp), log.dtype)
    weight, log_scale = row_weights(xp.where(shut, low, log), feature)
    return xp.where(shut, xp.zeros_like(weight[..., :1]), weight), log_scale


def _triangles(
    size: int,
    log: Array,
    feature: Array | None,
    key_log: Array,
    key_feature: Array | None,
    value: Array,
    low: float,
    gates: Gates | None,
) -> Part:
    """The triangles on the diagonal, pair by pair: memory is size times that of the features."""
    xp = namespace(log)

    def blocks(array: Array) -> Array:
        shape = (*array.shape[:-2], array.shape[-2] // size, size, array.shape[-1])
        return xp.reshape(array, shape)

    key_log = blocks(key_log)[..., None, :, :]
    triangle = xp.tril(full(log, (size, size), 1.0, log.dtype))[..., None] > 0.0
    seen = xp.logical_and(triangle, xp.logical_not(key_log <= low))  # NaN is seen
    both = blocks(log)[..., :, None, :] + key_log  # (..., blocks, size, size, m)
    if gates is not None:
        between, shut = Gates(blocks(gates.log), blocks(gates.closed)).between()
        both, seen = both + between, xp.logical_and(seen, xp.logical_not(shut))
    both = xp.where(seen, both, xp.full_like(both, low))
    log_scale = constant(xp.max(both, axis=(-2, -1)))[..., None]
    weight = exp_nonpositive(both - log_scale[..., None])
    weight = xp.where(seen, weight, xp.zeros_like(weight))
    if feature is not None:
        weight = weight * blocks(feature)[..., :, None, :] * blocks(key_feature)[..., None, :, :]
    pairs = xp.sum(weight, axis=-1)
    numerator = xp.matmul(pairs, blocks(value))
    part = (numerator, xp.sum(pairs, axis=-1, keepdims=True), log_scale)
    return Part(*(xp.reshape(a, (*log.shape[:-1], a.shape[-1])) for a in part))


def _squares(
    half: int,
    log: Array,
    feature: Array | None,
    key_log: Array,
    key_feature: Array | None,
    value: Array,
    low: float,
    gates: Gates | None,
) -> Part:
    """All squares of one size: keys of each first half against queries of the second."""
    xp = namespace(log)
    log, feature = _half(log, half, 1), None if feature is None else _half(feature, half, 1)
    key_log, value = _half(key_log, half, 0), _half(value, half, 0)
    if gates is not None:
        first, second = (Gates(*(_half(a, half, i) for a in gates)) for i in (0, 1))
        after, gone = first.to_end()
        absent = xp.logical_or(gone, key_log <= low)
        key_log = xp.where(absent, full(log, (1, 1), low, log.dtype), key_log + after)
    top = constant(xp.max(key_log, axis=-2, keepdims=True))
    scaled = _nonzero(exp_nonpositive(key_log - top), key_log, low)
    if key_feature is not None:
        scaled = scaled * _half(key_feature, half, 0)
    if gates is None:
        weight, log_scale = row_weights(log + top, feature)
    else:
        before, shut = second.from_start()
        shut = xp.logical_or(shut, top <= low)
        weight, log_scale = _open_weights(log + before + top, feature, shut)
    pairs = xp.matmul(weight, xp.matrix_transpose(scaled))
    numerator, denominator = xp.matmul(pairs, value), xp.sum(pairs, axis=-1, keepdims=True)
    part = (numerator, denominator, log_scale)
    return Part(*(_behind(a, fill) for a, fill in zip(part, (0.0, 0.0, low), strict=True)))


def _half(array: Array, half: int, which: int) -> Array:
    """(..., size, m) -> (..., size / 2 half, half, m): the first or second half of each pair."""
    shape = (*array.shape[:-2], array.shape[-2] // (2 * half), 2, half, array.shape[-1])
    return namespace(array).reshape(array, shape)[..., which, :, :]


def _behind(array: Array, fill: float) -> Array:
    """Results of second halves, in place among first halves that have none: (..., size, e)."""
    xp = namespace(array)
    both = xp.stack([xp.full_like(array, fill), array], axis=-3)
    *batch, pairs, _, half, columns = both.shape
    return xp.reshape(both, (*batch, pairs * 2 * half, columns))


def _nonzero(weight: Array, key_log: Array, low: float) -> Array:
    """Weights with those of masked keys 0."""
    xp = namespace(weight)
    return xp.where(key_log <= low, xp.zeros_like(weight), weight)


def _total(parts: list[Part]) -> Part:
    """All parts together.

    They are added at once: a chain of pairwise additions takes XLA minutes to compile.
    """
    xp = namespace(parts[0].numerator)
    log_scale = xp.stack([part.log_scale for part in parts])
    top = constant(xp.max(log_scale, axis=0))
    weight = exp_nonpositive(log_scale - top)
    numerator = xp.sum(xp.stack([part.numerator for part in parts]) * weight, axis=0)
    denominator = xp.sum(xp.stack([part.denominator for part in parts]) * weight, axis=0)
    return Part(numerator, denominator, top)


def _pad(array: Array, size: int, fill: float) -> Array:
    """Lengthen the second last axis to ``size``."""
    missing = size - array.shape[-2]
    if missing == 0:
        return array
    tail = full(array, (*array.shape[:-2], missing, array.shape[-1]), fill, array.dtype)
    return namespace(array).concat([array, tail], axis=-2)
