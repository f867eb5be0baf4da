"""Random Maclaurin features of kernels that are a power series of the inner product."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace, to_numpy, truth, working_dtype
from rfx.features._drawn import DrawnMap
from rfx.features._random_products import Products, random_arrays
from rfx.features._series_variance import Shares, plain_variance, stratified_variance
from rfx.features._signs import Signs, check_signs, pairs, second_moment
from rfx.features._spec import Costs, Spec
from rfx.features._strata import Strata, deviations, layout, strata
from rfx.features.moments import Sample
from rfx.features.products import PolynomialMap
from rfx.kernels import DotProduct
from rfx.kernels._scaled import Scaled

__all__ = ["Maclaurin"]


@dataclass(frozen=True)
class Maclaurin(Spec):
    """φ_j(x) = (a_N / p_N)^(1/2) Π_{i<=N} ω_ji·x, N a degree of f(t) = Σ_n a_n t^n: products.

    For kernels f(x·y) with a_n >= 0, with independent ω of E ω ω* = I in each product, and a share
    p_N of the columns for the degree N. With ``stratified=False`` all degrees are random,
    P(N = n) = 2^(-n-1), as in the paper.

    By default they are not: degree 0 is one exact column; degree 1 is exact too, with d columns,
    where that lowers the variance; low degrees have numbers of products in proportion to a_n σ^n;
    and all higher ones share the rest, whose degrees are random with probabilities in that
    proportion, so that the estimate is unbiased although the series does not end. Here σ² is the
    second moment of (ω·x)(ω·y) on average for points of norm ``radius``. The variance is the least
    near that norm.

    Parameters
    ----------
    num_features : int
        Output columns, m; even with complex ω, where each product has a real and an imaginary one.
    kernel : DotProduct
        Of any series. Points enter times the root of its scale.
    signs : {"rademacher", "gaussian", "complex"}
        Law of the entries of ω: ±1, N(0, 1), or ±1 and ±i.
    stratified : bool
    radius : float, optional
        Norm of the points, times the root of the kernel's scale, for which the columns are shared
        out; None fits it to data.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or odd with complex ω, if there is no such law, or
        ``radius`` is not positive. When called with a series that converges for |t| < 1 only, if
        a point times the root of the scale has a norm of 1 or more.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    The variance of one product of degree n is Σ c b^n − (x·y)^(2n), with the numbers c and b of
    `ProductSketch`. That of the estimate is infinite where the sum over the random degrees
    diverges: for "inv", "logi" and "sqrt" where b is beyond σ, or beyond 1/2 without strata.

    References
    ----------
    Kar and Karnick, Random feature maps for dot product kernels, 2012. Strata, their shares and the
    variances are derived here.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.6, 0.8]])
    >>> kernel = rfx.kernels.DotProduct("exp", scale=1.0)
    >>> paper = rfx.features.Maclaurin(1024, kernel, stratified=False)
    >>> ours = rfx.features.Maclaurin(1024, kernel)
    >>> ours.variance(x, x) < 0.2 * paper.variance(x, x)
    array([[ True]])
    """

    num_features: int
    kernel: DotProduct = field(default_factory=DotProduct)
    signs: Signs = "rademacher"
    stratified: bool = True
    radius: float | None = 1.0

    paper: ClassVar[str] = "Kar and Karnick 2012"

    def __post_init__(self) -> None:
        check_signs(self.signs)
        why = "(a real and an imaginary part)"
        columns = _check.positive_int("num_features", self.num_features, self.columns, why)
        object.__setattr__(self, "num_features", columns)
        if not isinstance(self.kernel, DotProduct):
            raise TypeError(
                f"`kernel` must be rfx.kernels.DotProduct for {type(self).__name__}, got "
                f"{self.kernel!r}; pass for example rfx.kernels.DotProduct('exp')"
            )
        if not isinstance(self.stratified, bool):
            raise TypeError(f"`stratified` must be True or False, got {self.stratified!r}")
        if self.radius is not None:
            object.__setattr__(self, "radius", _check.positive_number("radius", self.radius))

    @property
    def columns(self) -> int:
        """Output columns that a product gives."""
        return 2 if self.signs == "complex" else 1

    @property
    def needs(self) -> Literal["nothing", "moments"]:
        return "moments" if self.stratified and self.radius is None else "nothing"

    @property
    def costs(self) -> Costs:
        return Costs("n d²" if self.needs_data else None, "d m", "d m")

    @property
    def positive(self) -> bool:
        return False

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def log_constant(self) -> float:
        return 0.0

    def check_points(self, x: Array, name: str, keep: Array | None = None) -> None:
        """Refuse points of norm 1 or more, where the series converges up to there only."""
        if self.kernel.radius == math.inf:
            return
        xp = namespace(x)
        x = xp.astype(x, working_dtype(x)) * self.kernel.unit(x.shape[-1])
        squares = xp.sum(x * x, axis=-1)
        closed = self.kernel.series == "sqrt"
        most = 1.0 + 32.0 * float(xp.finfo(x.dtype).eps)
        if keep is not None:
            squares = xp.where(keep, squares, xp.zeros_like(squares))
        if truth(xp.any(squares > most if closed else squares >= 1.0)):
            raise ValueError(
                f"`{name}` must have points with scale |x|² {'at most' if closed else 'below'} 1 "
                f"for {self.kernel!r}, got {float(np.nanmax(to_numpy(squares))):.6g}; shrink the "
                "points, or take a smaller `scale`"
            )

    def parameters(self, dim: int, sample: Sample) -> Strata:
        query, key = sample.moments.query.second, sample.moments.key.second
        unit = self.kernel.unit(dim) ** 4
        diagonal = np.diagonal(query) * np.diagonal(key)
        moments = (np.trace(query) * np.trace(key), np.sum(query * key), np.sum(diagonal))
        return self._strata(dim, *(unit * float(moment) for moment in moments))

    def _strata(self, dim: int, norms: float, square: float, fourth: float) -> Strata:
        bases = second_moment(self.signs, norms, square, fourth)
        power = math.sqrt(max(base for _, base in bases))
        return strata(self.kernel, self.columns, self.num_features, dim, power)

    def _at_radius(self, dim: int) -> Strata:
        """The plan for points of norm ``radius`` in all directions."""
        assert self.radius is not None
        norms = self.radius**4
        return self._strata(dim, norms, norms / dim, norms / dim)

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: Strata | None
    ) -> PolynomialMap:
        unit, count = self.kernel.unit(dim), self.num_features // self.columns
        if not self.stratified:
            degrees = rng.geometric(0.5, count) - 1
            coefficients = self.kernel.coefficients(int(np.max(degrees)) + 1)
            scale = np.sqrt(coefficients[degrees] * 2.0 ** (degrees + 1) / count)
            products = Products(degrees, scale, np.full(count, unit))
            return PolynomialMap(self, **random_arrays(self.signs, rng, dim, count, products))
        plan = self._at_radius(dim) if parameters is None else parameters
        constant = layout(self.kernel, self.columns, self.num_features).constant
        roots = np.sqrt(self.kernel.coefficients(2)).tolist()
        exact = (unit * roots[1] if plan.linear else 0.0, roots[0] if constant else 0.0)
        products = self._products(plan, rng, unit)
        arrays = random_arrays(self.signs, rng, dim, count, products, *exact)
        fitted = {} if parameters is None else Shares.of(plan).arrays()
        return PolynomialMap(self, fitted=fitted, **arrays)

    def _products(self, plan: Strata, rng: np.random.Generator, unit: float) -> Products:
        """Those of each degree, and those of random degree."""
        own = layout(self.kernel, self.columns, self.num_features)
        degrees = np.repeat(np.asarray(own.degrees, dtype=int), plan.counts)
        coefficients = self.kernel.coefficients(max(own.degrees, default=1) + 1)
        scale = np.sqrt(coefficients[degrees] / np.repeat(plan.counts, plan.counts))
        forms = np.full(len(degrees), unit)
        if plan.products:
            law = deviations(self.kernel, plan.power)[own.first :] / plan.weight
            drawn = own.first + rng.choice(len(law), plan.products, p=law / np.sum(law))
            many = np.ones(plan.products)
            degrees = np.concatenate([degrees, drawn])
            scale = np.concatenate([scale, many * math.sqrt(plan.weight / plan.products)])
            forms = np.concatenate([forms, many * unit * plan.power**-0.5])
        return Products(degrees, scale, forms)

    def absolute_variance(self, x: Array, y: Array, drawn: DrawnMap | None) -> tuple[Array, Array]:
        found = pairs(x, y, self.kernel.unit(x.shape[-1]))
        square = found.inner * found.inner
        moments = second_moment(self.signs, found.norms, square, found.fourth)
        if not self.stratified:
            value = Scaled(*self.kernel.log_and_factor(x, y))
            count = self.num_features // self.columns
            return plain_variance(self.kernel, count, found, moments, value)
        if self.radius is None:
            shares = Shares.kept(cast(PolynomialMap, drawn).fitted)
        else:
            shares = Shares.of(self._at_radius(x.shape[-1]))
        own = layout(self.kernel, self.columns, self.num_features)
        return stratified_variance(self.kernel, own, shares, found, moments)
