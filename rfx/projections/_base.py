"""What a projection is: a law for the frequencies of a feature map, sampled on the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from rfx._xp import Array, namespace

if TYPE_CHECKING:
    from rfx.projections.structured import Structured

__all__ = ["Kind", "Norms", "Projection", "check_norms", "row_norms"]

Kind = Literal["exponential", "hyperbolic", "trigonometric"]
"""Which function of ω·z a coupling is of: exp, cosh or cos."""

Norms = Literal["chi", "fixed"]
"""Norms of the rows: those of Gaussian rows, or sqrt(dim) for each."""


class Projection(ABC):
    """A law for ``num`` frequencies in ``dim`` dimensions.

    Subclasses are frozen dataclasses. What they claim beside the sampling code is read by the
    tests, and enters the bias and the variance of a map: whether each row alone is N(0, I), whether
    rows are dependent, and, in closed form where one is known, by how much.
    """

    cost: ClassVar[str] = "d² m"
    """What drawing m frequencies takes, up to a factor."""

    cost_to_apply: ClassVar[str] = "d m"
    """What m features of a point take, up to a factor."""

    structured: ClassVar[bool] = False
    """Whether ``factors`` exists, which a map then uses instead of ``sample``."""

    independent_norms: ClassVar[bool] = False
    """Whether the norms of the rows are independent of each other and of the directions."""

    @property
    @abstractmethod
    def gaussian_rows(self) -> bool:
        """Whether each row alone is exactly N(0, I)."""

    @property
    @abstractmethod
    def coupled(self) -> bool:
        """Whether the rows of one draw are dependent."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        """Draw frequencies, float64 of shape (num, dim), on the host."""

    def factors(self, rng: np.random.Generator, num: int, dim: int) -> Structured:
        """Draw frequencies as factors, float64 on the host, where these are ``structured``."""
        raise TypeError(f"{self!r} has no factors; draw its frequencies with sample")

    @abstractmethod
    def coupling(self, kind: Kind, squared_norm: Array, num: int, dim: int) -> Array | None:
        """Covariances of a row's g(ω·z) with those of the other rows, summed.

        The mean of n rows has the variance (Var g + coupling) / n.

        Parameters
        ----------
        kind : "exponential", "hyperbolic" or "trigonometric"
            g is exp, cosh (a pair ±ω) or cos. The first two are divided by E[exp(ω·z)]², which is
            exp(|z|²) for Gaussian rows.
        squared_norm : Array
            |z|², of any library and shape.
        num, dim : int

        Returns
        -------
        Array, shape and dtype of ``squared_norm``, or None where no closed form is known
            Averaged over the ``num`` rows; zeros for independent ones.
        """

    def exponential_mean(self, squared_norm: Array, dim: int) -> Array | None:
        """E[exp(ω·z)] / exp(|z|²/2) of one row: 1 for Gaussian rows, None where not known."""
        return namespace(squared_norm).ones_like(squared_norm) if self.gaussian_rows else None

    def trigonometric_mean(self, squared_norm: Array, dim: int) -> Array | None:
        """E[cos(ω·z)] of one row: exp(−|z|²/2) for Gaussian rows, None where not known."""
        return namespace(squared_norm).exp(-0.5 * squared_norm) if self.gaussian_rows else None


def check_norms(norms: str) -> None:
    """Refuse norms of another name."""
    if norms not in ("chi", "fixed"):
        raise ValueError(
            f"`norms` must be 'chi' or 'fixed', got {norms!r}; "
            "take 'chi' for rows that are Gaussian"
        )


def row_norms(norms: Norms, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
    """Norms of ``num`` rows, shape (num, 1)."""
    if norms == "fixed":
        return np.full((num, 1), float(dim) ** 0.5)
    return np.sqrt(rng.chisquare(dim, size=(num, 1)))
