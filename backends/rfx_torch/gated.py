"""Gated attention with an exponential map on a CPU, where no gradient is wanted: chunks in place.

Gates are added to the logs in their buffers. Where they are too small for that, one gate for a head
takes the place of the zeros and ones that hide future keys from queries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.features.forms import ExponentialMap, refuse_other
from rfx.ops import EAGER, Carry
from rfx.ops.carry import Keys, highest
from rfx.ops.causal import by_pair_logs, is_gentle
from rfx.ops.chunks import chunks
from rfx.ops.gated import carry_gates, gated, is_level, limit, pair_gates, seen_pairs
from rfx.ops.gates import Gates, made
from rfx.ops.refusals import refuse_empty
from rfx_torch.exponential import Heads
from rfx_torch.fused import _entries, _grouped
from rfx_torch.memory import empty, empty_like
from rfx_torch.refusals import refuse_forward_mode, refuse_transforms

__all__ = ["fused_gated", "refuse_gated"]


class GatedHeads(Heads):
    """`Heads` for chunks with gates."""

    def gated_step(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        gate: Tensor,
        out: Tensor,
    ) -> None:
        """A chunk: queries (h, g, C, d), gates (h, C, 1) or (h, C, m), and the output to write."""
        done = self._in_logs(query, self.keys(key, value, mask), gate, out)
        if not done and gate.shape[-1] == 1:
            keys = self.keys(key, value, mask)
            done = self._one_gate(query, keys, made(gate, mask, self.dtype), out)
        if not done:
            args = (query.flatten(0, 1), key, value, mask, self.carry(), gate, None)
            found, after = gated.portable(
                self.features, *args, normalize=True, chunk_size=key.shape[1]
            )
            out.copy_(found.unflatten(0, out.shape[:2]))
            self.set(after)

    def _one_gate(self, query: Tensor, keys: Keys, gates: Gates, out: Tensor) -> bool:
        """False, and nothing done, where the chunk needs more care."""
        carry = self.carry()
        log_scale = highest(carry, keys)
        if not is_level(carry, log_scale, keys):
            return False
        between, shut = pair_gates(gates, EAGER)
        before, is_open = carry_gates(gates)
        decay, kept, _ = by_pair_logs(seen_pairs(keys, shut), between, before)
        kept = kept * is_open
        self.rescale(log_scale[:, None])
        scaled = self.key_weights(keys)
        for each, its_out in zip(query.unbind(1), out.unbind(1), strict=True):
            weight = self.query_weights(each)
            rows = weight.shape[1]
            pairs = torch.bmm(weight, scaled.mT, out=self.buffer("pairs", rows, rows)).mul_(decay)
            past = torch.bmm(weight, self.denominator.mT).mul_(kept)
            denominator = pairs.sum(-1, keepdim=True).add_(past)
            total = torch.bmm(weight, self.numerator).mul_(kept).baddbmm_(pairs, keys.value)
            self.divide(total, denominator, its_out)
        self._forget(scaled, keys, (between[:, -1, :, None], shut[:, -1, :, None]), before[:, -1:])
        return True

    def _forget(
        self, scaled: Tensor, keys: Keys, ends: tuple[Tensor, Tensor], before: Tensor
    ) -> None:
        """Add keys times the gates behind them to the sums times all gates.

        Behind the last key that is visible there are no gates, so that not all factors are small.
        """
        behind, gone = ends
        if keys.mask is not None:
            gone = gone | ~keys.mask
        kept, share = torch.exp(before), torch.exp(behind).masked_fill(gone, 0)
        self.numerator *= kept
        self.denominator *= kept
        self.numerator.baddbmm_(scaled.mT, keys.value * share)
        self.denominator += torch.bmm(share.mT, scaled)
        # The denominators of an exponential map tell how large the sums are.
        seen = self.denominator > 0
        factor = torch.where(seen, self.denominator, 1)
        self.numerator /= factor.mT
        self.denominator /= factor
        self.log_scale = (self.log_scale + factor.log()).masked_fill(~seen, self.low)

    def _in_logs(self, query: Tensor, keys: Keys, gate: Tensor, out: Tensor) -> bool:
        """False, and nothing done, where the chunk needs more care."""
        gate = gate.to(self.dtype)
        if keys.mask is not None:
            gate = gate.masked_fill(~keys.mask, 0)
        rows, width = gate.shape[1:]
        before = torch.cumsum(gate, 1, out=self.buffer("gates", rows, width))
        if not (before[:, -1] >= -limit(before)).all():
            return False
        log = keys.log.sub_(before)
        if keys.mask is not None:
            log.masked_fill_(~keys.mask, self.low)
        carry = self.carry()
        log_scale = highest(carry, keys)
        if not is_gentle(carry, log_scale, keys):
            return False
        self.rescale(log_scale[:, None])
        scaled = self.key_weights(keys)
        for each, its_out in zip(query.unbind(1), out.unbind(1), strict=True):
            logs = self.query_logs(each, self.shift()).add_(before)
            weight = torch.softmax(logs, -1, out=logs)
            pairs, denominator = self.pairs(weight, weight, scaled)
            total = torch.bmm(weight, self.numerator).baddbmm_(pairs, keys.value)
            self.divide(total, denominator, its_out)
        self.add(scaled, scaled, keys.value)
        self.log_scale = (self.log_scale + before[:, -1:]).clamp(min=self.low)
        return True


def fused_gated(
    features: ExponentialMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    log_gate: Tensor,
    log_weight: None,
    *,
    normalize: bool,
    chunk_size: int,
) -> tuple[Tensor, Carry]:
    """The op `gated`."""
    out = empty((*query.shape[:-1], value.shape[-1]), carry.numerator.dtype, carry.numerator)
    after = Carry(*(empty_like(a) for a in carry))
    heads = GatedHeads(features, key.shape[-3] if key.ndim > 2 else 1)
    gates = log_gate.expand(*key.shape[:-1], log_gate.shape[-1])
    queries = (_grouped(a, key) for a in (query, out))
    for k, seen, v, g, q, o, *sums in _entries(key, mask, value, gates, *queries, *carry, *after):
        heads.set(Carry(*sums[:3]))
        for r in chunks(0, key.shape[-2], chunk_size):
            its_mask = None if seen is None else seen[:, r]
            heads.gated_step(q[:, :, r], k[:, r], v[:, r], its_mask, g[:, r], o[:, :, r])
        for target, source in zip(sums[3:], heads.carry(), strict=True):
            target.copy_(source)
    return out, after


def refuse_gated(
    features: DrawnMap,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    carry: Carry,
    log_gate: Tensor,
    log_weight: Tensor | None,
    *,
    normalize: bool,
    **_: Any,
) -> str | None:
    """What the path does not serve."""
    if log_weight is not None or not normalize:
        return "it serves normalized attention without weights of keys"
    tensors = (query, key, value, log_gate, *carry, *features.arrays().values())
    if torch.is_grad_enabled() and any(a.requires_grad for a in tensors):
        return "it has no gradient"
    if torch.compiler.is_compiling():
        return "it is not traced by torch.compile"
    return (
        refuse_empty(query, key)
        or refuse_other(features, ExponentialMap)
        or refuse_transforms()
        or refuse_forward_mode()
    )
