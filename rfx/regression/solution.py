"""The solution of normal equations with a ridge, or with several."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from rfx import _check
from rfx._xp import Array, device, from_numpy, library, namespace, truth
from rfx.regression.equations import NormalEquations, check_kind
from rfx.regression.model import RidgeModel

__all__ = ["listed_ridges", "solve"]


def solve(
    equations: NormalEquations, /, *, ridge: float | Sequence[float], fit_intercept: bool = True
) -> RidgeModel:
    """The θ that minimises Σ w |y − θ·φ(x) − intercept|² + ridge |θ|².

    Parameters
    ----------
    equations : NormalEquations
    ridge : float or sequence of float
        Positive. Several are solved with one eigendecomposition of the Gram matrix. Of an array
        without axes, or with one, the values are read; no gradient flows to them.
    fit_intercept : bool
        Without one it is 0. It is not penalised.

    Returns
    -------
    RidgeModel
        For a sequence of ridges its arrays have an axis for them, the first.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind, or a ridge has no value while a compiler traces.
    ValueError
        If a ridge is not positive, or is less than the roundings of the Gram matrix; if no row has
        any weight.

    Notes
    -----
    One ridge is solved by elimination in float64; where a library has no float64, all are solved
    with the decomposition, whose eigenvalues are held at 0 or above. A float32 map makes products
    in float32, with roundings of the order of 1e-7 Σ w |φ|²: take a float64 map for ridges near
    that.
    """
    check_kind("equations", equations)
    ridges, path = listed_ridges(ridge)
    xp, gram, cross = namespace(equations.gram), equations.gram, equations.cross
    if truth(xp.all(equations.weight > 0.0)) is False:
        raise ValueError("`equations` must have a row of positive weight; add rows first")
    if not fit_intercept:
        outer = equations.weight * xp.matrix_transpose(equations.mean)
        gram, cross = gram + outer * equations.mean, cross + outer * equations.target
    dtype = equations.features.like.dtype
    _check_ridge(ridges, gram, dtype)
    if not path and gram.dtype == xp.float64:
        unit = xp.eye(gram.shape[-1], dtype=gram.dtype, device=device(gram))
        theta = xp.linalg.solve(gram + ridges[0] * unit, cross)
    else:
        values, vectors = xp.linalg.eigh(gram)
        values = xp.clip(values, 0.0, None)[..., :, None]
        rotated = xp.matmul(xp.matrix_transpose(vectors), cross)
        shrunk = [xp.matmul(vectors, rotated / (values + r)) for r in ridges]
        theta = xp.stack(shrunk) if path else shrunk[0]
    intercept = equations.target - xp.matmul(equations.mean, theta)
    if not fit_intercept:
        intercept = xp.zeros_like(intercept)
    theta, intercept = (xp.astype(a, dtype, copy=False) for a in (theta, intercept))
    used = from_numpy(np.asarray(ridges if path else ridges[0]), gram, gram.dtype)
    return RidgeModel(equations.features, theta, intercept, used, path, equations.single)


def listed_ridges(ridge: Any) -> tuple[list[float], bool]:
    """One ridge or several as a list, and whether they came as several."""
    if isinstance(ridge, numbers.Real):
        return [_check.positive_number("ridge", ridge)], False
    values = ridge
    if library(ridge) is not None and ridge.ndim < 2:
        if truth(namespace(ridge).all(ridge > 0.0)) is None:
            raise TypeError(
                "`ridge` must be a number, which it is not while a compiler traces; make it a "
                "static argument"
            )
        values = ridge.tolist()
    if isinstance(values, numbers.Real):
        return [_check.positive_number("ridge", values)], False
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"`ridge` must be a positive number or a sequence of them, got {ridge!r}; pass for "
            "example 0.1"
        )
    if not values:
        raise ValueError("`ridge` must be a positive number or a sequence of them, got none")
    return [_check.positive_number("ridge", value) for value in values], True


def _check_ridge(ridges: Sequence[float], gram: Array, made_in: Any) -> None:
    """Refuse a ridge that the roundings of the Gram matrix hide.

    Independent ones of eps times the largest entry have a spectral norm of 2 √m times that.
    """
    xp = namespace(gram)
    if 0 in gram.shape:
        return
    noise = 2.0 * float(xp.finfo(made_in).eps) * gram.shape[-1] ** 0.5 * xp.max(xp.abs(gram))
    if truth(noise > min(ridges)):
        raise ValueError(
            f"`ridge` must exceed the roundings of the Gram matrix, about {float(noise):.1g}, got "
            f"{min(ridges):g}; take a larger one, or float64 points and map"
        )
