"""EVA: softmax attention, exact in a window and through one average for each group beyond it."""

from __future__ import annotations

import math
from typing import Any

from rfx import _check
from rfx._xp import Array, full_precision, namespace, working_dtype
from rfx.attention.exact import kernel_attention
from rfx.attention.products import default_scale, repeat_heads, visible
from rfx.dispatch import planned
from rfx.kernels import Softmax
from rfx.ops.groups import Layout, attend_windows

__all__ = ["eva_attention"]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    window: int = 64,
    group_size: int = 16,
    seed: int = 0,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    _check.mask(mask, key)
    if query.shape[-2] != key.shape[-2]:
        raise ValueError(
            "EVA needs as many queries as keys, since both share their windows and groups, got "
            f"t={query.shape[-2]} and s={key.shape[-2]}; use rfx.lara_attention"
        )
    window = _check.positive_int("window", window)
    group = _check.positive_int("group_size", group_size)
    if window % group and group % window:
        nearest = max(window // group, 1) * group if window > group else -(-group // window)
        fix = f"window={nearest}" if window > group else f"group_size={nearest * window}"
        raise ValueError(
            "`window` must be a multiple of `group_size`, or the other way round, so that no group "
            f"is cut, got window={window} and group_size={group}; pass {fix}"
        )
    _check.seed(seed)
    if scale is not None:
        _check.positive_number("scale", scale)
    return None, (query, key, value), {}


@planned(_plan)
def eva_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    window: int = 64,
    group_size: int = 16,
    seed: int = 0,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """[Σ_k∈E exp(q·k) v_k + Σ_c n_c exp(q·k̄_c) β_c] / [Σ_k∈E exp(q·k) + Σ_c n_c exp(q·k̄_c)].

    The target is softmax attention, ``rfx.kernel_attention(query, key, value)``; points are scaled
    by d ** -0.25. Keys in the window E of a query, the block of ``window`` tokens that it is in,
    are exact. The others stand in groups of ``group_size`` tokens: c has n_c keys of mean k̄_c, and
    β_c = Σ_k∈c ξ(k, ω_c) v_k / Σ_k∈c ξ(k, ω_c), with ξ(x, ω) = exp(ω·x − |x|²/2) and one random
    frequency ω_c from N(q̄_c + k̄_c, I), is an average of their values. With ``group_size=1``, or a
    window as long as the sequence, it is exact.

    Each query costs about ``window`` + n / ``group_size`` products with a key and a value; memory
    beyond inputs and output is that of the groups, of the keys once for each query head, and of
    2048 queries with all that they see.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included; t = s.
    window : int
        Length of the blocks in which attention is exact; the first begins at the first token.
    group_size : int
        A divisor or a multiple of ``window``. Where it is a multiple, what a query's own group has
        outside of its window is seen in groups of the window's length.
    seed : int
        Of the frequencies, which are drawn by NumPy: the same on every library, and the same noise
        in every head and batch entry.
    scale : float, optional
        d ** -0.5 by default.
    is_causal : bool
        Query i sees the keys j <= i of its window, and the groups that lie before it.
    mask : Array of bool, optional
        True for tokens to keep, as in `rfx.linear_attention`: one that is masked is absent as a
        key, and from the means of the queries and keys of its group. A query with no key gives
        zeros.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``
        Averages of the values; biased.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together, t and s differ, neither of ``window`` and ``group_size``
        divides the other, ``seed`` is negative or ``scale`` not positive.

    Notes
    -----
    Computed in float32, or in float64 for float64. Windows, groups and their frequencies are those
    of positions, so padding changes nothing if it is on the right. NaN in a token touches the rows
    that may see it or its group and, if causal, no more than its own block of 2048 queries besides.
    Gradients flow through the means and so through the frequencies.

    In the paper a learned vector takes the place of k̄_c, and there is no n_c, which such a vector
    can learn. Without it a group would count as much as one key does.

    References
    ----------
    Zheng, Yuan, Wang, and Kong, Efficient attention via control variates, 2023.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.eva import eva_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> exact = rfx.kernel_attention(q, k, v, is_causal=True)
    >>> out = eva_attention(q, k, v, window=8, group_size=1, is_causal=True)
    >>> bool(abs(out - exact).max() < 1e-12)
    True
    """
    call: dict[str, Any] = {"scale": scale, "is_causal": is_causal, "mask": mask}
    _plan(query, key, value, window=window, group_size=group_size, seed=seed, **call)
    length = query.shape[-2]
    if window >= length:
        kernel = Softmax(default_scale(query, scale))  # also where d is 0
        return kernel_attention(query, key, value, kernel=kernel, is_causal=is_causal, mask=mask)
    group_size = min(group_size, -(-length // window) * window)
    layout = Layout(length, int(window), int(group_size), is_causal)
    xp, dtype = namespace(query), working_dtype(query)
    root = math.sqrt(default_scale(query, scale))
    x, y, v = (xp.astype(a, dtype, copy=False) for a in (query, key, value))
    if x.ndim > 2:
        y, v = (repeat_heads(a, x.shape[-3], axis=-3) for a in (y, v))
        if mask is not None and mask.ndim > 1 and mask.shape[-2] != 1:
            mask = repeat_heads(mask, x.shape[-3], axis=-2)
    y, v = visible(y, mask), visible(v, mask)
    with full_precision(query):
        out = attend_windows(root * x, root * y, v, mask, layout, int(seed))
    return xp.astype(out, value.dtype, copy=False)
