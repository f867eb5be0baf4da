"""Polynomial features: the portable body on a block of rows at a time, which stays in cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rfx.features import DrawnMap, PolynomialMap
from rfx.features.forms import refuse_other
from rfx_torch.features import refuse_in_place
from rfx_torch.memory import empty

__all__ = ["polynomial_features", "refuse_polynomial"]

_ROWS = 1024


def polynomial_features(features: PolynomialMap, x: Tensor, *, side: str) -> tuple[Tensor, Tensor]:
    """The op `rfx.ops.features`."""
    points, like = x.reshape(-1, x.shape[-1]), features.like
    value = empty((len(points), features.num_features), like.dtype, like)
    log_scale = like.new_empty(len(points), 1)
    blocks = (array.split(_ROWS) for array in (points, log_scale, value))
    for rows, its_log, its_value in zip(*blocks, strict=True):
        log, found = features.complete(rows, side)
        its_log.copy_(log)
        its_value.copy_(found)
    shape = x.shape[:-1]
    return log_scale.view(*shape, 1), value.view(*shape, -1)


def refuse_polynomial(features: DrawnMap, x: Tensor, **_: Any) -> str | None:
    """What the path does not serve."""
    return refuse_other(features, PolynomialMap) or refuse_in_place(features, x)
