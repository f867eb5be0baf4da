"""What numba compiles, in float32: loops over numbers that stay in cache between matrix products.

One file, since numba's cache on disk knows a change of the file that holds a function, not of those
that it calls. Each kernel has one signature, so that it compiles once, and runs without the
interpreter's lock, so that threads work side by side.

Axes: ``t`` queries, ``s`` keys, ``d`` and ``e`` their columns and those of the values, ``m``
features, ``g`` query heads that share a key head. All arrays belong to one key head, except in
`step`. A mask without entries hides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import boolean, float32, int64, njit, types, void

__all__ = ["absorb", "attend", "read", "step", "waves"]

Array = np.ndarray[Any, Any]
F = np.float32
_I = np.int32

_LOW = F(0.5 * float(np.finfo(np.float32).min))
"""`rfx.ops.carry.empty_log`."""
_TINY = F(float(np.finfo(np.float32).smallest_normal) ** 0.5)
"""`rfx.ops.carry.smallest_denominator`."""
_STEEP = F(40.0)
"""The limit of `rfx.ops.causal.is_gentle`."""

_FAR = F(8192.0)
"""From here on cosines and sines are those of the C library, one by one."""
_BLOCK = 64
"""Rows of angles that are worked on at once."""

_SUMS = {"contract", "reassoc", "nsz"}
"""Sums in any order, so that they are computed in lanes."""


def _in(axes: int) -> Any:
    """An argument that is read, contiguous."""
    return types.Array(float32, axes, "C", readonly=True)


_MASK = types.Array(boolean, 1, "C", readonly=True)
_OUT = {axes: types.Array(float32, axes, "C") for axes in (1, 2, 3)}
_ROWS_OUT = {axes: types.Array(float32, axes, "A") for axes in (2, 3)}
_SIDE = types.Tuple((_in(2), _in(1)))
"""Frequencies (d, m) and bias (m,)."""
_ROW_TERM = types.Tuple((_in(1), float32))
"""What a key's log has besides, constant − Σ quadratic z²: quadratic (d,) and the constant."""
_STATE = types.Tuple((_OUT[2], _OUT[1], _OUT[1]))
"""Sums (m, e) and (m,) divided by exp of their log scale (m,), written to."""
_SIDES = types.Tuple((_in(3), _in(2)))
_ROW_TERMS = types.Tuple((_in(2), float32))
_STATES_IN = types.Tuple((_in(3), _in(2), _in(2)))
_STATES = types.Tuple((_OUT[3], _OUT[2], _OUT[2]))
"""The same with an axis before them: of heads, or of sums."""


def _compile(signature: Any, fastmath: Any = frozenset({"contract"})) -> Callable[..., Any]:
    def wrap(function: Any) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError:  # nowhere to write a cache to
            return njit(signature, **options)(function)

    return wrap


@njit(inline="always", fastmath={"contract"})
def _exp(x: Any) -> Any:
    """exp(x) for x up to 88, to 1e-7: 2^n times a polynomial, and 0 below the normal numbers."""
    # Adding 1.5 · 2^23 rounds to a whole number, and leaves it in the last bits.
    shifted = x * F(1.44269504) + F(12582912.0)
    n = shifted - F(12582912.0)
    r = (x - n * F(0.693359375)) + n * F(2.12194440e-4)
    p = F(1.9875691500e-4) * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * (r * r) + r + F(1.0)
    bits = (F(shifted).view(_I) << _I(23)) + _I(0x3F800000)
    return F(0.0) if x < F(-87.0) else p * _I(bits).view(F)


@njit(inline="always", fastmath={"contract"})
def _cosine_sine(x: Any) -> Any:
    """cos(x) and sin(x) for abs(x) up to `_FAR`, to 1e-7: polynomials of what π/2 leaves over."""
    shifted = x * F(0.636619772) + F(12582912.0)  # as in `_exp`
    n = shifted - F(12582912.0)
    r = ((x - n * F(1.5703125)) - n * F(4.837512969970703125e-4)) - n * F(7.549789948768648e-8)
    square = r * r
    p = (F(-1.9515295891e-4) * square + F(8.3321608736e-3)) * square + F(-1.6666654611e-1)
    sine = p * (square * r) + r
    p = (F(2.443315711809948e-5) * square + F(-1.388731625493765e-3)) * square
    cosine = (p + F(4.166664568298827e-2)) * (square * square) + (F(1.0) - F(0.5) * square)
    quarter = F(shifted).view(_I)
    turned = quarter & _I(1)
    first, second = (sine, cosine) if turned else (cosine, sine)
    first = -first if (quarter + _I(1)) & _I(2) else first
    return first, -second if quarter & _I(2) else second


@_compile(float32(_in(1), _in(1)), _SUMS)
def _dot(a: Array, b: Array) -> Any:
    total = F(0.0)
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@_compile(float32(_in(1), _in(1)), _SUMS)
def _square_sum(row: Array, quadratic: Array) -> Any:
    total = F(0.0)
    for c in range(quadratic.shape[0]):  # none where a map has no such term
        total += quadratic[c] * row[c] * row[c]
    return total


@njit(inline="always")
def _in_order(bits: Any) -> Any:
    """The bits of a float as a whole number of the same order, and back; NaN is beyond infinity."""
    return bits ^ ((bits >> _I(31)) & _I(0x7FFFFFFF))


@_compile(float32(_in(1)))
def _largest(row: Array) -> Any:
    """The largest number, or NaN. Whole numbers are compared in lanes, floats are not."""
    bits = row.view(_I)
    largest = _I(-0x80000000)
    for j in range(bits.shape[0]):
        largest = max(largest, _in_order(bits[j]))
    return _I(_in_order(largest)).view(F)


@_compile(void(_OUT[1], _in(1)))
def _weigh_query(log: Array, shift: Array) -> None:
    """Logs of a query become features divided by the largest."""
    for j in range(log.shape[0]):
        log[j] += shift[j]
    largest = _largest(log)
    for j in range(log.shape[0]):
        log[j] = _exp(log[j] - largest)


@_compile(void(_OUT[2], _OUT[1], _OUT[1], _OUT[1]))
def _weigh_queries(log: Array, shift: Array, denominator: Array, total: Array) -> None:
    """`_weigh_query` for each row of logs (t, m); total = the sums of their features."""
    for i in range(log.shape[0]):
        _weigh_query(log[i], shift)
        total[i] = _dot(log[i], denominator)


@_compile(void(_in(2), _MASK, _SIDE, _ROW_TERM, _OUT[2], _OUT[1]))
def _key_logs(
    key: Array,
    mask: Array,
    side: tuple[Array, Array],
    row_term: tuple[Array, float],
    log: Array,
    largest: Array,
) -> None:
    """Logs (s, m), and the largest of each feature, what is there included."""
    weight, bias = side
    quadratic, constant = row_term
    np.dot(key, weight, log)
    for i in range(key.shape[0]):
        row = log[i]
        if mask.size and not mask[i]:
            row[:] = _LOW
            continue
        term = constant - _square_sum(key[i], quadratic)
        for j in range(row.shape[0]):
            x = row[j] + (bias[j] + term)
            row[j] = x
            largest[j] = x if x > largest[j] or x != x else largest[j]  # NaN stays


@_compile(boolean(_OUT[2], _MASK, _OUT[1], _OUT[1]))
def _is_gentle(log: Array, mask: Array, before: Array, after: Array) -> bool:
    """`rfx.ops.causal.is_gentle`."""
    first = 0
    if mask.size:
        nothing = True
        for j in range(before.shape[0]):
            nothing = nothing and before[j] <= _LOW
        while nothing and first < log.shape[0] - 1 and not mask[first]:
            first += 1
    gentle = True
    for j in range(before.shape[0]):
        seen = max(before[j], log[first, j])
        gentle = gentle and after[j] - seen <= _STEEP
    return gentle


@_compile(void(_STATE, _OUT[1]))
def _rescale(state: tuple[Array, Array, Array], after: Array) -> None:
    numerator, denominator, log_scale = state
    for j in range(log_scale.shape[0]):
        kept = _exp(log_scale[j] - after[j])
        log_scale[j] = after[j]
        if kept != F(1.0):
            denominator[j] *= kept
            numerator[j] *= kept


@_compile(void(_OUT[2], _MASK, _OUT[1], _OUT[1]))
def _weigh_keys(log: Array, mask: Array, log_scale: Array, total: Array) -> None:
    """Logs (s, m) become features at a scale; total = their sums over the keys."""
    total[:] = F(0.0)
    for i in range(log.shape[0]):
        row = log[i]
        if mask.size and not mask[i]:
            row[:] = F(0.0)
            continue
        for j in range(row.shape[0]):
            row[j] = _exp(row[j] - log_scale[j])
            total[j] += row[j]


@_compile(void(_OUT[2], _OUT[1]), _SUMS)
def _hide_future(pairs: Array, total: Array) -> None:
    """Pairs above the diagonal become 0; the others are added to the totals of their rows."""
    for i in range(pairs.shape[0]):
        row = pairs[i]
        seen = F(0.0)
        for j in range(i + 1):
            seen += row[j]
        row[i + 1 :] = F(0.0)
        total[i] += seen


@njit(inline="always")
def _divide(sums: Array, total: Any, out: Array) -> None:
    """`rfx.ops.bidirectional.divide` for one query."""
    nothing = abs(total) < _TINY
    share = F(0.0) if nothing else F(1.0) / total
    for c in range(sums.shape[0]):
        out[c] = F(0.0) if nothing else sums[c] * share


@_compile(void(_OUT[2], _OUT[1], _ROWS_OUT[2]))
def _divide_rows(sums: Array, total: Array, out: Array) -> None:
    for i in range(sums.shape[0]):
        _divide(sums[i], total[i], out[i])


@njit(inline="always")
def _part(mask: Array, start: int, stop: int) -> Any:
    return mask[start:stop] if mask.size else mask


@_compile(void(_in(2), _in(2), _MASK, _SIDE, _ROW_TERM, _STATE, int64))
def absorb(
    key: Array,
    value: Array,
    mask: Array,
    side: tuple[Array, Array],
    row_term: tuple[Array, float],
    state: tuple[Array, Array, Array],
    size: int,
) -> None:
    """Add all keys to the sums, ``size`` of them at a time."""
    numerator, denominator, log_scale = state
    width, columns = numerator.shape
    size = min(size, len(key))
    logs, sums = np.empty((size, width), F), np.empty((width, columns), F)
    largest, total = np.empty(width, F), np.empty(width, F)
    for start in range(0, len(key), size):
        stop = min(start + size, len(key))
        log, seen = logs[: stop - start], _part(mask, start, stop)
        largest[:] = log_scale
        _key_logs(key[start:stop], seen, side, row_term, log, largest)
        _rescale(state, largest)
        _weigh_keys(log, seen, log_scale, total)
        np.dot(log.T, value[start:stop], sums)
        numerator += sums
        denominator += total


@_compile(void(_in(2), _SIDE, _STATE, _ROWS_OUT[2], int64))
def read(
    query: Array,
    side: tuple[Array, Array],
    state: tuple[Array, Array, Array],
    out: Array,
    size: int,
) -> None:
    """Attention of queries (t, d) to the sums, ``size`` queries at a time; writes (t, e)."""
    numerator, denominator, log_scale = state
    width, columns = numerator.shape
    size = min(size, len(query))
    weight, shift = side[0], log_scale + side[1]
    logs, sums = np.empty((size, width), F), np.empty((size, columns), F)
    total = np.empty(size, F)
    for start in range(0, len(query), size):
        stop = min(start + size, len(query))
        n = stop - start
        log = logs[:n]
        np.dot(query[start:stop], weight, log)
        _weigh_queries(log, shift, denominator, total)
        np.dot(log, numerator, sums[:n])
        _divide_rows(sums[:n], total, out[start:stop])


@_compile(
    int64(
        _in(3), _in(2), _in(2), _MASK, _SIDE, _SIDE, _ROW_TERM, _STATE, _ROWS_OUT[3], int64, int64
    )
)
def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    query_side: tuple[Array, Array],
    key_side: tuple[Array, Array],
    row_term: tuple[Array, float],
    state: tuple[Array, Array, Array],
    out: Array,
    first: int,
    size: int,
) -> int:
    """Causal attention from row ``first`` on, of as many queries (g, t, d) as keys.

    Returns the start of a chunk that is too steep for one scale, with nothing of it done, or t.
    """
    numerator, denominator, log_scale = state
    t, (width, columns) = len(key), numerator.shape
    size = min(size, t)
    logs, query_logs = np.empty((size, width), F), np.empty((size, width), F)
    near, far = np.empty((size, columns), F), np.empty((size, columns), F)
    square, sums = np.empty(size * size, F), np.empty((width, columns), F)
    largest, total, row_total = np.empty(width, F), np.empty(width, F), np.empty(size, F)
    for start in range(first, t, size):
        stop = min(start + size, t)
        n, seen, values = stop - start, _part(mask, start, stop), value[start:stop]
        log, query_log, pairs = logs[:n], query_logs[:n], square[: n * n].reshape(n, n)
        largest[:] = log_scale
        _key_logs(key[start:stop], seen, key_side, row_term, log, largest)
        if not _is_gentle(log, seen, log_scale, largest):
            return start
        _rescale(state, largest)
        _weigh_keys(log, seen, log_scale, total)
        shift = log_scale + query_side[1]
        for group in range(len(query)):
            np.dot(query[group, start:stop], query_side[0], query_log)
            _weigh_queries(query_log, shift, denominator, row_total)
            np.dot(query_log, log.T, pairs)
            _hide_future(pairs, row_total)
            np.dot(query_log, numerator, far[:n])
            np.dot(pairs, values, near[:n])
            far[:n] += near[:n]
            _divide_rows(far[:n], row_total, out[group, start:stop])
        np.dot(log.T, values, sums)
        numerator += sums
        denominator += total
    return t


@_compile(void(_in(1), _in(2), _OUT[1]))
def _add_product(a: Array, rows: Array, out: Array) -> None:
    """out += a @ rows; BLAS would ask its threads for that little."""
    whole = len(a) - len(a) % 4
    for i in range(0, whole, 4):
        first, second, third, fourth = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
        for c in range(len(out)):
            out[c] += (a0 * first[c] + a1 * second[c]) + (a2 * third[c] + a3 * fourth[c])
    for i in range(whole, len(a)):
        for c in range(len(out)):
            out[c] += a[i] * rows[i, c]


@_compile(void(_OUT[1], float32, _in(1), _OUT[1], _OUT[1]))
def _weigh_key(log: Array, term: float, before: Array, kept: Array, scale: Array) -> None:
    """The scale after a key, its features at it in the place of their logs, and what sums keep."""
    for j in range(len(log)):
        x = log[j] + term
        log[j] = x
        scale[j] = x if x > before[j] or x != x else before[j]
    for j in range(len(log)):
        kept[j] = _exp(before[j] - scale[j])
    for j in range(len(log)):
        log[j] = _exp(log[j] - scale[j])


@_compile(void(_in(2), _in(1), _in(1), _in(1), _OUT[2]))
def _move(old: Array, kept: Array, weight: Array, value: Array, new: Array) -> None:
    """new = old times kept, and the products of weight and value."""
    for j in range(len(kept)):
        before, row, keep, add = old[j], new[j], kept[j], weight[j]
        for c in range(len(value)):
            row[c] = before[c] * keep + add * value[c]


@_compile(
    void(
        _in(3),
        _in(2),
        _in(2),
        _MASK,
        _SIDES,
        _SIDES,
        _ROW_TERMS,
        _STATES_IN,
        _STATES,
        _OUT[3],
        int64,
        int64,
    )
)
def step(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    query_side: tuple[Array, Array],
    key_side: tuple[Array, Array],
    row_term: tuple[Array, float],
    before: tuple[Array, Array, Array],
    after: tuple[Array, Array, Array],
    out: Array,
    first: int,
    stop: int,
) -> None:
    """One key (n, d) and queries (n, g, d) for each of n sums; writes the outputs (n, g, e).

    The sums are those of the heads of each entry of a batch; ``first`` to ``stop`` are worked on.
    """
    old, old_total, old_scale = before
    numerator, denominator, log_scale = after
    (heads, _, width), columns = key_side[0].shape, value.shape[1]
    weight, kept, shown = np.empty(width, F), np.empty(width, F), np.empty(columns, F)
    for entry in range(first, stop):
        head, scale, total = entry % heads, log_scale[entry], denominator[entry]
        if mask.size and not mask[entry]:
            scale[:] = old_scale[entry]
            kept[:], weight[:], shown[:] = F(1.0), F(0.0), F(0.0)
        else:
            shown[:], weight[:] = value[entry], key_side[1][head]
            _add_product(key[entry], key_side[0][head], weight)
            term = row_term[1] - _square_sum(key[entry], row_term[0][head])
            _weigh_key(weight, term, old_scale[entry], kept, scale)
        for j in range(width):
            total[j] = old_total[entry, j] * kept[j] + weight[j]
        _move(old[entry], kept, weight, shown, numerator[entry])
        for group in range(query.shape[1]):
            result = out[entry, group]
            weight[:], result[:] = query_side[1][head], F(0.0)
            _add_product(query[entry, group], query_side[0][head], weight)
            _weigh_query(weight, scale)
            _add_product(weight, numerator[entry], result)
            _divide(result, _dot(weight, total), result)


@_compile(void(_in(2), _in(2), _in(1), float32, boolean, _OUT[2]))
def waves(x: Array, weight: Array, bias: Array, factor: float, paired: bool, out: Array) -> None:
    """Cosines of x @ weight + bias times a factor, with their sines behind them where paired."""
    width = weight.shape[1]
    block = np.empty((_BLOCK, width), F)
    for start in range(0, len(x), _BLOCK):
        stop = min(start + _BLOCK, len(x))
        angles = block[: stop - start]
        np.dot(x[start:stop], weight, angles)
        for i in range(stop - start):
            row, columns = angles[i], out[start + i]
            far = False
            for j in range(width):
                row[j] += bias[j]
                far |= not abs(row[j]) < _FAR
            if far:
                for j in range(width):
                    columns[j] = factor * math.cos(row[j])
                    if paired:
                        columns[width + j] = factor * math.sin(row[j])
            elif paired:
                for j in range(width):
                    cosine, sine = _cosine_sine(row[j])
                    columns[j] = factor * cosine
                    columns[width + j] = factor * sine
            else:
                for j in range(width):
                    columns[j] = factor * _cosine_sine(row[j])[0]
