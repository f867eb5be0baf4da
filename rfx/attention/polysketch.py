"""Polynomial attention of even degree through sketches that are never negative."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array
from rfx.attention.linear import linear_attention
from rfx.attention.products import visible
from rfx.attention.scaling import standardize
from rfx.attention.state import State
from rfx.attention.window import WindowState, attend_with_window, window_plan
from rfx.dispatch import Op, planned
from rfx.features import DrawnMap

__all__ = ["polysketch_attention"]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    layer_norm: bool = True,
    window: int | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    initial_state: State | WindowState | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Op, tuple[Any, ...], dict[str, Any]]:
    """Check the arguments, and say which op runs with what."""
    query, key = _prepared(query, key, value, layer_norm, window, is_causal, mask)
    options: dict[str, Any] = {"features": features, "mask": mask, "initial_state": initial_state}
    options |= {"chunk_size": chunk_size, "implementation": implementation}
    if window is not None:
        return window_plan(query, key, value, kernel=None, window=window, **options)
    plan = linear_attention.plan  # type: ignore[attr-defined]  # see `planned`
    return plan(query, key, value, is_causal=is_causal, **options)


@planned(_plan)
def polysketch_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    layer_norm: bool = True,
    window: int | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    initial_state: State | WindowState | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State] | tuple[Array, WindowState]:
    """Attention with the weights (S(q̂)·S(k̂))² for a sketch S of (q̂·k̂)^(p/2), p even.

    The target is polynomial attention, with the weights (q̂·k̂)^p of standardised queries and keys:
    ``rfx.kernel_attention(q̂, k̂, value, kernel=features.kernel)``. No weight is negative.

    Parameters
    ----------
    query, key, value : Array
        As for `rfx.linear_attention`.
    features : DrawnMap
        Drawn from `rfx.features.PolySketch`, or any other map.
    layer_norm : bool
        Whether to standardise queries and keys, each over its own coordinates; else they are taken
        as they are.
    window : int, optional
        With it the last keys of each query, so many, are weighed by ``features.kernel`` exactly,
        under the same denominator. For causal attention only.
    is_causal, mask, chunk_size, implementation
        As for `rfx.linear_attention`; with a window t <= s.
    initial_state : State or WindowState, optional
        Of the same map: with a window a `WindowState` of the same window, else a `State`.
    return_state : bool
        Return such a state too.

    Returns
    -------
    Array, shape (..., Hq, t, e), or a tuple of it and a state

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes, the map or the state do not fit together, or a window is not causal.

    Notes
    -----
    The mean of a weight over draws is (q̂·k̂)^p plus the variance of S(q̂)·S(k̂): all weights are too
    large, and those that should be near 0 by the greatest factor, which spreads attention over
    unrelated keys. Without a window the output of few features may be farther from its target than
    uniform attention is; as a target of its own it can be trained all the same.

    In the paper, the keys that are weighed exactly are those of a query's own block. Here there are
    equally many for each query, wherever the sequence is cut. The paper adds 1 to the denominator,
    which is a key of value 0; here nothing is added.

    References
    ----------
    Kacham, Mirrokni and Zhong, PolySketchFormer: fast transformers via sketching polynomial
    kernels, 2024.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.polysketch import polysketch_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> phi = rfx.features.PolySketch(num_features=64, degree=4).draw(16, seed=0, like=q)
    >>> polysketch_attention(q, k, v, features=phi, window=32, is_causal=True).shape
    (2, 100, 16)
    """
    query, key = _prepared(query, key, value, layer_norm, window, is_causal, mask)
    options: dict[str, Any] = {
        "features": features,
        "mask": mask,
        "initial_state": initial_state,
        "return_state": return_state,
        "chunk_size": chunk_size,
        "implementation": implementation,
    }
    if window is not None:
        return attend_with_window(query, key, value, kernel=None, window=window, **options)
    return linear_attention(query, key, value, is_causal=is_causal, **options)


def _prepared(
    query: Array,
    key: Array,
    value: Array,
    layer_norm: bool,
    window: int | None,
    is_causal: bool,
    mask: Array | None,
) -> tuple[Array, Array]:
    """Queries and keys, standardised if so asked."""
    _check.attention(query, key, value)
    _check.mask(mask, key)
    if window is not None and not is_causal:
        raise ValueError(
            "`window` is of the keys before a query, so that it needs causal attention; pass "
            "is_causal=True, or leave it out"
        )
    if not layer_norm:
        return query, key
    return standardize(query), standardize(visible(key, mask))
