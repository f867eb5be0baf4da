"""Kernel regression: the mean of the targets, weighted by a kernel."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, full, namespace, working_dtype
from rfx.attention import State, kernel_attention, linear_attention
from rfx.dispatch import planned
from rfx.features import DrawnMap
from rfx.kernels import Kernel
from rfx.regression._targets import check_targets, check_weights

__all__ = ["kernel_regression"]


def _plan(
    x: Array,
    points: Array,
    targets: Array,
    /,
    *,
    kernel: Kernel | None = None,
    features: DrawnMap | None = None,
    weights: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Any:
    """Check the arguments, and say what attention runs with what."""
    options: dict[str, Any] = {"chunk_size": chunk_size, "implementation": implementation}
    options |= {"initial_state": initial_state, "return_state": return_state}
    attention, columns, call = _prepared(x, points, targets, kernel, features, weights, options)
    return attention.plan(x, points, columns, **call)


def _prepared(
    x: Array,
    points: Array,
    targets: Array,
    kernel: Kernel | None,
    features: DrawnMap | None,
    weights: Array | None,
    options: dict[str, Any],
) -> tuple[Any, Array, dict[str, Any]]:
    """The attention that does the work, its values and its options."""
    _check.points(x, points, ("x", "points"))
    columns, _ = check_targets(points, targets, ("points", "targets"))
    weights = check_weights(weights, points, "points")
    columns = _weighted(columns, weights)
    mask = None if weights is None else weights[..., 0] > 0.0
    if (kernel is None) == (features is None):
        raise TypeError(
            "kernel_regression takes either `kernel` or `features`; pass kernel= for the exact "
            "estimate, features= for the one in linear time"
        )
    if features is not None:
        return linear_attention, columns, {"features": features, "mask": mask, **options}
    for name, value in options.items():
        if value is not None and value is not False:
            raise TypeError(f"`{name}` needs `features`: an exact kernel has no state or fast path")
    return kernel_attention, columns, {"kernel": kernel, "mask": mask}


@planned(_plan)
def kernel_regression(
    x: Array,
    points: Array,
    targets: Array,
    /,
    *,
    kernel: Kernel | None = None,
    features: DrawnMap | None = None,
    weights: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State]:
    """Σ_j w_j κ(x, x_j) y_j / Σ_j w_j κ(x, x_j), the estimate of Nadaraya and Watson.

    With ``kernel`` it is exact, by blocks of pairs, in quadratic time. With ``features`` the kernel
    is that of the map, estimated, and time is linear.

    Parameters
    ----------
    x : Array, shape (..., t, d)
        Where to predict.
    points : Array, shape (..., n, d)
        Of the dtype and batch axes of ``x``.
    targets : Array, shape (..., n), or (..., n, k) for several targets
    kernel : Kernel, optional
        Such as ``rfx.kernels.Gaussian(bandwidth=0.5)``; its entries are to be at least 0.
    features : DrawnMap, optional
        Instead of ``kernel``. A map with ``spec.positive`` gives means of the targets; with a
        signed one a denominator may come near 0, and `rfx.diagnostics.weak_denominators` counts
        such rows.
    weights : Array, shape (..., n) or (n,), optional
        w, at least 0; 1 by default. A point of weight 0 is absent: it may hold NaN, and no gradient
        flows to its weight.
    initial_state : State, optional
        Of points seen before, by the same map, and weighted if these are: they count too. Points
        that do not fit in memory go through it in parts, which may be merged by `rfx.merge`.
    return_state : bool
        Return the state with the new points too. For the state alone pass ``x[..., :0, :]``; to
        predict from a state alone, ``points[..., :0, :]``.
    chunk_size : int, optional
        Points worked on at once; chosen by default.
    implementation : str, optional
        ``"portable"`` or the name of a fast path (see `rfx.explain`), which must be able to run.

    Returns
    -------
    Array, shape (..., t), or (..., t, k) for several targets, dtype of ``targets``
        With ``return_state``, a tuple of it and a `State`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or not one of ``kernel`` and ``features`` is given.
    ValueError
        If shapes, devices, the map or the state do not fit together, or a weight is negative.

    References
    ----------
    Nadaraya, On estimating regression, 1964; Watson, Smooth regression analysis, 1964.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> points = np.linspace(0.0, 1.0, 101)[:, None]
    >>> y = points[:, 0] ** 2
    >>> kernel = rfx.kernels.Gaussian(bandwidth=0.05)
    >>> rfx.kernel_regression(points[50:51], points, y, kernel=kernel).round(4)
    array([0.2525])
    """
    options: dict[str, Any] = {"chunk_size": chunk_size, "implementation": implementation}
    options |= {"initial_state": initial_state, "return_state": return_state}
    attention, columns, call = _prepared(x, points, targets, kernel, features, weights, options)
    found = attention(x, points, columns, **call)
    single = targets.ndim < points.ndim
    out, after = found if return_state else (found, None)
    if weights is not None:
        out = _unweighted(out)
    out = namespace(targets).astype(out[..., 0] if single else out, targets.dtype, copy=False)
    return (out, after) if return_state else out


def _weighted(columns: Array, weights: Array | None) -> Array:
    """Targets times weights, and the weights: the quotient of their means is the estimate."""
    if weights is None:
        return columns
    xp, dtype = namespace(columns), working_dtype(columns)
    weights, columns = (xp.astype(a, dtype, copy=False) for a in (weights, columns))
    return xp.concat([columns * weights, weights], axis=-1)


def _unweighted(out: Array) -> Array:
    """The quotient; 0 where no point has any weight."""
    xp = namespace(out)
    mean = out[..., -1:]
    safe = xp.where(mean == 0.0, full(out, (), 1.0, out.dtype), mean)
    return xp.where(mean == 0.0, xp.zeros_like(out[..., :-1]), out[..., :-1] / safe)
