"""Clustered hybrid features: a map for each pair of a cluster of queries and one of keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._drawn import DrawnMap
from rfx.features._side import Side
from rfx.features._spec import Costs, Spec, check_kernel, check_projection
from rfx.features.cell_map import CellMap
from rfx.features.combination import Composed, Factor, FittedKernel
from rfx.features.complex_exponential import ComplexExponential
from rfx.features.composite import Term
from rfx.features.kmeans import centres_of, nearest
from rfx.features.moments import Sample, samples
from rfx.kernels import Kernel, Softmax
from rfx.projections import Orthogonal, Projection

__all__ = ["Cell", "Clustered", "Clusters", "check_clusters", "clusters_of"]

Host = np.ndarray[Any, Any]
_SOFTMAX, _ORTHOGONAL = Softmax(), Orthogonal()
_DENSE = ComplexExponential(2, A="dense")


class Clusters(NamedTuple):
    """Centres of queries and of keys, (k, d) each, and the sample of each pair of clusters."""

    query: Host
    key: Host
    pairs: tuple[Sample, ...]


@dataclass(frozen=True)
class Cell(Factor):
    """1 for the queries of a cluster and the keys of one, and 0 for all other pairs."""

    query: int
    key: int

    num_features: ClassVar[int] = 1
    kernel = FittedKernel()
    paper: ClassVar[str] = "Choromanski et al. 2022"

    @property
    def needs(self) -> Literal["points"]:
        return "points"

    @property
    def costs(self) -> Costs:
        return Costs("n d", "d", "d")

    @property
    def positive(self) -> bool:
        return True

    @property
    def unbiased(self) -> bool:
        return True

    def mean(self, x: Array, y: Array, drawn: DrawnMap | None) -> tuple[Array, Array | None]:
        assert drawn is not None
        first, second = (drawn.complete(a, side).value for a, side in ((x, "query"), (y, "key")))
        value = namespace(x).matmul(first, namespace(x).matrix_transpose(second))
        return namespace(x).zeros_like(value), value

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        zero, _ = self.mean(x, y, drawn)
        return zero, zero

    def assemble(self, dim: int, rng: np.random.Generator, parameters: Clusters) -> CellMap:
        def side(centres: Host, chosen: int) -> Side:
            bias = -0.5 * np.sum(centres * centres, axis=-1)
            return Side(centres.T.copy(), bias=bias, scale=np.eye(len(centres))[chosen])

        return CellMap(self, side(parameters.query, self.query), side(parameters.key, self.key))


@dataclass(frozen=True)
class Clustered(Composed):
    """φ(x)·φ(y) = Σ_ij [x in cluster i of queries] [y in cluster j of keys] S_ij.

    Queries and keys are clustered by k-means, and the map S_ij of a pair of clusters is fitted to
    their points alone. Every pair of points has one of these estimates. With the default, complex
    exponentials, that is exact at the pair of means, and the better the denser the clusters are.

    Parameters
    ----------
    num_features : int
        Output columns, m, shared by the pairs of clusters: a multiple of their number, and of the
        columns that a frequency gives.
    kernel : Softmax or Gaussian
    projection : Projection
    num_clusters : (int, int)
        Of queries and of keys.
    member : Spec
        The map of each pair; its own ``num_features``, kernel and projection are replaced. A
        positive one, such as ``Aligned(SDERF(1))``, gives positive estimates.

    Raises
    ------
    ValueError
        If ``num_features`` is no such multiple, or a number of clusters below 1. When fitted, if
        there are fewer points than clusters.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    The clusters are the same for every seed. They belong to the points as they are given, without
    any scaling of their axes.

    References
    ----------
    Choromanski et al., Hybrid random features, 2022 (clusters, weights 0 and 1, and one complex
    exponential estimator for each pair of centroids).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rng = np.random.default_rng(0)
    >>> centres = 2.0 * rng.standard_normal((2, 2, 1, 8))
    >>> q, k = (centres + 0.1 * rng.standard_normal((2, 2, 50, 8))).reshape(2, 100, 8)
    >>> phi = rfx.features.Clustered(num_features=64, num_clusters=(2, 2)).fit(q, k, seed=0)
    >>> error = np.abs(rfx.gram(q, k, features=phi) / phi.kernel(q, k) - 1.0).mean()
    >>> plain = rfx.features.Trigonometric(num_features=64).draw(8, seed=0, like=q)
    >>> without = np.abs(rfx.gram(q, k, features=plain) / phi.kernel(q, k) - 1.0).mean()
    >>> bool(20.0 * error < without)
    True
    """

    num_features: int
    kernel: Kernel = _SOFTMAX
    projection: Projection = _ORTHOGONAL
    num_clusters: tuple[int, int] = (2, 2)
    member: Spec = _DENSE

    paper: ClassVar[str] = "Choromanski et al. 2022"

    def __post_init__(self) -> None:
        clusters = check_clusters(self.num_clusters)
        object.__setattr__(self, "num_clusters", clusters)
        check_kernel(self)
        check_projection(self.projection)
        if not isinstance(self.member, Spec) or not hasattr(self.member, "num_features"):
            raise TypeError(
                f"`member` must be a spec with num_features, got {self.member!r}; "
                "pass for example rfx.features.Aligned(rfx.features.SDERF(1))"
            )
        why = f"({clusters[0]} x {clusters[1]} pairs of clusters"
        columns = self.columns // (clusters[0] * clusters[1])
        why += f", {columns} columns each)" if columns > 1 else ")"
        count = _check.positive_int("num_features", self.num_features, self.columns, why)
        object.__setattr__(self, "num_features", count)
        check_kernel(self._members[0])

    @property
    def columns(self) -> int:
        """Output columns that a frequency of each pair gives."""
        of_one = int(getattr(getattr(self.member, "base", self.member), "columns", 1))
        return self.num_clusters[0] * self.num_clusters[1] * of_one

    @property
    def needs(self) -> Literal["points"]:
        return "points"

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        queries, keys = self.num_clusters
        return list(product(range(queries), range(keys)))

    @property
    def _members(self) -> tuple[Spec, ...]:
        count = len(self._pairs)
        given: dict[str, Any] = {"num_features": self.num_features // count, "kernel": self.kernel}
        if hasattr(self.member, "projection"):
            given["projection"] = self.projection
        return (self.member.replace(**given),) * count

    @property
    def maps(self) -> tuple[Spec, ...]:  # type: ignore[override]
        return (*self._members, *(Cell(i, j) for i, j in self._pairs))

    @property
    def terms(self) -> tuple[Term, ...]:  # type: ignore[override]
        count = len(self._pairs)
        return tuple((1.0, (count + k, k)) for k in range(count))

    @property
    def costs(self) -> Costs:
        cells, pair = self.num_clusters, self._members[0].costs
        return Costs(f"n d ({cells[0]} + {cells[1]}) + {pair.fit or 0}", pair.draw, pair.apply)

    def parameters(self, dim: int, sample: Sample) -> tuple[Any, ...]:
        """What the map of each pair has fitted to its clusters, and the clusters for each cell."""
        found, member = clusters_of(sample, self.num_clusters), self._members[0]
        fitted = [member.parameters(dim, s) if member.needs_data else None for s in found.pairs]
        return (*fitted, *(found for _ in fitted))


def clusters_of(sample: Sample, numbers: tuple[int, int]) -> Clusters:
    """The clusters of a sample, with its points; the same whenever they are asked for.

    A cluster without points stands for its centre.
    """
    rng, centres, groups = np.random.default_rng(0), [], []
    for name, points, number in zip(
        ("query", "key"), (sample.query, sample.key), numbers, strict=True
    ):
        assert points is not None
        if len(points) < number:
            raise ValueError(
                f"`{name}` must have as many points as there are clusters, {number}, got "
                f"{len(points)}; take fewer clusters"
            )
        found = centres_of(points, number, rng)
        member = nearest(points, found)
        inside = (points[member == i] for i in range(number))
        groups.append([g if len(g) else found[i : i + 1] for i, g in enumerate(inside)])
        centres.append(found)
    pairs = tuple(samples(q, k)[0] for q, k in product(*groups))
    return Clusters(centres[0], centres[1], pairs)


def check_clusters(given: Any) -> tuple[int, int]:
    """Numbers of clusters of queries and of keys."""
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise TypeError(
            f"`num_clusters` must be two numbers, of queries and of keys, got {given!r}; "
            "pass for example (2, 2)"
        )
    first, second = (
        _check.positive_int(f"num_clusters[{i}]", number) for i, number in enumerate(given)
    )
    return first, second
