"""SchoenbAt: attention with random Maclaurin features, between two scalings."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from rfx import _check
from rfx._xp import Array
from rfx.attention.linear import Plan, linear_attention
from rfx.attention.products import visible
from rfx.attention.scaling import check_factor, post_scale, pre_scale
from rfx.attention.state import State
from rfx.attention.statistics import Statistics, check_statistics, measure
from rfx.dispatch import planned
from rfx.features import DrawnMap

__all__ = ["schoenbat_attention"]

Source: TypeAlias = Literal["token", "batch"] | tuple[Statistics, Statistics] | None
"""Where the statistics of the points come from."""


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    statistics: Source = "token",
    gain: Any = 1.0,
    power: Any = 1.0,
    is_causal: bool = False,
    mask: Array | None = None,
    query_mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Plan:
    """Check the arguments, and say which op runs with what."""
    is_part = is_causal or return_state or initial_state is not None
    masks = (mask, query_mask)
    query, key = _prepared(query, key, value, statistics, gain, power, masks, is_part)
    options: dict[str, Any] = {"is_causal": is_causal, "mask": mask, "features": features}
    options |= {"initial_state": initial_state, "chunk_size": chunk_size}
    plan = linear_attention.plan  # type: ignore[attr-defined]  # see `planned`
    return plan(query, key, value, implementation=implementation, **options)


@planned(_plan)
def schoenbat_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    statistics: Source = "token",
    gain: Any = 1.0,
    power: Any = 1.0,
    is_causal: bool = False,
    mask: Array | None = None,
    query_mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State]:
    """Attention γ sign(y) |y|^β, y = Σ_k φ(q̂)·φ(k̂) v_k / Σ_k φ(q̂)·φ(k̂), |q̂| = |k̂| = 1.

    φ are random Maclaurin features of f(scale · q̂·k̂), so that y estimates
    ``rfx.kernel_attention(q̂, k̂, value, kernel=features.kernel)``. The points q̂ and k̂ are
    standardised queries and keys divided by their norms, for which every one of the paper's series
    f is defined.

    Parameters
    ----------
    query, key, value : Array
        As for `rfx.linear_attention`.
    features : DrawnMap
        Drawn from `rfx.features.Maclaurin` with a kernel ``DotProduct(series)``, series being one
        of "exp", "inv", "logi", "sqrt" ("trigh" is equal to "exp"), or any other map. ``radius=d **
        -0.25`` shares its columns out for points of norm 1.
    statistics : {"token", "batch"} or tuple of two Statistics, optional
        What points are standardised by before they are divided by their norm.

        - "token": mean and deviation of a point's own coordinates.
        - "batch": those of each coordinate over this batch, for training; see
          `rfx.attention.scaling.measure`. Not for causal attention, nor with states.
        - Two records, of queries and of keys: running statistics, for all else.
        - None leaves the points as they are.
    gain, power : float or Array
        γ and β, each of a shape that broadcasts to the output, such as (e,).
    is_causal, mask, initial_state, return_state, chunk_size, implementation
        As for `rfx.linear_attention`.
    query_mask : Array of bool, optional
        True for queries that are measured, of shape (t,) or of the shape of ``query`` without its
        last axis, where an axis may be 1. Give it where "batch" meets padding among the queries.

    Returns
    -------
    Array, shape (..., Hq, t, e), or a tuple of it and a `State`

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes, the map or the state do not fit together, if a point is outside the kernel's
        domain, or if statistics of the batch are asked of a causal or a partial sequence.

    Notes
    -----
    φ(q̂)·φ(k̂) may be negative. The denominator is what it is: a floor below it, as in the released
    code, is not the kernel's attention. ``rfx.diagnostics.weak_denominators`` says how often it
    nearly cancels. Statistics of the batch are those of the published method; its code has those of
    the token, where the norm undoes the deviation.

    References
    ----------
    Guo et al., SchoenbAt: rethinking attention with polynomial basis, 2025, and Macformer:
    transformer with random Maclaurin feature attention, 2024.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.scaling import pre_scale
    >>> from rfx.attention.schoenbat import schoenbat_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> kernel = rfx.kernels.DotProduct("inv")
    >>> phi = rfx.features.Maclaurin(512, kernel, radius=0.5).draw(16, seed=0, like=q)
    >>> out = schoenbat_attention(q, k, v, features=phi)
    >>> exact = rfx.kernel_attention(pre_scale(q), pre_scale(k), v, kernel=kernel)
    >>> bool(abs(out - exact).max() < 0.03)
    True
    """
    is_part = is_causal or return_state or initial_state is not None
    masks = (mask, query_mask)
    query, key = _prepared(query, key, value, statistics, gain, power, masks, is_part)
    found = linear_attention(
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
    if isinstance(found, tuple):
        return post_scale(found[0], gain=gain, power=power), found[1]
    return post_scale(found, gain=gain, power=power)


def _prepared(
    query: Array,
    key: Array,
    value: Array,
    statistics: Source,
    gain: Any,
    power: Any,
    masks: tuple[Array | None, Array | None],
    is_part: bool,
) -> tuple[Array, Array]:
    """Checked queries and keys, in the unit ball."""
    _check.attention(query, key, value)
    mask, query_mask = masks
    _check.mask(mask, key)
    _check.mask(query_mask, query, ("query_mask", "query"))
    for name, factor in (("gain", gain), ("power", power)):
        check_factor(name, factor, value, (*query.shape[:-1], value.shape[-1]))
    kind = statistics if isinstance(statistics, str | None) else "given"
    if kind is None:
        return query, key
    points = (("query", visible(query, query_mask)), ("key", visible(key, mask)))
    if kind == "token":
        return pre_scale(points[0][1]), pre_scale(points[1][1])
    if kind == "batch":
        if is_part:
            raise ValueError(
                "`statistics` cannot be those of the batch in causal attention or with a state, "
                "where they would tell a query of later tokens; pass running ones, a tuple of two "
                "that rfx.scaling.measure and combine give, or 'token'"
            )
        each = (measure(query, mask=query_mask), measure(key, mask=mask))
    else:
        each = _pair(statistics)
        for (name, x), own in zip(points, each, strict=True):
            check_statistics("statistics", own, x, name)
    q, k = (pre_scale(x, statistics=own) for (_, x), own in zip(points, each, strict=True))
    return q, k


def _pair(statistics: Any) -> tuple[Any, Any]:
    """Refuse what is no pair of statistics."""
    if (
        not isinstance(statistics, tuple)
        or isinstance(statistics, Statistics)
        or len(statistics) != 2
    ):
        kind = type(statistics).__name__
        raise TypeError(
            "`statistics` must be 'token', 'batch', None, or a tuple of the statistics of queries "
            f"and of keys, got {statistics if isinstance(statistics, str) else kind}; "
            "measure both with rfx.scaling.measure"
        )
    return statistics
