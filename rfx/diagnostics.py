"""How good an estimate of attention is: its error, and its skill against uniform attention."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, namespace
from rfx.attention import kernel_attention
from rfx.features import DrawnMap
from rfx.kernels import Softmax

__all__ = ["relative_error", "skill", "uniform_attention", "weak_denominators"]


def uniform_attention(
    query: Array, key: Array, value: Array, /, *, is_causal: bool = False, mask: Array | None = None
) -> Array:
    """Attention with equal weights: the mean of the values that a query may see.

    The bar that an estimate must clear: it needs no queries and no keys.

    Parameters
    ----------
    query, key, value, is_causal, mask
        As in `rfx.kernel_attention`; of ``query`` and ``key`` only the shapes count.

    Returns
    -------
    Array, shape (..., Hq, t, e), dtype of ``value``

    Examples
    --------
    >>> import numpy as np, rfx
    >>> v = np.asarray([[1.0], [3.0]])
    >>> rfx.diagnostics.uniform_attention(v, v, v).round(6)
    array([[2.],
           [2.]])
    """
    xp = namespace(query)
    zero_query, zero_key = xp.zeros_like(query), xp.zeros_like(key)
    return kernel_attention(
        zero_query, zero_key, value, kernel=Softmax(), is_causal=is_causal, mask=mask
    )


def relative_error(estimate: Array, exact: Array, /) -> Array:
    """|estimate − exact| / |exact|, norms over the last two axes: one number a head.

    Parameters
    ----------
    estimate, exact : Array, shape (..., t, e)

    Returns
    -------
    Array, shape (...,)

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> exact = np.asarray([[3.0, 4.0]])
    >>> float(rfx.diagnostics.relative_error(np.zeros((1, 2)), exact))
    1.0
    """
    _check.array("estimate", estimate)
    _check.array("exact", exact)
    if tuple(estimate.shape) != tuple(exact.shape):
        raise ValueError(
            f"`estimate` and `exact` must have the same shape, got {tuple(estimate.shape)} and "
            f"{tuple(exact.shape)}; compare outputs of the same inputs"
        )
    xp = namespace(estimate)
    difference = estimate - exact
    norms = [xp.sqrt(xp.sum(a * a, axis=(-2, -1))) for a in (difference, exact)]
    return norms[0] / norms[1]


def skill(estimate: Array, exact: Array, uniform: Array, /) -> Array:
    """1 − error / error of uniform attention: 1 is exact, 0 is no better than uniform.

    Parameters
    ----------
    estimate, exact, uniform : Array, shape (..., t, e)

    Returns
    -------
    Array, shape (...,)
        Negative where the estimate is worse than uniform attention.
    """
    return 1.0 - relative_error(estimate, exact) / relative_error(uniform, exact)


def weak_denominators(
    query: Array, key: Array, /, *, features: DrawnMap, threshold: float = 1e-3
) -> Array:
    """Share of queries whose denominator nearly cancels, which only signed maps have.

    A denominator counts as weak if |Σ_jk φ_j(q) φ_j(k)| is below ``threshold`` times
    Σ_jk |φ_j(q) φ_j(k)|.

    Parameters
    ----------
    query, key : Array, shape (..., t, d) and (..., s, d)
    features : DrawnMap
    threshold : float

    Returns
    -------
    Array, shape (...,)
    """
    _check.points(query, key, ("query", "key"))
    _check.map_serves(features, query, "query")
    _check.map_heads(features, query, "query")
    xp = namespace(query)
    left, right = features.query(query), features.key(key)
    top = xp.max(right.log_scale, axis=-2, keepdims=True)
    keys = _value(right.value, xp.exp(right.log_scale - top))
    row = left.log_scale + top
    queries = _value(left.value, xp.exp(row - xp.max(row, axis=-1, keepdims=True)))
    signed = xp.abs(xp.matmul(queries, xp.sum(keys, axis=-2)[..., :, None]))
    size = xp.matmul(xp.abs(queries), xp.sum(xp.abs(keys), axis=-2)[..., :, None])
    weak = xp.astype(signed < threshold * size, size.dtype)
    return xp.mean(weak, axis=(-2, -1))


def _value(value: Array | None, scale: Any) -> Array:
    return scale if value is None else value * scale
