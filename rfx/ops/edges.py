"""Attention over a list of pairs, in time and memory linear in their number.

The pairs of a query are a row. Rows whose lengths round up to the same power of 2 are padded to it
and taken together, so that at most twice as many pairs are worked on as there are, every sum is
short, and no sum is a difference of longer ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rfx._xp import (
    Array,
    constant,
    from_numpy,
    full,
    full_precision,
    library,
    namespace,
    to_numpy,
)
from rfx.ops.chunks import chunks
from rfx.ops.entmax import entmax

__all__ = ["Edges", "Memberships", "attend_edges", "draw_edges"]

Host = np.ndarray[Any, Any]
_PAIRS = 2**16
"""Pairs of a block."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Pairs of a query and a key, on the host, each once.

    Parameters
    ----------
    head : numpy.ndarray of int64, shape (E,)
        The query head of each pair, counted through all batch entries.
    row, column : numpy.ndarray of int64, shape (E,)
        Its query and its key. Pairs are in the order of head, row and column.
    shape : tuple of int
        (..., Hq, t, s), or (t, s).

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.ops.edges import Edges
    >>> edges = Edges.of_pairs(np.asarray([[True, False], [True, True]]))
    >>> edges.row, edges.column
    (array([0, 1, 1]), array([0, 0, 1]))
    """

    head: Host
    row: Host
    column: Host
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.head)

    @classmethod
    def of_pairs(cls, pairs: Array) -> Edges:
        """Of a bool matrix (..., Hq, t, s)."""
        host = to_numpy(pairs)
        t, s = host.shape[-2:]
        head, row, column = np.nonzero(host.reshape(math.prod(host.shape[:-2]), t, s))
        return cls(head, row, column, tuple(host.shape))

    def within(self, first_row: int | None, kept: Host | None) -> Edges:
        """Those of query i and the keys up to ``first_row`` + i, and of keys that are ``kept``.

        ``kept`` is bool, (s,) or (..., Hq or 1, s); None keeps all.
        """
        seen = np.ones(len(self), dtype=bool)
        if first_row is not None:
            seen = seen & (self.column <= self.row + first_row)
        if kept is not None:
            *batch, _, s = self.shape
            flat = np.broadcast_to(kept, (*batch, s)).reshape(math.prod(batch), s)
            seen = seen & flat[self.head, self.column]
        return Edges(self.head[seen], self.row[seen], self.column[seen], self.shape)

    def to_pairs(self) -> Host:
        """A bool matrix (..., Hq, t, s)."""
        t, s = self.shape[-2:]
        pairs = np.zeros((math.prod(self.shape[:-2]), t, s), dtype=bool)
        pairs[self.head, self.row, self.column] = True
        return pairs.reshape(self.shape)


class Memberships(NamedTuple):
    """Rates P = Q̂ S K̂ᵀ + exploration of pairs, by clusters.

    query : Q̂, shape (..., Hq, t, c)
    middle : S, shape (c, c) or (Hq, c, c)
    key : K̂, shape (..., Hq, s, c)
    """

    query: Array
    middle: Array
    key: Array
    exploration: float

    def left(self) -> Array:
        """Q̂ S."""
        with full_precision(self.query):
            return namespace(self.query).matmul(self.query, self.middle)


def draw_edges(
    rates: Memberships, seed: int, first_row: int | None = None, kept: Host | None = None
) -> Edges:
    """Draw Poisson(P_ij) edges for each pair, and keep one of each: there with 1 − exp(−P_ij).

    How many edges a query has to the keys of a cluster is Poisson with the sum of their rates; the
    keys are then drawn by their memberships. That is linear in tokens times clusters and in edges,
    but for a sort. ``first_row`` and ``kept`` are those of `Edges.within`. Memberships are NumPy
    arrays.
    """
    *batch, t, c = rates.query.shape
    s, number = rates.key.shape[-2], math.prod(batch)
    kept = np.ones(s, bool) if kept is None else kept
    kept = np.broadcast_to(kept, (*batch, s)).reshape(number, s)
    left = rates.query.reshape(number, t, c)
    right = rates.key.reshape(number, s, c)
    middles = np.broadcast_to(rates.middle, (*batch, c, c)).reshape(number, c, c)
    found = []
    for n in range(number):
        places = np.flatnonzero(kept[n])  # masked keys take no part, so that they change no draw
        columns = np.concatenate([right[n][places], np.ones((len(places), 1))], axis=-1)
        rows = np.concatenate([left[n] @ middles[n], np.full((t, 1), rates.exploration)], axis=-1)
        row, column = _draw(rows, columns, np.random.default_rng([seed, n]))
        code = np.sort(row * s + places[column])
        once = np.concatenate([np.ones(min(len(code), 1), bool), code[1:] != code[:-1]])
        row, column = np.divmod(code[once], max(s, 1))
        found.append((np.full(len(row), n), row, column))
    shape = (*batch, t, s)
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return Edges(none, none, none, shape)
    head, row, column = (np.concatenate(part) for part in zip(*found, strict=True))
    return Edges(head, row, column, shape).within(first_row, None)


def _draw(rows: Host, columns: Host, rng: np.random.Generator) -> tuple[Host, Host]:
    """Both ends of edges, with repetitions, of rates rows (t, c) times columns (s, c)."""
    total = np.sum(columns, axis=0)
    number = rng.poisson(rows * total)
    row = np.repeat(np.tile(np.arange(len(rows)), len(total)), number.T.ravel())
    column = [np.zeros(0, dtype=np.int64)]
    for cluster in np.flatnonzero(number.sum(axis=0)):
        share = columns[:, cluster] / total[cluster]
        each = rng.multinomial(number[:, cluster].sum(), share / share.sum())
        ends = np.repeat(np.arange(len(columns)), each)
        rng.shuffle(ends)
        column.append(ends)
    return row, np.concatenate(column)


class _Block(NamedTuple):
    """Rows of one padded length: flat places of queries (R,), keys (R, w), and which are there."""

    query: Host
    key: Host
    rates_key: Host
    there: Host


def attend_edges(
    query: Array,
    key: Array,
    value: Array,
    edges: Edges,
    *,
    scale: float,
    rates: Memberships | None = None,
) -> Array:
    """Softmax attention (..., Hq, t, e) of each query over the keys of its edges; zeros for none.

    Shapes: query (..., Hq, t, d), key (..., H, s, d), value (..., H, s, e), all of one dtype. An
    edge weighs 1, and its gradient goes, cut to [−1, 1], to its rate.
    """
    xp = namespace(query)
    t, e = query.shape[-2], value.shape[-1]
    q, k, v = map(_flat, (query, key, value))
    sides = None if rates is None else (rates.left(), rates.key)
    sides = tuple(map(_flat, sides)) if sides and any(map(_has_gradient, sides)) else None
    outputs, places = [full(v, (1, e), 0.0, v.dtype)], []
    for block in _blocks(edges, query, key):
        rows = _take(q, block.query)[:, None, :]
        with full_precision(query):
            scores = xp.matmul(rows * scale, xp.matrix_transpose(_take(k, block.key)))
            if sides is not None:
                left = _take(sides[0], block.query)[:, None, :]
                rate = xp.matmul(left, xp.matrix_transpose(_take(sides[1], block.rates_key)))
                scores = scores + (_cut_gradient(rate) - constant(rate))  # 0, whatever the rate
            there = from_numpy(block.there, query, xp.bool)[:, None, :]
            weight = entmax(scores, alpha=1.0, mask=there)
            outputs.append(xp.matmul(weight, _take(v, block.key))[:, 0, :])
        places.append(block.query)
    index = np.zeros(math.prod(query.shape[:-1]), dtype=np.int64)
    for_rows = np.concatenate([np.zeros(0, dtype=np.int64), *places])
    index[for_rows] = 1 + np.arange(len(for_rows))
    out = _take(xp.concat(outputs, axis=0), index)
    return xp.reshape(out, (*query.shape[:-2], t, e))


def _blocks(edges: Edges, query: Array, key: Array) -> Iterator[_Block]:
    """The rows by their padded lengths, in blocks of bounded size."""
    (*_, t, s), heads = edges.shape, query.shape[-3] if query.ndim > 2 else 1
    groups = heads // max(key.shape[-3] if key.ndim > 2 else 1, 1)
    line = edges.head * t + edges.row
    length = np.bincount(line, minlength=1) if len(line) else np.zeros(1, dtype=np.int64)
    begin = np.cumsum(length) - length
    for power in range(int(np.max(length) - 1).bit_length() + 1 if len(line) else 0):
        width = 2**power
        rows = np.flatnonzero((length <= width) & (length > width // 2))
        for part in chunks(0, len(rows), max(1, _PAIRS // width)):
            own = rows[part]
            there = np.arange(width) < length[own][:, None]
            edge = begin[own][:, None] + np.where(there, np.arange(width), 0)
            head, column = edges.head[begin[own]][:, None], edges.column[edge]
            own_key = (head // heads) * (heads // groups) + (head % heads) // groups
            yield _Block(own, own_key * s + column, head * s + column, there)


def _take(array: Array, places: Host) -> Array:
    """Rows of (n, c) at places of any shape: (*places.shape, c)."""
    xp = namespace(array)
    kind = np.int32 if library(array) == "jax" else np.int64
    index = from_numpy(places.ravel().astype(kind), array, None)
    return xp.reshape(xp.take(array, index, axis=0), (*places.shape, array.shape[-1]))


def _flat(array: Array) -> Array:
    return namespace(array).reshape(array, (math.prod(array.shape[:-1]), array.shape[-1]))


def _has_gradient(array: Array) -> bool:
    """Whether a gradient may be asked for."""
    name = library(array)
    return bool(array.requires_grad) if name == "torch" else name == "jax"


def _cut_gradient(array: Array) -> Array:
    """The array, whose gradient is cut to [−1, 1]."""
    if library(array) == "torch":
        if array.requires_grad:
            array.register_hook(lambda gradient: gradient.clamp(-1.0, 1.0))
        return array
    jax = sys.modules["jax"]
    same = jax.custom_vjp(lambda x: x)
    same.defvjp(lambda x: (x, None), lambda _, gradient: (jax.numpy.clip(gradient, -1.0, 1.0),))
    return same(array)
