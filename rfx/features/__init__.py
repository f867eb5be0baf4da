"""Random feature maps: one paper a file. ``NAMES`` lists them by the papers' names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rfx.features._drawn import DrawnMap
from rfx.features._side import LogFeatures, Side
from rfx.features._spec import RandomSpec, Spec
from rfx.features.aligned import Aligned
from rfx.features.alignment import Center, Transform
from rfx.features.dense import SDERF
from rfx.features.forms import (
    FORMS,
    ComplexMap,
    ExponentialMap,
    MonomialMap,
    PointwiseMap,
    TrigonometricMap,
)
from rfx.features.geometric import Geometric
from rfx.features.gram import gram
from rfx.features.moments import Moments, PointMoments
from rfx.features.optimal import Optimal
from rfx.features.pointwise import Deterministic, Generalized
from rfx.features.poisson import Poisson
from rfx.features.positive import Positive
from rfx.features.random_tables import GERF, OPRF
from rfx.features.storage import load, save
from rfx.features.trigonometric import Trigonometric
from rfx.projections import Orthogonal

__all__ = [
    "ALL",
    "FORMS",
    "GERF",
    "NAMES",
    "OPRF",
    "SDERF",
    "Aligned",
    "ComplexMap",
    "Deterministic",
    "DrawnMap",
    "ExponentialMap",
    "Generalized",
    "Geometric",
    "LogFeatures",
    "Moments",
    "MonomialMap",
    "Optimal",
    "PointMoments",
    "PointwiseMap",
    "Poisson",
    "Positive",
    "RandomSpec",
    "Side",
    "Spec",
    "Trigonometric",
    "TrigonometricMap",
    "gram",
    "load",
    "named",
    "save",
]


def _aligned(
    base: Callable[..., Spec], center: Center, transform: Transform, **hyperparameters: Any
) -> Spec:
    return Aligned(base(**hyperparameters), center, transform)


def _ready(factory: Callable[..., Spec]) -> Spec:
    """With 256 columns, unless the width follows from the points."""
    function = factory.func if isinstance(factory, partial) else factory
    return factory() if function is Deterministic else factory(num_features=256)


NAMES: dict[str, Callable[..., Spec]] = {
    "favor": Trigonometric,
    "favor-offset": partial(Trigonometric, offset=True),
    "favor+": Positive,
    "favor+hyp": partial(Positive, hyperbolic=True),
    "favor+reg": partial(Positive, projection=Orthogonal(norms="fixed")),
    "favor++": OPRF,
    "gerf": partial(GERF, A=-0.02 + 0.05j),
    "favor#": partial(_aligned, OPRF, None, "diagonal"),
    "aderf": partial(_aligned, OPRF, None, "full"),
    "sderf": SDERF,
    "dense": partial(_aligned, SDERF, "mean", "full"),
    "optimal": Optimal,
    "poisson": Poisson,
    "poisson+": partial(_aligned, Poisson, "low", None),
    "geometric": Geometric,
    "geometric+": partial(_aligned, Geometric, "low", None),
    "favor+relu": Generalized,
    "elu+1": partial(Deterministic, function="elu+1"),
    "squared-relu": partial(Deterministic, function="squared-relu"),
    "identity": partial(Deterministic, function="identity"),
    "softmax-features": partial(Deterministic, function="softmax"),
}
"""Factories of specs by the papers' names."""

ALL: tuple[Spec, ...] = tuple(_ready(factory) for factory in NAMES.values())
"""A ready spec for each name, in the same order."""


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
