"""Attention with a relative bias as products with a Toeplitz matrix, by FFT: O(m e n log n).

Σ_j e^{b_{j−i}} φ(q_i)·φ(k_j) v_j is, for each feature, the matrix e^{b_{j−i}} times the products of
the feature and the values, which are made for a few columns at a time.

An FFT's error is of the order of the largest entries, whatever the size of a row's result. So it is
bounded for each row, and where a bound is too large beside the row's denominator, the row is left
to blocks; where that are many rows, all is tried in float64 first. Before that the factor e^{αl}
that leaves the rows most is taken out of the bias: exactly, since e^{α(j−i)} is a factor of key j
and one of query i, which cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rfx._xp import Array, constant, exp_nonpositive, full, has_float64, namespace
from rfx.ops.bidirectional import divide, row_weights
from rfx.ops.carry import Keys, empty_log
from rfx.ops.driver import Driver
from rfx.ops.relative_blocks import STRIP, query_features
from rfx.ops.toeplitz import convolved, fourier_length, spectrum

__all__ = ["by_fourier"]

_ERROR = 4.0
"""Roundings in the bound on an FFT's error: the most that was measured on three libraries is 3."""
_TOLERANCE = 256.0
"""Roundings of the output's dtype that a bound may reach beside the denominator."""
_FEW = 1 / 8
"""The share of strips that are computed directly rather than all in float64."""
_SLOPES, _PARTS = 8, 512
_CACHED = 2**21
"""Numbers of a piece of work, all heads together: more of them leave the caches."""


class Factors(NamedTuple):
    """What is multiplied, in one dtype; all are at most 1 in size.

    weight : of queries, shape (..., H, g, t, m)
    scaled : of keys, shape (..., H, 1, s, m)
    value : shape (..., H, 1, s, e)
    diagonals : shape (..., H, g, t + s - 1)
    """

    weight: Array
    scaled: Array
    value: Array
    diagonals: Array


def by_fourier(
    features: Any, query: Array, keys: Keys, bias: Array, seen: Array, driver: Driver
) -> tuple[Array, Array]:
    """Output (..., H, g, t, e), and which rows are good, (..., H, g, t, 1); as in `by_blocks`."""
    xp = namespace(bias)
    log, feature = query_features(features, query)
    slope = best_slope(constant(bias), query.shape[-2], keys.log.shape[-2])
    signed = feature is not None

    # A query that is not finite spoils its own row alone, whatever the form.
    counts = xp.logical_and(seen, xp.isfinite(xp.sum(constant(log), axis=-1, keepdims=True)))

    def attempt(dtype: Any) -> tuple[Array, Array]:
        factors = _factors(log, feature, keys, bias, slope, dtype)
        numerator, denominator, mass = _sums(factors, signed, driver)
        good = _bound(factors) * _unit(dtype, bias.dtype, xp) <= mass
        finite = xp.all(xp.isfinite(numerator), axis=-1, keepdims=True)
        good = xp.logical_or(xp.logical_and(good, finite), xp.logical_not(counts))
        denominator = xp.where(seen, denominator, xp.zeros_like(denominator))
        out = divide(numerator, denominator)
        return xp.astype(out, bias.dtype, copy=False), good

    out, good = attempt(bias.dtype)
    if bias.dtype == xp.float64 or not has_float64(xp):
        return out, good
    few = _bad_strips(good) <= _FEW
    return driver.branch(few, lambda: (out, good), lambda: attempt(xp.float64))


def _bad_strips(good: Array) -> Array:
    """The share of strips with a row that is not good, in any head."""
    xp, t = namespace(good), good.shape[-2]
    rows = xp.all(xp.reshape(good, (-1, t)), axis=0)
    rows = xp.concat([rows, full(rows, (-t % STRIP,), True, xp.bool)])
    bad = xp.logical_not(xp.all(xp.reshape(rows, (-1, STRIP)), axis=-1))
    return xp.mean(xp.astype(bad, xp.float32))


def _unit(dtype: Any, wanted: Any, xp: Any) -> float:
    """Roundings of the FFT over what is tolerated, as a factor of `_bound`."""
    return _ERROR * float(xp.finfo(dtype).eps) / (_TOLERANCE * float(xp.finfo(wanted).eps))


def _factors(
    log: Array, feature: Array | None, keys: Keys, bias: Array, slope: Array, dtype: Any
) -> Factors:
    xp = namespace(log)

    def cast(array: Array) -> Array:
        return xp.astype(array, dtype, copy=False)

    low, slope = empty_log(bias.dtype, xp), cast(slope)
    t, s = log.shape[-2], keys.log.shape[-2]
    hidden = keys.log <= low
    key_log = cast(keys.log) + slope[..., None] * _numbers(slope, s)[:, None]
    key_log = xp.where(hidden, xp.full_like(key_log, low), key_log)
    top = constant(xp.max(key_log, axis=-2, keepdims=True))
    scaled = exp_nonpositive(key_log - top)
    scaled = xp.where(hidden, xp.zeros_like(scaled), scaled)
    if keys.feature is not None:
        scaled = scaled * cast(keys.feature)
    weight, _ = row_weights(
        cast(log) + top[..., None, :, :], None if feature is None else cast(feature)
    )
    closed = bias <= low
    rest = cast(bias) - slope[..., None] * (_numbers(slope, t + s - 1) - (t - 1.0))
    rest = xp.where(closed, xp.full_like(rest, low), rest)
    diagonals = exp_nonpositive(rest - constant(xp.max(rest, axis=-1, keepdims=True)))
    diagonals = xp.where(closed, xp.zeros_like(diagonals), diagonals)
    return Factors(weight, scaled[..., None, :, :], cast(keys.value)[..., None, :, :], diagonals)


def _sums(factors: Factors, signed: bool, driver: Driver) -> tuple[Array, Array, Array]:
    """Numerator (..., t, e), denominator and mass (..., t, 1).

    Everything is transposed, so that transforms run along memory.
    """
    xp = namespace(factors.weight)
    weight, scaled, value = (_transposed(a) for a in factors[:3])
    value = xp.concat([value, xp.ones_like(value[..., :1, :])], axis=-2)
    columns, m, t, s = value.shape[-2], weight.shape[-2], weight.shape[-1], scaled.shape[-1]
    factor = spectrum(factors.diagonals, t, s)[..., None, None, :]
    heads = math.prod(factors.diagonals.shape[:-1])
    most = _CACHED // (heads * 2 * factor.shape[-1])
    most = max(1, min(most, (m + columns) // 3))  # beside the features, m columns, and the values
    few = _divisor(m, most)

    @driver.again
    def of_columns(weight: Array, scaled: Array, value: Array) -> Array:
        """The sums of some columns of the values over all features, (..., H, g, columns, t)."""

        def step(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
            weight, scaled = (a[..., :, None, :] for a in chunk)
            product = convolved(scaled * value[..., None, :, :], factor, t)
            return total + xp.sum(weight * product, axis=-3), None

        start = full(weight, (*weight.shape[:-2], value.shape[-2], t), 0.0, weight.dtype)
        total: Array = driver.scan(step, start, (weight, scaled), m, few)[0]
        return total

    def step(none: tuple[()], chunk: tuple[Array]) -> tuple[tuple[()], Array]:
        return none, of_columns(weight, scaled, *chunk)

    sums = xp.matrix_transpose(driver.scan(step, (), (value,), columns, most // few)[1])
    mass = sums[..., columns - 1 :]
    if signed:
        mass = of_columns(xp.abs(weight), xp.abs(scaled), value[..., columns - 1 :, :])
        mass = xp.matrix_transpose(mass)
    return sums[..., : columns - 1], sums[..., columns - 1 :], constant(mass)


def _transposed(array: Array) -> Array:
    """The transposed matrices, copied: a view would be read across memory, at each use."""
    xp = namespace(array)
    transposed = xp.matrix_transpose(array)
    return xp.reshape(xp.reshape(transposed, (-1,)), transposed.shape)


def _divisor(number: int, most: int) -> int:
    """The largest one up to ``most``, or 1: chunks are then of one size."""
    return next((n for n in range(min(most, number), 1, -1) if number % n == 0), 1)


def _bound(factors: Factors) -> Array:
    """Error of a row's denominator in roundings, (..., t, 1): that of each feature's product.

    An entry of a product by FFT of x and c is off by a few times eps·(B + ‖c‖‖x‖/√N), where B is a
    bound on the largest entry that there could be.
    """
    xp = namespace(factors.weight)
    x, c = constant(xp.abs(factors.scaled)), constant(factors.diagonals)[..., None]
    length = fourier_length(c.shape[-2])
    total, top, norm = _sizes(x)
    c_total, c_top, c_norm = _sizes(c)
    largest = xp.minimum(xp.minimum(total * c_top, top * c_total), norm * c_norm)
    bound = largest + norm * c_norm * length**-0.5
    return xp.matmul(xp.abs(constant(factors.weight)), xp.matrix_transpose(bound))


def _sizes(x: Array) -> tuple[Array, Array, Array]:
    """Sum, maximum and norm along the length."""
    xp, options = namespace(x), {"axis": -2, "keepdims": True}
    return xp.sum(x, **options), xp.max(x, **options), xp.sqrt(xp.sum(x * x, **options))


def best_slope(bias: Array, t: int, s: int) -> Array:
    """The α, shape (..., H, 1), that leaves the lowest of the rows' largest terms highest.

    With α taken out, row i's largest term is max_j e^{b_{j−i} + αi}, beside the largest product of
    a diagonal and a key's factor, max_l e^{b_l − αl} · max_j e^{αj}. All are looked at in parts.
    """
    xp = namespace(bias)
    low = empty_log(bias.dtype, xp)
    is_open = bias > low
    count = xp.sum(xp.astype(is_open, bias.dtype), axis=-1, keepdims=True)
    highest = xp.max(bias, axis=-1, keepdims=True)
    lowest = xp.min(xp.where(is_open, bias, highest), axis=-1, keepdims=True)
    spread = (highest - lowest) / xp.maximum(count - 1.0, xp.ones_like(count))
    shares = (_numbers(bias, 2 * _SLOPES + 1) - _SLOPES) / _SLOPES
    alpha = xp.max(spread, axis=-2) * shares  # (..., H, slopes)
    slope = alpha[..., None, :, None]

    part, offset = _parts(bias, xp.max, low)
    above = xp.where(part > low, part - slope * (offset - (t - 1.0)), low)
    window = _windows(bias, s)
    part, place = _parts(xp.where(window > low, window, -low), xp.min, -low)
    kept = xp.where(part < -low, part + slope * (t - 1.0 - place), -low)
    kept = xp.min(xp.min(kept, axis=-1) - xp.max(above, axis=-1), axis=-2)
    kept = kept - xp.clip(alpha * (s - 1.0), 0.0, None) - 1e-3 * xp.abs(shares)
    place = xp.argmax(kept, axis=-1, keepdims=True)
    return xp.take_along_axis(alpha, place, axis=-1)


def _parts(array: Array, reduce: Callable[..., Array], fill: float) -> tuple[Array, Array]:
    """The largest or smallest of some hundred parts, (..., 1, parts), and where they are."""
    xp, length = namespace(array), array.shape[-1]
    size = -(-length // _PARTS)
    rest = full(array, (*array.shape[:-1], -length % size), fill, array.dtype)
    array = xp.concat([array, rest], axis=-1)
    count = array.shape[-1] // size
    array = reduce(xp.reshape(array, (*array.shape[:-1], 1, count, size)), axis=-1)
    return array, _numbers(array, count) * size + 0.5 * (size - 1)


def _windows(bias: Array, size: int) -> Array:
    """The largest of each ``size`` neighbours, by doubling: those of query t - 1 first."""
    xp, width = namespace(bias), 1
    while 2 * width <= size:
        bias = xp.maximum(bias[..., :-width], bias[..., width:])
        width *= 2
    rest = size - width
    return bias if rest == 0 else xp.maximum(bias[..., :-rest], bias[..., rest:])


def _numbers(like: Array, length: int) -> Array:
    """0, 1, 2, ... in the dtype of ``like``, beside it; exact up to 2^24."""
    return namespace(like).cumulative_sum(full(like, (length,), 1.0, like.dtype), axis=0) - 1.0
