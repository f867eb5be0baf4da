"""Universal random features: neurons f(x·w) as products of features of inputs and of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, cast

import numpy as np

from rfx import _check
from rfx._xp import Array, from_numpy, namespace, working_dtype
from rfx.features._drawn import DrawnMap
from rfx.features._plain import PlainMap
from rfx.features._side import Side
from rfx.features._spec import Costs, Spec, check_projection
from rfx.features._spectrum import EXACT, series
from rfx.features.forms import ComplexMap
from rfx.features.moments import Sample
from rfx.features.preparation import SquaredNorm
from rfx.kernels import Neuron
from rfx.kernels.functions import FunctionName
from rfx.projections import Orthogonal, Projection

__all__ = ["Universal"]

Host: TypeAlias = np.ndarray[Any, Any]


class _Plan(NamedTuple):
    """For each wave of f what its features are made with; shape (waves,).

    frequency, phase : θ and p
    root : ρ^(1/2), ρ = 1/(1 − 8A)
    a, b : factors of inputs and of weights
    log_share : log of the probability of the wave
    log_weight : log of its amplitude divided by that
    """

    frequency: Host
    phase: Host
    root: Host
    a: Host
    b: Host
    log_share: Host
    log_weight: Host

    def at(self, index: Host) -> _Plan:
        """Of the features that have drawn these waves."""
        return _Plan(*(array[index] for array in self))


@dataclass(frozen=True)
class Universal(Spec):
    """φ(x)·φ(w) ≈ f(x·w), from the waves of f: universal random features, for neural layers.

    With f(u) = Σ c cos(θu + p), each feature takes a wave of f at random and estimates it by

        cos(θ x·w + p) = E D² exp(2A|ω|² + B ω·ax − |ax|²/2 + |bw|²/2) cos(B ω·bw + p),

    where ab = θ, B² = 1 − 4A and D = (1 − 4A)^(d/4): exponential features of inputs (queries) times
    waves of weights (keys). Of all ways to split iθ into two factors this one has the least second
    moment where x·w has either sign, and it alone needs no imaginary part. A and a/b are the best
    for points of the given norms, and waves are drawn in proportion to c times the root of their
    second moment then.

    The variance grows as exp(2 θ |x| |w|): this is for pre-activations that are small compared with
    |x| |w|, or in few dimensions, and for smooth f. For ReLU take `Generalized`, whose variance
    grows with the norms as the kernel does, in a network with that kernel.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    function : str or callable
        f: "gaussian" (exp(−u²/2)), "sech", "cos" and "sin" have waves that are known, and give f to
        rounding where |u| <= 20. For an elementwise function of `Generalized`, or for a callable
        (which must take NumPy arrays too), a series is made that is within ``tolerance`` of it
        where |u| <= ``limit``, and another function elsewhere. The estimate is of the series.
    norms : (float, float), optional
        Of typical inputs and weights. Fitted by default: roots of the mean squares.
    bias : bool
        The last coordinate of a weight is a bias, and that of an input does not count. It enters
        the phase of the waves, so that it costs no variance.
    limit, tolerance : float
        Of the series; no others are as cheap within them.
    projection : Projection
        ``Orthogonal()`` by default. The closed form of the variance is that of independent rows.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, a norm, ``limit`` or ``tolerance`` is not positive, or there
        is no function of that name; when drawn, if no series keeps the tolerance.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Sehanobish et al., Scalable neural network kernels, 2023: universal random features. The split
    of iθ, the bias in the phase, the law of the waves and the variance are derived here.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, weights = 0.3 * np.random.default_rng(0).standard_normal((2, 5, 8))
    >>> phi = rfx.features.Universal(4096, function="tanh", limit=2.0).fit(x, weights, seed=0)
    >>> bool(abs(rfx.gram(x, weights, features=phi) - np.tanh(x @ weights.T)).max() < 0.2)
    True
    """

    num_features: int
    function: FunctionName = "gaussian"
    norms: tuple[float, float] | None = None
    bias: bool = False
    limit: float = 4.0
    tolerance: float = 0.01
    projection: Projection = field(default_factory=Orthogonal)

    paper: ClassVar[str] = "Sehanobish et al. 2023"

    def __post_init__(self) -> None:
        count = _check.positive_int("num_features", self.num_features)
        object.__setattr__(self, "num_features", count)
        Neuron(self.function, self.bias)  # it refuses what is no function
        if self.norms is not None:
            if not isinstance(self.norms, Sequence) or len(self.norms) != 2:
                raise TypeError(
                    f"`norms` must be a pair, of inputs and of weights, got {self.norms!r}; "
                    "leave it out to fit it"
                )
            each = tuple(_check.positive_number("norms", norm) for norm in self.norms)
            object.__setattr__(self, "norms", each)
        for name in ("limit", "tolerance"):
            object.__setattr__(self, name, _check.positive_number(name, getattr(self, name)))
        check_projection(self.projection)

    @property
    def kernel(self) -> Neuron:  # type: ignore[override]
        return Neuron(self.function, self.bias)

    @property
    def needs(self) -> Literal["nothing", "moments"]:
        return "moments" if self.norms is None else "nothing"

    @property
    def costs(self) -> Costs:
        return Costs("n d²" if self.needs_data else None, self.projection.cost, "d m")

    @property
    def positive(self) -> bool:
        return False

    @property
    def unbiased(self) -> bool:
        return self.function in EXACT and self.projection.gaussian_rows

    @property
    def log_constant(self) -> float:
        return -0.5 * math.log(self.num_features)

    def parameters(self, dim: int, sample: Sample) -> tuple[float, float]:
        axes = self._axes(dim)
        sides = (sample.moments.query, sample.moments.key)
        query, key = (float(np.trace(m.second[:axes, :axes])) ** 0.5 for m in sides)
        return max(query, 1e-6), max(key, 1e-6)

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: tuple[float, float] | None
    ) -> ComplexMap:
        plan = self._plan(dim, parameters)
        n, axes = self.num_features, self._axes(dim)
        drawn = (np.arange(n) + rng.random(n)) / n  # one in each n-th part of the law
        law = np.cumsum(np.exp(plan.log_share))
        theta, phase, root, a, b, _, log_weight = plan.at(np.searchsorted(law / law[-1], drawn))
        omega = np.ascontiguousarray(self.projection.sample(rng, n, axes).T)
        A = (1.0 - root**-2) / 8.0
        B = np.sqrt(1.0 - 4.0 * A)
        log = A * np.sum(omega * omega, axis=0) + 0.5 * axes * np.log(B) + 0.5 * log_weight
        nothing = np.zeros((1, n))
        bias = [nothing] if self.bias else []
        query = np.concatenate([a * B * omega, *bias, -0.5 * a[None] ** 2])
        key = np.concatenate([0.0 * omega, *bias, 0.5 * b[None] ** 2])
        angle = np.concatenate([b * B * omega, *([theta[None]] if self.bias else []), nothing])
        return ComplexMap(
            self,
            Side(query, bias=log),
            Side(key, bias=log, frequency=angle, phase=phase),
            fitted={} if parameters is None else {"plan": np.stack(plan)},
            paired=False,
            preparation=SquaredNorm(left_out=int(self.bias)),
        )

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """One feature has the second moment Σ_n c_n g_n E_n, if g_n is its weight at wave n.

        E_n = D⁴ [exp(ρ|ax|² + |bw|²) + exp(ρ|ax|² − ρ|bw|²) cos(2(1 + ρ)θ x·w + 2p)] / 2. Features
        are independent, each with the waves of its own n-th part of the law.
        """
        if self.projection.coupled or not self.projection.gaussian_rows:
            return None
        xp = namespace(x)
        if drawn is not None and self.needs_data:
            array = cast(PlainMap, drawn).fitted["plan"]
        else:
            array = from_numpy(np.stack(self._plan(x.shape[-1], None)), x, working_dtype(x))
        # Each (..., 1, 1, waves), beside pairs (..., t, s, 1).
        theta, phase, root, a, b, log_share, log_weight = (
            array[..., i, :][..., None, None, :] for i in range(len(_Plan._fields))
        )
        axes, rho = self._axes(x.shape[-1]), root * root
        x, y = (xp.astype(points, working_dtype(x)) for points in (x, y))
        x_square, y_square = (
            xp.sum(p[..., :axes] * p[..., :axes], axis=-1)[..., None] for p in (x, y)
        )
        inner = xp.matmul(x[..., :axes], xp.matrix_transpose(y[..., :axes]))[..., None]
        phase = phase if not self.bias else phase + theta * y[..., None, :, axes:]
        constant = axes * (xp.log(0.5 * (1.0 + rho)) - xp.log(root)) + log_share + 2.0 * log_weight
        mine, its = rho * a * a * x_square[..., :, None, :], b * b * y_square[..., None, :, :]
        first = constant + mine + its
        second = first - (1.0 + rho) * its
        wave = xp.cos(2.0 * ((1.0 + rho) * theta * inner + phase))
        top = xp.max(first, axis=-1)
        moment = 0.5 * xp.sum(
            xp.exp(first - top[..., None]) + xp.exp(second - top[..., None]) * wave, axis=-1
        )
        means = xp.exp(log_weight) * xp.cos(theta * inner + phase)
        squares = xp.sum(means * xp.matmul(means, self._overlaps(log_share)), axis=-1)
        return top, moment / self.num_features - squares * xp.exp(-top)

    def _overlaps(self, log_share: Array) -> Array:
        """PᵀP, where P (m, waves) is how much of the law each feature has of each wave."""
        xp, n = namespace(log_share), self.num_features
        high = xp.cumulative_sum(xp.exp(log_share), axis=-1)
        high = high / high[..., -1:]
        low = xp.concat([xp.zeros_like(high[..., :1]), high[..., :-1]], axis=-1)
        edges = from_numpy(np.arange(n + 1) / n, log_share, log_share.dtype)[:, None]
        part = xp.clip(xp.minimum(high, edges[1:, :]) - xp.maximum(low, edges[:-1, :]), 0.0, None)
        return xp.matmul(xp.matrix_transpose(part), part)

    def _axes(self, dim: int) -> int:
        return dim - int(self.bias)

    def _plan(self, dim: int, norms: tuple[float, float] | None) -> _Plan:
        axes = self._axes(dim)
        if axes < 1:
            raise ValueError(
                f"`dim` must be at least 2 with bias=True, got {dim}; append the biases to the "
                "weights, and a column of ones to the inputs"
            )
        return _planned(self, axes, *cast(tuple[float, float], norms or self.norms))


@lru_cache(maxsize=64)
def _planned(spec: Universal, axes: int, x_norm: float, w_norm: float) -> _Plan:
    """The same for all heads, and a series takes milliseconds.

    Its waves are priced as for points of twice |x| |w|: some pairs are that long, and squares of
    amplitudes, which least squares counts, are easier on small and fast waves than the variance is.
    """
    product = x_norm * w_norm
    if spec.function in EXACT:
        waves = EXACT[str(spec.function)]()
    else:
        price = partial(_growth, axes=axes, product=2.0 * product)
        waves = series(spec.kernel.activations, spec.limit, spec.tolerance, price)
    theta = waves.frequency
    root = _best_root(theta * product, axes)
    ratio = w_norm / (x_norm * root)
    log_size = np.log(waves.amplitude)
    log_share = log_size + _growth(theta, axes, product)
    log_share = log_share - np.logaddexp.reduce(log_share)
    a, b = np.sqrt(theta * ratio), np.sqrt(theta / ratio)
    return _Plan(theta, waves.phase, root, a, b, log_share, log_size - log_share)


def _best_root(product: Host, axes: int) -> Host:
    """The ρ^(1/2) in (0, 1] of least second moment, for θ |x| |w| = ``product``.

    log D⁴ E exp(..) = d log((1 + ρ)/2) − d log(ρ)/2 + 2 ρ^(1/2) θ |x| |w| at the best a, where
    ρ|ax|² = |bw|². Its derivative vanishes where 2 r s (1 + s²) = d (1 − s²), with s = ρ^(1/2):
    the left side rises and the right side falls.
    """
    low, high = np.zeros_like(product), np.ones_like(product)
    for _ in range(60):
        s = 0.5 * (low + high)
        below = 2.0 * product * s * (1.0 + s * s) < axes * (1.0 - s * s)
        low, high = np.where(below, s, low), np.where(below, high, s)
    return high


def _growth(theta: Host, axes: int, product: float) -> Host:
    """Half the log of that second moment, at frequencies θ and |x| |w| = ``product``."""
    s = _best_root(theta * product, axes)
    return 0.5 * axes * (np.log(0.5 * (1.0 + s * s)) - np.log(s)) + s * theta * product
