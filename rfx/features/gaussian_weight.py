"""Random features of the Gaussian weight of a pair, for hybrids."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, from_numpy, namespace, working_dtype
from rfx.features._drawn import DrawnMap
from rfx.features._plain import PlainMap
from rfx.features._side import Side
from rfx.features._spec import Costs, check_projection, drawn_frequencies, scaled
from rfx.features.centroids import axis_ratios
from rfx.features.combination import Factor, FittedKernel
from rfx.features.forms import TrigonometricMap
from rfx.features.moments import Sample
from rfx.kernels import Gaussian, Kernel, squared_distance
from rfx.projections import Orthogonal, Projection

__all__ = ["Affinity", "GaussianWeight"]

Host = np.ndarray[Any, Any]
Matrix = float | tuple[float, ...] | tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Affinity(Kernel):
    """exp(−|x + My|² / (2 bandwidth²)): how near y is to −M⁻¹x. Not symmetric.

    Parameters
    ----------
    bandwidth : float
    matrix : float, tuple of float, or tuple of tuples
        M as a multiple of the identity, a diagonal, or rows.
    """

    bandwidth: float
    matrix: Matrix

    def _log(self, x: Array, y: Array) -> Array:
        x, y = (namespace(a).astype(a, working_dtype(a)) / self.bandwidth for a in (x, y))
        return -0.5 * squared_distance(x, _moved(y, self.matrix))


@dataclass(frozen=True)
class GaussianWeight(Factor):
    """φ(x) = n^(-1/2) [cos(ω·x/τ), sin(ω·x/τ)], for keys at −My: exp(−|x + My|²/2τ²).

    A weight for `rfx.features.Hybrid`, near 1 where x + My is small beside τ: with M = −I where x
    is near y, and with a diagonal M around any pair of points.

    Parameters
    ----------
    num_features : int
        Output columns, m; even.
    bandwidth : float
        τ, in the unit of the points.
    matrix : float, tuple of float, tuple of tuples, or "means"
        M as a multiple of the identity, a diagonal, or rows. "means" is the diagonal with
        x + My = 0 for the means of queries and of keys, but for sizes: they are kept within a
        factor 4 of the ratio of the root mean squares of the points.
    projection : Projection
        ``Orthogonal()`` by default.

    Raises
    ------
    ValueError
        If ``num_features`` is odd, ``bandwidth`` not positive, or ``matrix`` no such numbers. When
        drawn, if it has another number of axes than the points.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Choromanski et al., Hybrid random features, 2022 (Gaussian weights).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.features import GaussianWeight, Hybrid, Positive, Trigonometric
    >>> bases = (Trigonometric(32), Positive(64, hyperbolic=True))
    >>> spec = Hybrid(bases, (GaussianWeight(8, bandwidth=2.0),))
    >>> x = np.asarray([[1.0, 2.0, -1.0, 0.5]])
    >>> phi = spec.draw(4, seed=0, like=x)
    >>> bool(np.allclose(rfx.gram(x, x, features=phi), phi.kernel(x, x)))
    True
    """

    num_features: int
    bandwidth: float = 1.0
    matrix: Matrix | Literal["means"] = -1.0
    projection: Projection = field(default_factory=Orthogonal)

    columns: ClassVar[int] = 2
    paper: ClassVar[str] = "Choromanski et al. 2022"

    def __post_init__(self) -> None:
        why = "(a cosine and a sine a frequency)"
        count = _check.positive_int("num_features", self.num_features, 2, why)
        object.__setattr__(self, "num_features", count)
        object.__setattr__(self, "bandwidth", _check.positive_number("bandwidth", self.bandwidth))
        object.__setattr__(self, "matrix", _checked(self.matrix))
        check_projection(self.projection)

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]
        if isinstance(self.matrix, str):
            return FittedKernel()
        if self.matrix == -1.0:
            return Gaussian(self.bandwidth)
        return Affinity(self.bandwidth, self.matrix)

    @property
    def needs(self) -> Literal["nothing", "moments"]:
        return "moments" if isinstance(self.matrix, str) else "nothing"

    @property
    def costs(self) -> Costs:
        law = self.projection
        return Costs("n d" if self.needs_data else None, law.cost, law.cost_to_apply)

    @property
    def positive(self) -> bool:
        return False

    @property
    def unbiased(self) -> bool:
        return self.projection.gaussian_rows

    @property
    def log_constant(self) -> float:
        return 0.5 * math.log(2.0 / self.num_features)

    def mean(self, x: Array, y: Array, drawn: DrawnMap | None) -> tuple[Array, None]:
        return -0.5 * self._squares(x, y, drawn), None

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """(1 − k²)²/2n and the coupling of the frequencies, as of trigonometric features."""
        if not self.unbiased:
            return None
        xp, n = namespace(x), self.num_features // 2
        delta = self._squares(x, y, drawn)
        coupling = self.projection.coupling("trigonometric", delta, n, x.shape[-1])
        if coupling is None:
            return None
        return xp.zeros_like(delta), (0.5 * xp.expm1(-delta) ** 2 + coupling) / n

    def _squares(self, x: Array, y: Array, drawn: DrawnMap | None) -> Array:
        """|x + My|² / bandwidth²."""
        x, y = (namespace(a).astype(a, working_dtype(a)) / self.bandwidth for a in (x, y))
        if isinstance(self.matrix, str):
            return squared_distance(x, -cast(PlainMap, drawn).fitted["matrix"][..., None, :] * y)
        return squared_distance(x, _moved(y, self.matrix))

    def parameters(self, dim: int, sample: Sample) -> Host | None:
        if not self.needs_data:
            return None
        moments = sample.moments
        opposite = moments.query.mean * moments.key.mean < 0.0
        return np.where(opposite, 1.0, -1.0) / axis_ratios(moments)

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: Host | None
    ) -> TrigonometricMap:
        given: Any = self.matrix
        matrix = np.asarray(given, dtype=np.float64) if parameters is None else parameters
        if matrix.ndim and len(matrix) != dim:
            raise ValueError(
                f"`matrix` must have a number for each axis, got {len(matrix)} for dim={dim}; "
                "give as many, or one number for all"
            )
        omega = drawn_frequencies(self.projection, rng, self.num_features // 2, dim)
        query = scaled(omega, 1.0 / self.bandwidth)
        if matrix.ndim == 2:
            key = Side(query, transform=-matrix.T)
        else:
            key = Side(scaled(omega, np.broadcast_to(-matrix / self.bandwidth, (dim,))))
        fitted = {} if parameters is None else {"matrix": parameters}
        return TrigonometricMap(self, Side(query), key, fitted=fitted)


def _moved(y: Array, matrix: Matrix) -> Array:
    """−My for points (..., s, d)."""
    if isinstance(matrix, float):
        return -matrix * y
    held = from_numpy(-np.asarray(matrix).T, y, y.dtype)
    return y * held if held.ndim == 1 else namespace(y).matmul(y, held)


def _checked(given: Any) -> Any:
    """A number, a tuple of them, a square tuple of tuples, or "means"."""
    if isinstance(given, str):
        if given != "means":
            raise ValueError(f"`matrix` must be numbers or 'means', got {given!r}")
        return given
    if not isinstance(given, Sequence):
        return _number(given)
    if any(isinstance(row, Sequence) for row in given):
        if all(isinstance(row, Sequence) and len(row) == len(given) for row in given):
            return tuple(tuple(_number(each) for each in row) for row in given)
    elif given:
        return tuple(_number(each) for each in given)
    raise ValueError(
        f"`matrix` must be a number, a diagonal, or as many rows as columns, got {given!r}"
    )


def _number(given: Any) -> float:
    if not isinstance(given, numbers.Real) or isinstance(given, bool):
        raise TypeError(f"`matrix` must be numbers or 'means', got {given!r}; pass for example -1")
    if not math.isfinite(given):
        raise ValueError(f"`matrix` must be finite, got {given!r}")
    return float(given)
