"""Gated attention with an exponential map: the workspace of causal attention, with gates.

Gates are added to the logs in their buffers. Where they are too small for that, one gate for a head
takes the place of the zeros and ones that hide future keys from queries.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rfx.features import ExponentialMap
from rfx.ops import EAGER, Carry
from rfx.ops.carry import Keys, highest
from rfx.ops.causal import by_pair_logs, is_gentle
from rfx.ops.chunks import chunks
from rfx.ops.gated import carry_gates, gated, is_level, limit, pair_gates, seen_pairs
from rfx.ops.gates import Gates, made
from rfx_numpy.heads import Worker, each_head
from rfx_numpy.paths import refuse_form
from rfx_numpy.workspace import Workspace

__all__ = ["fused_gated", "refuse_gated"]

Array = np.ndarray[Any, Any]
_LARGEST_CHUNK = 256


class GatedWorkspace(Workspace):
    """`Workspace` for chunks with gates."""

    sums_of_gates: Array | None = None

    def gated_step(
        self, query: Array, key: Array, value: Array, mask: Array | None, gate: Array, out: Array
    ) -> None:
        """A chunk: queries (n, g, C, d), gates (n, C, 1) or (n, C, m), and the output to write."""
        done = self._in_logs(query, self._keys(key, value, mask), gate, out)
        if not done and gate.shape[-1] == 1:
            keys = self._keys(key, value, mask)
            done = self._one_gate(query, keys, made(gate, mask, keys.log.dtype), out)
        if not done:
            heads = (query.reshape(-1, *query.shape[2:]), key, value, mask, self.carry())
            options = {"normalize": True, "chunk_size": key.shape[1]}
            found, after = gated.portable(self.features, *heads, gate, None, **options)
            out[...] = found.reshape(out.shape)
            self._set(after)

    def _one_gate(self, query: Array, keys: Keys, gates: Gates, out: Array) -> bool:
        """False, and nothing done, where the chunk needs more care."""
        log_scale = highest(self.carry(), keys)
        if not is_level(self.carry(), log_scale, keys):
            return False
        between, shut = pair_gates(gates, EAGER)
        before, is_open = carry_gates(gates)
        decay, kept, _ = by_pair_logs(seen_pairs(keys, shut), between, before)
        kept *= is_open
        scaled = self._rescale(keys, log_scale)
        rows = scaled.shape[1]
        for each, its_out in zip(query.swapaxes(0, 1), out.swapaxes(0, 1), strict=True):
            weight = self._query_weight(each).swapaxes(1, 2)
            pairs = np.matmul(weight, scaled.swapaxes(1, 2), out=self.pairs[:, :rows, :rows])
            pairs *= decay
            past = np.matmul(weight, self.sums, out=self.out[:, :rows])
            past *= kept
            past += np.matmul(pairs, keys.value, out=self.near[:, :rows])
            self._divide(past, its_out)
        self._forget(scaled, keys, (between[:, -1, :, None], shut[:, -1, :, None]), before[:, -1])
        return True

    def _forget(self, scaled: Array, keys: Keys, ends: tuple[Array, Array], before: Array) -> None:
        """Add keys times the gates behind them to the sums times all gates.

        Behind the last key that is visible there are no gates, so that not all factors are small.
        """
        behind, gone = ends
        if keys.mask is not None:
            gone = gone | ~keys.mask
        self.sums *= np.exp(before)[..., None]
        self._add(scaled, keys.value * np.where(gone, 0, np.exp(behind)))
        # The denominators of an exponential map tell how large the sums are.
        size = self.sums[..., -1]
        seen = size > 0
        factor = np.where(seen, size, 1)
        self.sums /= factor[..., None]
        self.log_scale[...] = np.where(seen, self.log_scale + np.log(factor), self.low)

    def _in_logs(self, query: Array, keys: Keys, gate: Array, out: Array) -> bool:
        """False, and nothing done, where the chunk needs more care."""
        if keys.mask is not None:
            gate = np.where(keys.mask, gate, 0)
        before = self._running_sums(gate)
        if not (before[:, -1] >= -limit(before)).all():
            return False
        log = np.subtract(keys.log, before, out=keys.log)
        if keys.mask is not None:
            np.copyto(log, self.low, where=~keys.mask)
        log_scale = highest(self.carry(), keys)
        if not is_gentle(self.carry(), log_scale, keys):
            return False
        scaled = self._rescale(keys, log_scale)
        rows = scaled.shape[1]
        for each, its_out in zip(query.swapaxes(0, 1), out.swapaxes(0, 1), strict=True):
            weight = self._query_weight(each, before.swapaxes(1, 2)).swapaxes(1, 2)
            pairs = np.matmul(weight, scaled.swapaxes(1, 2), out=self.pairs[:, :rows, :rows])
            pairs *= self.seen[:rows, :rows]
            total = np.matmul(pairs, keys.value, out=self.near[:, :rows])
            total += np.matmul(weight, self.sums, out=self.out[:, :rows])
            self._divide(total, its_out)
        self._add(scaled, keys.value)
        np.maximum(self.log_scale + before[:, -1], self.low, out=self.log_scale)
        return True

    def _running_sums(self, gate: Array) -> Array:
        """Sums of gates up to each row, by doubling: whole rows are added, in two buffers."""
        rows = gate.shape[1]
        if self.sums_of_gates is None or self.sums_of_gates.shape[2] < rows:
            self.sums_of_gates = np.empty((2, *gate.shape), self.sums.dtype)
        now, other = self.sums_of_gates[:, :, :rows]
        now[...] = gate
        step = 1
        while step < rows:
            np.add(now[:, step:], now[:, :-step], out=other[:, step:])
            other[:, :step] = now[:, :step]
            now, other, step = other, now, 2 * step
        return now


def fused_gated(
    features: ExponentialMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    log_gate: Array,
    log_weight: None,
    *,
    normalize: bool,
    chunk_size: int,
) -> tuple[Array, Carry]:
    """The op `gated` for exponential maps, in place."""
    size = min(chunk_size, _LARGEST_CHUNK, query.shape[-2])
    start = partial(_worker, features, value.shape[-1], size)
    return each_head(start, features, query, key, value, mask, carry, log_gate)


def _worker(features: ExponentialMap, columns: int, size: int, heads: int) -> Worker:
    workspace = GatedWorkspace(features, heads, columns, size, is_causal=True)

    def run(features: Any, *arrays: Any) -> Carry:
        query, key, value, mask, log_gate, carry, out = arrays
        workspace.begin(features, carry)
        for r in chunks(0, key.shape[1], size):
            seen = None if mask is None else mask[:, r]
            inputs = (query[:, :, r], key[:, r], value[:, r], seen, log_gate[:, r])
            workspace.gated_step(*inputs, out[:, :, r])
        return workspace.carry()

    return run


def refuse_gated(
    features: Any,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    log_gate: Array,
    log_weight: Array | None,
    *,
    normalize: bool,
    **_: Any,
) -> str | None:
    """What the path does not serve."""
    if log_weight is not None or not normalize:
        return "it serves normalized attention without weights of keys"
    return refuse_form(features, query, key)
