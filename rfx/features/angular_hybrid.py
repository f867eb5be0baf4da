"""The angular hybrid: positive features by the angle, trigonometric ones by what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace
from rfx.features._drawn import DrawnMap
from rfx.features._spec import Spec, check_kernel, check_projection
from rfx.features.combination import Composed
from rfx.features.composite import CompositeMap, Term
from rfx.features.hybrid import hybrid_terms
from rfx.features.pointwise import Generalized
from rfx.features.positive import Positive
from rfx.features.trigonometric import Trigonometric
from rfx.kernels import ExponentialKernel, Kernel, Softmax
from rfx.kernels._scaled import Scaled, product, total
from rfx.projections import IID, Orthogonal, Projection

__all__ = ["AngularHybrid"]

_SOFTMAX, _ORTHOGONAL = Softmax(), Orthogonal()


@dataclass(frozen=True)
class AngularHybrid(Composed):
    """φ(x)·φ(y) = λ SM_hyp + (1 − λ) SM_trig, where λ estimates θ/π, θ the angle between x and y.

    λ = 1/2 − Σ_i sgn(τ_i·x) sgn(τ_i·y) / 2n, with n Gaussian τ of its own. Hyperbolic positive
    features (`Positive`) are exact at x = −y and trigonometric ones at x = y; this estimate is
    exact at both, and between them it is the better one that counts more. Estimates may be
    negative. At x = −y it is terms of the size of exp(|x|²) that cancel, so rounding is of that
    size times eps.

    Parameters
    ----------
    num_features : int
        Output columns, a multiple of 4 (n + 1): four of ω and n + 1 of signs, for each ω.
    kernel : Softmax or Gaussian
    projection : Projection
        Of the ω. ``Orthogonal()`` by default.
    num_signs : int
        n. The more, the nearer λ is to θ/π; the directions τ are independent.
    shared_frequencies : bool
        Use the same ω for both estimates instead of independent ones. The variance is then lower by
        2 λ (1 − λ) (1 − 1/n) k² (1 − cos(|x|² − |y|²)) times the number of ω, λ = θ/π: not at all
        for equal norms, or one sign.

    Raises
    ------
    ValueError
        If ``num_features`` is no multiple of 4 (n + 1), or ``num_signs`` below 1.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Choromanski et al., Hybrid random features, 2022 (the angular hybrid, its mean squared error
    with independent estimates, and that with shared frequencies).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, 2.0, -1.0, 0.5]])
    >>> phi = rfx.features.AngularHybrid(num_features=64).draw(4, seed=0, like=x)
    >>> both = (rfx.gram(x, x, features=phi), rfx.gram(x, -x, features=phi))
    >>> np.allclose(both, (phi.kernel(x, x), phi.kernel(x, -x)))
    True
    """

    num_features: int
    kernel: Kernel = _SOFTMAX
    projection: Projection = _ORTHOGONAL
    num_signs: int = 1
    shared_frequencies: bool = False

    paper: ClassVar[str] = "Choromanski et al. 2022"

    def __post_init__(self) -> None:
        signs = _check.positive_int("num_signs", self.num_signs)
        object.__setattr__(self, "num_signs", signs)
        why = f"(4 features of a frequency times {signs} + 1 for the signs)"
        count = _check.positive_int("num_features", self.num_features, self.columns, why)
        object.__setattr__(self, "num_features", count)
        check_kernel(self)
        check_projection(self.projection)
        if not isinstance(self.shared_frequencies, bool):
            raise TypeError(
                f"`shared_frequencies` must be True or False, got {self.shared_frequencies!r}"
            )

    @property
    def columns(self) -> int:
        """Output columns that a frequency gives."""
        return 4 * (self.num_signs + 1)

    @property
    def num_frequencies(self) -> int:
        """Frequencies ω of either estimate."""
        return self.num_features // self.columns

    @property
    def maps(self) -> tuple[Spec, ...]:  # type: ignore[override]
        width, law = 2 * self.num_frequencies, self.projection
        return (
            Positive(width, self.kernel, law, hyperbolic=True),
            Trigonometric(width, self.kernel, law),
            Generalized(self.num_signs, projection=IID(), function="sign", epsilon=0.0),
        )

    @property
    def terms(self) -> tuple[Term, ...]:  # type: ignore[override]
        return hybrid_terms([(0.5, -0.5)])

    @property
    def unbiased(self) -> bool:
        return self.projection.gaussian_rows

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: tuple[None, ...] | None
    ) -> CompositeMap:
        if not self.shared_frequencies:
            return super().assemble(dim, rng, parameters)
        positive, waves, signs = self.maps
        seed = int(rng.integers(2**62))
        bases = [m.assemble(dim, np.random.default_rng(seed), None) for m in (positive, waves)]
        return CompositeMap.made(self, [*bases, signs.assemble(dim, rng, None)], self.terms)

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """With shared ω it has a covariance besides, 2 E[λ (1 − λ)] (cos(|x|² − |y|²) − 1) k² / m.

        E cosh(ω·(x + y)) cos(ω·(x − y)) = exp(2x·y) cos(|x|² − |y|²), and λ (1 − λ) is
        (1 − s²)/4 for the mean s of the products of signs.
        """
        apart = super().absolute_variance(x, y, drawn)
        if apart is None or not self.shared_frequencies:
            return apart
        if self.projection.coupled:
            return None
        xp, kernel, signs = namespace(x), cast(ExponentialKernel, self.kernel), self.maps[2]
        found = signs.absolute_variance(x, y, None)
        mean = signs.kernel.log_and_factor(x, y)[1]
        assert found is not None
        assert mean is not None
        mixed = 0.25 * (1.0 - mean * mean - found[1])
        norms = [xp.sum(kernel.scaled(a) ** 2, axis=-1, keepdims=True) for a in (x, y)]
        wave = xp.sin(0.5 * (norms[0] - xp.matrix_transpose(norms[1])))
        log = 2.0 * kernel.log(x, y)
        covariance = Scaled(log, mixed * wave * wave)
        return total([Scaled(*apart), product(log, -4.0 / self.num_frequencies, [covariance])])
