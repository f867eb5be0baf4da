"""Additive χ² features in place, a block of rows at a time, so that the logs stay in cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfx.features import ChiSquaredMap, DrawnMap
from rfx_torch.features import refuse_in_place
from rfx_torch.memory import empty

__all__ = ["chi_squared_features", "refuse_chi_squared"]

_ROWS = 256
"""So few that torch does not split an operation over threads: waking them can cost more."""


def chi_squared_features(features: ChiSquaredMap, x: Tensor, *, side: str) -> tuple[Tensor, Tensor]:
    """The op `rfx.ops.features`."""
    points, like, dim = x.reshape(-1, features.dim), features.like, features.dim
    out = empty((len(points), features.num_features), like.dtype, like)
    log_scale = like.new_empty(len(points), 1)
    amplitudes, frequencies = features.amplitude.tolist(), features.frequency.tolist()
    tiny = torch.finfo(like.dtype).tiny
    blocks = (array.split(_ROWS) for array in (points, log_scale, out))
    for rows, its_log, block in zip(*blocks, strict=True):
        z = rows.to(like.dtype)
        top = z.amax(dim=-1, keepdim=True).clamp_(min=tiny)
        torch.log(top, out=its_log).mul_(0.5)
        root = (z / top).sqrt_()
        log = torch.where(z == 0.0, 1.0, z).log_()
        torch.mul(root, amplitudes[0], out=block[:, :dim])
        for j, frequency in enumerate(frequencies):
            angle, size = log * frequency, root * amplitudes[j + 1]
            first = (2 * j + 1) * dim
            torch.mul(angle.cos(), size, out=block[:, first : first + dim])
            torch.mul(angle.sin(), size, out=block[:, first + dim : first + 2 * dim])
    shape = x.shape[:-1]
    return log_scale.view(*shape, 1), out.view(*shape, -1)


def refuse_chi_squared(features: DrawnMap, x: Tensor, **_: Any) -> str | None:
    """What the path does not serve."""
    if not isinstance(features, ChiSquaredMap):
        return f"it serves additive χ² maps, and this is a {type(features).__name__}"
    return refuse_in_place(features, x)
