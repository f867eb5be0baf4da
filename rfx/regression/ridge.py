"""Ridge regression in feature space, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfx._xp import Array
from rfx.dispatch import Op, planned
from rfx.features import DrawnMap
from rfx.regression.equations import normal_equations
from rfx.regression.model import RidgeModel
from rfx.regression.solution import listed_ridges, solve

__all__ = ["ridge_regression"]


def _plan(
    *args: Any, ridge: Any, fit_intercept: bool = True, **options: Any
) -> tuple[Op, tuple[Any, ...], dict[str, Any]]:
    """That of the normal equations, which are most of the work."""
    plan = normal_equations.plan  # type: ignore[attr-defined]  # see `planned`
    return plan(*args, **options)


@planned(_plan)
def ridge_regression(
    x: Array,
    y: Array,
    /,
    *,
    features: DrawnMap,
    ridge: float | Sequence[float],
    weights: Array | None = None,
    fit_intercept: bool = True,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> RidgeModel:
    """Fit y ≈ θ·φ(x) + intercept: least of Σ w |y − θ·φ(x) − intercept|² + ridge |θ|².

    It approximates kernel ridge regression with ``features.kernel``, whose time is cubic in the
    number of rows; here it is linear. Features are never held for all rows. For rows that do not
    fit in memory see `rfx.regression.normal_equations`.

    Parameters
    ----------
    x : Array, shape (..., n, d)
    y : Array, shape (..., n), or (..., n, k) for several targets
    features : DrawnMap
        Its query side gives the regressors.
    ridge : float or sequence of float
        Positive, in the unit of Σ w |φ|², as scikit-learn's ``alpha``. A sequence gives a path. A
        number to autodiff.
    weights : Array, shape (..., n) or (n,), optional
        At least 0; 1 by default.
    fit_intercept : bool
        Whether to add a constant that is not penalised.
    chunk_size : int, optional
        Rows worked on at once; chosen by default.
    implementation : str, optional
        ``"portable"`` or the name of a fast path (see `rfx.explain`), which must be able to run.

    Returns
    -------
    RidgeModel
        ``model.predict(x)`` gives predictions.

    Raises
    ------
    TypeError, ValueError
        As `rfx.regression.normal_equations` and `rfx.regression.solve`.

    References
    ----------
    Rahimi & Recht, Random features for large-scale kernel machines, 2007, section 1.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.random.default_rng(0).uniform(-1.0, 1.0, (1000, 3))
    >>> y = np.sin(x.sum(axis=-1))
    >>> kernel = rfx.kernels.Gaussian()
    >>> phi = rfx.features.Trigonometric(256, kernel=kernel).draw(3, seed=0, like=x)
    >>> model = rfx.ridge_regression(x, y, features=phi, ridge=1e-2)
    >>> bool(abs(model.predict(x) - y).max() < 0.05)
    True
    >>> rfx.ridge_regression(x, y, features=phi, ridge=[1e-2, 1.0, 100.0]).predict(x).shape
    (3, 1000)
    """
    listed_ridges(ridge)  # before any work
    options: dict[str, Any] = {"chunk_size": chunk_size, "implementation": implementation}
    equations = normal_equations(x, y, features=features, weights=weights, **options)
    return solve(equations, ridge=ridge, fit_intercept=fit_intercept)
