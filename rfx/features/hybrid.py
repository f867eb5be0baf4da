"""Hybrid features: several estimates of one kernel, weighted by estimates that add up to 1."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

from rfx._xp import Array
from rfx.features._drawn import DrawnMap
from rfx.features._spec import Spec
from rfx.features.combination import Composed, checked_specs, width
from rfx.features.composite import Term
from rfx.kernels import Kernel

__all__ = ["Hybrid", "Weight", "hybrid_terms"]


class Weight(NamedTuple):
    """λ = constant + factor · ψ(x)·ξ(y), the weight of one estimate in a hybrid.

    constant, factor : float
    map : Spec, whose features are ψ for queries and ξ for keys
    """

    constant: float
    factor: float
    map: Spec


def hybrid_terms(weights: Sequence[tuple[float, float]]) -> tuple[Term, ...]:
    """Σ_k λ_k S_k + (1 − Σ_k λ_k) S_p for the maps S_0, ..., S_p, ψ_0, ..., ψ_(p−1).

    λ_k is constant + factor · ψ_k, given as the pair of both; terms of factor 0 are left out.
    """
    last = len(weights)
    terms: list[Term] = []
    for k, (constant, factor) in enumerate(weights):
        terms += [(constant, (k,)), (factor, (last + 1 + k, k))]
    terms.append((1.0 - math.fsum(constant for constant, _ in weights), (last,)))
    terms += [(-factor, (last + 1 + k, last)) for k, (_, factor) in enumerate(weights)]
    return tuple(term for term in terms if term[0] != 0.0)


@dataclass(frozen=True)
class Hybrid(Composed):
    """φ(x)·φ(y) = Σ_k λ_k S_k + (1 − Σ_k λ_k) S_p, for p + 1 estimates S of one kernel.

    The weights λ_k(x, y) are estimates too, of any functions: independent of the S and adding up to
    1, they leave the estimate unbiased, and choose for each pair which S it is made of. With w_k
    for λ_k and for what is left, the variance is Σ_k E[w_k²] Var S_k.

    Parameters
    ----------
    bases : tuple of Spec
        The p + 1 estimates, two at least, all of one kernel.
    weights : tuple of Spec or Weight
        p of them. A spec ψ stands for λ = ψ(x)·ξ(y), its own estimate, and
        ``Weight(constant, factor, ψ)`` for λ = constant + factor · ψ(x)·ξ(y).

    Raises
    ------
    TypeError
        If ``bases`` or ``weights`` hold anything else.
    ValueError
        If there are not as many weights as bases less one, bases have different kernels, or a
        constant or factor is not finite.

    Notes
    -----
    The width is Σ_k (1 + v_k) m_k + (1 + Σ_k v_k) m_p for weights of v_k columns, less where a
    constant is 0: a product of estimates has all products of their features.

    References
    ----------
    Choromanski et al., Hybrid random features, 2022: the general form; with one weight, the bipolar
    estimator.

    Examples
    --------
    Trigonometric features near x = y, where they are exact, and positive ones elsewhere:

    >>> import numpy as np, rfx
    >>> from rfx.features import Generalized, Hybrid, Positive, Trigonometric, Weight
    >>> signs = Generalized(8, function="sign", epsilon=0.0)  # estimates 1 − 2θ/π
    >>> bases = (Trigonometric(32), Positive(32, hyperbolic=True))
    >>> spec = Hybrid(bases, (Weight(0.5, 0.5, signs),))  # λ = 1 − θ/π
    >>> x = np.asarray([[1.0, 2.0, -1.0, 0.5]])
    >>> phi = spec.draw(4, seed=0, like=x)
    >>> bool(np.allclose(rfx.gram(x, x, features=phi), phi.kernel(x, x)))
    True
    >>> phi.num_features
    576
    """

    bases: tuple[Spec, ...]
    weights: tuple[Weight, ...]

    paper: ClassVar[str] = "Choromanski et al. 2022"

    def __post_init__(self) -> None:
        bases = checked_specs("bases", self.bases)
        if isinstance(self.weights, Spec | Weight) or not isinstance(self.weights, Sequence):
            raise TypeError(
                f"`weights` must be a tuple of specs or Weights, got {self.weights!r}; "
                "pass for example (rfx.features.Weight(0.5, 0.5, spec),)"
            )
        weights = tuple(_weight(k, given) for k, given in enumerate(self.weights))
        if len(bases) < 2 or len(weights) != len(bases) - 1:
            raise ValueError(
                f"`weights` must be as many as `bases` less one, and one at least, got "
                f"{len(weights)} for {len(bases)}; the last base takes what is left of 1"
            )
        for k, spec in enumerate(bases):
            if spec.kernel != bases[0].kernel:
                raise ValueError(
                    f"`bases` must be maps of one kernel, got {bases[0].kernel!r} for bases[0] and "
                    f"{spec.kernel!r} for bases[{k}]"
                )
        object.__setattr__(self, "bases", bases)
        object.__setattr__(self, "weights", weights)

    @property
    def maps(self) -> tuple[Spec, ...]:  # type: ignore[override]
        return (*self.bases, *(weight.map for weight in self.weights))

    @property
    def terms(self) -> tuple[Term, ...]:  # type: ignore[override]
        return hybrid_terms([weight[:2] for weight in self.weights])

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]
        return self.bases[0].kernel

    @property
    def num_features(self) -> int:
        """Output columns, m."""
        return width(self)

    @property
    def unbiased(self) -> bool:
        """Whatever the weights are on average."""
        return all(spec.unbiased for spec in self.bases)

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        if not all(weight.map.unbiased for weight in self.weights):
            return None
        return super().absolute_variance(x, y, drawn)

    def replace(self, **hyperparameters: Any) -> Self:
        own = {n: hyperparameters.pop(n) for n in ("bases", "weights") if n in hyperparameters}
        if hyperparameters:
            bases = own.get("bases", self.bases)
            own["bases"] = tuple(spec.replace(**hyperparameters) for spec in bases)
        return super().replace(**own)


def _weight(k: int, given: Any) -> Weight:
    if isinstance(given, Spec):
        return Weight(0.0, 1.0, given)
    is_record = isinstance(given, tuple) and len(given) == 3 and isinstance(given[2], Spec)
    if not is_record or not all(_is_number(part) for part in given[:2]):
        raise TypeError(
            f"`weights[{k}]` must be a spec or a Weight of two numbers and a spec, got {given!r}"
        )
    constant, factor = (float(part) for part in given[:2])
    if not (math.isfinite(constant) and math.isfinite(factor)):
        raise ValueError(f"`weights[{k}]` must have finite numbers, got {constant} and {factor}")
    return Weight(constant, factor, given[2])


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
