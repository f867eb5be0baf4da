"""Hybrids with Gaussian weights: each estimate near the pair of points that it is exact at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rfx import _check
from rfx.features._spec import Spec, check_kernel, check_projection
from rfx.features.clustered import check_clusters, clusters_of
from rfx.features.combination import Composed
from rfx.features.complex_exponential import ComplexExponential
from rfx.features.composite import Term
from rfx.features.gaussian_weight import GaussianWeight
from rfx.features.hybrid import hybrid_terms
from rfx.features.moments import Sample
from rfx.features.positive import Positive
from rfx.features.trigonometric import Trigonometric
from rfx.kernels import Kernel, Softmax
from rfx.projections import Orthogonal, Projection

__all__ = ["GaussianHybrid"]

_SOFTMAX, _ORTHOGONAL = Softmax(), Orthogonal()


@dataclass(frozen=True)
class GaussianHybrid(Composed):
    """φ(x)·φ(y) = Σ_k λ_k S_k + (1 − Σ_k λ_k) SM_hyp, λ_k = exp(−|x + M_k y|² / 2τ²), estimated.

    Without clusters there is one λ, with M = −I, on trigonometric features, which are exact at
    x = y. With clusters there is one for each pair of a cluster of queries and one of keys, with a
    diagonal M that takes the centre of one to that of the other, on complex exponentials that are
    exact there. Hyperbolic positive features serve the other pairs of points. Estimates may be
    negative.

    The weights have a variance of their own, (1 − λ²)²/2 for each frequency, which multiplies those
    of the estimates: with few frequencies a hybrid is no better than its parts, but near the points
    where one of them is exact.

    Parameters
    ----------
    num_features : int
        Output columns, m: a multiple of 12 p w + 4 for p weights of w frequencies. The last
        estimate has twice the frequencies of the others.
    kernel : Softmax or Gaussian
    projection : Projection
        Of the estimates; weights have orthogonal frequencies.
    bandwidth : float
        τ, in the unit of the points.
    num_clusters : (int, int), optional
        Of queries and of keys, to be found by k-means.
    num_weights : int
        w, frequencies of each weight.

    Raises
    ------
    ValueError
        If ``num_features`` is no such multiple, or another number is not positive.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Choromanski et al., Hybrid random features, 2022 (Gaussian weights and their mixtures).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, 2.0, -1.0, 0.5]])
    >>> phi = rfx.features.GaussianHybrid(num_features=64).draw(4, seed=0, like=x)
    >>> bool(np.allclose(rfx.gram(x, x, features=phi), phi.kernel(x, x)))
    True
    """

    num_features: int
    kernel: Kernel = _SOFTMAX
    projection: Projection = _ORTHOGONAL
    bandwidth: float = 1.0
    num_clusters: tuple[int, int] | None = None
    num_weights: int = 1

    paper: ClassVar[str] = "Choromanski et al. 2022"

    def __post_init__(self) -> None:
        if self.num_clusters is not None:
            object.__setattr__(self, "num_clusters", check_clusters(self.num_clusters))
        count = _check.positive_int("num_weights", self.num_weights)
        object.__setattr__(self, "num_weights", count)
        why = f"(12 for each of {self._count} x {count} frequencies of weights, and 4)"
        features = _check.positive_int("num_features", self.num_features, self.columns, why)
        object.__setattr__(self, "num_features", features)
        object.__setattr__(self, "bandwidth", _check.positive_number("bandwidth", self.bandwidth))
        check_kernel(self)
        check_projection(self.projection)

    @property
    def _count(self) -> int:
        """Weights, p."""
        return 1 if self.num_clusters is None else self.num_clusters[0] * self.num_clusters[1]

    @property
    def columns(self) -> int:
        """Output columns that a frequency of each estimate, and two of the last, give."""
        return 12 * self._count * self.num_weights + 4

    @property
    def needs(self) -> Literal["nothing", "points"]:
        return "nothing" if self.num_clusters is None else "points"

    @property
    def maps(self) -> tuple[Spec, ...]:  # type: ignore[override]
        width, law = 2 * (self.num_features // self.columns), self.projection
        base: Spec = Trigonometric(width, self.kernel, law)
        matrix: Any = -1.0
        if self.num_clusters is not None:
            base, matrix = ComplexExponential(width, self.kernel, law, A="dense"), "means"
        weight = GaussianWeight(2 * self.num_weights, self.bandwidth, matrix)
        last = Positive(2 * width, self.kernel, law, hyperbolic=True)
        return (*(base,) * self._count, last, *(weight,) * self._count)

    @property
    def terms(self) -> tuple[Term, ...]:  # type: ignore[override]
        return hybrid_terms([(0.0, 1.0)] * self._count)

    @property
    def unbiased(self) -> bool:
        return self.projection.gaussian_rows

    def parameters(self, dim: int, sample: Sample) -> tuple[Any, ...]:
        """Of each map; those of a pair of clusters are fitted to it."""
        if self.num_clusters is None:
            return super().parameters(dim, sample)
        pairs, maps = clusters_of(sample, self.num_clusters).pairs, self.maps
        both = [[maps[i].parameters(dim, pair) for pair in pairs] for i in (0, -1)]
        return (*both[0], None, *both[1])
