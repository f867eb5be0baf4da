"""Symmetric dense-exponential features: one parameter for each principal axis of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from rfx.features._spec import Costs
from rfx.features.exponential import FittedExponential, optimal_rho
from rfx.features.forms import ExponentialMap
from rfx.features.moments import Sample
from rfx.kernels import ExponentialKernel

__all__ = ["SDERF"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SDERF(FittedExponential):
    """φ(x) = n^(-1/2) D exp(ωᵀAω + ω·(I − 4A)^(1/2) Qᵀx − |x|²/2), D = det(I − 4A)^(1/4).

    At unit temperature; for the Gaussian kernel the last term is −|x|². Q are the principal axes of
    the mean of (q + k)(q + k)ᵀ over all pairs of a query and a key, and each entry of the diagonal
    A is the best one for the power along its axis. All features are positive. Where queries and
    keys have the same law, as in kernel regression, this is the map to take.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Softmax or Gaussian
    projection : Projection
        ``Orthogonal()`` by default. The variance is known in closed form for ``IID()``.
    antithetic : bool
        Use ω and −ω: n = m/2 frequencies.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or odd with ``antithetic``.
    TypeError
        If ``num_features`` is no int, or ``kernel`` or ``projection`` is of another kind.

    References
    ----------
    Likhosherstov et al., Dense-exponential random features: sharp positive estimators of the
    Gaussian kernel, 2023 (symmetric dense-exponential random features).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((100, 4)) * np.asarray([3.0, 1.0, 0.1, 0.1])
    >>> iid = rfx.projections.IID()
    >>> dense = rfx.features.SDERF(64, projection=iid).fit(x, x, seed=0)
    >>> isotropic = rfx.features.OPRF(64, projection=iid).fit(x, x, seed=0)
    >>> bool(np.log(dense.variance(x, x)).mean() < np.log(isotropic.variance(x, x)).mean())
    True
    """

    paper: ClassVar[str] = "Likhosherstov et al. 2023"

    @property
    def costs(self) -> Costs:
        _, draw, apply = super().costs
        return Costs("n d² + d³", draw, f"{apply} + d²")

    def parameters(self, dim: int, sample: Sample) -> tuple[Host, Host]:
        """ρ of each axis (d,), and the axes as columns (d, d)."""
        unit = cast(ExponentialKernel, self.kernel).unit(dim)
        power, axes = np.linalg.eigh(unit**2 * sample.moments.total())
        return optimal_rho(np.maximum(power, 0.0)), axes

    def assemble(
        self, dim: int, rng: np.random.Generator, parameters: tuple[Host, Host]
    ) -> ExponentialMap:
        rho, axes = parameters
        side = self.drawn_side(dim, rng, rho)._replace(transform=axes)
        return ExponentialMap(self, side, fitted={"rho": rho})
