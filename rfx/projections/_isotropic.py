"""Rows in uniform directions, of chi or of fixed norms."""

from __future__ import annotations

from dataclasses import dataclass

from rfx._xp import Array
from rfx.projections import sphere
from rfx.projections._base import Norms, Projection, check_norms

__all__ = ["Isotropic"]


@dataclass(frozen=True)
class Isotropic(Projection):
    """A projection whose rows point in uniform directions each, with a choice of norms."""

    norms: Norms = "chi"

    def __post_init__(self) -> None:
        check_norms(self.norms)

    @property
    def gaussian_rows(self) -> bool:
        return self.norms == "chi"

    def exponential_mean(self, squared_norm: Array, dim: int) -> Array | None:
        if self.norms == "fixed":
            return sphere.exponential_mean(squared_norm, dim)
        return super().exponential_mean(squared_norm, dim)

    def trigonometric_mean(self, squared_norm: Array, dim: int) -> Array | None:
        if self.norms == "fixed":
            return sphere.trigonometric_mean(squared_norm, dim)
        return super().trigonometric_mean(squared_norm, dim)
