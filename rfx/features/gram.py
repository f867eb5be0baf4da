"""The kernel matrix as a drawn map estimates it."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, exp_nonpositive, full_precision, namespace
from rfx.dispatch import planned
from rfx.features._drawn import DrawnMap, check_drawn
from rfx.features._side import LogFeatures

__all__ = ["gram"]


def _plan(x: Array, y: Array, /, *, features: DrawnMap) -> tuple[None, tuple[Any, ...], Any]:
    check_drawn(features, "x")
    _check.points(x, y)
    _check.map_serves(features, x, "x")
    _check.map_heads(features, x, "x")
    return None, (x, y), {}


@planned(_plan)
def gram(x: Array, y: Array, /, *, features: DrawnMap) -> Array:
    """Estimate the kernel matrix k(x_i, y_j) as φ(x_i)·φ(y_j).

    Parameters
    ----------
    x : Array, shape (..., t, d), in the unit of the kernel
    y : Array, shape (..., s, d), of the dtype of ``x``
    features : DrawnMap
        ``x`` takes its query side and ``y`` its key side.

    Returns
    -------
    Array, shape (..., t, s), dtype of ``x``
        Unbiased if ``features.spec.unbiased``, with variance ``features.variance(x, y)``; the
        standard error falls as 1/sqrt(m). ``inf`` where it exceeds the dtype.

    Raises
    ------
    TypeError, ValueError
        If the points do not fit each other or the map.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.1, 0.2], [0.3, 0.4]])
    >>> phi = rfx.features.Trigonometric(num_features=512).draw(2, seed=0, like=x)
    >>> bool(abs(rfx.gram(x, x, features=phi) - phi.kernel(x, x)).max() < 0.01)
    True
    """
    _plan(x, y, features=features)
    xp = namespace(x)
    left, left_scale = _bounded(features.query(x))
    right, right_scale = _bounded(features.key(y))
    scale = xp.exp(left_scale + xp.matrix_transpose(right_scale))
    with full_precision(x):
        product = xp.matmul(left, xp.matrix_transpose(right))
    return xp.astype(product * scale, x.dtype, copy=False)


def _bounded(features: LogFeatures) -> tuple[Array, Array]:
    """Features divided by exp of their row's largest log, (..., t, m), and that log."""
    log, value = features
    xp = namespace(log)
    top = xp.max(log, axis=-1, keepdims=True)
    weight = exp_nonpositive(log - top)
    return (weight if value is None else weight * value), top
