"""Arrays as the kernels take them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["dense"]

Array = np.ndarray[Any, Any]


def dense(array: Array) -> Array:
    """The array itself if it is contiguous, aligned and of native float32, or else a copy."""
    in_order = array.flags.c_contiguous and array.flags.aligned
    if in_order and array.dtype == np.float32 and type(array) is np.ndarray:
        return array
    return np.array(array, np.float32, order="C", subok=False)
