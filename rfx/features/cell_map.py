"""The form of maps that are constant on the cells of a partition of space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rfx._xp import Array, namespace
from rfx.features._plain import PlainMap
from rfx.features._side import LogFeatures, Side

__all__ = ["CellMap"]


@dataclass(frozen=True, repr=False, eq=False)
class CellMap(PlainMap):
    """φ(x) = exp(row term) · s_l for the l with the largest z·w_l + b_l, the first of equals.

    One feature, with a number s_l for each column of the weights, in ``Side.scale``, of size at
    most 1. For centres c of clusters as w, and b = −|c|²/2, the cells are the points nearest to
    each. It has no gradient to the points, the weights or b.
    """

    scale_per_feature = False
    description: ClassVar[str] = "cell"

    @property
    def num_features(self) -> int:
        return 1

    def evaluate(self, side: Side, z: Array) -> LogFeatures:
        score = side.project(z)
        xp = namespace(score)
        assert side.scale is not None
        place = xp.argmax(score, axis=-1, keepdims=True)
        values = xp.broadcast_to(side.scale[..., None, :], score.shape)
        value = xp.take_along_axis(values, place, axis=-1)
        return LogFeatures(xp.zeros_like(value), value)
