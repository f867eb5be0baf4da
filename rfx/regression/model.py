"""What ridge regression gives: coefficients, and predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rfx._xp import Array, full, library, namespace
from rfx.dispatch import check_implementation
from rfx.features import DrawnMap
from rfx.ops.normal import predicted
from rfx.regression._rows import check_points, chunk_rows

__all__ = ["RidgeModel"]


@dataclass(frozen=True, eq=False)
class RidgeModel:
    """y = φ(x)·θ + intercept.

    Attributes
    ----------
    features : DrawnMap
    coefficients : Array, shape (..., m, k), or (r, ..., m, k) for a path of r ridges
        θ, in the map's dtype.
    intercept : Array, shape (..., 1, k), or (r, ..., 1, k)
    ridge : Array, shape () or (r,)
    path : bool
        Whether it is a path of ridges.
    single : bool
        Whether predictions have no axis for several targets.
    """

    features: DrawnMap
    coefficients: Array
    intercept: Array
    ridge: Array
    path: bool
    single: bool

    def predict(
        self, x: Array, *, chunk_size: int | None = None, implementation: str | None = None
    ) -> Array:
        """Predictions for points of shape (..., n, d), chunk by chunk.

        Parameters
        ----------
        x : Array, shape (..., n, d)
            Its batch axes broadcast with those of the fit.
        chunk_size : int, optional
            Rows worked on at once; chosen by default.
        implementation : str, optional
            As in `rfx.ridge_regression`.

        Returns
        -------
        Array, shape (..., n), or (..., n, k) for several targets, dtype of ``x``
            For a path of ridges the first axis is that of the ridges.

        Raises
        ------
        TypeError, ValueError
            If the points do not fit the map, or the batch axes those of the fit.
        """
        check_points(self.features, x)
        check_implementation(implementation)
        xp, theta, added = namespace(x), self.coefficients, self.intercept
        if self.path:  # all of it by one product: ridges beside targets
            theta, added = (_beside(a) for a in (theta, added))
        batch = _batch_axes(x, theta)
        out = predicted(
            self.features,
            self.features.place(x, "query"),
            theta,
            added,
            chunk_size=chunk_rows(self.features, chunk_size),
            implementation=implementation,
        )
        if out is None:  # there are no rows
            out = full(x, (*batch, *x.shape[-2:-1], theta.shape[-1]), 0.0, theta.dtype)
        out = xp.astype(out, x.dtype, copy=False)
        if self.path:
            axes = (self.ridge.shape[0], self.coefficients.shape[-1])
            out = xp.moveaxis(xp.reshape(out, (*out.shape[:-1], *axes)), -2, 0)
        return out[..., 0] if self.single else out

    def __repr__(self) -> str:
        shape = tuple(getattr(self.coefficients, "shape", ()))
        return f"<RidgeModel of {library(self.coefficients)} arrays, coefficients {shape}>"


def _batch_axes(x: Array, theta: Array) -> tuple[int, ...]:
    """The batch axes of predictions for x (..., n, d) by coefficients (..., m, k)."""
    mine, fitted = tuple(x.shape[:-2]), tuple(theta.shape[:-2])
    try:
        return np.broadcast_shapes(mine, fitted)
    except ValueError:
        raise ValueError(
            f"`x` must have batch axes that broadcast with those of the fit, {fitted}, got {mine}; "
            "predict with the same batch axes, or none"
        ) from None


def _beside(array: Array) -> Array:
    """(r, ..., a, k) as (..., a, r k)."""
    xp = namespace(array)
    array = xp.moveaxis(array, 0, -2)
    return xp.reshape(array, (*array.shape[:-2], array.shape[-2] * array.shape[-1]))
