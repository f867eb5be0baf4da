"""Random feature maps: one paper a file. ``NAMES`` lists them by the papers' names."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rfx._lazy import on_demand
from rfx.features._drawn import DrawnMap
from rfx.features._side import LogFeatures, Side
from rfx.features._spec import Costs, RandomSpec, Spec
from rfx.features.gram import gram
from rfx.features.moments import Moments, PointMoments
from rfx.features.storage import load, save
from rfx.projections import Orthogonal

if TYPE_CHECKING:
    from rfx.features._plain import PlainMap
    from rfx.features.aligned import Aligned
    from rfx.features.angular_hybrid import AngularHybrid
    from rfx.features.chi_squared import AdditiveChiSquared
    from rfx.features.clustered import Clustered
    from rfx.features.combination import Combination
    from rfx.features.complex_exponential import ComplexExponential
    from rfx.features.dense import SDERF
    from rfx.features.forms import (
        FORMS,
        CellMap,
        ChiSquaredMap,
        ComplexMap,
        CompositeMap,
        ExponentialMap,
        MonomialMap,
        PointwiseMap,
        PolynomialMap,
        TrigonometricMap,
    )
    from rfx.features.gaussian_hybrid import GaussianHybrid
    from rfx.features.gaussian_weight import GaussianWeight
    from rfx.features.geometric import Geometric
    from rfx.features.hybrid import Hybrid, Weight
    from rfx.features.learned import Dark, Hedgehog
    from rfx.features.maclaurin import Maclaurin
    from rfx.features.normalized import Normalized
    from rfx.features.optimal import Optimal
    from rfx.features.pointwise import Deterministic, Generalized
    from rfx.features.poisson import Poisson
    from rfx.features.polysketch import PolySketch
    from rfx.features.positive import Positive
    from rfx.features.random_tables import GERF, OPRF
    from rfx.features.rfa import RFA
    from rfx.features.sketches import ProductSketch, TensorSketch
    from rfx.features.taylor import Taylor
    from rfx.features.trigonometric import Trigonometric
    from rfx.features.universal import Universal

    ALL: tuple[Spec, ...]

__all__ = [
    "ALL",
    "FORMS",
    "GERF",
    "NAMES",
    "OPRF",
    "RFA",
    "SDERF",
    "AdditiveChiSquared",
    "Aligned",
    "AngularHybrid",
    "CellMap",
    "ChiSquaredMap",
    "Clustered",
    "Combination",
    "ComplexExponential",
    "ComplexMap",
    "CompositeMap",
    "Costs",
    "Dark",
    "Deterministic",
    "DrawnMap",
    "ExponentialMap",
    "GaussianHybrid",
    "GaussianWeight",
    "Generalized",
    "Geometric",
    "Hedgehog",
    "Hybrid",
    "LogFeatures",
    "Maclaurin",
    "Moments",
    "MonomialMap",
    "Normalized",
    "Optimal",
    "PlainMap",
    "PointMoments",
    "PointwiseMap",
    "Poisson",
    "PolySketch",
    "PolynomialMap",
    "Positive",
    "ProductSketch",
    "RandomSpec",
    "Side",
    "Spec",
    "Taylor",
    "TensorSketch",
    "Trigonometric",
    "TrigonometricMap",
    "Universal",
    "Weight",
    "gram",
    "load",
    "named",
    "save",
]

_find = on_demand(
    __name__,
    {
        "FORMS": "forms",
        "GERF": "random_tables",
        "OPRF": "random_tables",
        "RFA": "rfa",
        "SDERF": "dense",
        "AdditiveChiSquared": "chi_squared",
        "Aligned": "aligned",
        "AngularHybrid": "angular_hybrid",
        "CellMap": "forms",
        "ChiSquaredMap": "forms",
        "Clustered": "clustered",
        "Combination": "combination",
        "ComplexExponential": "complex_exponential",
        "ComplexMap": "forms",
        "CompositeMap": "forms",
        "Dark": "learned",
        "Deterministic": "pointwise",
        "ExponentialMap": "forms",
        "GaussianHybrid": "gaussian_hybrid",
        "GaussianWeight": "gaussian_weight",
        "Generalized": "pointwise",
        "Geometric": "geometric",
        "Hedgehog": "learned",
        "Hybrid": "hybrid",
        "Maclaurin": "maclaurin",
        "MonomialMap": "forms",
        "Normalized": "normalized",
        "Optimal": "optimal",
        "PlainMap": "_plain",
        "PointwiseMap": "forms",
        "Poisson": "poisson",
        "PolySketch": "polysketch",
        "PolynomialMap": "forms",
        "Positive": "positive",
        "ProductSketch": "sketches",
        "Taylor": "taylor",
        "TensorSketch": "sketches",
        "Trigonometric": "trigonometric",
        "TrigonometricMap": "forms",
        "Universal": "universal",
        "Weight": "hybrid",
    },
)


def __getattr__(name: str) -> Any:
    if name != "ALL":
        return _find(name)
    found = tuple(_ready(each) for each in NAMES)
    globals()["ALL"] = found
    return found


def __dir__() -> list[str]:
    return __all__


def _kind(name: str, **defaults: Any) -> Callable[..., Spec]:
    """A factory of specs of the class of this name, which is imported when it is called."""

    def make(*args: Any, **hyperparameters: Any) -> Spec:
        found: Spec = getattr(sys.modules[__name__], name)(*args, **defaults | hyperparameters)
        return found

    return make


def _aligned(base: str, center: str | None, transform: str | None) -> Callable[..., Spec]:
    def make(*args: Any, **hyperparameters: Any) -> Spec:
        found: Spec = _kind("Aligned")(_kind(base)(*args, **hyperparameters), center, transform)
        return found

    return make


def _normalized(base: str, **defaults: Any) -> Callable[..., Spec]:
    def make(*args: Any, **hyperparameters: Any) -> Spec:
        return _kind("Normalized")(_kind(base, **defaults)(*args, **hyperparameters))

    return make


NAMES: dict[str, Callable[..., Spec]] = {
    "favor": _kind("Trigonometric"),
    "favor-offset": _kind("Trigonometric", offset=True),
    "favor+": _kind("Positive"),
    "favor+hyp": _kind("Positive", hyperbolic=True),
    "favor+reg": _kind("Positive", projection=Orthogonal(norms="fixed")),
    "favor++": _kind("OPRF"),
    "gerf": _kind("GERF", A=-0.02 + 0.05j),
    "favor#": _aligned("OPRF", None, "diagonal"),
    "aderf": _aligned("OPRF", None, "full"),
    "sderf": _kind("SDERF"),
    "dense": _aligned("SDERF", "mean", "full"),
    "optimal": _kind("Optimal"),
    "complex-exponential": _kind("ComplexExponential"),
    "hybrid": _kind("AngularHybrid"),
    "hybrid-gaussian": _kind("GaussianHybrid"),
    "hybrid-clustered": _kind("Clustered"),
    "poisson": _kind("Poisson"),
    "poisson+": _aligned("Poisson", "low", None),
    "geometric": _kind("Geometric"),
    "geometric+": _aligned("Geometric", "low", None),
    "favor+relu": _kind("Generalized"),
    "elu+1": _kind("Deterministic", function="elu+1"),
    "squared-relu": _kind("Deterministic", function="squared-relu"),
    "identity": _kind("Deterministic", function="identity"),
    "softmax-features": _kind("Deterministic", function="softmax"),
    "rfa": _kind("RFA"),
    "rfa-arccos": _normalized("Generalized", epsilon=0.0),
    "hedgehog": _kind("Hedgehog"),
    "dark": _kind("Dark"),
    "urf": _kind("Universal"),
    "maclaurin": _kind("Maclaurin"),
    "tensorsketch": _kind("TensorSketch"),
    "ctr-sketch": _kind("ProductSketch"),
    "polysketch": _kind("PolySketch"),
    "taylor": _kind("Taylor"),
}
"""Factories of specs by the papers' names."""

_AS_WIDE_AS_THE_POINTS = (
    "elu+1",
    "squared-relu",
    "identity",
    "softmax-features",
    "hedgehog",
    "taylor",
)


def _ready(name: str) -> Spec:
    return NAMES[name]() if name in _AS_WIDE_AS_THE_POINTS else NAMES[name](num_features=256)


def named(name: str, **hyperparameters: Any) -> Spec:
    """The spec that a paper's name stands for.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    **hyperparameters
        Passed on; ``num_features`` for most maps.

    Returns
    -------
    Spec

    Raises
    ------
    ValueError
        If there is no such name; the nearest ones are suggested.

    Examples
    --------
    >>> import rfx
    >>> rfx.features.named("favor+", num_features=8).positive
    True
    """
    if name not in NAMES:
        import difflib  # seldom needed, and importing rfx is to be quick

        near = difflib.get_close_matches(str(name), NAMES, n=3) or list(NAMES)
        raise ValueError(f"there is no map named {name!r}; did you mean {' or '.join(near)}?")
    return NAMES[name](**hyperparameters)
