"""New memory for large results, in huge pages where the system gives them.

Touching 80 MB for the first time in pages of 4 kB takes longer than computing cosines to fill it.
NumPy asks for huge pages, torch does not by default, so the memory is NumPy's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["empty", "empty_like"]

_LARGE = 1 << 22


def empty(shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
    """As ``like.new_empty(shape, dtype=dtype)``, contiguous."""
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE or like.device.type != "cpu":
        return like.new_empty(shape, dtype=dtype)
    return torch.from_numpy(np.empty(size, np.uint8)).view(dtype).view(shape)


def empty_like(array: Tensor) -> Tensor:
    """Memory of the array's shape and dtype, contiguous."""
    return empty(tuple(array.shape), array.dtype, array)
