"""Attention of a few key heads with an exponential map: chunks in buffers that are made once.

What runs here is what the portable ops `rfx.ops.bidirectional` and `rfx.ops.causal` do, in place,
with additions folded into the matrix products:

- bias and row term of a key are columns of the keys and rows of the weights;
- bias and log scale of a query's features are a column of the weights, against ones;
- the denominator is the product with a column of ones in the values.

Queries are projected to shape (m, C), so that the maximum of a query is taken along columns, which
NumPy does at the speed of memory. Axis ``n`` are the key heads that are worked on at once, and
``g`` the query heads that share one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rfx.features import ExponentialMap
from rfx.ops import Carry, causal
from rfx.ops.bidirectional import divide
from rfx.ops.carry import Keys, empty_log, highest, smallest_denominator
from rfx.ops.causal import is_gentle

__all__ = ["Workspace"]

Array = np.ndarray[Any, Any]


class Workspace:
    """Buffers of one thread, and the sums over the keys of the heads that it works on.

    sums : shape (n, m, e + 1), numerator and denominator, divided by exp(log_scale)
    log_scale : shape (n, m)
    """

    def __init__(
        self, features: ExponentialMap, heads: int, columns: int, chunk_size: int, is_causal: bool
    ) -> None:
        weight = features.query_side.weight
        dim, width = weight.shape[-2:]

        def empty(*shape: int) -> Array:
            return np.empty((heads, *shape), weight.dtype)

        self.low = empty_log(weight.dtype, np)
        self.tiny = smallest_denominator(weight.dtype, np)
        self.sums, self.log_scale = empty(width, columns + 1), empty(width)
        self.chunk_sums = empty(width, columns + 1)
        self.key, self.square = empty(chunk_size, dim + 2), empty(chunk_size, dim)
        self.key[..., dim] = 1
        self.key_weight = empty(dim + 2, width)
        self.key_weight[:, dim + 1] = 1
        self.key_log = empty(chunk_size, width)
        self.value = empty(chunk_size, columns + 1)
        self.value[..., columns] = 1
        self.query = empty(chunk_size, dim + 1)
        self.query[..., dim] = 1
        self.query_weight = empty(width, dim + 1)
        self.query_log = empty(width, chunk_size)
        self.out = empty(chunk_size, columns + 1)
        if is_causal:
            self.pairs, self.near = empty(chunk_size, chunk_size), empty(chunk_size, columns + 1)
            self.seen = np.tril(np.ones((chunk_size, chunk_size), weight.dtype))

    def begin(self, features: ExponentialMap, carry: Carry) -> None:
        """Take up heads: their map, and a carry with the axes (n, ...)."""
        self.features = features
        query, key = features.query_side, features.key_side or features.query_side
        dim = self.square.shape[-1]
        self.key_weight[:, :dim] = key.weight
        self.key_weight[:, dim] = 0 if key.bias is None else key.bias
        self.query_weight[..., :dim] = query.weight.swapaxes(-1, -2)
        self.query_bias = 0 if query.bias is None else query.bias
        self.quadratic = None if key.quadratic is None else -key.quadratic[..., None]
        self._set(carry)

    def _set(self, carry: Carry) -> None:
        self.sums[..., :-1], self.sums[..., -1] = carry.numerator, carry.denominator
        self.log_scale[...] = carry.log_scale

    def carry(self) -> Carry:
        """The sums so far, as views of the buffers."""
        return Carry(self.sums[..., :-1], self.sums[..., -1], self.log_scale)

    def absorb(self, key: Array, value: Array, mask: Array | None) -> None:
        """Add a chunk of keys: (n, C, d), (n, C, e) and (n, C, 1)."""
        keys = self._keys(key, value, mask)
        self._add(self._rescale(keys, highest(self.carry(), keys)), keys.value)

    def attend(self, query: Array, out: Array) -> None:
        """Write the output (n, C, e) of queries (n, C, d) that see the sums alone."""
        weight = self._query_weight(query).swapaxes(1, 2)
        self._divide(np.matmul(weight, self.sums, out=self.out[:, : query.shape[1]]), out)

    def step(self, query: Array, key: Array, value: Array, mask: Array | None, out: Array) -> None:
        """A causal chunk: queries (n, g, C, d), and the output (n, g, C, e) to write."""
        keys, rows = self._keys(key, value, mask), key.shape[1]
        log_scale = highest(self.carry(), keys)
        if not is_gentle(self.carry(), log_scale, keys):
            heads = (query.reshape(-1, *query.shape[2:]), key, value, mask, self.carry())
            found, after = causal.portable(self.features, *heads, chunk_size=rows)
            out[...] = found.reshape(out.shape)
            self._set(after)
            return
        scaled = self._rescale(keys, log_scale)
        # The buffers of a shorter last chunk are not contiguous, which costs a little.
        for each, its_out in zip(query.swapaxes(0, 1), out.swapaxes(0, 1), strict=True):
            weight = self._query_weight(each).swapaxes(1, 2)
            pairs = np.matmul(weight, scaled.swapaxes(1, 2), out=self.pairs[:, :rows, :rows])
            pairs *= self.seen[:rows, :rows]
            total = np.matmul(pairs, keys.value, out=self.near[:, :rows])
            total += np.matmul(weight, self.sums, out=self.out[:, :rows])
            self._divide(total, its_out)
        self._add(scaled, keys.value)

    def _keys(self, key: Array, value: Array, mask: Array | None) -> Keys:
        """Logs and values, with a column of ones, in the buffers; what is masked is absent."""
        count, dim = key.shape[-2:]
        rows = self.key[:, :count]
        rows[..., :dim] = key if mask is None else np.where(mask, key, 0)
        if self.quadratic is None:
            rows[..., dim + 1] = self.features.log_constant
        else:
            square = np.square(rows[..., :dim], out=self.square[:, :count])
            np.matmul(square, self.quadratic, out=rows[..., dim + 1 :])
            rows[..., dim + 1] += self.features.log_constant
        log = np.matmul(rows, self.key_weight, out=self.key_log[:, :count])
        values = self.value[:, :count]
        values[..., :-1] = value if mask is None else np.where(mask, value, 0)
        if mask is not None:
            np.copyto(log, self.low, where=~mask)
        return Keys(log, None, values, mask)

    def _rescale(self, keys: Keys, log_scale: Array) -> Array:
        """Move the sums to a scale, and return the features at it, in the place of the logs."""
        self.sums *= np.exp(self.log_scale - log_scale)[..., None]
        self.log_scale[...] = log_scale
        weight = np.subtract(keys.log, log_scale[:, None], out=keys.log)
        np.exp(weight, out=weight)
        if keys.mask is not None:
            np.copyto(weight, 0, where=~keys.mask)
        return weight

    def _add(self, weight: Array, value: Array) -> None:
        self.sums += np.matmul(weight.swapaxes(1, 2), value, out=self.chunk_sums)

    def _query_weight(self, query: Array, gates: Array | None = None) -> Array:
        """Features of queries divided by the largest of each, shape (n, m, C).

        ``gates`` are logs to be added, of this shape.
        """
        count = query.shape[1]
        rows = self.query[:, :count]
        rows[..., :-1] = query
        np.add(self.log_scale, self.query_bias, out=self.query_weight[..., -1])
        log = np.matmul(self.query_weight, rows.swapaxes(1, 2), out=self.query_log[..., :count])
        if gates is not None:
            log += gates
        log -= log.max(axis=1, keepdims=True)
        return np.exp(log, out=log)

    def _divide(self, total: Array, out: Array) -> None:
        numerator, denominator = total[..., :-1], total[..., -1:]
        if np.abs(denominator).min() < self.tiny:
            out[...] = divide(numerator, denominator)
        else:
            np.divide(numerator, denominator, out=out)
