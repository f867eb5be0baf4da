"""Positive random features of the softmax and the Gaussian kernel (FAVOR+)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx.features.exponential import ExponentialSpec
from rfx.features.forms import ExponentialMap

__all__ = ["Positive"]


@dataclass(frozen=True)
class Positive(ExponentialSpec):
    """φ(x) = n^(-1/2) exp(ω·x − |x|²/2) for n frequencies ω, at unit temperature.

    For the Gaussian kernel the row term is −|x|². All features are positive, so attention with them
    is an average of the values. The relative variance grows as exp(|x + y|²) and is zero at x = −y.

    Parameters
    ----------
    num_features : int
        Output columns, m. Even if ``hyperbolic``.
    kernel : Softmax or Gaussian
    projection : Projection
        ``Orthogonal()`` by default, which lowers the variance for every pair of points.
    hyperbolic : bool
        Use ω and −ω: n = m/2 frequencies and columns exp(±ω·x − |x|²/2) / sqrt(2n). At equal m the
        variance is 1 − exp(−|x + y|²) times that of independent one-sided features.

    Raises
    ------
    ValueError
        If ``num_features`` is below 1, or odd with ``hyperbolic``.
    TypeError
        If ``num_features`` is no int, or ``kernel`` or ``projection`` is of another kind.

    References
    ----------
    Choromanski et al., Rethinking attention with Performers, 2021: lemma 1 (the features), lemma 2
    (the mean squared errors), theorem 2 (orthogonal frequencies; here the exact covariance stands
    in place of its bound).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.asarray([[0.5, -0.5, 0.2, 0.1]])
    >>> phi = rfx.features.Positive(num_features=64).draw(4, seed=0, like=x)
    >>> rfx.gram(x, -x, features=phi).round(6)  # no variance here: the exact value
    array([[0.759572]])
    >>> phi.kernel(x, -x).round(6)
    array([[0.759572]])
    """

    hyperbolic: bool = False

    paper: ClassVar[str] = "Choromanski et al. 2021"

    @property
    def columns(self) -> int:
        return 2 if self.hyperbolic else 1

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> ExponentialMap:
        return ExponentialMap(self, self.drawn_side(dim, rng, np.ones(dim)))
