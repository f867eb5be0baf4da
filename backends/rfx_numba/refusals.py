"""Why the compiled loops do not serve a call: one sentence, or None."""

from __future__ import annotations

import math
from typing import Any

from rfx.features import DrawnMap
from rfx_numba.loading import is_installed, problem

__all__ = ["defer_few", "defer_little", "defer_unusable", "refuse_dtype", "refuse_missing"]

_LITTLE, _FEW = 1 << 28, 1 << 22
_SHORT = "the call is too short to load numba for"


def defer_little(features: DrawnMap, query: Any, key: Any, *_: Any, **__: Any) -> str | None:
    """Loading numba takes half a second, which a short call alone should not pay."""
    rows = math.prod(query.shape[:-1]) + math.prod(key.shape[:-1])
    work = 4 * rows * query.shape[-1] * features.num_features
    return _SHORT if work < _LITTLE else defer_unusable()


def defer_few(features: DrawnMap, x: Any, **_: Any) -> str | None:
    """As `defer_little`, for the features of points."""
    few = math.prod(x.shape[:-1]) * features.num_features < _FEW
    return _SHORT if few else defer_unusable()


def defer_unusable(*_: Any, **__: Any) -> str | None:
    """A numba that is installed, and cannot be imported or compiles nothing."""
    return problem()


def refuse_dtype(float32: Any, *arrays: Any) -> str | None:
    """Arrays of other dtypes than the library's float32."""
    for array in arrays:
        if array.dtype != float32:
            return f"it serves float32, and an array is {array.dtype}"
    return None


def refuse_missing() -> str | None:
    """Without numba."""
    if is_installed():
        return None
    return "numba or SciPy is not installed, which `rfx-features[numba]` brings"
