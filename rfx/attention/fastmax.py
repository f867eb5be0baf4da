"""Fastmax: attention by a polynomial of the inner product of standardised queries and keys."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array
from rfx.attention.linear import Plan, linear_attention
from rfx.attention.products import visible
from rfx.attention.scaling import standardize
from rfx.attention.state import State
from rfx.dispatch import planned
from rfx.features import DrawnMap

__all__ = ["fastmax_attention"]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    order: int | None = None,
    scale: float | None = None,
    features: DrawnMap | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Plan:
    """Check the arguments, and say which op runs with what."""
    query, key, features = _prepared(query, key, value, order, scale, features, mask)
    options = {"is_causal": is_causal, "mask": mask, "initial_state": initial_state}
    options |= {"chunk_size": chunk_size, "implementation": implementation}
    plan: Plan = linear_attention.plan(  # type: ignore[attr-defined]  # see `planned`
        query, key, value, features=features, **options
    )
    return plan


@planned(_plan)
def fastmax_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    order: int | None = None,
    scale: float | None = None,
    features: DrawnMap | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State]:
    """Attention Σ_k f(s) v_k / Σ_k f(s), f(s) = Σ_{l<=p} s^l / l! and s = scale · q̂·k̂.

    q̂ and k̂ are the queries and keys with the mean of their coordinates taken out, divided by their
    deviation. It is exact: `rfx.linear_attention` of these points with a Taylor map, and
    ``rfx.kernel_attention(q̂, k̂, value, kernel=features.kernel)`` gives the same in quadratic time.

    Parameters
    ----------
    query, key, value : Array
        As for `rfx.linear_attention`. There are (d + p)! / (d! p!) features.
    order : int, optional
        p, 2 by default.
    scale : float, optional
        1 by default, as in the paper. s is at most ``scale * d``, which it is for equal directions:
        with a larger d pass for example ``d ** -0.5``.
    features : DrawnMap, optional
        A map of q̂ and k̂, instead of ``order`` and ``scale``; by default
        ``rfx.features.Taylor(order, scale)``. Drawing that takes longer than a step of decoding:
        pass it there, and where torch.compile traces.
    is_causal, mask, initial_state, return_state, chunk_size, implementation
        As for `rfx.linear_attention`.

    Returns
    -------
    Array, shape (..., Hq, t, e), or a tuple of it and a `State`

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes, the map or the state do not fit together, or ``order`` is below 1 or given beside
        ``features``.

    Notes
    -----
    For p = 2, f(s) >= 1/2. For odd p weights may be negative, and the denominator may be near 0 or
    below it: outputs are then large, as those of the formula are. ``weak_denominators`` of
    `rfx.diagnostics`, for points from `rfx.attention.scaling.standardize`, says how often it nearly
    cancels. A denominator of 0 gives 0.

    References
    ----------
    Gerami et al., FAST: factorizable attention for speeding up transformers, 2024.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.fastmax import fastmax_attention
    >>> from rfx.attention.scaling import standardize
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> s = standardize(q) @ np.swapaxes(standardize(k), -1, -2)
    >>> weights = 1 + s + s**2 / 2
    >>> dense = weights @ v / weights.sum(axis=-1, keepdims=True)
    >>> bool(np.allclose(fastmax_attention(q, k, v), dense))
    True
    """
    query, key, features = _prepared(query, key, value, order, scale, features, mask)
    return linear_attention(
        query,
        key,
        value,
        features=features,
        is_causal=is_causal,
        mask=mask,
        initial_state=initial_state,
        return_state=return_state,
        chunk_size=chunk_size,
        implementation=implementation,
    )


def _prepared(
    query: Array,
    key: Array,
    value: Array,
    order: int | None,
    scale: float | None,
    features: Any,
    mask: Array | None,
) -> tuple[Array, Array, Any]:
    """Standardised points, and the map for them."""
    _check.attention(query, key, value)
    _check.mask(mask, key)
    if features is not None and not (order is None and scale is None):
        raise ValueError(
            "`order` and `scale` are those of the map, so that they are not taken beside "
            f"`features`, got order={order} and scale={scale}; leave them out"
        )
    if features is None:
        from rfx.features.taylor import Taylor  # not at import, as all specs

        spec = Taylor(2 if order is None else order, 1.0 if scale is None else scale)
        features = spec.draw(query.shape[-1], seed=0, like=query)
    return standardize(query), standardize(visible(key, mask)), features
