"""Features f(Wx): generalised attention of Performers, and functions of the points themselves."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace, working_dtype
from rfx.features._drawn import DrawnMap
from rfx.features._side import Side
from rfx.features._spec import Costs, Spec, check_projection, drawn_frequencies
from rfx.features.forms import PointwiseMap
from rfx.kernels import Angular, ArcCosine, Expectation, Kernel, Pointwise
from rfx.kernels._arc_cosine import angles, log_arc_cosine, polar
from rfx.kernels.functions import FunctionName, known
from rfx.projections import Orthogonal, Projection

__all__ = ["Deterministic", "Generalized"]


@dataclass(frozen=True)
class Generalized(Spec):
    """φ(x) = (c/m)^(1/2) (f(ω·x) + ε) for m frequencies ω: Performers' generalised attention.

    Not an estimate of softmax attention, but attention with a kernel of its own,
    c E[f(ω·x) f(ω·y)]. With c = 2 for the step, ReLU and its square this is the arc-cosine kernel
    of order 0, 1 and 2; c is 1 for other functions, and signs have the angular kernel 1 − 2θ/π.
    Points enter as they are. Performers multiply them by d^(-1/4), which for ReLU cancels in
    attention but for the size of ε; for functions that do not scale, such as GELU, scale the points
    before.

    Train the frequencies (``arrays()["query_weight"]``) to have the features of SARA-RT.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Kernel, optional
        What attention is compared with. By default the kernel that the features have on average:
        ``ArcCosine``, ``Angular``, or ``Expectation``, which computes it by quadrature. With a
        record of another class neither ``unbiased`` is claimed nor a variance.
    projection : Projection
        ``Orthogonal()`` by default.
    function : str or callable
        f: step, sign, relu, squared-relu, abs, identity, tanh, gelu (the form with tanh), elu+1,
        sigmoid or softplus; or a hashable callable of an array, elementwise, which counts as
        signed.
    epsilon : float
        ε, at least 0. It keeps denominators from zero where features are, and biases the estimate,
        for ReLU by 2 ε (|x| + |y|) (2π)^(-1/2) + 2 ε².

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, ``epsilon`` negative, ``function`` no such name or one of
        whole rows, or ``kernel`` an ``ArcCosine`` or ``Expectation`` of another function.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Choromanski et al., Rethinking attention with Performers, 2021, the sections on generalised
    attention (ε is added as in the authors' code, before the factor m^(-1/2)); Cho and Saul,
    Kernel methods for deep learning, 2009, section 2; Leal et al., SARA-RT, 2023.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[3.0, 4.0]])
    >>> phi = rfx.features.Generalized(num_features=4096, epsilon=0.0).draw(2, seed=0, like=x)
    >>> bool(abs(rfx.gram(x, x, features=phi) / phi.kernel(x, x) - 1.0) < 0.05)
    True
    >>> phi.kernel
    ArcCosine(order=1)
    """

    num_features: int
    kernel: Kernel = None  # type: ignore[assignment]  # until __post_init__
    projection: Projection = field(default_factory=Orthogonal)
    function: FunctionName = "relu"
    epsilon: float = 1e-3

    paper: ClassVar[str] = "Choromanski et al. 2021"

    def __post_init__(self) -> None:
        count = _check.positive_int("num_features", self.num_features)
        object.__setattr__(self, "num_features", count)
        object.__setattr__(self, "kernel", _target(self.kernel, self._own_kernel))
        check_projection(self.projection)
        if not isinstance(self.epsilon, numbers.Real) or isinstance(self.epsilon, bool):
            raise TypeError(f"`epsilon` must be a number, got {self.epsilon!r}; pass 0 or 1e-3")
        if not 0.0 <= self.epsilon < math.inf:
            raise ValueError(f"`epsilon` must be finite and not negative, got {self.epsilon!r}")
        object.__setattr__(self, "epsilon", float(self.epsilon))

    @property
    def _own_kernel(self) -> Kernel:
        if self.function == "sign":
            return Angular()
        order = known(self.function).order
        return Expectation(self.function) if order is None else ArcCosine(order)

    @property
    def costs(self) -> Costs:
        return Costs(None, self.projection.cost, self.projection.cost_to_apply)

    @property
    def positive(self) -> bool:
        return known(self.function).positive

    @property
    def unbiased(self) -> bool:
        own = self.kernel == self._own_kernel
        return own and self.epsilon == 0.0 and self.projection.gaussian_rows

    @property
    def log_constant(self) -> float:
        c = 1.0 if known(self.function).order is None else 2.0
        return 0.5 * math.log(c / self.num_features)

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        """With f(u) = max(u, 0)^n, 4 E[f(ω·x)² f(ω·y)²] is twice the kernel of order 2n."""
        order = known(self.function).order
        if order is None or not self.unbiased or self.projection.coupled:
            return None
        xp = namespace(x)
        first = log_arc_cosine(order, x, y)
        nothing = first == -float("inf")  # every estimate is 0 there
        zero = xp.zeros_like(first)
        second = xp.where(nothing, zero, log_arc_cosine(2 * order, x, y) + math.log(2.0))
        log = xp.clip(second - 2.0 * xp.where(nothing, zero, first), 0.0, None)
        return log, -xp.expm1(-log) / self.num_features

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """Products of two signs vary by 1 − k² = 4θ(π − θ)/π², but for points that are 0."""
        if self.function != "sign":
            return super().absolute_variance(x, y, drawn)
        if not self.unbiased or (self.projection.coupled and self.num_features > 1):
            return None
        xp = namespace(x)
        (x, _, x_nothing), (y, _, y_nothing) = polar(x), polar(y)
        theta, rest = angles(x, y)
        zero = xp.zeros_like(theta)
        nothing = xp.logical_or(x_nothing, xp.matrix_transpose(y_nothing))
        varies = xp.where(nothing, zero, theta * rest)
        return zero, (4.0 / math.pi**2 / self.num_features) * varies

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> PointwiseMap:
        weight = drawn_frequencies(self.projection, rng, self.num_features, dim)
        return PointwiseMap(self, Side(weight), function=self.function)


@dataclass(frozen=True)
class Deterministic(Spec):
    """φ(x) = f(x), as many features as coordinates: attention with the kernel f(x)·f(y), exactly.

    The map holds the identity matrix as its weight W in f(Wx), to be trained as it is in SARA-RT
    and, with "softmax", in Hedgehog.

    Parameters
    ----------
    function : str or callable
        f: elu+1 (the linear transformer), squared-relu, identity, softmax (over the coordinates),
        or another name of `Generalized`; or a hashable callable of an array, which counts as
        signed.
    kernel : Kernel, optional
        What attention is compared with; by default `rfx.kernels.Pointwise`, which is f(x)·f(y).

    Raises
    ------
    ValueError
        If there is no function of that name, or ``kernel`` is a ``Pointwise`` of another one.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Katharopoulos et al., Transformers are RNNs, 2020, equation 7 (elu + 1).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, -1.0]])
    >>> phi = rfx.features.Deterministic("elu+1").draw(2, seed=0, like=x)
    >>> phi.query(x).exp().round(4)
    array([[2.    , 0.3679]])
    """

    function: FunctionName = "elu+1"
    kernel: Kernel = None  # type: ignore[assignment]  # until __post_init__

    paper: ClassVar[str] = "Katharopoulos et al. 2020"
    changes_kernel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", _target(self.kernel, self._own_kernel))

    @property
    def _own_kernel(self) -> Kernel:
        return Pointwise(self.function)

    @property
    def costs(self) -> Costs:
        return Costs(None, "0", "d²")

    @property
    def positive(self) -> bool:
        return known(self.function).positive

    @property
    def unbiased(self) -> bool:
        return self.kernel == self._own_kernel

    @property
    def log_constant(self) -> float:
        return 0.0

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array]:
        xp = namespace(x)
        shape = xp.matmul(x[..., :1], xp.matrix_transpose(y[..., :1]))
        zero = xp.astype(xp.zeros_like(shape), working_dtype(x))
        return zero, zero

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> PointwiseMap:
        return PointwiseMap(self, Side(np.eye(dim)), function=self.function)


def _target(given: object, own: Kernel) -> Kernel:
    """The kernel to compare with: the features' own, or the one that was given."""
    if given is None:
        return own
    if not isinstance(given, Kernel):
        raise TypeError(
            f"`kernel` must be a record of rfx.kernels, got {given!r}; leave it out for {own!r}"
        )
    if isinstance(given, Angular | ArcCosine | Expectation | Pointwise) and given != own:
        raise ValueError(
            f"`kernel` must be {own!r}, which is what these features have, got {given!r}; "
            "leave it out"
        )
    return given
