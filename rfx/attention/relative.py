"""Linear attention with a bias for each distance between a query and a key."""

from __future__ import annotations

import math
from typing import Any

from rfx import _check
from rfx._xp import Array, namespace
from rfx.attention.linear import _check_features, _check_values, _placed
from rfx.dispatch import Op, check_implementation, planned
from rfx.features import DrawnMap
from rfx.ops.relative import relative

__all__ = ["relative_attention"]

Plan = tuple[Op, tuple[Any, ...], dict[str, Any]]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    bias: Array,
    is_causal: bool = False,
    mask: Array | None = None,
    method: str | None = None,
    implementation: str | None = None,
) -> Plan:
    """Check the arguments, and say which op runs with what."""
    _check.attention(query, key, value)
    _check_features(features, query, key)
    _check.mask(mask, key)
    _check_values(features, query, key, mask)
    if is_causal:
        _check.causal_lengths(query, key)
    _check_bias(bias, query, key)
    check_implementation(implementation)
    if method not in (None, "direct", "fft"):
        raise ValueError(f"`method` must be 'direct' or 'fft', got {method!r}; leave it out")
    t, s = query.shape[-2], key.shape[-2]
    if method is None:
        method = _faster(t, s, features.num_features, value.shape[-1], is_causal)
    xp = namespace(query)
    bias = xp.astype(_of_query_heads(bias, query, key), features.like.dtype, copy=False)
    args = (features, query, key, value, None if mask is None else mask[..., None], bias)
    options = {"is_causal": is_causal, "method": method, "implementation": implementation}
    return relative, args, options


@planned(_plan)
def relative_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    bias: Array,
    is_causal: bool = False,
    mask: Array | None = None,
    method: str | None = None,
    implementation: str | None = None,
) -> Array:
    """Attention Σ_j e^{b_{j−i}} φ(q_i)·φ(k_j) v_j / Σ_j e^{b_{j−i}} φ(q_i)·φ(k_j).

    The target is the same with the kernel in the place of φ(q)·φ(k): for a softmax kernel, softmax
    attention with b added to the logits.

    Parameters
    ----------
    query : Array, shape (..., Hq, t, d), or (t, d)
    key : Array, shape (..., H, s, d), or (s, d)
    value : Array, shape (..., H, s, e), or (s, e)
        As in `rfx.linear_attention`, grouped queries included.
    features : DrawnMap
        As in `rfx.linear_attention`. The paper normalises queries and keys to a fixed length, which
        bounds the variance of the estimate: take a map of ``rfx.features.Normalized``.
    bias : Array, shape (t + s - 1,), or (..., Hq, t + s - 1)
        Entry j − i + t − 1 is b_{j−i}, for query i and key j: from the last query's view of the
        first key to the first query's view of the last key. The axis of heads may be Hq, H or 1,
        other axes those of ``query`` or 1. Any dtype; -inf hides a distance.
    is_causal : bool
        Query i sees the keys j <= i + s - t; needs t <= s.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`. A query with no key gives zeros.
    method : str, optional
        "fft", which takes O(n log n) operations, or "direct", which takes O(n²) but is faster for
        sequences that are not long; by default what is likely to be faster. "fft" turns to
        "direct" where it would be inaccurate.
    implementation : str, optional
        ``"portable"`` or the name of a fast path (see `rfx.explain`), which must be able to run.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``

    Raises
    ------
    TypeError, ValueError
        As `rfx.linear_attention`; if ``bias`` has not one entry for each distance.

    Notes
    -----
    Memory is linear in the length for both methods. An FFT is off by some roundings of the largest
    terms, however small those of a row are. So the error is bounded for each row while it runs; if
    one exceeds 256 roundings of the row's denominator, all is computed in float64, and if that does
    not do either, directly. Where such a bound has no value, under ``torch.compile`` and vmap,
    "direct" runs; under ``jax.vmap`` both do.

    References
    ----------
    Luo et al., Stable, fast and accurate: kernelized attention with relative positional encoding,
    2021.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = rng.standard_normal((3, 2, 100, 16)).astype(np.float32)
    >>> phi = rfx.features.Positive(num_features=64).draw(16, seed=0, like=q)
    >>> bias = -0.1 * np.abs(np.arange(-99, 100, dtype=np.float32))
    >>> rfx.relative_attention(q, k, v, features=phi, bias=bias).shape
    (2, 100, 16)
    """
    op, args, options = _plan(
        query,
        key,
        value,
        features=features,
        bias=bias,
        is_causal=is_causal,
        mask=mask,
        method=method,
        implementation=implementation,
    )
    output = op(features, *_placed(features, *args[1:5]), args[5], **options)
    return namespace(value).astype(output, value.dtype, copy=False)


def _check_bias(bias: Array, query: Array, key: Array) -> None:
    _check.array("bias", bias)
    _check.together("query", query, "bias", bias)
    t, s = query.shape[-2], key.shape[-2]
    shape, wanted = tuple(bias.shape), max(t + s - 1, 0)
    if not shape or shape[-1] != wanted:
        raise ValueError(
            f"`bias` must have a last axis of t + s - 1 = {wanted} entries for t={t} and s={s}, "
            f"got shape {shape}; entry j - i + t - 1 is for query i and key j"
        )
    axes = (*query.shape[:-2], wanted)
    heads = {1, *query.shape[-3:-2], *key.shape[-3:-2]}
    fits = len(shape) == len(axes) and all(
        have in (1, want) for have, want in zip(shape[:-2], axes[:-2], strict=True)
    )
    if len(shape) > 1 and not (fits and shape[-2] in heads):
        raise ValueError(
            f"`bias` must have shape ({wanted},) or {axes} with 1 for shared axes, got {shape}; "
            "add axes of 1 or broadcast it"
        )


def _of_query_heads(bias: Array, query: Array, key: Array) -> Array:
    """With the query's number of axes less one, and its heads or 1."""
    xp = namespace(query)
    if bias.ndim == 1:
        return xp.reshape(bias, (1,) * (query.ndim - 2) + tuple(bias.shape))
    if bias.shape[-2] in (1, query.shape[-3]):
        return bias
    return xp.repeat(bias, query.shape[-3] // key.shape[-3], axis=-2)


def _faster(t: int, s: int, m: int, e: int, is_causal: bool) -> str:
    """The method that is likely to be faster, by operations and what they cost: measured.

    A pair costs two products, of m and of e; a column of the FFT, of which there are m (e + 1), a
    transform and its inverse.
    """
    pairs = t * s * (m + e) * (0.5 if is_causal else 1.0)
    columns = m * (e + 1) * (t + s) * math.log2(max(t + s, 2))
    return "fft" if pairs > _FFT_COST * columns else "direct"


_FFT_COST = 11.0
"""What an operation of a transform costs beside one of a product: 8 to 14, by the library."""
