"""Projections to a few axes in which queries are near to the keys that they attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rfx import _check
from rfx._xp import (
    Array,
    from_numpy,
    full_precision,
    library,
    namespace,
    to_numpy,
    truth,
    working_dtype,
)
from rfx.attention.products import default_scale
from rfx.ops.entmax import check_alpha, entmax

__all__ = ["Projection", "beside", "check_finite", "fit_projection", "host_points"]

Host = np.ndarray[Any, Any]
_BATCH, _RATE, _DECAY, _SMALL = 256, 0.01, (0.9, 0.99), 1e-8
_MARGIN = 0.8


@dataclass(frozen=True, eq=False)
class Projection:
    """q ↦ q A + a for queries and k ↦ k B for keys, from d to r axes.

    Parameters
    ----------
    query, key : Array, shape (d, r) or (Hq, d, r)
        A and B, alike for all heads or one for each query head, also where queries are grouped. Of
        NumPy, or of the library of the points.
    shift : Array, shape (r,) or (Hq, r), optional
        a, 0 by default.

    Raises
    ------
    TypeError, ValueError
        If these are no such arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import supports
    >>> first_two = np.eye(8)[:, :2]
    >>> supports.Projection(first_two, first_two).dim
    8
    """

    query: Array
    key: Array
    shift: Array | None = None

    def __post_init__(self) -> None:
        for name, given in (("query", self.query), ("key", self.key)):
            _check.array(name, given)
        shapes = tuple(self.query.shape), tuple(self.key.shape)
        if shapes[0] != shapes[1] or len(shapes[0]) not in (2, 3) or 0 in shapes[0]:
            raise ValueError(
                "`query` and `key` must both have shape (d, r), or (heads, d, r), got "
                f"{shapes[0]} and {shapes[1]}"
            )
        if self.shift is not None:
            _check.array("shift", self.shift)
            wanted = (*shapes[0][:-2], shapes[0][-1])
            if tuple(self.shift.shape) != wanted:
                raise ValueError(
                    f"`shift` must have shape {wanted}, as many numbers as there are axes, got "
                    f"{tuple(self.shift.shape)}"
                )
            check_finite("shift", self.shift)
        for name, given in (("query", self.query), ("key", self.key)):
            check_finite(name, given)

    @property
    def dim(self) -> int:
        """Axes of the points, d."""
        return int(self.query.shape[-2])

    @property
    def num_axes(self) -> int:
        """Axes that are left, r."""
        return int(self.query.shape[-1])

    @property
    def heads(self) -> int | None:
        """Query heads, None where all are projected alike."""
        return int(self.query.shape[0]) if self.query.ndim > 2 else None

    def check(self, query: Array) -> None:
        """Refuse points that it was not made for."""
        if self.dim != query.shape[-1]:
            raise ValueError(
                f"the projection of `rule` is of dim={self.dim}, but query has "
                f"d={query.shape[-1]}; make one with dim={query.shape[-1]}"
            )
        heads = query.shape[-3] if query.ndim > 2 else None
        if self.heads not in (None, heads):
            raise ValueError(
                f"the projection of `rule` is of {self.heads} heads, but query has "
                f"{heads or 'no axis of heads'}; make one for each query head, or one for all"
            )
        beside(self.query, query, "projection")

    def on_host(self) -> Projection:
        """The same in float64 arrays of NumPy."""
        arrays = (self.query, self.key, self.shift)
        return Projection(*(None if a is None else to_numpy(a).astype(np.float64) for a in arrays))

    def apply(self, query: Array, key: Array) -> tuple[Array, Array]:
        """Both sides projected: (..., Hq, t, r) and (..., Hq, s, r), in the working dtype."""
        xp = namespace(query)
        a, b = (beside(m, query, "projection") for m in (self.query, self.key))
        with full_precision(query):
            left, right = xp.matmul(query, a), xp.matmul(key, b)
        if self.shift is not None:
            left = left + beside(self.shift, query, "projection")[..., None, :]
        return left, right


def check_finite(name: str, array: Array) -> None:
    """Refuse numbers of a rule that compare with nothing."""
    if truth(namespace(array).all(namespace(array).isfinite(array))) is False:
        raise ValueError(f"`{name}` must be finite, got NaN or infinity; make it of finite points")


def beside(array: Array, like: Array, what: str) -> Array:
    """An array of a rule in the library, working dtype and device of the points."""
    dtype = working_dtype(like)
    if library(array) == "numpy":
        return from_numpy(array, like, dtype)
    if library(array) != library(like):
        raise TypeError(
            f"the {what} of `rule` holds arrays of {library(array)}, but query is one of "
            f"{library(like)}; convert them, or give arrays of NumPy, which serve all libraries"
        )
    return namespace(like).astype(array, dtype, copy=False)


def fit_projection(
    query: Array,
    key: Array,
    /,
    *,
    num_axes: int = 4,
    alpha: float = 1.5,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    steps: int = 300,
    seed: int = 0,
) -> Projection:
    """A, B and a that make [m + y (|q A + a − k B|² − 1)]₊ small, with y = 1 in the support, or −1.

    Half of the pairs that it is summed over are in the support of entmax attention, half are not,
    so that a distance of 1 is what divides them. It starts from the r axes that keep most of q·k,
    and takes steps by the gradient of 256 pairs, with sizes as Adam has them. It runs in NumPy on
    the host; time and memory are quadratic in the length of the sample.

    Parameters
    ----------
    query, key : Array, shape (..., Hq, t, d) and (..., H, s, d), or (t, d) and (s, d)
        A sample of activations. A projection is made for each query head, from all batch entries.
    num_axes : int
        r, at most d.
    alpha, scale, is_causal, mask
        As in `rfx.entmax_attention`, whose support is to be found.
    steps : int
    seed : int
        Of the pairs that are drawn; the result depends on nothing else.

    Returns
    -------
    Projection
        Of float64 arrays of NumPy.

    Raises
    ------
    TypeError, ValueError
        If arguments are of the wrong kind or do not fit together.

    References
    ----------
    Treviso et al., Predicting attention sparsity in transformers, 2022, section 4, which has a
    hinge loss of a pair in the support against one that is not.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import supports
    >>> q, k = np.random.default_rng(0).standard_normal((2, 2, 40, 8))
    >>> found = supports.fit_projection(q, k, num_axes=3, steps=50)
    >>> found.heads, found.dim, found.num_axes
    (2, 8, 3)
    """
    _check.attention(query, key, key)
    _check.mask(mask, key)
    alpha = check_alpha(alpha)
    num_axes = _check.positive_int("num_axes", num_axes)
    if num_axes > query.shape[-1]:
        raise ValueError(
            f"`num_axes` must be at most d={query.shape[-1]}, got {num_axes}; pass fewer axes"
        )
    steps = _check.positive_int("steps", steps)
    _check.seed(seed)
    if scale is not None:
        _check.positive_number("scale", scale)
    if is_causal:
        _check.causal_lengths(query, key)
    q, k, kept = host_points(query, key, mask, is_causal)
    scale = default_scale(q, scale)
    support = entmax(scale * (q @ np.swapaxes(k, -1, -2)), alpha=alpha, mask=kept) > 0.0
    fitted = _descend(q, k, support, kept, num_axes, steps, np.random.default_rng(seed))
    a, b, shift = (part if query.ndim > 2 else part[0] for part in fitted)
    return Projection(a, b, shift)


def host_points(
    query: Array, key: Array, mask: Array | None, is_causal: bool
) -> tuple[Host, Host, Host]:
    """Queries and keys (Hq, batch, length, d) in float64, and which pairs count (Hq, batch, t, s).

    Masked keys are 0. Refuses what nothing can be learnt of.
    """
    for name, given in (("query", query), ("key", key)):
        if 0 in given.shape:
            raise ValueError(
                f"`{name}` must have tokens to fit a rule to, got shape {tuple(given.shape)}; pass "
                "a sample of activations"
            )
    q, k = (to_numpy(a).astype(np.float64) for a in (query, key))
    kept = np.ones(k.shape[:-1], bool) if mask is None else to_numpy(mask)
    kept = np.broadcast_to(kept, k.shape[:-1])
    k = np.where(kept[..., None], k, 0.0)
    for name, points in (("query", q), ("key", k)):
        if not np.isfinite(points).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinity; leave such tokens out")
    if q.ndim == 2:
        q, k, kept = q[None], k[None], kept[None]
    groups = q.shape[-3] // k.shape[-3]
    k, kept = np.repeat(k, groups, axis=-3), np.repeat(kept, groups, axis=-2)
    (t, d), s = q.shape[-2:], k.shape[-2]
    heads = q.shape[-3]
    q, k = (np.moveaxis(a.reshape(-1, heads, a.shape[-2], d), 1, 0) for a in (q, k))
    kept = np.moveaxis(kept.reshape(-1, heads, s), 1, 0)[..., None, :]
    pairs = np.broadcast_to(kept, (*kept.shape[:2], t, s))
    return q, k, pairs & np.tri(t, s, s - t, dtype=bool) if is_causal else pairs


def _descend(
    q: Host,
    k: Host,
    support: Host,
    kept: Host,
    num_axes: int,
    steps: int,
    rng: np.random.Generator,
) -> tuple[Host, Host, Host]:
    heads, batch, t, d = q.shape
    s = k.shape[-2]
    rows, columns = q.reshape(heads, batch * t, d), k.reshape(heads, batch * s, d)
    sides = [[np.flatnonzero(part) for part in pairs] for pairs in (support, kept & ~support)]
    seen = kept.any(axis=-2).reshape(heads, batch * s, 1)
    state = list(_start(rows, columns, seen, num_axes))
    first = [np.zeros_like(part) for part in state]
    second = [np.zeros_like(part) for part in state]
    sign = np.repeat([1.0, -1.0], _BATCH // 2)
    there = np.asarray([[min(len(part), 1) for part in side] for side in sides])  # 0 where none is
    weight = sign * np.repeat(there.T, _BATCH // 2, axis=1) / _BATCH
    sizes = [float(np.sqrt(np.mean(part * part))) for part in state[:2]]
    rates = [*sizes, 0.5]  # a step is a share of what a number is at the start
    for step in range(1, steps + 1):
        drawn = np.concatenate([[_some(rng, part) for part in side] for side in sides], axis=1)
        entry, place = np.divmod(drawn, t * s)
        i, j = entry * t + place // s, entry * s + place % s
        x = np.take_along_axis(rows, i[..., None], axis=1)
        y = np.take_along_axis(columns, j[..., None], axis=1)
        apart = x @ state[0] + state[2][:, None, :] - y @ state[1]
        distance = np.sum(apart * apart, axis=-1)
        wrong = (_MARGIN + sign * (distance - 1.0) > 0.0) * weight
        pull = 2.0 * wrong[..., None] * apart
        gradients = [np.swapaxes(x, 1, 2) @ pull, -np.swapaxes(y, 1, 2) @ pull, pull.sum(axis=1)]
        left = _RATE * (1.0 - (step - 1) / steps)
        for n, gradient in enumerate(gradients):
            first[n] = _DECAY[0] * first[n] + (1.0 - _DECAY[0]) * gradient
            second[n] = _DECAY[1] * second[n] + (1.0 - _DECAY[1]) * gradient * gradient
            mean = first[n] / (1.0 - _DECAY[0] ** step)
            root = np.sqrt(second[n] / (1.0 - _DECAY[1] ** step))
            state[n] = state[n] - left * rates[n] * mean / (root + _SMALL)
    return state[0], state[1], state[2]


def _some(rng: np.random.Generator, places: Host) -> Host:
    """As many of the places as half a batch, with repetition; any for none."""
    if not len(places):
        return np.zeros(_BATCH // 2, dtype=np.intp)
    return places[rng.integers(len(places), size=_BATCH // 2)]


def _start(rows: Host, columns: Host, seen: Host, num_axes: int) -> tuple[Host, Host, Host]:
    """The factors of rank r that keep most of q·k about the means, at a mean square distance of 1.

    Of roots L and R of the second moments, Lᵀ R = U S Vᵀ; A = L⁻ᵀ U √S of the r largest.
    """
    roots, means, centred = [], [], []
    for points, weight in ((rows, np.ones_like(rows[..., :1])), (columns, seen.astype(np.float64))):
        number = np.maximum(weight.sum(axis=1, keepdims=True), 1.0)
        means.append((weight * points).sum(axis=1, keepdims=True) / number)
        centred.append(weight * (points - means[-1]) / np.sqrt(number))
        moment = np.swapaxes(centred[-1], 1, 2) @ centred[-1]
        value, vector = np.linalg.eigh(moment)
        size = np.sqrt(np.maximum(value, 1e-6 * value[:, -1:] + 1e-30))
        roots.append((vector * size[:, None, :], vector / size[:, None, :]))
    (left, left_inverse), (right, right_inverse) = roots
    u, size, v = np.linalg.svd(np.swapaxes(left, 1, 2) @ right)
    root = np.sqrt(size[:, None, :num_axes])
    a = left_inverse @ u[:, :, :num_axes] * root
    b = right_inverse @ np.swapaxes(v, 1, 2)[:, :, :num_axes] * root
    power = sum(np.sum((x @ m) ** 2, axis=(-2, -1)) for x, m in zip(centred, (a, b), strict=True))
    factor = 1.0 / np.sqrt(np.maximum(power, 1e-30))[:, None, None]
    a, b = a * factor, b * factor
    return a, b, (means[1] @ b - means[0] @ a)[:, 0, :]
