"""Sums, products and hybrids of maps: one rule for all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, ClassVar, Literal, Self

import numpy as np

from rfx._xp import Array
from rfx.features._drawn import DrawnMap
from rfx.features._spec import Costs, Spec
from rfx.features.composite import CompositeMap, Term, columns
from rfx.features.moments import Sample
from rfx.kernels import Combination as CombinedKernel
from rfx.kernels import Kernel
from rfx.kernels._scaled import Scaled, product, total

__all__ = ["Combination", "Composed", "Factor", "FittedKernel", "checked_specs", "width"]


class Factor(Spec):
    """A spec whose estimate has a mean that may depend on what was fitted: a factor of others."""

    @abstractmethod
    def mean(self, x: Array, y: Array, drawn: DrawnMap | None) -> tuple[Array, Array | None]:
        """Mean of one entry of `rfx.gram` over draws, as (log, factor); a factor of None is 1."""


@dataclass(frozen=True)
class FittedKernel(Kernel):
    """The kernel of a factor whose mean depends on what was fitted."""

    def _log(self, x: Array, y: Array) -> Array:
        raise TypeError(
            "this kernel depends on what was fitted, so it has no value of its own; "
            "ask the kernel of the whole map"
        )


class Composed(Spec):
    """A spec whose map is Σ_terms c Π_i of other maps, which are drawn independently.

    A subclass has ``maps`` and ``terms`` as fields or properties, and a kernel of its own where
    the sum of products of the maps' kernels is a simpler one.
    """

    maps: tuple[Spec, ...]
    terms: tuple[Term, ...]

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]
        return CombinedKernel(tuple(m.kernel for m in self.maps), self.terms)

    @property
    def needs(self) -> Literal["nothing", "moments", "points"]:
        found = {m.needs for m in self.maps}
        return "points" if "points" in found else "moments" if "moments" in found else "nothing"

    @property
    def costs(self) -> Costs:
        each = [m.costs for m in self.maps]
        fit = [cost.fit for cost in each if cost.fit is not None]
        return Costs(
            _sum(fit) or None, _sum([c.draw for c in each]), _sum([c.apply for c in each] + ["m"])
        )

    @property
    def positive(self) -> bool:
        """A sum of products, each of positive estimates and of squares of others."""
        return all(
            c > 0.0 and all(self.maps[i].positive or which.count(i) % 2 == 0 for i in which)
            for c, which in self.terms
        )

    @property
    def unbiased(self) -> bool:
        once = all(len(set(which)) == len(which) for _, which in self.terms)
        return once and all(m.unbiased for m in self.maps)

    def parameters(self, dim: int, sample: Sample) -> tuple[Any, ...]:
        return tuple(m.parameters(dim, sample) if m.needs_data else None for m in self.maps)

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: tuple[Any, ...] | None
    ) -> CompositeMap:
        maps = self.maps
        given = (None,) * len(maps) if parameters is None else parameters
        drawn = [m.assemble(dim, rng, own) for m, own in zip(maps, given, strict=True)]
        return CompositeMap.made(self, drawn, self.terms)

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """Σ_A Π_{i in A} Var_i (Σ_{terms with A} c Π_{the others} k_i)², over sets A of maps.

        This is the decomposition of the variance of a polynomial in independent estimates, each
        of them once in a term: a sum of squares, so that nothing cancels but inside a square.
        """
        if not self.unbiased:
            return None
        maps, terms = self.maps, self.terms
        of_maps = drawn.maps if isinstance(drawn, CompositeMap) else (None,) * len(maps)
        variances = []
        for spec, own in zip(maps, of_maps, strict=True):
            found = spec.absolute_variance(x, y, own)
            if found is None:
                return None
            variances.append(Scaled(*found))
        means = _means(maps, x, y, of_maps)
        parts = []
        for chosen in _subsets(terms):
            others = [
                product(variances[0].log, c, [means[i] for i in which if i not in chosen])
                for c, which in terms
                if chosen <= set(which)
            ]
            rest = Scaled(*total(others))
            parts.append(product(rest.log, 1.0, [rest, rest, *(variances[i] for i in chosen)]))
        return total(parts)


def _means(
    maps: Sequence[Spec], x: Array, y: Array, drawn: Sequence[DrawnMap | None]
) -> list[Scaled]:
    """The mean of each map's estimate; one for maps of one kernel, so that they cancel exactly."""
    kernels: dict[Kernel, Scaled] = {}
    found = []
    for spec, own in zip(maps, drawn, strict=True):
        if isinstance(spec, Factor):
            found.append(Scaled(*spec.mean(x, y, own)))
            continue
        kernel = spec.kernel
        if kernel not in kernels:
            kernels[kernel] = Scaled(*kernel.log_and_factor(x, y))
        found.append(kernels[kernel])
    return found


@dataclass(frozen=True)
class Combination(Composed):
    """φ(x)·φ(y) = Σ_terms c Π_i φ_i(x)·φ_i(y), a polynomial in the estimates of other maps.

    The features of a product are all products of a feature of each map, and those of a sum stand
    side by side: m = Σ_terms Π_i m_i. It estimates the same polynomial of the maps' kernels, and
    its variance is derived from theirs, since they are drawn independently.

    Parameters
    ----------
    maps : tuple of Spec
        Each is in a term at least.
    terms : tuple of (float, tuple of int)
        c, and the numbers of the maps to multiply; the empty product is the constant 1. A map that
        a term has twice makes the estimate biased.

    Raises
    ------
    TypeError
        If ``maps`` holds anything but specs, or a term is no pair of a number and numbers of maps.
    ValueError
        If there is no map or no term, a number is that of no map, a map is in no term, or c is 0 or
        not finite.

    References
    ----------
    Rahimi and Recht, Random features for large-scale kernel machines, 2007, on sums; Kar and
    Karnick, Random feature maps for dot product kernels, 2012, on products.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.features import Combination, Positive, Trigonometric
    >>> gaussian = rfx.kernels.Gaussian()
    >>> both = Combination(
    ...     (Trigonometric(64, kernel=gaussian), Positive(32, kernel=gaussian)),
    ...     ((0.5, (0,)), (0.5, (1,))),
    ... )
    >>> x = np.asarray([[0.1, 0.2]])
    >>> phi = both.draw(2, seed=0, like=x)
    >>> phi.num_features
    96
    >>> phi.kernel(x, x)
    array([[1.]])
    """

    maps: tuple[Spec, ...]
    terms: tuple[Term, ...]

    paper: ClassVar[str] = "Rahimi and Recht 2007"

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", checked_specs("maps", self.maps))
        kernels = tuple(spec.kernel for spec in self.maps)
        object.__setattr__(self, "terms", CombinedKernel(kernels, self.terms).terms)
        for c, _ in self.terms:
            if c == 0.0:
                raise ValueError(f"`terms` must have no coefficient 0, got {self.terms}")
        left = set(range(len(self.maps))) - {i for _, which in self.terms for i in which}
        if left:
            raise ValueError(f"`maps[{min(left)}]` is in no term of {self.terms}; leave it out")

    @property
    def num_features(self) -> int:
        """Output columns, m."""
        return width(self)

    def replace(self, **hyperparameters: Any) -> Self:
        own = {
            name: hyperparameters.pop(name) for name in ("maps", "terms") if name in hyperparameters
        }
        if hyperparameters:
            specs = own.get("maps", self.maps)
            own["maps"] = tuple(spec.replace(**hyperparameters) for spec in specs)
        return super().replace(**own)


def width(spec: Composed) -> int:
    """Output columns, where those of all maps are known before they are drawn."""
    widths = [int(each.num_features) for each in spec.maps]  # type: ignore[attr-defined]
    return columns(widths, spec.terms)


def checked_specs(name: str, specs: Any) -> tuple[Spec, ...]:
    """A tuple of specs, of at least one."""
    if isinstance(specs, Spec) or not isinstance(specs, Sequence):
        raise TypeError(
            f"`{name}` must be a tuple of specs, got {specs!r}; "
            "pass for example (rfx.features.Positive(64),)"
        )
    if not specs:
        raise ValueError(
            f"`{name}` must not be empty; pass for example (rfx.features.Positive(64),)"
        )
    for spec in specs:
        if not isinstance(spec, Spec):
            raise TypeError(
                f"`{name}` must hold specs, got {spec!r}; "
                "pass for example (rfx.features.Positive(64),)"
            )
    return tuple(specs)


def _subsets(terms: Sequence[Term]) -> list[frozenset[int]]:
    """All sets of maps, but the empty one, that stand together in a term."""
    each = (combinations(which, size) for _, which in terms for size in range(1, len(which) + 1))
    return list(dict.fromkeys(frozenset(found) for found in chain.from_iterable(each)))


def _sum(costs: Sequence[str]) -> str:
    return " + ".join(dict.fromkeys(costs))
