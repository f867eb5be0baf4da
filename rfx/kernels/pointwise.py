"""Kernels E f(ω·x) f(ω·y) and f(x)·f(y), of maps that apply a function f."""

from __future__ import annotations

from dataclasses import dataclass

from rfx._xp import Array, namespace, working_dtype
from rfx.kernels import functions
from rfx.kernels._arc_cosine import log_arc_cosine
from rfx.kernels._base import Kernel, SignedKernel
from rfx.kernels._expectation import expectation
from rfx.kernels.functions import FunctionName

__all__ = ["ArcCosine", "Expectation", "Pointwise"]


@dataclass(frozen=True)
class ArcCosine(Kernel):
    """|x|^n |y|^n J_n(θ) / π for points at an angle θ: 2 E[f(ω·x) f(ω·y)] with f(u) = max(u, 0)^n.

    J_0 = π − θ, J_1 = sin θ + (π − θ) cos θ, J_2 = 3 sin θ cos θ + (π − θ)(1 + 2 cos² θ). ω is
    N(0, I), and for n = 0 f is the step, 1 where u > 0 and else 0. It is 0 at θ = π, and where a
    point is 0: there f is 0 for every ω, also for n = 0.

    Parameters
    ----------
    order : 0, 1 or 2
        n. Order 1 is the kernel of ReLU features.

    Raises
    ------
    ValueError
        If ``order`` is none of these.

    References
    ----------
    Cho and Saul, Kernel methods for deep learning, 2009, section 2.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[3.0, 4.0]]), np.asarray([[-4.0, 3.0]])
    >>> kernel = rfx.kernels.ArcCosine(order=1)
    >>> kernel(x, x), kernel(x, y).round(4)  # |x|² and, at right angles, |x| |y| / π
    (array([[25.]]), array([[7.9577]]))
    """

    order: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or self.order not in (0, 1, 2):
            raise ValueError(f"`order` must be 0, 1 or 2, got {self.order!r}; 1 is for ReLU")
        object.__setattr__(self, "order", int(self.order))

    def _log(self, x: Array, y: Array) -> Array:
        return log_arc_cosine(self.order, x, y)


@dataclass(frozen=True)
class Expectation(SignedKernel):
    """E[f(ω·x) f(ω·y)] for ω ~ N(0, I): the kernel of random features f(ω·x), for any f.

    It is computed by quadrature, with some nine thousand values of f a pair: as a target to compare
    with, not for speed. Where f is smooth but for a kink at 0 the error is at rounding for points
    of norms up to about 1, and below 1e-4 sqrt(k(x, x) k(y, y)) up to 8.

    Parameters
    ----------
    function : str or callable
        f: the name of an elementwise function of `rfx.features.Generalized`, or a hashable callable
        that takes and returns an array.

    Raises
    ------
    ValueError
        If there is no elementwise function of that name.
    TypeError
        If ``function`` is neither a name nor a hashable callable.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[3.0, 4.0]])
    >>> rfx.kernels.Expectation("relu")(x, x).round(6)  # |x|² / 2
    array([[12.5]])
    """

    function: FunctionName

    def __post_init__(self) -> None:
        if not functions.known(self.function).elementwise:
            raise ValueError(
                f"`function` must be elementwise, got {self.function!r}, which is of a whole row; "
                "rfx.features.Deterministic takes it"
            )

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        values = expectation(self.function, x, y)
        return namespace(x).zeros_like(values), values


@dataclass(frozen=True)
class Pointwise(SignedKernel):
    """f(x)·f(y) for a function f of each coordinate, or of the row: features without randomness.

    Parameters
    ----------
    function : str or callable
        A name such as "elu+1", or a hashable callable that takes and returns an array.

    Raises
    ------
    ValueError
        If there is no function of that name.
    TypeError
        If ``function`` is neither a name nor a hashable callable.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, -2.0]])
    >>> rfx.kernels.Pointwise("identity")(x, -x)
    array([[-5.]])
    """

    function: FunctionName

    def __post_init__(self) -> None:
        functions.known(self.function)

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        (x_log, x_value), (y_log, y_value) = (
            functions.scaled(self.function, xp.astype(a, working_dtype(a))) for a in (x, y)
        )
        log = x_log + xp.matrix_transpose(y_log)
        return log, xp.matmul(x_value, xp.matrix_transpose(y_value))
