"""Trigonometric features in place, a block of rows at a time, so that the angles stay in cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.features.forms import TrigonometricMap, refuse_other
from rfx.ops.features import log_and_factor
from rfx.ops.refusals import refuse_empty
from rfx_torch.memory import empty
from rfx_torch.refusals import (
    refuse_compiler,
    refuse_forward_mode,
    refuse_gradient,
    refuse_transforms,
)

__all__ = ["features", "refuse_features", "refuse_in_place"]

_ROWS = 1024


def features(features: TrigonometricMap, x: Tensor, *, side: str) -> tuple[Tensor, Tensor]:
    """The op `rfx.ops.features`."""
    arrays = features.query_side
    if side == "key" and features.key_side is not None:
        arrays = features.key_side
    weight, width = arrays.weight, arrays.weight.shape[-1]
    points = x.reshape(-1, x.shape[-1])
    out = empty((len(points), features.num_features), weight.dtype, weight)
    angle, wave = weight.new_empty(2, min(_ROWS, len(points)), width)
    waves = ((torch.cos, slice(width)), (torch.sin, slice(width, None)))
    log_scale, factor = log_and_factor(features, arrays, x)
    for block, rows in zip(out.split(_ROWS), points.split(_ROWS), strict=True):
        angles = torch.mm(rows.to(weight.dtype), weight, out=angle[: len(rows)])
        if arrays.bias is not None:
            angles += arrays.bias
        for function, columns in waves[: 1 + features.paired]:
            # New memory is slow to touch, so it is written to once.
            found = function(angles, out=wave[: len(rows)])
            torch.mul(found, factor, out=block[:, columns])
    return log_scale, out.view(*x.shape[:-1], -1)


def refuse_features(features: DrawnMap, x: Tensor, **_: Any) -> str | None:
    """What the path does not serve."""
    return refuse_other(features, TrigonometricMap) or refuse_in_place(features, x)


def refuse_in_place(features: DrawnMap, x: Tensor) -> str | None:
    """What no path serves that writes rows of features in place."""
    return (
        _refuse_own_heads(features)
        or refuse_empty(x)
        or refuse_compiler()
        or refuse_transforms()
        or refuse_forward_mode()
        or refuse_gradient(features, x)
    )


def _refuse_own_heads(features: DrawnMap) -> str | None:
    return None if features.heads is None else "it serves maps that all heads share"
