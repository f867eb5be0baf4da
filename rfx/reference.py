"""Oracles in NumPy float64: slow, quadratic and obvious.

They take arrays of any library, and of a drawn map only its arrays, its constant and its form: the
formulas are written out again here, apart from those of the ops and of the maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from rfx._xp import Array, to_numpy
from rfx.features import DrawnMap, PlainMap
from rfx.features.forms import (
    CellMap,
    ChiSquaredMap,
    ComplexMap,
    CompositeMap,
    ExponentialMap,
    MonomialMap,
    PointwiseMap,
    PolynomialMap,
    TrigonometricMap,
)
from rfx.features.preparation import LogShift, SquaredNorm, UnitNorm
from rfx.kernels import ArcCosine, Gaussian, Kernel, Pointwise, SignedKernel, Softmax
from rfx.projections.structured import Structured

__all__ = [
    "conditioning",
    "features",
    "gram",
    "kernel_attention",
    "linear_attention",
    "log_kernel",
    "log_size",
]

SideName = Literal["query", "key"]


def features(drawn: DrawnMap, x: Array, side: SideName) -> tuple[np.ndarray, np.ndarray]:
    """Features of points as logs and signed factors: feature j is value_j · exp(log_j).

    Parameters
    ----------
    drawn : DrawnMap
        Of a form known here.
    x : Array, shape (..., t, d)
        With an axis of heads if the map has one; grouped query heads take the arrays of their key
        head.
    side : {"query", "key"}

    Returns
    -------
    log : numpy.ndarray, shape (..., t, m), or (..., t, 1) where all features of a row share one
    value : numpy.ndarray, shape (..., t, m)

    Raises
    ------
    TypeError
        If the form is not known here.

    Examples
    --------
    >>> import numpy as np, rfx, rfx.reference
    >>> x = np.ones((3, 4))
    >>> phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=x)
    >>> log, value = rfx.reference.features(phi, x, "query")
    >>> bool(np.allclose(value * np.exp(log), phi.query(x).exp()))
    True
    """
    return _features(drawn, x, side)


def _features(drawn: DrawnMap, x: Array, side: SideName) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(drawn, CompositeMap):
        return _composite(drawn, x, side)
    if isinstance(drawn, ChiSquaredMap):
        return _chi_squared(drawn, _float64(x))
    if not isinstance(drawn, PlainMap):
        raise TypeError(
            f"`drawn` must be of a form known here, got {type(drawn).__name__}; "
            "write its formula into rfx.reference first"
        )
    points = _prepared(drawn, _float64(x))
    held = _side(drawn, side, points)
    if (shift := held.get("shift")) is not None:
        points = points - shift[..., None, :]
    if (transform := held.get("transform")) is not None:
        points = _times(points, transform, held)
    row = np.full((*points.shape[:-1], 1), drawn.log_constant)
    if (quadratic := held.get("quadratic")) is not None:
        row = row - np.sum(quadratic[..., None, :] * points**2, axis=-1, keepdims=True)
    if (metric := held.get("metric")) is not None:
        row = row - 0.5 * np.sum(_times(points, metric, held) ** 2, axis=-1, keepdims=True)
    if (linear := held.get("linear")) is not None:
        row = row + np.sum(linear[..., None, :] * points, axis=-1, keepdims=True)
    if (constant := held.get("constant")) is not None:
        row = row + constant[..., None, None]
    return _of_form(drawn, points, held, row)


def _composite(drawn: CompositeMap, x: Array, side: SideName) -> tuple[np.ndarray, np.ndarray]:
    """Kronecker products side by side, with a log for each feature."""
    each = [
        (np.broadcast_to(log, value.shape), value)
        for log, value in (_features(m, x, side) for m in drawn.maps)
    ]
    logs, values = [], []
    for c, which in drawn.terms:
        log = np.full((*np.shape(x)[:-1], 1), 0.5 * math.log(abs(c)))
        value = np.full(log.shape, -1.0 if c < 0.0 and side == "query" else 1.0)
        for i in which:
            log = (log[..., :, None] + each[i][0][..., None, :]).reshape(*log.shape[:-1], -1)
            value = (value[..., :, None] * each[i][1][..., None, :]).reshape(log.shape)
        logs.append(log)
        values.append(value)
    return np.concatenate(logs, axis=-1), np.concatenate(values, axis=-1)


def _chi_squared(drawn: ChiSquaredMap, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def of(array: Array, j: int) -> np.ndarray:
        numbers = _float64(array)[..., j, None, None]
        return (
            np.repeat(numbers, points.shape[-3] // len(numbers), axis=0)
            if array.ndim > 1
            else numbers
        )

    log = np.log(np.where(points == 0.0, 1.0, points))
    columns = [np.sqrt(points) * of(drawn.amplitude, 0)]
    for j in range(drawn.frequency.shape[-1]):
        for wave in (np.cos, np.sin):
            size = np.sqrt(points) * of(drawn.amplitude, j + 1)
            columns.append(size * wave(of(drawn.frequency, j) * log))
    return np.zeros((*points.shape[:-1], 1)), np.concatenate(columns, axis=-1)


def _prepared(drawn: PlainMap, points: np.ndarray) -> np.ndarray:
    """What the map does to points before anything else."""
    match drawn.preparation:
        case None:
            return points
        case UnitNorm():
            norm = np.linalg.norm(points, axis=-1, keepdims=True)
            return points / np.where(norm == 0.0, 1.0, norm)
        case LogShift(shift):
            return np.log1p(points / shift)
        case SquaredNorm(left_out):
            inside = points[..., : points.shape[-1] - left_out]
            return np.concatenate([points, np.sum(inside**2, axis=-1, keepdims=True)], axis=-1)
    raise TypeError(f"{drawn.preparation!r} is not known here; write it into rfx.reference first")


def _of_form(
    drawn: PlainMap, points: np.ndarray, held: dict[str, np.ndarray], row: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    def project(points: np.ndarray, weight: str = "weight", bias: str = "bias") -> np.ndarray:
        projected = points @ held[weight]
        return projected + held[bias][..., None, :] if bias in held else projected

    if isinstance(drawn, ExponentialMap):
        projected = project(points)
        return projected + row, np.ones_like(projected)
    if isinstance(drawn, TrigonometricMap):
        angle = project(points)
        waves = [np.cos(angle), np.sin(angle)] if drawn.paired else [np.cos(angle)]
        return row, np.concatenate(waves, axis=-1)
    if isinstance(drawn, ComplexMap):
        log = project(points) + row
        if "frequency" not in held:
            return log, np.ones_like(log)
        angle = project(points, "frequency", "phase")
        if "twist" in held:
            angle = angle + np.sum(held["twist"][..., None, :] * points**2, axis=-1, keepdims=True)
        if not drawn.paired:
            return log, np.cos(angle)
        both = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
        return np.concatenate([log, log], axis=-1), both
    if isinstance(drawn, CellMap):
        place = np.argmax(project(points), axis=-1, keepdims=True)
        values = np.broadcast_to(
            held["scale"][..., None, :], (*place.shape[:-1], held["scale"].shape[-1])
        )
        return row, np.take_along_axis(values, place, axis=-1)
    if isinstance(drawn, MonomialMap):
        powers = held["weight"]
        log = np.log(np.abs(np.where(points == 0.0, 1.0, points)))
        signs = [
            np.prod(np.sign(points)[..., :, None] ** part[..., None, :, :], axis=-2)
            for part in np.array_split(powers, max(1, powers.shape[-1] // 64), axis=-1)
        ]
        return project(log) + row, np.concatenate(signs, axis=-1)
    if isinstance(drawn, PointwiseMap):
        value = _function(drawn.function)(project(points))
        top = np.max(np.abs(value), axis=-1, keepdims=True) + drawn.epsilon
        top = np.where(top == 0.0, 1.0, top)
        return np.log(top) + row, (value + drawn.epsilon) / top
    if isinstance(drawn, PolynomialMap):
        factors = project(points).astype(complex)
        if "frequency" in held:
            factors += 1j * project(points, "frequency", "phase")
        log, value = _products(drawn, factors, held.get("scale"))
        return log + row, value
    raise TypeError(
        f"`drawn` must be of a form known here, got {type(drawn).__name__}; "
        "write its formula into rfx.reference first"
    )


def _products(
    drawn: PolynomialMap, factors: np.ndarray, scale: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Products of complex factors (..., t, sum of widths), real parts and then imaginary ones.

    Sizes are multiplied as logs, and the log that a row has is that of its largest column.
    """
    count = (drawn.num_features + drawn.real) // drawn.columns
    value = np.ones((*factors.shape[:-1], count), dtype=complex)
    if scale is not None:
        value = value * scale[..., None, :]
    log, first = np.zeros(value.shape), 0
    for width in (0, *drawn.widths):
        value[..., :width] *= factors[..., first : first + width]
        size = np.abs(value)
        log, value = (
            log + np.log(np.where(size == 0.0, 1.0, size)),
            np.where(size == 0.0, 0.0, value / np.where(size == 0.0, 1.0, size)),
        )
        first += width
    columns = [value.real]
    if drawn.columns == 2:
        columns.append(value.imag[..., : count - drawn.real])
    found = np.concatenate(columns, axis=-1)
    logs = np.concatenate([log, log[..., : found.shape[-1] - count]], axis=-1)
    with np.errstate(divide="ignore"):
        top = np.max(logs + np.log(np.abs(found)), axis=-1, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    return top, found * np.exp(np.where(found == 0.0, 0.0, logs - top))


def _function(name: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The functions of pointwise maps, as they are written in books."""
    if callable(name):
        return name
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "step": lambda u: np.heaviside(u, 0.0),
        "relu": lambda u: np.maximum(u, 0.0),
        "squared-relu": lambda u: np.maximum(u, 0.0) ** 2,
        "sign": np.sign,
        "abs": np.abs,
        "identity": lambda u: u,
        "tanh": np.tanh,
        "gelu": lambda u: (
            u * 0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (u + 0.044715 * u**3)))
        ),
        "elu+1": lambda u: np.where(u > 0.0, u, np.expm1(np.minimum(u, 0.0))) + 1.0,
        "sigmoid": lambda u: 0.5 * (1.0 + np.tanh(0.5 * u)),
        "softplus": lambda u: np.logaddexp(0.0, u),
        "softmax": _softmax,
        "softmax-pair": lambda u: np.concatenate([_softmax(u), _softmax(-u)], axis=-1),
        "exp-pair": lambda u: np.concatenate([np.exp(u), np.exp(-u)], axis=-1),
    }
    return functions[name]


def _softmax(u: np.ndarray) -> np.ndarray:
    return np.exp(u - np.logaddexp.reduce(u, axis=-1, keepdims=True))


def _times(points: np.ndarray, factor: np.ndarray, held: dict[str, np.ndarray]) -> np.ndarray:
    """By a matrix, or by a diagonal, which has one axis less."""
    full = factor.ndim == held["weight"].ndim
    return points @ factor if full else points * factor[..., None, :]


def _side(drawn: PlainMap, side: SideName, points: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of a side, repeated for the query heads that share a key head."""
    arrays = drawn.side(side)._asdict()
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array is None:
            continue
        host = _float64(array.dense() if isinstance(array, Structured) else array)
        if drawn.heads is not None and points.ndim > 2:
            host = np.repeat(host, max(1, points.shape[-3] // drawn.heads), axis=0)
        found[name] = host
    return found


def gram(x: Array, y: Array, /, *, features: DrawnMap) -> np.ndarray:
    """Σ_j φ_j(x) φ_j(y) for every pair of points.

    Parameters
    ----------
    x, y : Array, shape (..., t, d) and (..., s, d)
    features : DrawnMap

    Returns
    -------
    numpy.ndarray, shape (..., t, s)
        ``inf`` where it exceeds float64.
    """
    log, total, _ = _pairs(features, x, y)
    with np.errstate(over="ignore"):
        return total * np.exp(log)


def _pairs(drawn: DrawnMap, query: Array, key: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log, total and size of each pair, (..., t, s).

    Σ_j φ_j(q) φ_j(k) is total · exp(log), and the sum of its absolute terms is size · exp(log). The
    log is the largest of the pair's terms, so neither overflows.
    """
    q_log, q_value = _features(drawn, query, "query")
    k_log, k_value = _features(drawn, key, "key")
    share = q_value.shape[-3] // k_value.shape[-3] if min(q_value.ndim, k_value.ndim) > 2 else 1
    k_log, k_value = (_grouped(a, share, axis=-3) for a in (k_log, k_value))
    if q_log.shape[-1] == k_log.shape[-1] == 1:
        turned = np.swapaxes(k_value, -1, -2)
        log = q_log + np.swapaxes(k_log, -1, -2)
        return log, q_value @ turned, np.abs(q_value) @ np.abs(turned)
    rows = []
    for i in range(q_value.shape[-2]):
        log = q_log[..., i : i + 1, :] + k_log
        top = np.max(log, axis=-1, keepdims=True)
        terms = np.exp(log - top) * q_value[..., i : i + 1, :] * k_value
        rows.append((top[..., 0], np.sum(terms, axis=-1), np.sum(np.abs(terms), axis=-1)))
    if not rows:
        nothing = np.zeros((*q_value.shape[:-2], 0, k_value.shape[-2]))
        return nothing, nothing, nothing
    log, total, size = (np.stack(parts, axis=-2) for parts in zip(*rows, strict=True))
    return log, total, size


def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    is_causal: bool = False,
    mask: Array | None = None,
) -> np.ndarray:
    """Σ_k φ(q)·φ(k) v_k / Σ_k φ(q)·φ(k), pair by pair with logs.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    features : DrawnMap
    is_causal : bool
        Query i sees the keys j <= i + s - t, where t > s is allowed.
    mask : Array of bool, optional
        True for keys to keep.

    Returns
    -------
    numpy.ndarray, shape (..., Hq, t, e)
        Zeros for a query that sees nothing.

    Examples
    --------
    >>> import numpy as np, rfx, rfx.reference
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 9, 4))
    >>> phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=q)
    >>> want = rfx.reference.linear_attention(q, k, v, features=phi, is_causal=True)
    >>> bool(np.allclose(rfx.linear_attention(q, k, v, features=phi, is_causal=True), want))
    True
    """
    seen = _seen(query, key, is_causal, mask)
    log, total, _ = _pairs(features, query, _visible(key, mask))
    return _average(log, total, seen, _visible(value, mask))


def conditioning(
    query: Array,
    key: Array,
    /,
    *,
    features: DrawnMap,
    is_causal: bool = False,
    mask: Array | None = None,
) -> np.ndarray:
    """How far the denominators cancel: Σ_jk |φ_j(q) φ_j(k)| / |Σ_jk φ_j(q) φ_j(k)|.

    Rounding of relative size eps in the features moves row i of the output by about
    eps · conditioning_i · (max|v| + |out_i|), so a test of a signed map multiplies its tolerance
    by this. It is 1 for positive maps, and for a query that sees nothing.

    Parameters
    ----------
    query, key, features, is_causal, mask
        As in `linear_attention`.

    Returns
    -------
    numpy.ndarray, shape (..., Hq, t, 1)
        At least 1; ``inf`` where a denominator is 0 although its terms are not.
    """
    seen = _seen(query, key, is_causal, mask)
    log, total, size = _pairs(features, query, _visible(key, mask))
    weight, bound = _scaled(log, total, seen), _scaled(log, size, seen)
    denominator = np.abs(np.sum(weight, axis=-1, keepdims=True))
    terms = np.sum(bound, axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.where(terms > 0, terms / np.where(terms > 0, denominator, 1.0), 1.0)


def kernel_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> np.ndarray:
    """Σ_k κ(q, k) v_k / Σ_k κ(q, k), pair by pair with logs.

    Parameters
    ----------
    query, key, value, is_causal, mask
        As in `linear_attention`.
    kernel : Kernel, optional
        ``Softmax()`` by default.

    Returns
    -------
    numpy.ndarray, shape (..., Hq, t, e)
        Zeros for a query that sees nothing.
    """
    seen = _seen(query, key, is_causal, mask)
    q, k = _float64(query), _visible(key, mask)
    k = _grouped(k, q.shape[-3] // k.shape[-3] if q.ndim > 2 else 1, axis=-3)
    kernel = Softmax() if kernel is None else kernel
    log = log_kernel(q, k, kernel=kernel)
    signs = np.ones_like(log)
    if isinstance(kernel, SignedKernel):
        values = _values(q, k, kernel)
        signs = np.sign(np.asarray(kernel(q, k)) if values is None else values)
    return _average(log, signs, seen, _visible(value, mask))


def log_kernel(x: Array, y: Array, /, *, kernel: Kernel) -> np.ndarray:
    """Log of the Gram matrix's sizes; the Gaussian kernel's from differences, which do not cancel.

    Parameters
    ----------
    x, y : Array, shape (..., t, d) and (..., s, d)
    kernel : Kernel
        Softmax, Gaussian, ArcCosine and Pointwise are written out here; of another kernel its own
        ``log`` is asked, in float64.

    Returns
    -------
    numpy.ndarray, shape (..., t, s)
        -inf where the kernel is 0.
    """
    left, right = _float64(x), _float64(y)
    if isinstance(kernel, Softmax):
        scale = left.shape[-1] ** -0.5 if kernel.scale is None else kernel.scale
        return scale * (left @ np.swapaxes(right, -1, -2))
    if isinstance(kernel, Gaussian):
        squares = [
            np.sum((left[..., i : i + 1, :] - right) ** 2, axis=-1) for i in range(left.shape[-2])
        ]
        if not squares:
            return np.zeros((*left.shape[:-1], right.shape[-2]))
        return -np.stack(squares, axis=-2) / (2.0 * kernel.bandwidth**2)
    values = _values(left, right, kernel)
    if values is None:
        return np.asarray(kernel.log(left, right))
    with np.errstate(divide="ignore"):
        return np.log(np.abs(values))


def _values(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> np.ndarray | None:
    """The Gram matrix of kernels that are not exponentials."""
    if isinstance(kernel, ArcCosine):
        return _arc_cosine(x, y, kernel.order)
    if isinstance(kernel, Pointwise):
        f = _function(kernel.function)
        return f(x) @ np.swapaxes(f(y), -1, -2)
    return None


def _arc_cosine(x: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
    """|x|^n |y|^n J_n(θ) / π, with θ from its sine and cosine; 0 for points that are 0."""
    x_norm, y_norm = (np.linalg.norm(a, axis=-1) for a in (x, y))
    x, y = (a / np.where(n == 0.0, 1.0, n)[..., None] for a, n in ((x, x_norm), (y, y_norm)))
    values = np.zeros((*x.shape[:-1], y.shape[-2]))
    for i in range(x.shape[-2]):
        point, size = x[..., i : i + 1, :], x_norm[..., i : i + 1] * y_norm
        cos = np.sum(point * y, axis=-1)
        sin = np.linalg.norm(point - cos[..., None] * y, axis=-1)  # of the part across y
        rest = np.pi - np.arctan2(sin, cos)
        angular = (
            rest,
            sin + rest * cos,
            3.0 * sin * cos + rest * (1.0 + 2.0 * cos**2),
        )[order]
        values[..., i, :] = np.where(size == 0.0, 0.0, size**order * angular / np.pi)
    return values


def log_size(query: Array, key: Array, /, *, features: DrawnMap) -> float:
    """1 + the largest |log feature|: an error of eps in a log of size L is one of L eps in exp.

    Parameters
    ----------
    query, key : Array
        As in `linear_attention`.
    features : DrawnMap

    Returns
    -------
    float
    """
    logs = _features(features, query, "query")[0], _features(features, key, "key")[0]
    return 1.0 + max((float(np.max(np.abs(log))) for log in logs if log.size), default=0.0)


def _float64(array: Array) -> np.ndarray:
    return to_numpy(array).astype(np.float64)


def _grouped(array: np.ndarray, times: int, axis: int) -> np.ndarray:
    return array if times == 1 else np.repeat(array, times, axis=axis)


def _visible(array: Array, mask: Array | None) -> np.ndarray:
    """Keys or values with 0 in the place of masked ones, which may hold NaN."""
    host = _float64(array)
    return host if mask is None else np.where(_kept(mask, host)[..., None], host, 0.0)


def _kept(mask: Array, key: np.ndarray) -> np.ndarray:
    return np.broadcast_to(to_numpy(mask), key.shape[:-1])


def _seen(query: Array, key: Array, is_causal: bool, mask: Array | None) -> np.ndarray:
    """Which query sees which key, bool of shape (..., Hq, t, s)."""
    t, s = query.shape[-2], key.shape[-2]
    seen = np.ones((*query.shape[:-2], t, s), dtype=bool)
    if is_causal:
        seen &= np.arange(s)[None, :] <= np.arange(t)[:, None] + s - t
    if mask is not None:
        kept = _kept(mask, _float64(key))
        share = query.shape[-3] // key.shape[-3] if query.ndim > 2 else 1
        seen &= _grouped(kept, share, axis=-2)[..., None, :]
    return seen


def _scaled(log: np.ndarray, factor: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Weights factor · exp(log) of each pair, divided by the row's largest exponential."""
    log = np.where(seen, log, -np.inf)
    top = np.max(log, axis=-1, keepdims=True, initial=-np.inf)
    return np.where(seen, factor * np.exp(log - np.where(np.isfinite(top), top, 0.0)), 0.0)


def _average(
    log: np.ndarray, factor: np.ndarray, seen: np.ndarray, value: np.ndarray
) -> np.ndarray:
    weight = _scaled(log, factor, seen)
    share = weight.shape[-3] // value.shape[-3] if weight.ndim > 2 else 1
    numerator = weight @ _grouped(value, share, axis=-3)
    denominator = np.sum(weight, axis=-1, keepdims=True)
    empty = denominator == 0.0
    return np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator))
