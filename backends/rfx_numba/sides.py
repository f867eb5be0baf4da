"""The arrays of an exponential map as the kernels take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from rfx.features.forms import ExponentialMap
from rfx_numba.arrays import dense

__all__ = ["Sides"]

Array = np.ndarray[Any, Any]


class Sides(NamedTuple):
    """What `rfx_numba.kernels` needs of a map; all arrays have an axis of heads, and none is None.

    query, key : frequencies (h, d, m) and bias (h, m)
    row_term : quadratic (h, d), or (h, 0) where there is none, and the constant
    """

    query: tuple[Array, Array]
    key: tuple[Array, Array]
    row_term: tuple[Array, float]

    @classmethod
    def of(cls, features: ExponentialMap, host: Callable[[Any], Array] = np.asarray) -> Sides:
        """Those of a map, whose arrays ``host`` makes NumPy's."""
        heads, query = features.heads or 1, features.query_side
        key = features.key_side or query
        dim, width = query.weight.shape[-2:]

        def whole(given: Any, *axes: int) -> Array:
            shape = (heads, *axes)
            if given is None:
                return np.zeros(shape, np.float32)
            array = host(given)
            array = array[None] if array.ndim == len(axes) else array
            return dense(array if array.shape == shape else np.broadcast_to(array, shape))

        def pair(side: Any) -> tuple[Array, Array]:
            return whole(side.weight, dim, width), whole(side.bias, width)

        queries = pair(query)
        quadratic = whole(key.quadratic, 0 if key.quadratic is None else dim)
        keys = queries if key is query else pair(key)
        return cls(queries, keys, (quadratic, features.log_constant))

    @property
    def num_features(self) -> int:
        """Columns of the frequencies."""
        return int(self.query[0].shape[-1])

    def head(self, number: int) -> tuple[Any, Any, Any]:
        """Query, key and row term of one head, without the axis of heads."""
        at = 0 if len(self.query[0]) == 1 else number
        quadratic, constant = self.row_term
        query, key = ((weight[at], bias[at]) for weight, bias in (self.query, self.key))
        return query, key, (quadratic[at], constant)
