"""The arrays of an exponential map as the kernels take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rfx.features.forms import ExponentialMap
from rfx_numba.arrays import dense

__all__ = ["Sides"]

Array = np.ndarray[Any, Any]


class Sides:
    """What `rfx_numba.kernels` needs of a map; all arrays have an axis of heads, and none is None.

    query, key : frequencies (h, d, m) and bias (h, m)
    row_term : quadratic (h, d), or (h, 0) where there is none, and the constant

    ``host`` makes NumPy arrays of the map's.
    """

    def __init__(self, features: ExponentialMap, host: Callable[[Any], Array] = np.asarray) -> None:
        self.host = host
        query = features.query_side
        key = features.key_side or query
        self.heads = features.heads or 1
        dim, width = query.weight.shape[-2:]
        self.query = self._all(query.weight, dim, width), self._all(query.bias, width)
        if key is query:
            self.key = self.query
        else:
            self.key = self._all(key.weight, dim, width), self._all(key.bias, width)
        quadratic = self._all(key.quadratic, 0 if key.quadratic is None else dim)
        self.row_term = quadratic, features.log_constant

    @classmethod
    def from_arrays(cls, query: Any, key: Any, row_term: Any) -> Sides:
        """Of what is laid out already."""
        self = cls.__new__(cls)
        self.query, self.key, self.row_term, self.heads = query, key, row_term, len(query[0])
        return self

    @property
    def num_features(self) -> int:
        """Columns of the frequencies."""
        return int(self.query[0].shape[-1])

    def _all(self, given: Any, *axes: int) -> Array:
        shape = (self.heads, *axes)
        if given is None:
            return np.zeros(shape, np.float32)
        array = self.host(given)
        if array.ndim == len(axes):
            array = array[None]
        if array.shape != shape:
            array = np.broadcast_to(array, shape)
        return dense(array)

    def of(self, head: int) -> tuple[Any, Any, Any]:
        """Query, key and row term of one head, without the axis of heads."""
        at = 0 if self.heads == 1 else head
        quadratic, constant = self.row_term
        query, key = ((weight[at], bias[at]) for weight, bias in (self.query, self.key))
        return query, key, (quadratic[at], constant)
