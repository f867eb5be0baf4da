"""Maps that are made to be trained: Hedgehog, and DARKFormer's metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx._xp import Array, namespace, working_dtype
from rfx.features._drawn import DrawnMap
from rfx.features._side import Side
from rfx.features._spec import Costs, Spec
from rfx.features.exponential import ExponentialSpec
from rfx.features.forms import ExponentialMap, PointwiseMap
from rfx.kernels import Pointwise
from rfx.kernels.functions import FunctionName

__all__ = ["Dark", "Hedgehog"]


@dataclass(frozen=True)
class Hedgehog(Spec):
    """φ(x) = [softmax(Wx + b), softmax(−Wx − b)], with W and b to be trained.

    As it is drawn, W is the identity and b is 0: nothing is random. Features are positive. The
    paper trains W and b to give the attention of a softmax layer (`rfx.features` calls them
    ``query_weight`` and ``query_bias``; both sides share them). Before, the kernel has little to do
    with the softmax kernel.

    Parameters
    ----------
    function : {"softmax-pair", "exp-pair"}
        The second leaves the normalisation out: φ(x) = [exp(Wx + b), exp(−Wx − b)].

    Raises
    ------
    ValueError
        If ``function`` is neither.

    References
    ----------
    Zhang et al., The hedgehog and the porcupine: expressive linear attentions with softmax mimicry,
    2024.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.0, 1.0]])
    >>> phi = rfx.features.Hedgehog().draw(2, seed=0, like=x)
    >>> phi.query(x).exp().round(3)
    array([[0.269, 0.731, 0.731, 0.269]])
    """

    function: FunctionName = "softmax-pair"

    paper: ClassVar[str] = "Zhang et al. 2024"
    changes_kernel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.function not in ("softmax-pair", "exp-pair"):
            raise ValueError(
                f"`function` must be 'softmax-pair' or 'exp-pair', got {self.function!r}"
            )

    @property
    def kernel(self) -> Pointwise:  # type: ignore[override]
        return Pointwise(self.function)

    @property
    def costs(self) -> Costs:
        return Costs(None, "0", "d²")

    @property
    def positive(self) -> bool:
        return True

    @property
    def unbiased(self) -> bool:
        return True

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
        side = Side(np.eye(dim), bias=np.zeros(dim))
        return PointwiseMap(self, side, function=self.function)


@dataclass(frozen=True)
class Dark(ExponentialSpec):
    """φ(x) = m^(-1/2) exp(ω·Mx − |Mx|²/2): positive features in a metric M, to be trained.

    They estimate exp(x·MᵀMy) at unit temperature (for the Gaussian kernel the row term is −|Mx|²).
    As it is drawn, M is the identity, and the map is `Positive`. Training M changes the kernel: the
    map then estimates another one, without bias, and no longer softmax attention. That is what it
    is for. M is the array ``query_transform``, shape (d, d) and transposed; both sides share it.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Softmax or Gaussian
        The kernel at M = I.
    projection : Projection
        ``Orthogonal()`` by default.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1.
    TypeError
        If ``num_features`` is no int, or ``kernel`` or ``projection`` is of another kind.

    References
    ----------
    arXiv 2603.04127, 2026 (DARKFormer).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.5, -0.5, 0.2, 0.1]])
    >>> phi = rfx.features.Dark(num_features=64).draw(4, seed=0, like=x)
    >>> turned = phi.with_arrays(phi.arrays() | {"query_transform": 2.0 * np.eye(4)})
    >>> rfx.gram(x, -x, features=turned).round(4)  # exact here: the kernel at 2x and −2x
    array([[0.3329]])
    >>> phi.kernel(2.0 * x, -2.0 * x).round(4)
    array([[0.3329]])
    """

    paper: ClassVar[str] = "arXiv 2603.04127, 2026"
    changes_kernel: ClassVar[bool] = True

    @property
    def costs(self) -> Costs:
        fit, draw, apply = super().costs
        return Costs(fit, draw, f"{apply} + d²")

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """At the placed points, so that it is right for a trained metric too."""
        if drawn is not None:
            x, y = drawn.place(x, "query"), drawn.place(y, "key")
        found = self.relative_variance(x, y, {})
        if found is None:
            return None
        log, factor = found
        return 2.0 * self.kernel.log(x, y) + log, factor

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> ExponentialMap:
        side = self.drawn_side(dim, rng, np.ones(dim))
        return ExponentialMap(self, side._replace(transform=np.eye(dim)))
