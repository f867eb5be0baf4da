"""Complex exponential features: exact at one pair of points, to which they are fitted."""

from __future__ import annotations

import cmath
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np

from rfx._xp import Array, from_numpy, namespace, working_dtype
from rfx.features._side import Side
from rfx.features._spec import Costs, RandomSpec, scaled
from rfx.features.centroids import axis_ratios, norm_ratio
from rfx.features.forms import ComplexMap
from rfx.features.moments import Moments, Sample
from rfx.kernels import ExponentialKernel, squared_distance

__all__ = ["ComplexExponential"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ComplexExponential(RandomSpec):
    """φ(x) = n^(-1/2) exp(ω·Ax − (Ax)ᵀ(Ax)/2) for queries, the same with A⁻ᵀ for keys; real parts.

    For any invertible complex matrix A, at unit temperature, with transposes and no conjugates:
    exp(x·y) = E Re exp(ω·z − (Ax)ᵀ(Ax)/2 − (A⁻ᵀy)ᵀ(A⁻ᵀy)/2) with z = Ax + A⁻ᵀy. A = I gives the
    positive features and A = iI the trigonometric ones. The estimate is exact where z = 0, and A is
    chosen so that it is at a pair of points: at the means of queries and of keys. For the Gaussian
    kernel there is the factor exp(−|x|²/2) besides.

    Parameters
    ----------
    num_features : int
        Output columns, m; even, as a frequency gives a real and an imaginary part.
    kernel : Softmax or Gaussian
    projection : Projection
    A : "diagonal", "dense", or tuple of complex
        "diagonal": a_l² = −y_l/x_l for the means x and y, so a_l is imaginary where their signs
        agree and real where they do not.
        "dense": AᵀA = S, where the symmetric S takes x to −y and is −|y|/|x| times a reflection. It
        is imaginary on all axes but one, and so has the small variance of trigonometric features
        around the pair; on clustered points it is far better than "diagonal", for d² a point.
        Either ratio is kept within a factor 4 of that of the root mean squares of the points, as
        means that are small beside the spread have wild ones.
        A tuple of d numbers that are not 0 is a diagonal A, which needs no data.

    Raises
    ------
    ValueError
        If ``num_features`` is odd, ``A`` no such name, or one of its numbers 0 or not finite. When
        drawn, if it has not as many numbers as the points have axes.
    TypeError
        If an argument is of another kind.

    Notes
    -----
    With independent frequencies and a, b, c for |Re z|², |Im z|² and Re z · Im z, the relative
    second moment of one is (exp(a + b) + exp(a − b) cos 2c) / 2.

    References
    ----------
    Choromanski et al., Hybrid random features, 2022 (complex exponential estimators, and the
    diagonal A for two centroids); its variance is derived here, as is the dense A.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k = np.random.default_rng(0).standard_normal((2, 100, 8)) + 1.5
    >>> spec = rfx.features.ComplexExponential(num_features=32, A="dense")
    >>> phi = spec.fit(q, k, seed=0)
    >>> x, y = q.mean(axis=0, keepdims=True), k.mean(axis=0, keepdims=True)
    >>> bool(np.allclose(rfx.gram(x, y, features=phi), phi.kernel(x, y)))
    True
    """

    A: Literal["diagonal", "dense"] | tuple[complex, ...] = "diagonal"

    paper: ClassVar[str] = "Choromanski et al. 2022"

    def __post_init__(self) -> None:
        object.__setattr__(self, "A", _checked(self.A))
        self._check_fields("(a real and an imaginary part)")

    @property
    def needs(self) -> Literal["nothing", "moments"]:
        return "moments" if isinstance(self.A, str) else "nothing"

    @property
    def costs(self) -> Costs:
        fit, draw, apply = super().costs
        return Costs(fit, draw, f"{apply} + d²" if self.A == "dense" else apply)

    @property
    def columns(self) -> int:
        return 2

    @property
    def positive(self) -> bool:
        return False

    @property
    def log_constant(self) -> float:
        return -0.5 * math.log(self.num_frequencies)

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        """At unit temperature exp(a + b) [(1 − B)²/2 + B (1 − exp(−a)) − B² sin² c], B = exp(−b).

        This is the second moment less 1, in terms that are at least 0 but for the last, which is
        at most ab.
        """
        if self.projection.coupled or not self.projection.gaussian_rows:
            return None
        xp, kernel = namespace(x), cast(ExponentialKernel, self.kernel)
        x, y = kernel.scaled(x), kernel.scaled(y)
        if isinstance(self.A, str):
            real, imag = (fitted[name][..., None, :] for name in ("real", "imag"))
        else:
            host = np.asarray(self.A)
            real, imag = (from_numpy(a, x, working_dtype(x)) for a in (host.real, host.imag))
        size = real * real + imag * imag
        x_real, x_imag, y_real, y_imag = real * x, imag * x, y * (real / size), y * (imag / size)
        a, b = squared_distance(x_real, -y_real), squared_distance(x_imag, y_imag)
        # z = a x + y / a, so Im z = Im(a) x − Im(a) y / |a|².
        c = xp.sum(x_real * x_imag, axis=-1)[..., :, None]
        c = c - xp.sum(y_real * y_imag, axis=-1)[..., None, :]
        c = c + xp.matmul(x_imag, xp.matrix_transpose(y_real))
        c = c - xp.matmul(x_real, xp.matrix_transpose(y_imag))
        near, wave = xp.exp(-b), xp.exp(-b) * xp.sin(c)
        factor = 0.5 * xp.expm1(-b) ** 2 - near * xp.expm1(-a) - wave * wave
        return a + b, factor / self.num_frequencies

    def parameters(self, dim: int, sample: Sample) -> tuple[Host, Host | None] | None:
        """The diagonal a, and the orthogonal matrix that points are multiplied by before."""
        if not self.needs_data:
            return None
        return (_diagonal if self.A == "diagonal" else _dense)(sample.moments)

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: tuple[Host, Host | None] | None
    ) -> ComplexMap:
        if parameters is None:
            a, axes = np.asarray(self.A, dtype=complex), None
            if len(a) != dim:
                raise ValueError(
                    f"`A` must have a number for each axis, got {len(a)} for dim={dim}; "
                    "give as many, or fit A='diagonal'"
                )
            fitted = {}
        else:
            a, axes = parameters
            fitted = {"real": a.real.copy(), "imag": a.imag.copy()}
        kernel, omega = cast(ExponentialKernel, self.kernel), self.frequencies(dim, rng)
        unit, gaussian = kernel.unit(dim), 0.5 * kernel.norm_weight

        def side(a: Host, sign: float) -> Side:
            twist = -0.5 * sign * unit**2 * (a * a).imag
            return Side(
                scaled(omega, unit * a.real),
                quadratic=unit**2 * (gaussian + 0.5 * (a * a).real),
                transform=axes,
                frequency=scaled(omega, sign * unit * a.imag),
                twist=twist if parameters is None else None,
            )

        return ComplexMap(self, side(a, 1.0), side(1.0 / a, -1.0), fitted=fitted)


def _diagonal(moments: Moments) -> tuple[Host, None]:
    opposite = moments.query.mean * moments.key.mean < 0.0
    return np.sqrt(axis_ratios(moments)) * np.where(opposite, 1.0, 1j), None


def _dense(moments: Moments) -> tuple[Host, Host]:
    """S = −g (I − 2vvᵀ) with v along x/|x| − y/|y|, which takes x/|x| to y/|y|."""
    query, key = moments.query.mean, moments.key.mean
    norms = [float(np.linalg.norm(mean)) for mean in (query, key)]
    dim, size = len(query), math.sqrt(norm_ratio(moments))
    a, axes = np.full(dim, 1j * size), np.eye(dim)
    between = query / norms[0] - key / norms[1] if min(norms) > 0.0 else np.zeros(dim)
    if np.linalg.norm(between) > 1e-7:  # else S = −gI takes x to −y up to its square
        between = between / np.linalg.norm(between)
        between = -between if between[0] > 0.0 else between
        turn = axes[0] - between  # the reflection along this takes the first axis to v
        axes = axes - np.outer(turn, turn) * (2.0 / (turn @ turn))
        a[0] = size
    return a, axes


def _checked(given: Any) -> str | tuple[complex, ...]:
    if isinstance(given, str):
        if given not in ("diagonal", "dense"):
            raise ValueError(
                f"`A` must be 'diagonal', 'dense' or a tuple of numbers, got {given!r}"
            )
        return given
    if not isinstance(given, Sequence):
        raise TypeError(f"`A` must be 'diagonal', 'dense' or a tuple of numbers, got {given!r}")
    for number in given:
        if not isinstance(number, numbers.Complex) or isinstance(number, bool):
            raise TypeError(f"`A` must hold numbers, got {number!r}; pass for example (1.0, 1j)")
        if number == 0 or not cmath.isfinite(complex(number)):
            raise ValueError(f"`A` must hold finite numbers that are not 0, got {number!r}")
    if not given:
        raise ValueError("`A` must not be empty; give a number for each axis of the points")
    found = [complex(number) for number in given]
    return tuple(z if z.imag else z.real for z in found)
