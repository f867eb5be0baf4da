"""Sketches of the polynomial kernel: products of random signs, and TensorSketch."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from rfx import _check
from rfx._xp import Array
from rfx.features._drawn import DrawnMap
from rfx.features._side import Side
from rfx.features._signs import Host, Pairs, Signs, check_signs, draw_signs, pairs, second_moment
from rfx.features._spec import Costs, Spec
from rfx.features.products import Factors, PolynomialMap
from rfx.kernels import Polynomial

__all__ = ["PolynomialSketch", "ProductSketch", "TensorSketch"]


@dataclass(frozen=True)
class PolynomialSketch(Spec):
    """φ(x) = (φ_j(x)) for products φ_j of p linear forms: an unbiased sketch of (x·y + c)^p.

    The root of the offset c is a coordinate more, so that the linear forms have a bias.
    """

    num_features: int
    kernel: Polynomial = field(default_factory=Polynomial)

    def __post_init__(self) -> None:
        why = "(a real and an imaginary part)"
        columns = _check.positive_int("num_features", self.num_features, self.columns, why)
        object.__setattr__(self, "num_features", columns)
        if not isinstance(self.kernel, Polynomial):
            raise TypeError(
                f"`kernel` must be rfx.kernels.Polynomial for {type(self).__name__}, got "
                f"{self.kernel!r}; pass for example rfx.kernels.Polynomial(degree=2)"
            )

    @property
    def columns(self) -> int:
        """Output columns that a product gives."""
        return 1

    @property
    def costs(self) -> Costs:
        return Costs(None, "d m", "d m")

    @property
    def positive(self) -> bool:
        return False

    @property
    def unbiased(self) -> bool:
        return True

    @property
    def log_constant(self) -> float:
        return -0.5 * math.log(self.num_features // self.columns)

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        kernel = self.kernel
        found = pairs(x, y, kernel.unit(x.shape[-1]), kernel.offset)
        count = self.num_features // self.columns
        factor = self._variance(found, kernel.degree, count)
        return 2.0 * kernel.degree * found.log_norms, factor

    @abstractmethod
    def _variance(self, found: Pairs, degree: int, count: int) -> Array:
        """Of points of norm 1, with ``count`` products."""

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> PolynomialMap:
        unit, offset, degree = self.kernel.unit(dim), self.kernel.offset, self.kernel.degree
        factors = self._forms(dim + (offset > 0.0), degree, rng)
        count = factors.shape[-1]
        flat = np.moveaxis(factors, 0, 1).reshape(factors.shape[1], degree * count)
        weight = unit * flat[:dim]
        bias = math.sqrt(offset) * flat[dim] if offset > 0.0 else None
        side = Side(weight.real, None if bias is None else bias.real)
        if np.iscomplexobj(flat):
            phase = None if bias is None else bias.imag
            side = side._replace(frequency=weight.imag, phase=phase)
        return self._map(side._replace(scale=self._scale()), (count,) * degree)

    @abstractmethod
    def _forms(self, dim: int, degree: int, rng: np.random.Generator) -> Host:
        """Coefficients of the linear forms, real or complex, of shape (degree, dim, products)."""

    def _scale(self) -> Host | None:
        return None

    def _map(self, side: Side, widths: tuple[int, ...]) -> PolynomialMap:
        return PolynomialMap(self, side, factors=Factors.of(widths))


@dataclass(frozen=True)
class ProductSketch(PolynomialSketch):
    """φ(x) = n^(-1/2) (Π_{i<=p} ω_ji·x) for n products of p independent ω, with E ω ω* = I.

    Complex ω give each product a real and an imaginary column, so that n = m/2. With t = x·y and
    S = Σ_l x_l² y_l² the variance is (Σ c b^p − t^(2p)) / n, where Σ c b^p is

    - (|x|² |y|² + 2t² − 2S)^p for ω of signs ±1,
    - (|x|² |y|² + 2t²)^p for Gaussian ω,
    - [(|x|² |y|² + t² − S)^p + (2t² − S)^p] / 2 for complex ω, whose entries are ±1 and ±i.

    At equal m complex ω vary less than real signs where t² > S and p > 1, up to 2^(p-1)/3^p times
    for points of one direction. The kernel's scale and offset are in x and y, the offset as one
    coordinate more.

    Parameters
    ----------
    num_features : int
        Output columns, m; even with complex ω.
    kernel : Polynomial
        Of degree p.
    signs : {"complex", "rademacher", "gaussian"}
        Law of the entries of ω.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or odd with complex ω, or there is no such law.
    TypeError
        If ``num_features`` is no int, or ``kernel`` is of another kind.

    References
    ----------
    Wacker, Kanagawa and Filippone, Improved random features for dot product kernels, 2022, and
    Complex-to-real sketches for tensor products with applications to the polynomial kernel, 2023.
    The variances are derived in the code.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.6, 0.8]])
    >>> spec = rfx.features.ProductSketch(4096, kernel=rfx.kernels.Polynomial(3, scale=1.0))
    >>> phi = spec.draw(2, seed=0, like=x)
    >>> bool(abs(rfx.gram(x, x, features=phi) - 1.0) < 0.1)
    True
    """

    signs: Signs = "complex"

    paper: ClassVar[str] = "Wacker et al. 2023"

    def __post_init__(self) -> None:
        check_signs(self.signs)
        super().__post_init__()

    @property
    def columns(self) -> int:
        return 2 if self.signs == "complex" else 1

    def _variance(self, found: Pairs, degree: int, count: int) -> Array:
        square = found.inner * found.inner
        moments = second_moment(self.signs, found.norms, square, found.fourth)
        return (sum(c * b**degree for c, b in moments) - square**degree) / count

    def _forms(self, dim: int, degree: int, rng: np.random.Generator) -> Host:
        return draw_signs(self.signs, rng, degree, dim, self.num_features // self.columns)


@dataclass(frozen=True)
class TensorSketch(PolynomialSketch):
    """φ(x) = DFT of the convolution of p count sketches of x, m values: a sketch of x^(⊗p).

    A count sketch adds each coordinate, with a random sign s, to a random one of m buckets h. The
    transform of a convolution is the product of the transforms, and that of a count sketch is a
    linear form of x with coefficients s exp(−2πi f h / m). So the features are real and imaginary
    parts of products of p such forms at half of the frequencies f, the others being conjugates:
    the same gram as that of the convolution, without a transform at run time.

    With t = x·y, S = Σ_l x_l² y_l², B = |x|² |y|² − S, C = t² − S, and κ = 1 for odd and 2 for
    even m, m² times the variance is

        (m − κ) [(t² + B)^p + (t² + C)^p] − (2m − κ) t^(2p) + κ (t² + B + C)^p.

    The kernel's scale and offset are in x and y, the offset as one coordinate more.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Polynomial
        Of degree p.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1.
    TypeError
        If ``num_features`` is no int, or ``kernel`` is of another kind.

    References
    ----------
    Pham and Pagh, Fast and scalable polynomial kernels via explicit feature maps, 2013. The exact
    variance is derived in the code.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.6, 0.8]])
    >>> spec = rfx.features.TensorSketch(4096, kernel=rfx.kernels.Polynomial(3, scale=1.0))
    >>> phi = spec.draw(2, seed=0, like=x)
    >>> bool(abs(rfx.gram(x, x, features=phi) - 1.0) < 0.1)
    True
    """

    paper: ClassVar[str] = "Pham and Pagh 2013"

    @property
    def _real(self) -> int:
        """Frequencies whose transform is real: 0, and m/2 for even m."""
        return 1 if self.num_features % 2 else 2

    def _variance(self, found: Pairs, degree: int, count: int) -> Array:
        """Sum over the ways in which the indices of two products of tuples can pair.

        In each of the p places the four indices are equal in pairs. Those of x with those of y:
        then both hashes agree, in t² of the second moment. Or those of x with one another and
        those of y (B), or crosswise (C): then the places add ±δ, δ uniform, to both differences of
        hashes, which must vanish. With both kinds that has probability κ/m², with one of them 1/m.
        """
        square = found.inner * found.inner
        straight = square + found.norms - found.fourth
        crossed = 2.0 * square - found.fourth
        both = straight + crossed - square
        one = straight**degree + crossed**degree - 2.0 * square**degree
        rest = both**degree - straight**degree - crossed**degree + square**degree
        return one / count + self._real * rest / count**2

    def _forms(self, dim: int, degree: int, rng: np.random.Generator) -> Host:
        """At the frequencies 1, 2, ... below m/2, and then those that are real."""
        m = self.num_features
        buckets = rng.integers(0, m, (degree, dim))
        signs = 1.0 - 2.0 * rng.integers(0, 2, (degree, dim))
        last = [0] if m % 2 else [0, m // 2]
        frequencies = np.asarray([*range(1, (m + 1) // 2), *last])
        turns = buckets[..., None] * frequencies % m  # exact: whole numbers
        forms = signs[..., None] * np.exp(-2j * np.pi * turns / m)
        forms[..., len(frequencies) - len(last) :].imag = 0.0
        return forms

    def _scale(self) -> Host:
        """Of a frequency that stands for its conjugate too, the root of 2."""
        pairs = (self.num_features - self._real) // 2
        return np.concatenate([np.full(pairs, math.sqrt(2.0)), np.ones(self._real)])

    def _map(self, side: Side, widths: tuple[int, ...]) -> PolynomialMap:
        return PolynomialMap(self, side, factors=Factors.of(widths, self._real))
