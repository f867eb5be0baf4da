"""Alignment: any map of an exponential kernel on points that are centred and change their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np

from rfx._xp import Array
from rfx.features._drawn import DrawnMap
from rfx.features._plain import PlainMap
from rfx.features._side import Side
from rfx.features._spec import Costs, RandomSpec, Spec
from rfx.features.alignment import Center, Placement, Transform, placed, placements
from rfx.features.forms import ExponentialMap
from rfx.features.moments import Sample
from rfx.kernels import ExponentialKernel, Kernel, Softmax
from rfx.projections import Projection
from rfx.projections.structured import Structured

__all__ = ["Aligned"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Aligned(Spec):
    """A map of the softmax or the Gaussian kernel, evaluated on points that suit it better.

    The identity q·k = P(q − μ)·P⁻ᵀ(k − ν) + μ·(k − ν) + (q − μ)·ν + μ·ν holds for any μ, ν and any
    invertible P. The first term is a dot product of other points, which the base map estimates; the
    others belong to the queries or to the keys alone, and are carried exactly. So the kernel is the
    same, the estimate as unbiased as that of the base, and its variance that of the base at the new
    points. For the Gaussian kernel μ = ν, where the other terms cancel, and P acts on what is left.

    The means and P are fitted: P makes the second moments of both sides equal, so that |Pq|² and
    |P⁻ᵀk|² are least on average.

    Parameters
    ----------
    base : Spec
        Of the softmax or the Gaussian kernel, and not aligned itself.
    center : {"mean", "low", None}
        μ and ν are the means of queries and of keys, or the least of each coordinate (after which
        all are at least 0, which `Poisson` and `Geometric` gain from), or 0.
    transform : {"full", "diagonal", None}
        P is any matrix, a diagonal one, or the identity.

    Raises
    ------
    TypeError
        If ``base`` is no spec of such a kernel, or aligned itself.
    ValueError
        If ``center`` or ``transform`` is another one, or both are None, or ``center`` is "low" with
        a transform, which would undo it.

    Notes
    -----
    Second moments get a ridge of 1e-6 of their mean eigenvalue, so that axes without any spread
    leave P finite.

    References
    ----------
    Likhosherstov et al., Dense-exponential random features: sharp positive estimators of the
    Gaussian kernel, 2023: with `OPRF` as the base, "full" is their asymmetric map (ADERF) and
    "diagonal" the simplified one (SADERF, FAVOR#). Centring, and `SDERF` as the base, go beyond it.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rng = np.random.default_rng(0)
    >>> q, k = rng.standard_normal((2, 200, 8)) + 2.0
    >>> plain = rfx.features.OPRF(num_features=64)
    >>> aligned = rfx.features.Aligned(plain, center="mean", transform=None)
    >>> first, second = (spec.fit(q, k, seed=0) for spec in (plain, aligned))
    >>> ratio = first.log_relative_variance(q, k) - second.log_relative_variance(q, k)
    >>> bool(ratio.mean() > 3.0)  # the logs of the variances differ by that much
    True
    """

    base: Spec
    center: Center = "mean"
    transform: Transform = "full"

    paper: ClassVar[str] = "Likhosherstov et al. 2023"

    def __post_init__(self) -> None:
        base = self.base
        if not isinstance(base, Spec) or isinstance(base, Aligned):
            raise TypeError(
                f"`base` must be a spec that is not aligned itself, got {base!r}; "
                "pass for example rfx.features.SDERF(256)"
            )
        if not isinstance(base.kernel, ExponentialKernel):
            raise TypeError(
                f"`base` must be a map of the softmax or the Gaussian kernel, got {base!r}; "
                "pass for example rfx.features.SDERF(256)"
            )
        if hasattr(base, "maps"):
            raise TypeError(
                f"`base` must be one map, got the composite {type(base).__name__}; "
                "align the maps that it is made of"
            )
        _one_of("center", self.center, ("mean", "low", None))
        _one_of("transform", self.transform, ("full", "diagonal", None))
        if self.center is None and self.transform is None:
            raise ValueError(
                "`center` and `transform` are both None, which changes nothing; use the base"
            )
        if self.center == "low" and self.transform is not None:
            raise ValueError(
                f"`transform` must be None with center='low', got {self.transform!r}, after which "
                "coordinates may be negative again"
            )

    @property
    def num_features(self) -> int:
        """Output columns, m."""
        return int(self.base.num_features)  # type: ignore[attr-defined]

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]
        return self.base.kernel

    @property
    def projection(self) -> Projection:
        """The law of the base's frequencies."""
        return cast(RandomSpec, self.base).projection

    @property
    def needs(self) -> Literal["moments", "points"]:
        return "points" if self.base.needs == "points" else "moments"

    @property
    def costs(self) -> Costs:
        fit, draw, apply = self.base.costs
        if self.transform != "full":
            return Costs(fit or "n d²", draw, apply)
        changed = apply if apply.endswith("+ d²") else f"{apply} + d²"
        return Costs("n d² + d³", draw, changed)

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
        mine = {f.name for f in fields(self)} & set(hyperparameters)
        own = {name: hyperparameters.pop(name) for name in mine}
        base = own.pop("base", self.base).replace(**hyperparameters)
        return replace(self, base=base, **own)

    def _core(self, dim: int) -> Spec:
        """The base as a map of exp(u² z·z'), which is what it sees."""
        unit = cast(ExponentialKernel, self.kernel).unit(dim)
        return self.base.replace(kernel=Softmax(unit**2))

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        return self._core(x.shape[-1]).relative_variance(x, y, fitted)

    def parameters(self, dim: int, sample: Sample) -> tuple[Sequence[Placement], Any]:
        """Where queries and keys go, and what the base has fitted there."""
        together = bool(cast(ExponentialKernel, self.kernel).norm_weight)
        places = placements(sample.moments, self.center, self.transform, together=together)
        core = self._core(dim)
        inner = core.parameters(dim, placed(sample, *places)) if core.needs_data else None
        return places, inner

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: tuple[Sequence[Placement], Any]
    ) -> DrawnMap:
        kernel, (places, inner) = cast(ExponentialKernel, self.kernel), parameters
        gaussian, unit = bool(kernel.norm_weight), kernel.unit(dim)
        core = cast(PlainMap, self._core(dim).assemble(dim, rng, inner))
        sides = [
            self._composed(core.side(name), place, unit if gaussian else 0.0)
            for name, place in zip(("query", "key"), places, strict=True)
        ]
        if self.center is not None and not gaussian:
            sides = _with_other_terms(sides, places, unit, isinstance(core, ExponentialMap))
        return replace(core, spec=self, query_side=sides[0], key_side=sides[1])

    def _composed(self, side: Side, place: Placement, gaussian: float) -> Side:
        """The core's side on placed points, with the row term −gaussian² |x − shift|² / 2."""
        full = self.transform == "full" or side.transform is not None
        own = _matrix(side, len(place.shift))
        matrix, inverse = place.matrix @ own, np.linalg.solve(own, place.inverse)
        moved = side._replace(shift=None if self.center is None else place.shift)
        if full or self.transform is not None:
            moved = moved._replace(transform=matrix if full else np.diagonal(matrix).copy())
        if gaussian:
            metric = gaussian * inverse
            moved = moved._replace(metric=metric if full else np.diagonal(metric).copy())
        return moved


def _with_other_terms(
    sides: list[Side], places: Sequence[Placement], unit: float, exponential: bool
) -> list[Side]:
    """The sides with (q − μ)·ν + μ·ν on queries, and μ·(k − ν) on keys."""
    mu, nu = (place.shift for place in places)
    # x − shift = z T⁻¹ for placed points z, so (x − shift)·v = z·(T⁻¹ v).
    to_queries, to_keys = (
        unit**2 * np.linalg.solve(_matrix(side, len(mu)), mean)
        for side, mean in zip(sides, (nu, mu), strict=True)
    )
    query = sides[0]._replace(linear=to_queries, constant=np.asarray(unit**2 * (mu @ nu)))
    if exponential and not isinstance(sides[1].weight, Structured):
        # All features of a key share the term, so it may as well be a part of each frequency.
        return [query, sides[1]._replace(weight=sides[1].weight + to_keys[:, None])]
    return [query, sides[1]._replace(linear=to_keys)]


def _matrix(side: Side, dim: int) -> Host:
    """The side's change of axes as a matrix."""
    if side.transform is None:
        return np.eye(dim)
    return np.diag(side.transform) if side.transform.ndim == 1 else side.transform


def _one_of(name: str, value: Any, wanted: Sequence[Any]) -> None:
    if value not in wanted:
        raise ValueError(f"`{name}` must be one of {list(wanted)}, got {value!r}")
