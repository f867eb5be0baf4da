"""What numba compiles, in float32: loops over numbers that stay in cache between matrix products.

One file, since numba's cache on disk knows a change of the file that holds a function, not of those
that it calls. Each kernel has one signature, so that it compiles once, when `compiled` first asks
for it, and runs without the interpreter's lock, so that threads work side by side.

Axes: ``t`` queries, ``s`` keys, ``d`` and ``e`` their columns and those of the values, ``m``
features, ``g`` query heads that share a key head. All arrays belong to one key head, except in
`step`. A mask without entries hides nothing.

The kernels that end in ``_back`` are the gradients of others, by the formulas of
`rfx_numba.gradient`; so are arrays that end so, and ``found`` is where those of inputs are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from threading import RLock
from typing import Any

import numpy as np
from numba import (  # type: ignore[attr-defined]  # carray is there
    boolean,
    carray,
    float32,
    int64,
    njit,
    types,
    void,
)
from numba.extending import intrinsic

__all__ = ["compiled"]

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
_SIDE = types.Tuple((_in(2), _in(1)))
"""Frequencies (d, m) and bias (m,)."""
_ROW_TERM = types.Tuple((_in(1), float32))
"""What a key's log has besides, constant − Σ quadratic z²: quadratic (d,) and the constant."""
_STATE = types.Tuple((_OUT[2], _OUT[1], _OUT[1]))
"""Sums (m, e) and (m,) divided by exp of their log scale (m,), written to."""
_STATE_IN = types.Tuple((_in(2), _in(1), _in(1)))
_SUMS_BACK = types.Tuple((_OUT[2], _OUT[1]))
"""Gradients of the sums."""
_KEPT = types.Tuple((types.Array(int64, 1, "C"), _OUT[2], _OUT[2]))
"""What the gradient of causal attention keeps, see `attend_queries_back`."""
_SIDES = types.Tuple((_in(3), _in(2)))
_ROW_TERMS = types.Tuple((_in(2), float32))
_STATES_IN = types.Tuple((_in(3), _in(2), _in(2)))
_STATES = types.Tuple((_OUT[3], _OUT[2], _OUT[2]))
"""The same with an axis before them: of heads, or of sums."""


_signatures: dict[str, Any] = {}
"""Of the kernels, by their names."""
_lock = RLock()


def _kernel(signature: Any, fastmath: Any = frozenset({"contract"})) -> Callable[..., Any]:
    def wrap(function: Any) -> Any:
        _signatures[function.__name__] = signature
        options: dict[str, Any] = {"nogil": True, "fastmath": set(fastmath)}
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # nowhere to write a cache to
            return njit(**options)(function)

    return wrap


@cache
def compiled(name: str) -> Callable[..., Any]:
    """The kernel of this name, compiled or read from disk, after those that it calls."""
    kernel: Any = globals()[name]
    for used in kernel.py_func.__code__.co_names:
        if used in _signatures:
            compiled(used)
    with _lock:
        if not kernel.signatures:
            kernel.compile(_signatures[name])
            kernel.disable_compile()
    return kernel


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


@_kernel(float32(_in(1), _in(1)), _SUMS)
def _dot(a: Array, b: Array) -> Any:
    total = F(0.0)
    for j in range(a.shape[0]):
        total += a[j] * b[j]
    return total


@_kernel(float32(_in(1), _in(1)), _SUMS)
def _square_sum(row: Array, quadratic: Array) -> Any:
    total = F(0.0)
    for c in range(quadratic.shape[0]):  # none where a map has no such term
        total += quadratic[c] * row[c] * row[c]
    return total


@njit(inline="always")
def _in_order(bits: Any) -> Any:
    """The bits of a float as a whole number of the same order, and back; NaN is beyond infinity."""
    return bits ^ ((bits >> _I(31)) & _I(0x7FFFFFFF))


@_kernel(float32(_in(1)))
def _largest(row: Array) -> Any:
    """The largest number, or NaN. Whole numbers are compared in lanes, floats are not."""
    bits = row.view(_I)
    largest = _I(-0x80000000)
    for j in range(bits.shape[0]):
        largest = max(largest, _in_order(bits[j]))
    return _I(_in_order(largest)).view(F)


@_kernel(void(_OUT[1], _in(1)))
def _weigh_query(log: Array, shift: Array) -> None:
    """Logs of a query become features divided by the largest."""
    for j in range(log.shape[0]):
        log[j] += shift[j]
    largest = _largest(log)
    for j in range(log.shape[0]):
        log[j] = _exp(log[j] - largest)


@_kernel(void(_OUT[2], _in(1), _in(1), _OUT[1]))
def _weigh_queries(log: Array, shift: Array, denominator: Array, total: Array) -> None:
    """`_weigh_query` for each row of logs (t, m); total = the sums of their features."""
    for i in range(log.shape[0]):
        _weigh_query(log[i], shift)
        total[i] = _dot(log[i], denominator)


@_kernel(void(_in(2), _MASK, _SIDE, _ROW_TERM, _OUT[2]))
def _key_logs(
    key: Array,
    mask: Array,
    side: tuple[Array, Array],
    row_term: tuple[Array, float],
    log: Array,
) -> None:
    """Logs (s, m), `_LOW` for what is masked."""
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
            row[j] += bias[j] + term


@_kernel(int64(_OUT[2], _in(1), _OUT[1]))
def _gentle_rows(log: Array, before: Array, limit: Array) -> int:
    """How many keys one scale serves, at least one: it may hide nothing that a query sees.

    Every query sees what was there before, at its scale, and the first key. That is
    `rfx.ops.causal.is_gentle`; keys that hold NaN begin anew, and what follows them is all NaN.
    """
    for j in range(before.shape[0]):
        x = max(before[j], log[0, j])
        limit[j] = x + _STEEP if x == x else F(np.inf)
    for i in range(1, log.shape[0]):
        row = log[i]
        steep = False
        for j in range(row.shape[0]):
            steep |= not row[j] <= limit[j]
        if steep:
            return i
    return len(log)


@_kernel(void(_OUT[2], _OUT[1], _OUT[1]))
def _raise(log: Array, log_scale: Array, kept: Array) -> None:
    """The scale rises to the largest logs (s, m); kept = what sums at it are to be scaled by."""
    kept[:] = log_scale
    for i in range(log.shape[0]):
        row = log[i]
        for j in range(row.shape[0]):
            x = row[j]
            log_scale[j] = x if x > log_scale[j] or x != x else log_scale[j]  # NaN stays
    for j in range(log_scale.shape[0]):
        kept[j] = _exp(kept[j] - log_scale[j])


@_kernel(void(_OUT[2], _OUT[1], _in(1)))
def _scale_sums(numerator: Array, denominator: Array, kept: Array) -> None:
    for j in range(kept.shape[0]):
        if kept[j] != F(1.0):
            denominator[j] *= kept[j]
            numerator[j] *= kept[j]


@_kernel(void(_OUT[2], _MASK, _in(1), _OUT[1]))
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


@_kernel(void(_OUT[2], _OUT[1]), _SUMS)
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
def _divide(sums: Array, total: Any) -> None:
    """`rfx.ops.bidirectional.divide` for one query."""
    nothing = abs(total) < _TINY
    share = F(0.0) if nothing else F(1.0) / total
    for c in range(sums.shape[0]):
        sums[c] = F(0.0) if nothing else sums[c] * share


@_kernel(void(_OUT[2], _in(1)))
def _divide_rows(sums: Array, total: Array) -> None:
    for i in range(sums.shape[0]):
        _divide(sums[i], total[i])


@njit(inline="always")
def _part(mask: Array, start: int, stop: int) -> Any:
    return mask[start:stop] if mask.size else mask


@_kernel(void(_in(2), _in(2), _MASK, _SIDE, _ROW_TERM, _STATE, int64))
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
    size = max(1, min(size, len(key)))
    logs, sums = np.empty((size, width), F), np.empty((width, columns), F)
    kept, total = np.empty(width, F), np.empty(width, F)
    for start in range(0, len(key), size):
        stop = min(start + size, len(key))
        log, seen = logs[: stop - start], _part(mask, start, stop)
        _key_logs(key[start:stop], seen, side, row_term, log)
        _raise(log, log_scale, kept)
        _scale_sums(numerator, denominator, kept)
        _weigh_keys(log, seen, log_scale, total)
        np.dot(log.T, value[start:stop], sums)
        numerator += sums
        denominator += total


@_kernel(void(_in(2), _SIDE, _STATE_IN, _OUT[2], int64))
def read(
    query: Array,
    side: tuple[Array, Array],
    state: tuple[Array, Array, Array],
    out: Array,
    size: int,
) -> None:
    """Attention of queries (t, d) to the sums, ``size`` queries at a time; writes (t, e)."""
    numerator, denominator, log_scale = state
    size = max(1, min(size, len(query)))
    weight, shift = side[0], log_scale + side[1]
    logs, total = np.empty((size, len(numerator)), F), np.empty(size, F)
    for start in range(0, len(query), size):
        stop = min(start + size, len(query))
        log, its_out = logs[: stop - start], out[start:stop]
        np.dot(query[start:stop], weight, log)
        _weigh_queries(log, shift, denominator, total)
        np.dot(log, numerator, its_out)
        _divide_rows(its_out, total)


@_kernel(int64(_in(2), _MASK, _SIDE, _ROW_TERM, _OUT[1], int64, int64, _OUT[2], _OUT[1], _OUT[1]))
def _next_keys(
    key: Array,
    mask: Array,
    side: tuple[Array, Array],
    row_term: tuple[Array, float],
    log_scale: Array,
    start: int,
    size: int,
    log: Array,
    kept: Array,
    total: Array,
) -> int:
    """Features of the keys from ``start`` on that one scale serves, which it moves to.

    Returns where these keys end: ``size`` of them later, or before one whose logs are steep.
    ``kept`` is what sums at the scale are to be scaled by, ``total`` the sums of the features.
    """
    stop = min(start + size, len(key))
    log = log[: stop - start]
    _key_logs(key[start:stop], _part(mask, start, stop), side, row_term, log)
    stop = start + _gentle_rows(log, log_scale, kept)
    log = log[: stop - start]
    _raise(log, log_scale, kept)
    _weigh_keys(log, _part(mask, start, stop), log_scale, total)
    return stop


@_kernel(
    void(_in(3), _in(2), _in(2), _MASK, _SIDE, _SIDE, _ROW_TERM, _STATE, _OUT[3], int64, int64)
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
) -> None:
    """Causal attention of queries (g, t, d) from the one at ``first`` on, as many as keys."""
    numerator, denominator, log_scale = state
    s, (width, columns) = len(key), numerator.shape
    size = min(size, s)
    logs, query_logs = np.empty((size, width), F), np.empty((size, width), F)
    near, square = np.empty((size, columns), F), np.empty(size * size, F)
    sums, kept, total = np.empty((width, columns), F), np.empty(width, F), np.empty(width, F)
    row_total = np.empty(size, F)
    start = 0
    while start < s:
        stop = _next_keys(key, mask, key_side, row_term, log_scale, start, size, logs, kept, total)
        _scale_sums(numerator, denominator, kept)
        n, values, shift = stop - start, value[start:stop], log_scale + query_side[1]
        a, b = first + start, first + stop
        log, query_log, pairs = logs[:n], query_logs[:n], square[: n * n].reshape(n, n)
        for group in range(len(query)):
            its_out = out[group, a:b]
            np.dot(query[group, a:b], query_side[0], query_log)
            _weigh_queries(query_log, shift, denominator, row_total)
            np.dot(query_log, log.T, pairs)
            _hide_future(pairs, row_total)
            np.dot(query_log, numerator, its_out)
            np.dot(pairs, values, near[:n])
            its_out += near[:n]
            _divide_rows(its_out, row_total)
        np.dot(log.T, values, sums)
        numerator += sums
        denominator += total
        start = stop


@_kernel(void(_in(1), _in(2), _OUT[1]))
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


@_kernel(void(_OUT[1], float32, _in(1), _OUT[1], _OUT[1]))
def _weigh_key(log: Array, term: float, before: Array, kept: Array, scale: Array) -> None:
    """The scale after a key, its features at it in the place of their logs, and what sums keep.

    The scale may take the place of the one before.
    """
    for j in range(len(log)):
        x, past = log[j] + term, before[j]
        highest = x if x > past or x != x else past
        log[j], kept[j], scale[j] = x, past - highest, highest
    for j in range(len(log)):
        kept[j] = _exp(kept[j])
    for j in range(len(log)):
        log[j] = _exp(log[j] - scale[j])


@_kernel(void(_in(2), _in(1), _in(1), _in(1), _OUT[2]))
def _move(old: Array, kept: Array, weight: Array, value: Array, new: Array) -> None:
    """new = old times kept, and the products of weight and value."""
    for j in range(len(kept)):
        before, row, keep, add = old[j], new[j], kept[j], weight[j]
        for c in range(len(value)):
            row[c] = before[c] * keep + add * value[c]


@_kernel(void(_OUT[2], _in(1), _in(1), _in(1)))
def _move_in_place(sums: Array, kept: Array, weight: Array, value: Array) -> None:
    """`_move` to the same memory, of which compilers must know to work in lanes."""
    for j in range(len(kept)):
        row, keep, add = sums[j], kept[j], weight[j]
        for c in range(len(value)):
            row[c] = row[c] * keep + add * value[c]


@_kernel(
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
    Those after the key may take the place of those before it.
    """
    in_place = before[0].ctypes.data == after[0].ctypes.data
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
        if in_place:
            _move_in_place(numerator[entry], kept, weight, shown)
        else:
            _move(old[entry], kept, weight, shown, numerator[entry])
        for group in range(query.shape[1]):
            result = out[entry, group]
            weight[:], result[:] = query_side[1][head], F(0.0)
            _add_product(query[entry, group], query_side[0][head], weight)
            _weigh_query(weight, scale)
            _add_product(weight, numerator[entry], result)
            _divide(result, _dot(weight, total))


def _as_pointer(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(int64), generate


_pointer: Any = intrinsic(_as_pointer)


@njit(inline="always")
def _at(address: int, shape: Any) -> Any:
    return carray(_pointer(address), shape, F)


@_kernel(void(types.Array(int64, 1, "C"), types.UniTuple(int64, 8), float32, int64, int64))
def step_in_memory(
    addresses: Array, sizes: tuple[int, ...], log_constant: float, first: int, stop: int
) -> None:
    """`step` on arrays at addresses: sixteen arrays would take as long to hand over as the step.

    addresses : in the order of the arguments of `step`, and of their parts
    sizes : n, g, h, d, e, m; columns of quadratic, 0 or d; and rows of the mask, 0 or n
    """
    n, g, h, d, e, m, squared, masked = sizes
    mask = carray(_pointer(addresses[3]), (masked,), np.bool_)
    query_side = _at(addresses[4], (h, d, m)), _at(addresses[5], (h, m))
    key_side = _at(addresses[6], (h, d, m)), _at(addresses[7], (h, m))
    row_term = _at(addresses[8], (h, squared)), log_constant
    before = _at(addresses[9], (n, m, e)), _at(addresses[10], (n, m)), _at(addresses[11], (n, m))
    after = _at(addresses[12], (n, m, e)), _at(addresses[13], (n, m)), _at(addresses[14], (n, m))
    query, out = _at(addresses[0], (n, g, d)), _at(addresses[15], (n, g, e))
    key, value = _at(addresses[1], (n, d)), _at(addresses[2], (n, e))
    sides = (query_side, key_side, row_term)
    step(query, key, value, mask, *sides, before, after, out, first, stop)


@_kernel(void(_in(2), _in(2), _in(1), float32, boolean, _OUT[2]))
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


@_kernel(_OUT[2](_in(2)))
def _turned(matrix: Array) -> Array:
    """The transpose, in order; small products of rows with rows take half as long again."""
    return np.ascontiguousarray(matrix.T)


@_kernel(void(_in(2), _in(2), _OUT[1]))
def _against(back: Array, out: Array, common: Array) -> None:
    """What the quotient takes from each query's gradient: −∂out · out."""
    for i in range(back.shape[0]):
        common[i] = -_dot(back[i], out[i])


@_kernel(void(_OUT[2], _in(1)))
def _add_visible(pairs: Array, common: Array) -> None:
    """Pairs above the diagonal become 0; the others get what their row has in common."""
    for i in range(pairs.shape[0]):
        row = pairs[i]
        for j in range(i + 1):
            row[j] += common[i]
        row[i + 1 :] = F(0.0)


@_kernel(void(_OUT[2], _in(1), _in(2), _OUT[1], _OUT[1]))
def _weigh_seeing(log: Array, shift: Array, keys: Array, seen: Array, total: Array) -> None:
    """`_weigh_queries` where each also sees the keys (t, m) up to its own; ``seen`` grows."""
    for i in range(log.shape[0]):
        key = keys[i]
        for j in range(key.shape[0]):
            seen[j] += key[j]
        _weigh_query(log[i], shift)
        total[i] = _dot(log[i], seen)


@_kernel(void(_OUT[2], _in(1), _in(1), _in(2)))
def _log_change(change: Array, common: Array, total: Array, weight: Array) -> None:
    """From gradients by sums with values to those of logs: (change + common totalᵀ) weight."""
    for i in range(change.shape[0]):
        row, its_weight = change[i], weight[i]
        for j in range(row.shape[0]):
            row[j] = (row[j] + common[i] * total[j]) * its_weight[j]


@_kernel(void(_SUMS_BACK, _in(1), _in(1), _OUT[1]))
def _move_back(sums: tuple[Array, Array], before: Array, after: Array, kept: Array) -> None:
    """Gradients of sums at the scale ``after`` become those at ``before``, which is no larger."""
    for j in range(kept.shape[0]):
        kept[j] = _exp(before[j] - after[j])
    _scale_sums(sums[0], sums[1], kept)


@_kernel(void(_in(2), _in(2), _in(2), _ROW_TERM, _OUT[2]), _SUMS)
def _key_gradients(
    key: Array, change: Array, turned: Array, row_term: tuple[Array, float], found: Array
) -> None:
    """From gradients of logs (s, m) to those of keys (s, d); turned: frequencies (m, d)."""
    quadratic = row_term[0]
    np.dot(change, turned, found)
    if not quadratic.size:
        return
    for i in range(key.shape[0]):
        row, its_key, total = found[i], key[i], F(0.0)
        for j in range(change.shape[1]):
            total += change[i, j]
        for c in range(quadratic.shape[0]):
            row[c] -= F(2.0) * total * quadratic[c] * its_key[c]


@_kernel(void(_in(2), _SIDE, _STATE_IN, _in(2), _in(2), _SUMS_BACK, _OUT[2], int64))
def read_back(
    query: Array,
    side: tuple[Array, Array],
    state: tuple[Array, Array, Array],
    out: Array,
    back: Array,
    sums_back: tuple[Array, Array],
    found: Array,
    size: int,
) -> None:
    """The gradient of `read`: writes that of queries (t, d), and adds to that of the sums."""
    numerator, denominator, log_scale = state
    numerator_back, denominator_back = sums_back
    width, columns = numerator.shape
    size = max(1, min(size, len(query)))
    weight, shift = side[0], log_scale + side[1]
    weight_turned, numerator_turned = _turned(weight), _turned(numerator)
    logs, changes = np.empty((size, width), F), np.empty((size, width), F)
    sums, total, commons = np.empty((width, columns), F), np.empty(size, F), np.empty(size, F)
    for start in range(0, len(query), size):
        stop = min(start + size, len(query))
        n, its_back = stop - start, back[start:stop]
        log, change, common = logs[:n], changes[:n], commons[:n]
        np.dot(query[start:stop], weight, log)
        _weigh_queries(log, shift, denominator, total)
        _divide_rows(log, total)
        _against(its_back, out[start:stop], common)
        np.dot(its_back, numerator_turned, change)
        _log_change(change, common, denominator, log)
        np.dot(change, weight_turned, found[start:stop])
        np.dot(log.T, its_back, sums)
        numerator_back += sums
        _add_product(common, log, denominator_back)


@_kernel(
    void(
        _in(2), _in(2), _MASK, _SIDE, _ROW_TERM, _in(1), _in(1), _SUMS_BACK, _OUT[2], _OUT[2], int64
    )
)
def absorb_back(
    key: Array,
    value: Array,
    mask: Array,
    side: tuple[Array, Array],
    row_term: tuple[Array, float],
    log_scale: Array,
    before: Array,
    sums_back: tuple[Array, Array],
    key_found: Array,
    value_found: Array,
    size: int,
) -> None:
    """The gradient of `absorb`: of keys (s, d) and values (s, e), from that of the sums.

    The latter moves from ``log_scale`` to the scale that was there ``before``.
    """
    numerator_back, denominator_back = sums_back
    width = len(log_scale)
    size = max(1, min(size, len(key)))
    logs, changes = np.empty((size, width), F), np.empty((size, width), F)
    total, common = np.empty(width, F), np.ones(size, F)
    weight_turned, numerator_turned = _turned(side[0]), _turned(numerator_back)
    for start in range(0, len(key), size):
        stop = min(start + size, len(key))
        log, change, seen = logs[: stop - start], changes[: stop - start], _part(mask, start, stop)
        _key_logs(key[start:stop], seen, side, row_term, log)
        _weigh_keys(log, seen, log_scale, total)
        np.dot(log, numerator_back, value_found[start:stop])
        np.dot(value[start:stop], numerator_turned, change)
        _log_change(change, common, denominator_back, log)
        _key_gradients(key[start:stop], change, weight_turned, row_term, key_found[start:stop])
    _move_back(sums_back, before, log_scale, total)


@_kernel(
    _KEPT(
        _in(3),
        _in(2),
        _in(2),
        _MASK,
        _SIDE,
        _SIDE,
        _ROW_TERM,
        _STATE_IN,
        _in(3),
        _in(3),
        _OUT[3],
        int64,
        int64,
    )
)
def attend_queries_back(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    query_side: tuple[Array, Array],
    key_side: tuple[Array, Array],
    row_term: tuple[Array, float],
    state: tuple[Array, Array, Array],
    out: Array,
    back: Array,
    found: Array,
    first: int,
    size: int,
) -> tuple[Array, Array, Array]:
    """The gradient of `attend` in its queries (g, t, d), and what `attend_keys_back` needs.

    That is where chunks begin, and the last ends; log scales before each chunk and after the last;
    and the denominators (g, s). Goes forward over the chunks, so that the sums are at hand.
    """
    s, (width, columns) = len(key), state[0].shape
    numerator, denominator, log_scale = _turned(state[0]), state[1].copy(), state[2].copy()
    size = max(1, min(size, s))
    logs, query_logs = np.empty((size, width), F), np.empty((size, width), F)
    nears, changes = np.empty((size, width), F), np.empty((size, width), F)
    square, commons = np.empty(size * size, F), np.empty(size, F)
    sums, kept, total = np.empty((columns, width), F), np.empty(width, F), np.empty(width, F)
    seen = np.empty(width, F)
    totals, turned = np.empty((len(query), s), F), _turned(query_side[0])
    chunks = 0
    bounds, scales = np.zeros(s // size + 4, np.int64), np.empty((s // size + 4, width), F)
    scales[0] = log_scale
    while bounds[chunks] < s:
        start = bounds[chunks]
        stop = _next_keys(key, mask, key_side, row_term, log_scale, start, size, logs, kept, total)
        numerator *= kept
        denominator *= kept
        chunks += 1
        if chunks == len(bounds):
            bounds = np.concatenate((bounds, np.empty_like(bounds)))
            scales = np.concatenate((scales, np.empty_like(scales)))
        bounds[chunks], scales[chunks] = stop, log_scale
        n, values, shift = stop - start, value[start:stop], log_scale + query_side[1]
        a, b = first + start, first + stop
        log, weight, near, change = logs[:n], query_logs[:n], nears[:n], changes[:n]
        pairs, common = square[: n * n].reshape(n, n), commons[:n]
        for group in range(len(query)):
            its_back, its_total = back[group, a:b], totals[group, start:stop]
            np.dot(query[group, a:b], query_side[0], weight)
            seen[:] = denominator
            _weigh_seeing(weight, shift, log, seen, its_total)
            _divide_rows(weight, its_total)
            _against(its_back, out[group, a:b], common)
            np.dot(its_back, values.T, pairs)
            _add_visible(pairs, common)
            np.dot(pairs, log, near)
            np.dot(its_back, numerator, change)
            change += near
            _log_change(change, common, denominator, weight)
            np.dot(change, turned, found[group, a:b])
        np.dot(values.T, log, sums)
        numerator += sums
        denominator += total
    return bounds[: chunks + 1], scales[: chunks + 1], totals


@_kernel(
    void(
        _in(3),
        _in(2),
        _in(2),
        _MASK,
        _SIDE,
        _SIDE,
        _ROW_TERM,
        _KEPT,
        _in(3),
        _in(3),
        _SUMS_BACK,
        _OUT[2],
        _OUT[2],
        int64,
    )
)
def attend_keys_back(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    query_side: tuple[Array, Array],
    key_side: tuple[Array, Array],
    row_term: tuple[Array, float],
    kept: tuple[Array, Array, Array],
    out: Array,
    back: Array,
    sums_back: tuple[Array, Array],
    key_found: Array,
    value_found: Array,
    first: int,
) -> None:
    """The gradient of `attend` in keys and values, and from the last sums to the first.

    Goes back over the chunks, so that the gradients of the sums after them are at hand.
    """
    bounds, scales, totals = kept
    numerator_back, denominator_back = sums_back
    width, columns = numerator_back.shape
    size = np.max(np.diff(bounds)) if len(bounds) > 1 else 0
    logs, query_logs = np.empty((size, width), F), np.empty((size, width), F)
    nears, changes = np.empty((size, width), F), np.empty((size, width), F)
    square, commons, ones = np.empty(size * size, F), np.empty(size, F), np.ones(size, F)
    value_nears, sums = np.empty((size, columns), F), np.empty((width, columns), F)
    total, turned = np.empty(width, F), _turned(key_side[0])
    for chunk in range(len(bounds) - 2, -1, -1):
        start, stop = bounds[chunk], bounds[chunk + 1]
        a, b, before, after = first + start, first + stop, scales[chunk], scales[chunk + 1]
        n, seen, shift = stop - start, _part(mask, start, stop), after + query_side[1]
        keys, values, its_found = key[start:stop], value[start:stop], value_found[start:stop]
        log, weight, near, change = logs[:n], query_logs[:n], nears[:n], changes[:n]
        pairs, common, value_near = square[: n * n].reshape(n, n), commons[:n], value_nears[:n]
        _key_logs(keys, seen, key_side, row_term, log)
        _weigh_keys(log, seen, after, total)
        np.dot(log, numerator_back, its_found)
        np.dot(values, numerator_back.T, change)
        total[:] = F(0.0)
        for group in range(len(query)):
            its_back = back[group, a:b]
            np.dot(query[group, a:b], query_side[0], weight)
            for i in range(n):
                _weigh_query(weight[i], shift)
            _divide_rows(weight, totals[group, start:stop])
            np.dot(weight, log.T, pairs)
            _hide_future(pairs, common)
            np.dot(pairs.T, its_back, value_near)
            its_found += value_near
            _against(its_back, out[group, a:b], common)
            np.dot(its_back, values.T, pairs)
            _add_visible(pairs, common)
            np.dot(pairs.T, weight, near)
            change += near
            np.dot(weight.T, its_back, sums)
            numerator_back += sums
            _add_product(common, weight, total)
        _log_change(change, ones, denominator_back, log)
        _key_gradients(keys, change, turned, row_term, key_found[start:stop])
        denominator_back += total
        _move_back(sums_back, before, after, total)
