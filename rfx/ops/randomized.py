"""Averages of values under random frequencies: what randomized attention is made of.

With ξ(x, ω) = exp(ω·x − |x|²/2), the average Σ_k ξ(k, ω) v_k / Σ_k ξ(k, ω) of one frequency is
softmax attention in the mean, if ω is drawn from the mixture Σ_k π_k N(q + k, I) in which π_k is
the softmax weight of k.
"""

from __future__ import annotations

from operator import index
from typing import NamedTuple

import numpy as np

from rfx._xp import Array, constant, exp_nonpositive, from_numpy, namespace
from rfx.ops.carry import empty_log

__all__ = ["Summary", "log_weight", "normals", "summarize"]


class Summary(NamedTuple):
    """Segments of keys, each as one key and one value.

    key : shape (..., N, d), means of the keys that are present
    value : shape (..., N, e), averages of their values under one random frequency
    log_count : shape (..., N), log of how many there are, 0 where ``present`` is False
    present : bool of shape (..., N)
    """

    key: Array
    value: Array
    log_count: Array
    present: Array

    def first(self, count: int) -> Summary:
        """Of the first segments alone."""
        return Summary(
            self.key[..., :count, :],
            self.value[..., :count, :],
            self.log_count[..., :count],
            self.present[..., :count],
        )


def _host_normals(seed: int, stream: int, rows: int, columns: int) -> np.ndarray:
    """Standard normal numbers, of which the first rows do not depend on how many there are."""
    return np.random.default_rng([seed, stream]).standard_normal((rows, columns))


# What torch.compiler.assume_constant_result sets: NumPy's generators cannot be traced.
_host_normals._dynamo_marked_constant = True  # type: ignore[attr-defined]


def normals(seed: int, stream: int, rows: int, like: Array) -> Array:
    """Standard normal numbers (rows, d) for points ``like`` (..., n, d), drawn on the host."""
    shape = (index(rows), index(like.shape[-1]))  # plain numbers, also where lengths are symbols
    return from_numpy(_host_normals(index(seed), stream, *shape), like, like.dtype)


def log_weight(points: Array, frequency: Array) -> Array:
    """log ξ(x_i, ω_j) for points (..., n, d) and frequencies (..., m, d): shape (..., n, m)."""
    xp = namespace(points)
    square = xp.sum(points * points, axis=-1, keepdims=True)
    return xp.matmul(points, xp.matrix_transpose(frequency)) - 0.5 * square


def summarize(query: Array, key: Array, value: Array, present: Array, noise: Array) -> Summary:
    """Summaries of segments of tokens, under ω = mean query + mean key + noise.

    Shapes: query and key (..., N, l, d) and value (..., N, l, e), 0 where absent; present, bool
    that broadcasts to (..., N, l); noise (N, d), standard normal.
    """
    xp = namespace(key)
    present = xp.broadcast_to(present, key.shape[:-1])
    count = xp.sum(xp.astype(present, key.dtype), axis=-1)
    some = count > 0.0
    count = xp.where(some, count, xp.ones_like(count))
    mean = xp.sum(key, axis=-2) / count[..., None]
    frequency = mean + xp.sum(query, axis=-2) / count[..., None] + noise
    log = xp.sum(key * frequency[..., None, :], axis=-1) - 0.5 * xp.sum(key * key, axis=-1)
    log = xp.where(present, log, xp.full_like(log, empty_log(log.dtype, xp)))
    weight = exp_nonpositive(log - constant(xp.max(log, axis=-1, keepdims=True)))
    weight = weight / xp.sum(weight, axis=-1, keepdims=True)
    return Summary(mean, xp.sum(weight[..., None] * value, axis=-2), xp.log(count), some)
