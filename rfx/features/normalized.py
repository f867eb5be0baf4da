"""Maps of the directions of points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from rfx._xp import Array
from rfx.features._drawn import DrawnMap
from rfx.features._plain import PlainMap
from rfx.features._spec import Costs, Spec
from rfx.features.moments import Moments, Sample
from rfx.features.preparation import UnitNorm
from rfx.kernels import Kernel
from rfx.kernels import Normalized as NormalizedKernel
from rfx.projections import Projection

__all__ = ["Normalized"]

_unit = UnitNorm()


@dataclass(frozen=True)
class Normalized(Spec):
    """φ(x) = base(x / |x|): any map on the sphere, for the kernel of the base there.

    Claims and variance are those of the base at the directions. With ReLU features it is random
    feature attention of the arc-cosine kernel.

    Parameters
    ----------
    base : Spec
        One map, not a composite. What it has to fit is fitted to directions.

    Raises
    ------
    TypeError
        If ``base`` is no spec, a composite one or normalised itself; when drawn, if its map does
        something else to points first.
    ValueError
        When called, if a point is 0, which has no direction. Masked keys may be.

    References
    ----------
    Peng et al., Random feature attention, 2021, on unit queries and keys.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[3.0, 4.0], [0.1, 0.0]])
    >>> spec = rfx.features.Normalized(rfx.features.Deterministic("identity"))
    >>> phi = spec.draw(2, seed=0, like=x)
    >>> rfx.gram(x, x, features=phi)  # cosines
    array([[1. , 0.6],
           [0.6, 1. ]])
    """

    base: Spec

    paper: ClassVar[str] = "Peng et al. 2021"

    def __post_init__(self) -> None:
        base = self.base
        if not isinstance(base, Spec) or isinstance(base, Normalized):
            raise TypeError(
                f"`base` must be a spec that is not normalised itself, got {base!r}; "
                "pass for example rfx.features.Generalized(256, epsilon=0.0)"
            )
        if hasattr(base, "maps"):
            raise TypeError(
                f"`base` must be one map, got the composite {type(base).__name__}; "
                "normalise the maps that it is made of"
            )

    @property
    def num_features(self) -> int:
        """Output columns, m."""
        return int(self.base.num_features)  # type: ignore[attr-defined]

    @property
    def projection(self) -> Projection:
        """The law of the base's frequencies."""
        found: Projection = self.base.projection  # type: ignore[attr-defined]
        return found

    @property
    def epsilon(self) -> float:
        """What the base adds to its features."""
        return float(getattr(self.base, "epsilon", 0.0))

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]
        return NormalizedKernel(self.base.kernel)

    @property
    def needs(self) -> Literal["nothing", "points"]:
        return "points" if self.base.needs_data else "nothing"

    @property
    def costs(self) -> Costs:
        return self.base.costs

    @property
    def positive(self) -> bool:
        return self.base.positive

    @property
    def unbiased(self) -> bool:
        return self.base.unbiased

    @property
    def log_constant(self) -> float:
        return self.base.log_constant

    def replace(self, **hyperparameters: Any) -> Self:
        if "base" in hyperparameters:
            return replace(self, **hyperparameters)
        return replace(self, base=self.base.replace(**hyperparameters))

    def prepared(self, x: Array) -> Array:
        return _unit(x)

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        return self.base.relative_variance(x, y, fitted)

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        return self.base.absolute_variance(_unit(x), _unit(y), drawn)

    def parameters(self, dim: int, sample: Sample) -> Any:
        query, key = (_unit(points) for points in (sample.query, sample.key))
        moments = Moments.of(query, key, per_head=False)
        return self.base.parameters(dim, Sample(moments, query, key))

    def assemble(self, dim: int, rng: np.random.Generator, parameters: Any) -> DrawnMap:
        core = self.base.assemble(dim, rng, parameters)
        if not isinstance(core, PlainMap) or core.preparation is not None:
            raise TypeError(
                f"`base` must make features of the points as they are, got {self.base!r}; "
                "normalise the points before instead"
            )
        return replace(core, spec=self, preparation=_unit)
