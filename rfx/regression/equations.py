"""The normal equations of ridge regression: made chunk by chunk, gone on from, and merged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rfx import _check
from rfx._xp import Array, library, namespace, truth
from rfx.attention.state import check_same_map
from rfx.dispatch import Op, check_implementation, planned
from rfx.features import DrawnMap
from rfx.ops.normal import Sums, merged, no_rows, normal
from rfx.regression._rows import check_points, chunk_rows
from rfx.regression._targets import check_targets, check_weights

__all__ = ["NormalEquations", "check_kind", "merge", "normal_equations"]


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


def _plan(
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
    check_points(features, x)
    targets, single = check_targets(x, y)
    weights = check_weights(weights, x)
    check_implementation(implementation)
    if initial is None:
        batch = tuple(x.shape[:-2])
        sums = no_rows(features.like, batch, features.num_features, targets.shape[-1])
    else:
        sums = _known(initial, features, x, targets, single)
    options = {"chunk_size": chunk_rows(features, chunk_size), "implementation": implementation}
    return normal, (features, x, targets, weights, sums), options


@planned(_plan)
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
        feature exceeds its dtype; if a point or a target is not finite.

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
    op, (_, _, targets, weights, sums), options = _plan(
        x,
        y,
        features=features,
        weights=weights,
        initial=initial,
        chunk_size=chunk_size,
        implementation=implementation,
    )
    sums = op(features, features.place(x, "query"), targets, weights, sums, **options)
    xp = namespace(x)
    if truth(xp.all(xp.isfinite(sums.gram))) is False:
        if truth(xp.all(xp.isfinite(x))) is False:
            raise ValueError("`x` must be finite, got NaN or infinity; remove those rows")
        raise ValueError(
            "`x` has features beyond the range of their dtype; scale the points down, or take a "
            "bounded map, such as rfx.features.Trigonometric with a Gaussian kernel"
        )
    if truth(xp.all(xp.isfinite(sums.cross))) is False:
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
        check_kind(name, given)
    _check.together("first", first.gram, "second", second.gram)
    _check_single("first", first.single, "second", second.single)
    if tuple(first.cross.shape) != tuple(second.cross.shape):
        raise ValueError(
            f"`first` and `second` must have the same features, targets and batch axes, got shapes "
            f"{tuple(first.cross.shape)} and {tuple(second.cross.shape)}; make both alike"
        )
    check_same_map("second", second.features.fingerprint, first.features.fingerprint)
    both = merged(_sums(first), _sums(second))
    return _equations(first.features, both, first.single)


def check_kind(name: str, equations: Any) -> None:
    if not isinstance(equations, NormalEquations):
        raise TypeError(
            f"`{name}` must be rfx.regression.NormalEquations, got {type(equations).__name__}; "
            "pass what rfx.regression.normal_equations returned"
        )


def _known(
    initial: NormalEquations, features: DrawnMap, x: Array, targets: Array, single: bool
) -> Sums:
    check_kind("initial", initial)
    _check.together("x", x, "initial", initial.gram)
    check_same_map("initial", initial.features.fingerprint, features.fingerprint)
    wanted = (*x.shape[:-2], features.num_features, targets.shape[-1])
    _check_single("initial", initial.single, "y", single)
    if tuple(initial.cross.shape) != wanted:
        raise ValueError(
            f"`initial` must be of {wanted[-1]} targets with the batch axes of `x`, so that its "
            f"`cross` has shape {wanted}, got {tuple(initial.cross.shape)}; pass targets alike"
        )
    return _sums(initial)


def _check_single(first_name: str, first: bool, name: str, single: bool) -> None:
    """Refuse targets of which only one side has an axis for several."""
    if first != single:
        several, one = (name, first_name) if first else (first_name, name)
        raise ValueError(
            f"`{several}` has targets with an axis for several, but `{one}` without; pass both "
            "with it, for example y[..., None]"
        )


def _equations(features: DrawnMap, sums: Sums, single: bool) -> NormalEquations:
    return NormalEquations(features, **sums._asdict(), single=single)


def _sums(equations: NormalEquations) -> Sums:
    return Sums(*(getattr(equations, name) for name in Sums._fields))
