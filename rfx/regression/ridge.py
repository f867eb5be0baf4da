"""Ridge regression in feature space: normal equations that are streamed and merged, and solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfx import _check
from rfx._xp import Array, device, full, library, namespace, truth
from rfx.attention.state import check_same_map
from rfx.dispatch import Op, check_implementation, planned
from rfx.features import DrawnMap
from rfx.features._drawn import check_drawn
from rfx.ops.normal import Sums, merged, no_rows, normal, predicted
from rfx.regression._targets import check_targets, check_weights

__all__ = [
    "NormalEquations",
    "RidgeModel",
    "merge",
    "normal_equations",
    "ridge_regression",
    "solve",
]

_NUMBERS = 2**23
"""Features that are held at once: 32 MB of float32."""
_FEWEST = 256


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """What ridge regression needs of the rows seen so far: arrays of constant size.

    Means, and sums of products of deviations from them, are in float64 where the library has it.

    Attributes
    ----------
    features : DrawnMap
    weight : Array, shape (..., 1, 1)
        Sum of the weights of the rows.
    mean : Array, shape (..., 1, m)
        Of the features; ``target``, shape (..., 1, k), is that of the targets.
    gram : Array, shape (..., m, m)
        Σ w (φ − mean)(φ − mean)ᵀ; ``cross``, shape (..., m, k), is that with the targets.
    single : bool
        Whether targets came without an axis for several of them.
    """

    features: DrawnMap
    weight: Array
    mean: Array
    target: Array
    gram: Array
    cross: Array
    single: bool

    def __repr__(self) -> str:
        shape = tuple(getattr(self.cross, "shape", ()))
        return f"<NormalEquations of {library(self.gram)} arrays, {shape} features and targets>"


@dataclass(frozen=True, eq=False)
class RidgeModel:
    """y = φ(x)·θ + intercept.

    Attributes
    ----------
    features : DrawnMap
    coefficients : Array, shape (..., m, k), or (r, ..., m, k) for a path of r ridges
        θ, in the map's dtype.
    intercept : Array, shape (..., 1, k), or (r, ..., 1, k)
    single : bool
        Whether predictions have no axis for several targets.
    """

    features: DrawnMap
    coefficients: Array
    intercept: Array
    single: bool

    def predict(
        self, x: Array, *, chunk_size: int | None = None, implementation: str | None = None
    ) -> Array:
        """Predictions for points of shape (..., n, d), chunk by chunk.

        Parameters
        ----------
        x : Array, shape (..., n, d)
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
            If the points do not fit the map.
        """
        _check_points(self.features, x)
        check_implementation(implementation)
        theta, added, path = self.coefficients, self.intercept, None
        xp = namespace(x)
        if theta.ndim > x.ndim:  # all of a path by one product: ridges beside targets
            path, k = theta.shape[0], theta.shape[-1]
            theta, added = (_beside(a) for a in (theta, added))
        out = predicted(
            self.features,
            self.features.place(x, "query"),
            theta,
            added,
            chunk_size=_size(self.features, chunk_size),
            implementation=implementation,
        )
        if out is None:  # there are no rows
            out = full(x, (*x.shape[:-1], theta.shape[-1]), 0.0, theta.dtype)
        out = xp.astype(out, x.dtype, copy=False)
        if path is not None:
            out = xp.moveaxis(xp.reshape(out, (*out.shape[:-1], path, k)), -2, 0)
        return out[..., 0] if self.single else out

    def __repr__(self) -> str:
        shape = tuple(getattr(self.coefficients, "shape", ()))
        return f"<RidgeModel of {library(self.coefficients)} arrays, coefficients {shape}>"


def _plan_normal(
    x: Array,
    y: Array,
    /,
    *,
    features: DrawnMap,
    weights: Array | None = None,
    initial: NormalEquations | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Op, tuple[Any, ...], dict[str, Any]]:
    _check_points(features, x)
    targets, single = check_targets(x, y)
    weights = check_weights(weights, x)
    check_implementation(implementation)
    if initial is None:
        batch = tuple(x.shape[:-2])
        sums = no_rows(features.like, batch, features.num_features, targets.shape[-1])
    else:
        sums = _known(initial, features, x, targets, single)
    options = {"chunk_size": _size(features, chunk_size), "implementation": implementation}
    return normal, (features, x, targets, weights, sums), options


@planned(_plan_normal)
def normal_equations(
    x: Array,
    y: Array,
    /,
    *,
    features: DrawnMap,
    weights: Array | None = None,
    initial: NormalEquations | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> NormalEquations:
    """Σ w φ(x)φ(x)ᵀ and Σ w φ(x) y over rows, centred, chunk by chunk.

    Rows need not be in memory together: pass what was returned for some as ``initial`` with the
    next, or `merge` what was made apart. Time is n m² and memory m² + chunk_size m, for n rows and
    m features.

    Parameters
    ----------
    x : Array, shape (..., n, d)
    y : Array, shape (..., n), or (..., n, k) for several targets
    features : DrawnMap
        Its query side gives the regressors.
    weights : Array, shape (..., n) or (n,), optional
        At least 0; 1 by default. A row of weight 0 is absent, but must hold finite numbers.
    initial : NormalEquations, optional
        Of rows seen before, by the same map. It is not written to.
    chunk_size : int, optional
        Rows worked on at once; chosen by default.
    implementation : str, optional
        ``"portable"`` or the name of a fast path (see `rfx.explain`), which must be able to run.

    Returns
    -------
    NormalEquations

    Raises
    ------
    TypeError, ValueError
        If points, targets, weights and map do not fit together; if a weight is negative; if a
        feature exceeds its dtype or a target is not finite.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.random.default_rng(0).uniform(-1.0, 1.0, (1000, 3))
    >>> y = np.sin(x.sum(axis=-1))
    >>> kernel = rfx.kernels.Gaussian()
    >>> phi = rfx.features.Trigonometric(256, kernel=kernel).draw(3, seed=0, like=x)
    >>> half = rfx.regression.normal_equations(x[:500], y[:500], features=phi)
    >>> both = rfx.regression.normal_equations(x[500:], y[500:], features=phi, initial=half)
    >>> model = rfx.regression.solve(both, ridge=1e-3)
    >>> bool(abs(model.predict(x) - y).max() < 0.05)
    True
    """
    op, (_, _, targets, weights, sums), options = _plan_normal(
        x,
        y,
        features=features,
        weights=weights,
        initial=initial,
        chunk_size=chunk_size,
        implementation=implementation,
    )
    sums = op(features, features.place(x, "query"), targets, weights, sums, **options)
    if truth(namespace(x).all(namespace(x).isfinite(sums.gram))) is False:
        raise ValueError(
            "`x` has features beyond the range of their dtype; scale the points down, or take a "
            "bounded map, such as rfx.features.Trigonometric with a Gaussian kernel"
        )
    if truth(namespace(x).all(namespace(x).isfinite(sums.cross))) is False:
        raise ValueError("`y` must be finite, got NaN or infinity; remove those rows")
    return _equations(features, sums, y.ndim < x.ndim)


def merge(first: NormalEquations, second: NormalEquations, /) -> NormalEquations:
    """The normal equations of two sets of rows together.

    Parameters
    ----------
    first, second : NormalEquations
        Of the same map, batch axes and number of targets.

    Returns
    -------
    NormalEquations

    Raises
    ------
    TypeError, ValueError
        If the two do not fit together.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.random.default_rng(0).standard_normal((100, 3))
    >>> phi = rfx.features.Positive(16).draw(3, seed=0, like=x)
    >>> first, second = (rfx.regression.normal_equations(a, a, features=phi) for a in (x, x[:9]))
    >>> float(rfx.regression.merge(first, second).weight[0, 0])
    109.0
    """
    for name, given in (("first", first), ("second", second)):
        _check_kind(name, given)
    _check.together("first", first.gram, "second", second.gram)
    if first.single != second.single or tuple(first.cross.shape) != tuple(second.cross.shape):
        raise ValueError(
            f"`first` and `second` must have the same features, targets and batch axes, got shapes "
            f"{tuple(first.cross.shape)} and {tuple(second.cross.shape)}; make both alike"
        )
    check_same_map("second", second.features.fingerprint, first.features.fingerprint)
    both = merged(_sums(first), _sums(second))
    return _equations(first.features, both, first.single)


def solve(
    equations: NormalEquations, /, *, ridge: float | Sequence[float], fit_intercept: bool = True
) -> RidgeModel:
    """The θ that minimises Σ w |y − θ·φ(x) − intercept|² + ridge |θ|².

    Parameters
    ----------
    equations : NormalEquations
    ridge : float or sequence of float
        Positive. Several are solved with one eigendecomposition of the Gram matrix.
    fit_intercept : bool
        Without one it is 0. It is not penalised.

    Returns
    -------
    RidgeModel
        For a sequence of ridges its arrays have an axis for them, the first.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
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
    _check_kind("equations", equations)
    path = not isinstance(ridge, int | float)
    ridges = [_check.positive_number("ridge", r) for r in _listed(ridge)]
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
    return RidgeModel(equations.features, theta, intercept, equations.single)


def _plan_ridge(
    *args: Any, ridge: Any, fit_intercept: bool = True, **options: Any
) -> tuple[Op, tuple[Any, ...], dict[str, Any]]:
    """That of the normal equations, which are most of the work."""
    return _plan_normal(*args, **options)


@planned(_plan_ridge)
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
        Positive, in the unit of Σ w |φ|², as scikit-learn's ``alpha``. A sequence gives a path.
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
    options: dict[str, Any] = {"chunk_size": chunk_size, "implementation": implementation}
    equations = normal_equations(x, y, features=features, weights=weights, **options)
    return solve(equations, ridge=ridge, fit_intercept=fit_intercept)


def _check_points(features: DrawnMap, x: Array) -> None:
    check_drawn(features, "x")
    _check.array("x", x)
    _check.map_serves(features, x, "x")
    _check.map_heads(features, x, "x")
    features.check_values(x, "x")


def _check_kind(name: str, equations: Any) -> None:
    if not isinstance(equations, NormalEquations):
        raise TypeError(
            f"`{name}` must be rfx.regression.NormalEquations, got {type(equations).__name__}; "
            "pass what rfx.regression.normal_equations returned"
        )


def _check_ridge(ridges: Sequence[float], gram: Array, made_in: Any) -> None:
    """Refuse a ridge that the roundings of the Gram matrix hide.

    Independent ones of eps times the largest entry have a spectral norm of 2 √m times that.
    """
    xp = namespace(gram)
    noise = 2.0 * float(xp.finfo(made_in).eps) * gram.shape[-1] ** 0.5 * xp.max(xp.abs(gram))
    if truth(noise > min(ridges)):
        raise ValueError(
            f"`ridge` must exceed the roundings of the Gram matrix, about {float(noise):.1g}, got "
            f"{min(ridges):g}; take a larger one, or float64 points and map"
        )


def _known(
    initial: NormalEquations, features: DrawnMap, x: Array, targets: Array, single: bool
) -> Sums:
    _check_kind("initial", initial)
    _check.together("x", x, "initial", initial.gram)
    check_same_map("initial", initial.features.fingerprint, features.fingerprint)
    wanted = (*x.shape[:-2], features.num_features, targets.shape[-1])
    if initial.single != single or tuple(initial.cross.shape) != wanted:
        raise ValueError(
            f"`initial` must be of {wanted[-1]} targets with the batch axes of `x`, so that its "
            f"`cross` has shape {wanted}, got {tuple(initial.cross.shape)}; pass targets alike"
        )
    return _sums(initial)


def _equations(features: DrawnMap, sums: Sums, single: bool) -> NormalEquations:
    return NormalEquations(features, **sums._asdict(), single=single)


def _sums(equations: NormalEquations) -> Sums:
    return Sums(*(getattr(equations, name) for name in Sums._fields))


def _size(features: DrawnMap, chunk_size: int | None) -> int:
    if chunk_size is not None:
        return _check.positive_int("chunk_size", chunk_size)
    return max(_NUMBERS // features.num_features, _FEWEST)


def _listed(ridge: Any) -> list[Any]:
    """One ridge or several as a list."""
    if isinstance(ridge, int | float):
        return [ridge]
    listed = list(ridge) if isinstance(ridge, Sequence) else getattr(ridge, "tolist", list)()
    if not isinstance(listed, list) or not listed:
        raise ValueError("`ridge` must be a positive number or a sequence of them, got none")
    return listed


def _beside(array: Array) -> Array:
    """(r, ..., a, k) as (..., a, r k)."""
    xp = namespace(array)
    array = xp.moveaxis(array, 0, -2)
    return xp.reshape(array, (*array.shape[:-2], array.shape[-2] * array.shape[-1]))
