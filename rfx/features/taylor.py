"""The Taylor polynomial of the exponential: attention with few exact features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace, working_dtype
from rfx.features._drawn import DrawnMap
from rfx.features._side import Side
from rfx.features._spec import Costs, Spec
from rfx.features.products import Factors, PolynomialMap
from rfx.kernels import DotProduct, Kernel

__all__ = ["Taylor"]


@dataclass(frozen=True)
class Taylor(Spec):
    """φ(x) = (Π_l x_l^α_l / α_l!^(1/2)), all monomials |α| <= p: exactly Σ_{n<=p} (x·y)^n / n!.

    Points enter times the root of the scale. There is one column for each monomial, so that of the
    d^n products of n coordinates those that are equal are one: (d + p)! / (d! p!) columns, which
    are 1 + d + d (d + 1)/2 at order 2. Nothing is random. For even p the polynomial is positive, so
    that attention is an average of the values; for odd p it is negative where x·y is far below 0.

    The map holds the coordinates as linear forms, to be trained.

    Parameters
    ----------
    order : int
        p.
    scale : float, optional
        Of x·y; ``dim ** -0.5`` by default, as in attention.
    kernel : Kernel, optional
        What attention is compared with; by default `rfx.kernels.DotProduct`, which is the
        polynomial. With another one ``unbiased`` is not claimed.

    Raises
    ------
    ValueError
        If ``order`` is below 1, ``scale`` is not positive, or ``kernel`` is another ``DotProduct``
        of the same scale.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Zhang et al., The hedgehog and the porcupine, 2024, and Arora et al., Simple linear attention
    language models balance the recall-throughput tradeoff, 2024, for order 2; Heinsen and
    Kozachkov, Self-attention at constant cost per token via symmetry-aware Taylor approximation,
    2026, for columns that are equal.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[1.0, 2.0]])
    >>> phi = rfx.features.Taylor(order=2, scale=1.0).draw(2, seed=0, like=x)
    >>> phi.query(x).exp().round(3)  # x_1²/√2, x_1 x_2, x_2²/√2, x_1, x_2, 1
    array([[0.707, 2.   , 2.828, 1.   , 2.   , 1.   ]])
    >>> rfx.gram(x, x, features=phi).round(6)  # 1 + 5 + 5²/2
    array([[18.5]])
    """

    order: int = 2
    scale: float | None = None
    kernel: Kernel = None  # type: ignore[assignment]  # until __post_init__

    paper: ClassVar[str] = "Arora et al. 2024"

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", _check.positive_int("order", self.order))
        if self.scale is not None:
            object.__setattr__(self, "scale", _check.positive_number("scale", self.scale))
        own = self._own_kernel
        if self.kernel is None:
            object.__setattr__(self, "kernel", own)
        if not isinstance(self.kernel, Kernel):
            raise TypeError(
                f"`kernel` must be a record of rfx.kernels, got {self.kernel!r}; leave it out for "
                f"{own!r}"
            )

    @property
    def _own_kernel(self) -> DotProduct:
        series = tuple(1.0 / math.factorial(n) for n in range(self.order + 1))
        return DotProduct(series, self.scale)

    @property
    def costs(self) -> Costs:
        return Costs(None, "d m", "d m")

    @property
    def positive(self) -> bool:
        return self.order % 2 == 0

    @property
    def unbiased(self) -> bool:
        return self.kernel == self._own_kernel

    @property
    def log_constant(self) -> float:
        return 0.0

    def absolute_variance(self, x: Array, y: Array, drawn: DrawnMap | None) -> tuple[Array, Array]:
        xp = namespace(x)
        shape = xp.matmul(x[..., :1], xp.matrix_transpose(y[..., :1]))
        zero = xp.astype(xp.zeros_like(shape), working_dtype(x))
        return zero, zero

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> PolynomialMap:
        unit = self._own_kernel.unit(dim)
        degrees = range(self.order, -1, -1)
        each = [np.asarray(list(combinations_with_replacement(range(dim), n))) for n in degrees]
        identity = unit * np.eye(dim)
        factors = [
            identity[:, np.concatenate([found[:, i] for found in each[: self.order - i]])]
            for i in range(self.order)
        ]
        scale = np.concatenate([[_root(monomial) for monomial in found] for found in each])
        widths = (factor.shape[-1] for factor in factors)
        side = Side(np.concatenate(factors, axis=-1), scale=scale)
        return PolynomialMap(self, side, factors=Factors.of(widths))


def _root(monomial: np.ndarray) -> float:
    """Π_l α_l!^(-1/2) of the coordinates that are multiplied."""
    powers = np.unique(monomial, return_counts=True)[1]
    return math.prod(math.factorial(power) for power in powers.tolist()) ** -0.5
