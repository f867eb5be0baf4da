"""Sigmoid attention: every key has a weight of its own, and no denominator divides."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

from rfx import _check
from rfx._xp import Array, full, full_precision, library, namespace, working_dtype
from rfx.attention.linear import _check_features, _placed
from rfx.attention.products import default_scale, repeat_heads
from rfx.dispatch import planned
from rfx.features import DrawnMap
from rfx.kernels import Neuron
from rfx.kernels.logistic import Logistic, falling
from rfx.ops.feature_sums import feature_sums
from rfx.ops.heads import fold_heads, unfold_heads
from rfx.ops.pairs import Pairs, sum_pairs

__all__ = ["sigmoid_attention"]


class _Sums(NamedTuple):
    """Of some rows: −scale times queries (..., H, g rows, d), −b, and what they have summed."""

    query: Array
    bias: Array | float
    total: Array


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    bias: float | Array | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    features: DrawnMap | None = None,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    _check.mask(mask, key)
    if is_causal:
        _check.causal_lengths(query, key)
    if scale is not None:
        _check.positive_number("scale", scale)
    _check_bias(bias, query)
    if features is not None:
        _check_map(features, bias, scale, query, key)
    return None, (query, key, value), {}


@planned(_plan)
def sigmoid_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    bias: float | Array | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    features: DrawnMap | None = None,
) -> Array:
    """Attention Σ_k σ(scale q·k + b) v_k with σ(u) = 1 / (1 + exp(−u)), exact and by blocks.

    Memory beyond inputs and output is that of one block of pairs; time is quadratic. With
    ``features`` it is an estimate in linear time.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    bias : float or Array, optional
        b: a number, or an array of one number (shape ()) or of one for each query head, (Hq,). By
        default −log n, with which the weights of a query add up to about 1. n is the number of keys
        that the query sees: s, without those that are masked, and if causal without those in its
        future. So neither padding nor later keys change an output, and decoding step by step gives
        what one call gives. For the same b everywhere pass ``-math.log(n)``.
    scale : float, optional
        d ** -0.5 by default, as in softmax attention.
    is_causal : bool
        Query i sees the keys j <= i + s - t; needs t <= s.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`. A query with no key gives zeros.
    features : DrawnMap, optional
        A map of `rfx.features.Universal` whose function is a `rfx.kernels.Logistic`; scale and
        bias are those of that function. For small logits only: see the notes.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together, ``scale`` is not positive, or ``features`` is a map of
        another kernel or comes with ``bias`` or ``scale``.

    Notes
    -----
    Computed in float32, or in float64 for float64. Gradients flow to ``bias`` too. Reverse-mode
    differentiation keeps the weights of all pairs, as it does for `rfx.kernel_attention`, unless
    the library is told to compute them again.

    NaN in a query touches its own row; in a key the rows that may see it; in a value, if causal, no
    more than its own block of 512 rows besides.

    The relative error of the estimate is about √(V / m), where V grows as exp(2 θ |q| |k| scale)
    with frequencies θ near 1: it is for logits that stay within about ±1.

    References
    ----------
    Ramapuram et al., Theory, analysis, and best practices for sigmoid self-attention, 2024: sigmoid
    attention and b = −log n, n being the length of the sequence. Counting the keys that each query
    sees is the choice of this library.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention.sigmoid import sigmoid_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 5, 4))
    >>> weights = 1.0 / (1.0 + 5.0 * np.exp(-q @ k.T / 2.0))  # b = -log 5
    >>> bool(abs(sigmoid_attention(q, k, v) - weights @ v).max() < 1e-14)
    True
    """
    options: dict[str, Any] = {"bias": bias, "scale": scale, "is_causal": is_causal, "mask": mask}
    _plan(query, key, value, **options, features=features)
    if features is not None:
        placed = _placed(features, query, key, value, None if mask is None else mask[..., None])
        with full_precision(query):
            out = feature_sums(features, *placed, is_causal)
        return namespace(value).astype(out, value.dtype, copy=False)
    scale = default_scale(query, scale)
    offset = _bias(bias, query, key, is_causal, mask)

    def start(rows: slice) -> _Sums:
        part = namespace(query).astype(query[..., rows, :], working_dtype(query), copy=False)
        own = offset
        if not isinstance(own, float) and own.ndim > 1 and own.shape[-2] > 1:
            own = own[..., rows, :]
        total = full(value, (*part.shape[:-1], value.shape[-1]), 0.0, part.dtype)
        return _Sums(fold_heads(-scale * part, key.shape[-3:-2]), -own, total)

    return sum_pairs(
        query,
        key,
        value,
        mask,
        is_causal,
        start=start,
        add=_add_block,
        finish=lambda sums: sums.total,
    )


def _add_block(sums: _Sums, pairs: Pairs) -> _Sums:
    """The sums with a block of keys. What is masked needs no weight of 0: its value is 0."""
    xp, dtype, heads = namespace(sums.query), sums.query.dtype, pairs.key.shape[-3:-2]
    key, value = (xp.astype(a, dtype, copy=False) for a in (pairs.key, pairs.value))
    with full_precision(sums.query):
        logit = xp.matmul(sums.query, xp.matrix_transpose(key))
    weight = falling(unfold_heads(logit, pairs.query) + sums.bias)
    before = pairs.before()
    if before is not None:
        weight = xp.where(before, weight, xp.zeros_like(weight))
    with full_precision(sums.query):
        part = unfold_heads(xp.matmul(fold_heads(weight, heads), value), pairs.query)
    return sums._replace(total=sums.total + part)


def _bias(
    bias: float | Array | None, query: Array, key: Array, is_causal: bool, mask: Array | None
) -> float | Array:
    """b as a number, or as an array that broadcasts to (..., Hq, t, 1)."""
    xp, dtype, s = namespace(query), working_dtype(query), key.shape[-2]
    if bias is not None:
        if isinstance(bias, numbers.Real):
            return float(bias)
        given = xp.astype(bias, dtype, copy=False)
        return given if given.ndim == 0 else given[:, None, None]
    if mask is None and not is_causal:
        return -math.log(max(s, 1))
    if mask is None:
        mask = full(query, (s,), 1.0, dtype) > 0.0
    ones = xp.astype(mask, xp.int32)
    if is_causal:
        count = xp.cumulative_sum(ones, axis=-1)[..., s - query.shape[-2] :, None]
    else:
        count = xp.sum(ones, axis=-1, keepdims=True)[..., None]
    count = xp.astype(count, dtype)
    if count.ndim > 2 and count.shape[-3] != 1:
        count = repeat_heads(count, query.shape[-3], axis=-3)
    return -xp.log(xp.where(count > 0.0, count, xp.ones_like(count)))


def _check_bias(bias: Any, query: Array) -> None:
    """Refuse what is neither a number nor one for each head."""
    if bias is None:
        return
    if isinstance(bias, numbers.Real):
        _check.number("bias", bias)
        return
    if library(bias) is None:
        raise TypeError(
            f"`bias` must be a number or an array, got {bias!r}; leave it out for -log n"
        )
    _check.array("bias", bias)
    _check.together("query", query, "bias", bias)
    heads = tuple(query.shape[-3:-2])
    if tuple(bias.shape) not in ((), heads):
        wanted = f"() or {heads}, one number for each query head" if heads else "()"
        raise ValueError(f"`bias` must have shape {wanted}, got {tuple(bias.shape)}")


def _check_map(features: DrawnMap, bias: Any, scale: Any, query: Array, key: Array) -> None:
    """Refuse maps of other kernels, and a bias or scale beside that of the map."""
    _check_features(features, query, key)
    kernel = features.kernel
    fits = isinstance(kernel, Neuron) and isinstance(kernel.function, Logistic)
    if not fits or kernel.bias:  # type: ignore[attr-defined]  # it is a Neuron where it fits
        raise ValueError(
            "`features` must be a map of the logistic function, but its kernel is "
            f"{kernel!r}; fit rfx.features.Universal(m, function=rfx.kernels.Logistic(b, scale))"
        )
    for name, given in (("bias", bias), ("scale", scale)):
        if given is not None:
            raise ValueError(
                f"`{name}` must be left out with `features`, whose function is {kernel.function!r}"  # type: ignore[attr-defined]
            )
