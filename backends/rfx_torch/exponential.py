"""Attention with an exponential map for the heads of one batch entry, on a CPU: the forward pass.

What is computed is what `rfx.ops.bidirectional` and `rfx.ops.causal` compute, chunk by chunk, in
buffers that are made once, so that features stay in cache. `rfx_torch.gradient` has the way back.

Axes: ``h`` key heads, ``g`` query heads that share one, ``C`` rows of a chunk, ``m`` features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rfx.features.forms import ExponentialMap
from rfx.ops import Carry
from rfx.ops import causal as causal_op
from rfx.ops.carry import Keys, empty_log, highest, smallest_denominator
from rfx.ops.causal import is_gentle
from rfx.ops.chunks import before_triangle, chunks, triangle

__all__ = ["Heads", "chunks_per_kept_carry", "exp_"]

_LOG2_E = 1.0 / math.log(2.0)


def exp_(array: Tensor) -> Tensor:
    """exp in place. torch's exp2 takes a quarter of the time of its exp, and underflows as fast."""
    return array.mul_(_LOG2_E).exp2_()


def chunks_per_kept_carry(width: int, size: int) -> int:
    """Such that the carries kept for the gradient take no more memory than two arrays of values."""
    return max(1, width // (2 * size))


class Heads:
    """A map on all heads of a batch entry, its buffers, and the sums over keys so far.

    numerator : shape (h, m, e), divided by exp(log_scale)
    denominator, log_scale : shape (h, 1, m)
    """

    def __init__(self, features: ExponentialMap, heads: int, halves: bool = False) -> None:
        query, key = features.query_side, features.key_side or features.query_side
        self.features, self.heads, self.dtype = features, heads, query.weight.dtype
        self.query_weight, self.key_weight = (self._all(s.weight) for s in (query, key))
        self.query_bias, self.key_bias = (self._row(s.bias) for s in (query, key))
        self.quadratic = self._row(key.quadratic)
        self.log_constant = query.weight.new_full((1, 1, 1), features.log_constant)
        self.tiny = smallest_denominator(self.dtype, torch)
        self.low = empty_log(self.dtype, torch)
        self.halves = halves
        self._buffers: dict[tuple[str, int, int], Tensor] = {}

    def _all(self, array: Tensor) -> Tensor:
        """(d, m) or (h, d, m) -> (h, d, m)."""
        return array.expand(self.heads, *array.shape[-2:])

    def _row(self, array: Tensor | None) -> Tensor | None:
        """(m,) or (h, m) -> (h, 1, m)."""
        return None if array is None else self._all(array[..., None, :])

    def buffer(
        self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Memory to write (h, rows, columns) to; the same for the same name and shape."""
        place = (name, rows, columns)
        if place not in self._buffers:
            shape = (self.heads, rows, columns)
            self._buffers[place] = self.query_weight.new_empty(shape, dtype=dtype)
        return self._buffers[place]

    def set(self, carry: Carry) -> None:
        """Start from a carry (h, ...), which is not written to."""
        self.numerator = carry.numerator.clone()
        self.denominator = carry.denominator[:, None].clone()
        self.log_scale = carry.log_scale[:, None].clone()

    def carry(self) -> Carry:
        """The sums; written to by what follows."""
        return Carry(self.numerator, self.denominator[:, 0], self.log_scale[:, 0])

    def keys(self, key: Tensor, value: Tensor, mask: Tensor | None) -> Keys:
        """Logs and values of a chunk of keys; what is masked is absent."""
        key, value = key.to(self.dtype), value if self.halves else value.to(self.dtype)
        hidden = None if mask is None else ~mask
        if hidden is not None:
            key, value = key.masked_fill(hidden, 0), value.masked_fill(hidden, 0)
        term = self.log_constant
        if self.quadratic is not None:
            square = torch.mul(key, key, out=self.buffer("square", *key.shape[1:]))
            term = term - square.mul_(self.quadratic).sum(-1, keepdim=True)
        out = self.buffer("key", key.shape[1], self.key_weight.shape[-1])
        log = torch.baddbmm(term, key, self.key_weight, out=out)
        if self.key_bias is not None:
            log += self.key_bias
        if hidden is not None:
            log.masked_fill_(hidden, self.low)
        return Keys(log, None, value, mask)

    def rescale(self, log_scale: Tensor) -> None:
        """Move the sums to a scale (h, 1, m), at least theirs."""
        kept = exp_(self.log_scale - log_scale)
        self.numerator *= kept.mT
        self.denominator *= kept
        self.log_scale = log_scale

    def key_weights(self, keys: Keys) -> Tensor:
        """Features of keys (h, C, m) at the sums' scale, in the place of their logs."""
        weight = exp_(keys.log.sub_(self.log_scale))
        return weight if keys.mask is None else weight.masked_fill_(~keys.mask, 0)

    def add(self, weight: Tensor, scaled: Tensor, value: Tensor) -> None:
        """Add keys that are at the sums' scale already; ``scaled`` is ``weight``, `rounded`."""
        if self.halves:
            self.numerator += torch.bmm(scaled.mT, value)
        else:
            self.numerator.baddbmm_(scaled.mT, value)
        self.denominator += weight.sum(-2, keepdim=True)

    def query_logs(self, query: Tensor, shift: Tensor) -> Tensor:
        """Logs of queries (h, C, m), plus a shift (h, 1, m)."""
        out = self.buffer("query", query.shape[1], shift.shape[-1])
        return torch.baddbmm(shift, query.to(self.dtype), self.query_weight, out=out)

    def query_weights(self, query: Tensor) -> Tensor:
        """Features of queries at the sums' scale, divided by the largest of each row: (h, C, m)."""
        log = self.query_logs(query, self.shift())
        return exp_(log.sub_(log.amax(-1, keepdim=True)))

    def query_shares(self, query: Tensor, shift: Tensor) -> Tensor:
        """How much each feature counts: a softmax over features (h, C, m)."""
        log = self.query_logs(query, shift)
        return torch.softmax(log, -1, out=log)

    def rounded(self, name: str, array: Tensor) -> Tensor:
        """The array as it enters products with values."""
        if not self.halves:
            return array
        rows, columns = array.shape[1:]
        return self.buffer(name, rows, columns, torch.bfloat16).copy_(array)

    def shift(self) -> Tensor:
        """What is added to the logs of queries: scale and bias."""
        return self.log_scale if self.query_bias is None else self.log_scale + self.query_bias

    def absorb(self, key: Tensor, value: Tensor, mask: Tensor | None) -> None:
        """Add a chunk of keys: (h, C, d), (h, C, e) and (h, C, 1)."""
        keys = self.keys(key, value, mask)
        self.rescale(highest(self.carry(), keys)[:, None])
        weight = self.key_weights(keys)
        self.add(weight, self.rounded("rounded key", weight), keys.value)

    def means(self) -> tuple[Tensor, Tensor]:
        """Σ_k b v / Σ_k b for each feature (h, m, e), and the shift that makes up for it.

        Attention to the sums is an average of these means, weighted by a softmax over features:
        the log of the denominator joins the logs of the queries.
        """
        denominator = self.denominator.clamp(min=self.tiny)
        return self.numerator / denominator.mT, self.shift() + denominator.log()

    def attend(self, query: Tensor, means: Tensor, shift: Tensor, out: Tensor) -> None:
        """Write the output (h, C, e) of queries (h, C, d) that see the sums alone."""
        share = self.rounded("rounded query", self.query_shares(query, shift))
        out.copy_(torch.bmm(share, means))

    def bidirectional(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        out: Tensor,
        size: int,
    ) -> None:
        """All keys (h, s, d), then all queries (h, g, t, d); writes ``out`` (h, g, t, e)."""
        for rows in chunks(0, key.shape[1], size):
            self.absorb(key[:, rows], value[:, rows], None if mask is None else mask[:, rows])
        if query.shape[2] == 0:
            return
        means, shift = self.means()
        means = means.to(torch.bfloat16) if self.halves else means
        for each, its_out in zip(query.unbind(1), out.unbind(1), strict=True):
            for rows in chunks(0, each.shape[1], size):
                self.attend(each[:, rows], means, shift, its_out[:, rows])

    def step(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, out: Tensor
    ) -> None:
        """A causal chunk: queries (h, g, C, d), and the output (h, g, C, e) to write."""
        keys = self.keys(key, value, mask)
        before = self.carry()
        log_scale = highest(before, keys)
        if not is_gentle(before, log_scale, keys):
            args = (query.flatten(0, 1), key, value, mask, before)
            found, after = causal_op.portable(self.features, *args, chunk_size=key.shape[1])
            out.copy_(found.unflatten(0, out.shape[:2]))
            self.set(after)
            return
        self.rescale(log_scale[:, None])
        exact = self.key_weights(keys)
        scaled = self.rounded("rounded key", exact)
        for each, its_out in zip(query.unbind(1), out.unbind(1), strict=True):
            weight = self.query_weights(each)
            pairs, denominator = self.pairs(weight, self.rounded("rounded query", weight), scaled)
            if self.halves:
                self._product_of_halves(weight, pairs, denominator, keys.value, its_out)
            else:
                total = torch.bmm(weight, self.numerator).baddbmm_(pairs, keys.value)
                self.divide(total, denominator, its_out)
        self.add(exact, scaled, keys.value)

    def pairs(self, weight: Tensor, rounded: Tensor, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of all pairs of a chunk, the future 0, and what they and the past add up to."""
        rows = weight.shape[1]
        out = self.buffer("pairs", rows, rows, rounded.dtype)
        pairs = torch.bmm(rounded, scaled.mT, out=out).tril_()
        past = torch.mul(weight, self.denominator, out=self.buffer("past", *weight.shape[1:]))
        denominator = pairs.sum(-1, keepdim=True, dtype=self.dtype)
        return pairs, denominator.add_(past.sum(-1, keepdim=True))

    def _product_of_halves(
        self, weight: Tensor, pairs: Tensor, denominator: Tensor, value: Tensor, out: Tensor
    ) -> None:
        """One product with the sums and the values together, divided before it is rounded."""
        rows, width = weight.shape[1:]
        share = self.buffer("share", rows, width + rows, torch.bfloat16)
        both = self.buffer("both", width + rows, value.shape[-1], torch.bfloat16)
        self.divide(weight, denominator, share[..., :width])
        self.divide(pairs, denominator, share[..., width:])
        both[:, :width], both[:, width:] = self.numerator, value
        out.copy_(torch.bmm(share, both))

    def divide(self, total: Tensor, denominator: Tensor, out: Tensor) -> None:
        """The quotient, 0 where there is nothing to attend to."""
        if denominator.amin() < self.tiny:  # False for NaN
            nothing = denominator < self.tiny
            total, denominator = total.masked_fill(nothing, 0), denominator.masked_fill(nothing, 1)
        torch.div(total, denominator, out=out)

    def causal(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        out: Tensor,
        size: int,
    ) -> Iterator[None]:
        """As `bidirectional`; query i sees the keys j <= i + s - t.

        Stops before each chunk of the triangle, for the carry to be looked at.
        """
        queries, keys = before_triangle(query.shape[2], key.shape[1])
        first = None if mask is None else mask[:, keys]
        args = (query[:, :, queries], key[:, keys], value[:, keys], first, out[:, :, queries])
        self.bidirectional(*args, size)
        for rows, keys in triangle(query.shape[2], key.shape[1], size):
            yield
            seen = None if mask is None else mask[:, keys]
            self.step(query[:, :, rows], key[:, keys], value[:, keys], seen, out[:, :, rows])
