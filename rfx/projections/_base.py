"""What a projection is: a law for the frequencies of a feature map, sampled on the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from rfx._xp import Array

__all__ = ["Projection"]


class Projection(ABC):
    """A law for ``num`` frequencies in ``dim`` dimensions.

    Subclasses are frozen dataclasses. Two things are claimed beside the sampling code, and read by
    the tests: whether each row alone is N(0, I), and how rows are coupled. The coupling enters the
    closed-form variance of a map through the covariance of one coupled pair of rows.
    """

    gaussian_rows: ClassVar[bool]

    @abstractmethod
    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        """Draw frequencies, float64 of shape (num, dim), on the host."""

    @abstractmethod
    def coupled_rows(self, num: int, dim: int) -> float:
        """How many other rows a row is coupled to, averaged over the rows."""

    @abstractmethod
    def positive_covariance(self, squared_norm: Array, dim: int) -> Array:
        """Cov(exp(ω·z), exp(ω'·z)) / E[exp(ω·z)]² of a coupled pair, at |z|² = squared_norm."""

    @abstractmethod
    def trigonometric_covariance(self, squared_norm: Array, dim: int) -> Array:
        """Cov(cos(ω·z), cos(ω'·z)) of a coupled pair, at |z|² = squared_norm."""
