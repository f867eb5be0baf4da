"""Random feature attention: cosines and sines of directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from rfx import _check
from rfx._xp import Array, from_numpy
from rfx.features._drawn import DrawnMap
from rfx.features._side import Side
from rfx.features._spec import Costs, Spec
from rfx.features.forms import TrigonometricMap
from rfx.features.preparation import UnitNorm
from rfx.features.trigonometric import Trigonometric
from rfx.kernels import Gaussian, Normalized, Rescaled
from rfx.projections import Orthogonal, Projection

__all__ = ["RFA"]


@dataclass(frozen=True)
class RFA(Spec):
    """φ(x) = n^(-1/2) [cos(ω·u/σ), sin(ω·u/σ)] of the direction u = x/|x|, for n frequencies ω.

    On directions the Gaussian kernel is exp(u·v/σ²) but for a constant, which attention cancels, so
    this is softmax attention with unit queries and keys and the scale 1/σ². Its logits are at most
    1/σ², and so the variance is moderate, and denominators seldom near 0 unless σ is small.

    The frequencies are N(0, 1/σ²): some texts have σ² in that place, which is another kernel unless
    σ is 1. The 1/σ are the array ``query_transform``, to be trained with the model, as the paper
    does. `rfx.gated_attention` has its gate.

    Parameters
    ----------
    num_features : int
        Output columns, m = 2n.
    bandwidth : float or tuple of float
        σ, or one for each coordinate of a direction. With several the kernel is still the
        Gaussian of u/σ, but no softmax kernel.
    projection : Projection
        ``Orthogonal()`` by default.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1 or odd, or a bandwidth not positive; when drawn, if there are
        bandwidths for another number of coordinates; when called, if a point is 0. Masked keys may
        be.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Peng et al., Random feature attention, 2021.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 50, 8))
    >>> phi = rfx.features.RFA(512).draw(8, seed=0, like=q)
    >>> unit = [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k)]
    >>> softmax = rfx.kernel_attention(*unit, v, kernel=rfx.kernels.Softmax(1.0))
    >>> bool(abs(rfx.linear_attention(q, k, v, features=phi) - softmax).max() < 0.1)
    True
    """

    num_features: int
    bandwidth: float | tuple[float, ...] = 1.0
    projection: Projection = field(default_factory=Orthogonal)

    paper: ClassVar[str] = "Peng et al. 2021"
    changes_kernel: ClassVar[bool] = True
    columns: ClassVar[int] = 2

    def __post_init__(self) -> None:
        given: Any = self.bandwidth
        several = isinstance(given, Sequence) and not isinstance(given, str)
        each = [_check.positive_number("bandwidth", b) for b in (given if several else (given,))]
        object.__setattr__(self, "bandwidth", tuple(each) if several else each[0])
        core = self._core  # it checks the other two
        object.__setattr__(self, "num_features", core.num_features)

    @property
    def _core(self) -> Trigonometric:
        """The map of directions over σ."""
        return Trigonometric(self.num_features, Gaussian(), self.projection)

    @property
    def kernel(self) -> Normalized:  # type: ignore[override]
        if isinstance(self.bandwidth, tuple):
            return Normalized(Rescaled(Gaussian(), tuple(1.0 / b for b in self.bandwidth)))
        return Normalized(Gaussian(self.bandwidth))

    @property
    def costs(self) -> Costs:
        return self._core.costs

    @property
    def positive(self) -> bool:
        return False

    @property
    def unbiased(self) -> bool:
        return self._core.unbiased

    @property
    def log_constant(self) -> float:
        return self._core.log_constant

    def prepared(self, x: Array) -> Array:
        unit = UnitNorm()(x)
        return unit * from_numpy(self._factors(x.shape[-1]), unit, unit.dtype)

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        return self._core.relative_variance(x, y, fitted)

    def absolute_variance(
        self, x: Array, y: Array, drawn: DrawnMap | None
    ) -> tuple[Array, Array] | None:
        """At the placed points, so that it is right for trained bandwidths too."""
        if drawn is None:
            x, y = self.prepared(x), self.prepared(y)
        else:
            x, y = drawn.place(x, "query"), drawn.place(y, "key")
        return self._core.absolute_variance(x, y, None)

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> TrigonometricMap:
        weight = self._core.frequencies(dim, rng)
        side = Side(weight, transform=self._factors(dim))
        return TrigonometricMap(self, side, preparation=UnitNorm())

    def _factors(self, dim: int) -> np.ndarray:
        """1/σ, shape (dim,)."""
        if isinstance(self.bandwidth, tuple) and len(self.bandwidth) != dim:
            raise ValueError(
                f"`bandwidth` must be a number or have one for each of dim={dim} coordinates, got "
                f"{len(self.bandwidth)}"
            )
        return 1.0 / np.broadcast_to(np.asarray(self.bandwidth), (dim,))
