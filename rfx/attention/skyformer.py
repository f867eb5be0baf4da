"""Skyformer: Gaussian-kernel attention through landmarks of queries and keys."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, full, namespace, working_dtype
from rfx.attention.landmarks import (
    Rule,
    Uniform,
    check_call,
    check_number,
    check_rule,
    landmark_gram,
    landmark_kernel,
)
from rfx.attention.products import kernel_product, repeat_heads, visible
from rfx.dispatch import planned
from rfx.kernels import Kernel
from rfx.ops.inverse import Inverse, solve

__all__ = ["skyformer_attention"]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    landmarks: int | Rule = 128,
    ridge: float = 1e-3,
    mask: Array | None = None,
    query_mask: Array | None = None,
    inverse: Inverse = "iteration",
    is_causal: bool = False,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    _check.mask(mask, key)
    _check.mask(query_mask, query, ("query_mask", "query"))
    check_call(kernel, ridge, inverse, is_causal)
    rule = check_rule(landmarks, Uniform)
    check_number(rule, query.shape[-2] + key.shape[-2], "queries and keys")
    return None, (query, key, value, rule), {}


@planned(_plan)
def skyformer_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    landmarks: int | Rule = 128,
    ridge: float = 1e-3,
    mask: Array | None = None,
    query_mask: Array | None = None,
    inverse: Inverse = "iteration",
    is_causal: bool = False,
) -> Array:
    """κ(Q, Z) (κ(Z, Z) + ridge I)⁻¹ κ(Z, K) V with landmarks Z among queries and keys.

    The target is kernelised attention κ(Q, K) V, which no denominator divides; the default kernel
    is exp(−|q − k|² / (2 √d)). The kernel matrix of queries and keys together is positive
    semi-definite, and this is its Nyström approximation. With all t + s tokens for landmarks, no
    ridge and ``inverse="decomposition"`` it is exact. Time and memory are linear in the length.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included: the landmarks of a query head are
        among its queries and the keys that it attends to.
    kernel : Kernel, optional
        Bounded and positive definite; ``Gaussian(bandwidth=d ** 0.25)`` by default.
    landmarks : int or Rule
        A number stands for `rfx.landmarks.Uniform`.
    ridge : float
        Added to the diagonal of κ(Z, Z), whose entries are 1 for the default kernel.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`. A masked key is absent from the output
        and from the landmarks.
    query_mask : Array of bool, optional
        True for queries that may be landmarks, of shape (t,) or of the shape of ``query`` without
        its last axis, where an axis may be 1. Give it where padding is among the queries.
    inverse : {"iteration", "decomposition"}
        Matrix products only, or eigenvalues.
    is_causal : bool
        Refused: a landmark that one query may see would be in the future of another.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together, there are more landmarks than queries and keys, ``ridge`` is
        negative or ``is_causal`` is set.

    Notes
    -----
    Computed in float32, or in float64 for float64. NaN in a query that is no landmark touches its
    own row; any other NaN touches its own head.

    References
    ----------
    Chen et al., Skyformer: remodel self-attention with Gaussian kernel and Nyström method, 2021,
    section 4. The paper draws landmarks with replacement, and its ridge is 0.1.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 16))
    >>> call = {"landmarks": 100, "ridge": 0.0, "inverse": "decomposition"}
    >>> exact = rfx.kernels.Gaussian(bandwidth=2.0)(q, k) @ v
    >>> bool(abs(rfx.skyformer_attention(q, k, v, **call) - exact).max() < 1e-10)
    True
    """
    *_, rule = _plan(
        query,
        key,
        value,
        kernel=kernel,
        landmarks=landmarks,
        ridge=ridge,
        mask=mask,
        query_mask=query_mask,
        inverse=inverse,
        is_causal=is_causal,
    )[1]
    xp, dtype = namespace(query), working_dtype(query)
    q, k, v = (xp.astype(a, dtype, copy=False) for a in (query, key, value))
    kernel = landmark_kernel(kernel, q)
    k, v = visible(k, mask), visible(v, mask)  # padding may hold NaN
    points, present = rule.choose(*_candidates(q, k, mask, query_mask))
    seen = visible(kernel_product(kernel, points, k, v), present)
    among = landmark_gram(kernel, points, present)
    weights = solve(among, seen, ridge=ridge, inverse=inverse)
    return xp.astype(kernel_product(kernel, q, points, weights), value.dtype, copy=False)


def _candidates(
    query: Array, key: Array, mask: Array | None, query_mask: Array | None
) -> tuple[Array, Array | None]:
    """Queries with the keys that they attend to, (..., Hq, t + s, d), and which may be taken."""
    xp = namespace(query)
    if key.ndim > 2:
        key = repeat_heads(key, query.shape[-3], axis=-3)
    tokens = xp.concat([query, key], axis=-2)
    if mask is None and query_mask is None:
        return tokens, None
    if mask is not None and mask.ndim > 1 and mask.shape[-2] != 1:
        mask = repeat_heads(mask, query.shape[-3], axis=-2)
    masks = []
    for array, own in ((query, query_mask), (key, mask)):
        every = full(array, tuple(array.shape[:-1]), 0.0, array.dtype) == 0.0
        masks.append(every if own is None else xp.logical_and(own, every))
    return tokens, xp.concat(masks, axis=-1)
