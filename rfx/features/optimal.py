"""Frequencies sampled where the data need them: the optimal sampler of positive features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import numpy as np

from rfx import _check
from rfx._xp import Array
from rfx.features._side import Side
from rfx.features._spec import Costs, RandomSpec
from rfx.features.forms import ExponentialMap
from rfx.features.moments import Sample
from rfx.kernels import ExponentialKernel

__all__ = ["Optimal"]

Host = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Optimal(RandomSpec):
    """φ(x) = (w(ω)/n)^(1/2) exp(ω·x − |x|²/2), ω from the data's mixture, w = N(0, I) / mixture.

    At unit temperature; for the Gaussian kernel the last term is −|x|². The density that gives the
    least mean squared error over the data is proportional to N(ω; 0, I) (E_x f² E_y f²)^(1/2) with
    f = exp(ω·x − |x|²/2). For one set of points it is the mixture of Gaussians N(2x, I), x drawn
    with the probability exp(|x|²) over its sum. With queries and keys, half of the frequencies are
    drawn for either, and the weight is that of the whole mixture, so that none exceeds twice the
    one for a single set. Which features f are taken makes no difference to the error.

    The mean squared error is dominated by the largest entries of the kernel matrix: with norms that
    differ much, features that minimise a mean of logs (`OPRF`, `SDERF`) serve attention better.

    Parameters
    ----------
    num_features : int
        Output columns, m.
    kernel : Softmax or Gaussian
    projection : Projection
        The law of ω minus the mean of its component. ``Orthogonal()`` by default.
    num_points : int
        Points of either side, drawn at random, that the mixture is made of if there are more.

    Raises
    ------
    ValueError
        If ``num_features`` or ``num_points`` is below 1.
    TypeError
        If an argument is of another kind.

    References
    ----------
    All random features representations are equivalent, arXiv 2406.18802, 2024 (the optimal
    density); here for two sets of points as a mixture of both.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.random.default_rng(0).standard_normal((100, 8))
    >>> phi = rfx.features.Optimal(num_features=256).fit(x, x, seed=0)
    >>> error = np.abs(rfx.gram(x, x, features=phi) - phi.kernel(x, x)).max()
    >>> plain = rfx.features.Positive(num_features=256).draw(8, seed=0, like=x)
    >>> bool(error < np.abs(rfx.gram(x, x, features=plain) - phi.kernel(x, x)).max())
    True
    """

    num_points: int = 2048

    paper: ClassVar[str] = "arXiv 2406.18802, 2024"

    def __post_init__(self) -> None:
        self._check_fields("")
        _check.positive_int("num_points", self.num_points)

    @property
    def needs(self) -> Literal["points"]:
        return "points"

    @property
    def costs(self) -> Costs:
        _, draw, apply = super().costs
        return Costs("n d m", draw, apply)

    @property
    def positive(self) -> bool:
        return True

    def relative_variance(
        self, x: Array, y: Array, fitted: dict[str, Array]
    ) -> tuple[Array, Array] | None:
        return None

    def assemble(self, dim: int, rng: np.random.Generator, parameters: Sample) -> ExponentialMap:
        kernel, sample = cast(ExponentialKernel, self.kernel), parameters
        unit, n = kernel.unit(dim), self.num_frequencies
        sides = [unit * self._some(points, rng) for points in (sample.query, sample.key)]
        powers = [np.sum(points**2, axis=-1) for points in sides]
        chosen = np.arange(n) % 2 == 0
        centres = np.where(
            chosen[:, None],
            *(points[_drawn(power, n, rng)] for points, power in zip(sides, powers, strict=True)),
        )
        omega = self.projection.sample(rng, n, dim) + 2.0 * centres
        # log of mixture / N(0, I): each component has exp(2x·ω − 2|x|²) and the share exp(|x|²).
        ratios = [
            _log_sum(2.0 * omega @ points.T - power) - _log_sum(power)
            for points, power in zip(sides, powers, strict=True)
        ]
        log_weight = np.log(2.0) - np.logaddexp(*ratios)
        growth = 0.5 * (1 + kernel.norm_weight) * unit**2
        side = Side(unit * omega.T, bias=0.5 * log_weight, quadratic=np.full(dim, growth))
        return ExponentialMap(self, side)

    def _some(self, points: Host | None, rng: np.random.Generator) -> Host:
        assert points is not None
        if len(points) <= self.num_points:
            return points
        return points[rng.choice(len(points), self.num_points, replace=False)]


def _drawn(power: Host, num: int, rng: np.random.Generator) -> Host:
    """Indices drawn with probability exp(power) over its sum."""
    share = np.exp(power - np.max(power))
    return rng.choice(len(power), num, p=share / np.sum(share))


def _log_sum(log: Host) -> Host:
    top = np.max(log, axis=-1, keepdims=True)
    return np.asarray(np.log(np.sum(np.exp(log - top), axis=-1)) + top[..., 0])
