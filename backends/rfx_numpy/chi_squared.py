"""Additive χ² features in place: rows in threads, a block of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rfx.features import ChiSquaredMap, DrawnMap
from rfx.ops.refusals import refuse_empty
from rfx_numpy import threads

__all__ = ["chi_squared_features", "refuse_chi_squared"]

Array = np.ndarray[Any, Any]
_ROWS = 512


def chi_squared_features(features: ChiSquaredMap, x: Array, *, side: str) -> tuple[Array, Array]:
    """The op `rfx.ops.features`."""
    dim, dtype = features.dim, features.amplitude.dtype
    points = x.reshape(-1, dim)
    out = np.empty((len(points), features.num_features), dtype)
    log_scale = np.empty((len(points), 1), dtype)
    amplitude = features.amplitude.astype(dtype, copy=False)
    tiny = np.finfo(dtype).smallest_normal

    def work(starts: Iterator[int]) -> None:
        for start in starts:
            rows = slice(start, start + _ROWS)
            _block(points[rows].astype(dtype), out[rows], log_scale[rows])

    def _block(z: Array, block: Array, scale: Array) -> None:
        top = np.maximum(np.max(z, axis=-1, keepdims=True), tiny)
        np.multiply(np.log(top), dtype.type(0.5), out=scale)
        root = np.sqrt(z / top)
        z[z == 0.0] = 1.0
        log = np.log(z, out=z)
        np.multiply(root, amplitude[0], out=block[:, :dim])
        for j, frequency in enumerate(features.frequency):
            angle = log * frequency
            size = root * amplitude[j + 1]
            first = (2 * j + 1) * dim
            for wave, at in ((np.cos, first), (np.sin, first + dim)):
                wave(angle, out=block[:, at : at + dim])
                block[:, at : at + dim] *= size

    threads.run(work, range(0, len(points), _ROWS))
    shape = x.shape[:-1]
    return log_scale.reshape(*shape, 1), out.reshape(*shape, features.num_features)


def refuse_chi_squared(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """What the path does not serve."""
    if not isinstance(features, ChiSquaredMap):
        return f"it serves additive χ² maps, and this is a {type(features).__name__}"
    if features.heads is not None:
        return "it serves maps that all heads share"
    return refuse_empty(x)
