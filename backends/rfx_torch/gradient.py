"""The way back through `rfx_torch.exponential`: features are computed again, chunk by chunk.

With ``w`` the features of queries (h, C, m) and ``b`` those of keys, all at one scale, a chunk's
output is N / Z, where N = tril(w bᵀ) v + w S, Z = tril(w bᵀ) 1 + w D, and S, D are the sums over
the keys before it. With G = ∂out / Z and γ = −(G · out) 1:

    ∂pairs = tril(G vᵀ + γ 1ᵀ)        ∂w = ∂pairs b + G Sᵀ + γ Dᵀ
    ∂b = ∂pairsᵀ w + v ∂Sᵀ + 1 ∂Dᵀ     ∂v = pairsᵀ G + b ∂S

where ∂S and ∂D come from the chunks after it and grow by wᵀ G and wᵀ γ. Logs change by ∂log = w ∂w
and b ∂b. Scales are constants: they cancel. Going back, sums move from the scale after a chunk to
that before it, which is never larger, so that nothing overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rfx.features.forms import ExponentialMap
from rfx.ops import Carry
from rfx.ops import causal as causal_op
from rfx.ops.carry import highest
from rfx.ops.causal import is_gentle
from rfx.ops.chunks import before_triangle, chunks, triangle
from rfx_torch.exponential import Heads, chunks_per_kept_carry, exp_

__all__ = ["Gradient", "Inputs", "Sequence"]


class Inputs(NamedTuple):
    """Query (h, g, t, d), key (h, s, d) and value (h, s, e); or their gradients."""

    query: Tensor
    key: Tensor
    value: Tensor


class Sequence(NamedTuple):
    """What a gradient is found from, and where it is written, for some rows.

    mask : shape (h, s, 1) or None
    out, back : the output (h, g, t, e) and its gradient
    found : memory for the gradients of the inputs
    """

    inputs: Inputs
    mask: Tensor | None
    out: Tensor
    back: Tensor
    found: Inputs

    def part(self, rows: slice, keys: slice) -> Sequence:
        """Some queries and some keys."""

        def of(inputs: Inputs) -> Inputs:
            query, key, value = inputs
            return Inputs(query[:, :, rows], key[:, keys], value[:, keys])

        mask = None if self.mask is None else self.mask[:, keys]
        out, back = self.out[:, :, rows], self.back[:, :, rows]
        return Sequence(of(self.inputs), mask, out, back, of(self.found))


class Gradient(Heads):
    """Gradients for one batch entry; those of the map's arrays add up over entries.

    learned : by name, for the arrays that are trained
    numerator_gradient, denominator_gradient : (h, m, e) and (h, 1, m), of the sums
    """

    def __init__(self, features: ExponentialMap, heads: int, trained: Iterable[str]) -> None:
        super().__init__(features, heads)
        arrays = features.arrays()
        self.learned = {name: torch.zeros_like(arrays[name]) for name in trained}
        self.key_prefix = "query" if features.key_side is None else "key"

    def begin(self, numerator: Tensor, denominator: Tensor) -> None:
        """Start from the gradient of the last sums: (h, m, e) and (h, m)."""
        self.numerator_gradient = numerator.to(self.dtype, copy=True)
        self.denominator_gradient = denominator[:, None].to(self.dtype, copy=True)

    def bidirectional_back(self, whole: Sequence, before: Tensor, after: Carry, size: int) -> None:
        """Find the gradients of the inputs, and move on to that of the first sums.

        ``before`` is the first log scale (h, m), ``after`` the last carry.
        """
        self.set(after)
        t, s = whole.out.shape[2], whole.inputs.key.shape[1]
        if t > 0:
            self._attend([whole.part(rows, slice(0, 0)) for rows in chunks(0, t, size)])
        for rows in chunks(0, s, size):
            inputs, mask, _, _, found = whole.part(slice(0, 0), rows)
            keys = self.keys(inputs.key, inputs.value, mask)
            weight = self.key_weights(keys)
            found.value.copy_(torch.bmm(weight, self.numerator_gradient))
            self._keys_back(self._key_change(keys.value).mul_(weight), inputs.key, mask, found.key)
        self._move_back(before[:, None])

    def causal_back(
        self, whole: Sequence, before: Tensor, after: Carry, kept: list[Carry], size: int
    ) -> None:
        """As `bidirectional_back`; ``kept`` are the carries before some chunks of the triangle."""
        t, s = whole.out.shape[2], whole.inputs.key.shape[1]
        parts = [whole.part(*rows) for rows in triangle(t, s, size)]
        group = chunks_per_kept_carry(self.key_weight.shape[-1], size)
        for first in reversed(range(0, len(parts), group)):
            carries = [kept[first // group]]
            for inputs, mask, *_ in parts[first : first + group - 1]:
                self.set(carries[-1])
                self.absorb(inputs.key, inputs.value, mask)
                carries.append(self.carry())
            for carry, part in reversed(list(zip(carries, parts[first:], strict=False))):
                self.step_back(part, carry)
        start = kept[0] if kept else after
        self.bidirectional_back(whole.part(*before_triangle(t, s)), before, start, size)

    def _attend(self, parts: list[Sequence]) -> None:
        """Queries that see the sums alone: a softmax over features, and its gradient."""
        means, shift = self.means()
        means_gradient, shift_gradient = torch.zeros_like(means), torch.zeros_like(shift)
        for query, out, back, found in _each_head(parts):
            share = self.query_shares(query, shift)
            back = back.to(self.dtype)
            common = (back * out).sum(-1, keepdim=True).neg_()
            change = self.buffer("change", *share.shape[1:])
            torch.baddbmm(common, back, means.mT, out=change).mul_(share)
            means_gradient.baddbmm_(share.mT, back)
            shift_gradient += change.sum(-2, keepdim=True)
            self._queries_back(change, query, found)
        seen = self.denominator >= self.tiny
        share = torch.where(seen, 1 / self.denominator, 0)
        self.numerator_gradient.addcmul_(means_gradient, share.mT)
        shift_gradient -= (means_gradient * means).sum(-1)[:, None]
        self.denominator_gradient.addcmul_(shift_gradient, share)

    def step_back(self, part: Sequence, before: Carry) -> None:
        """A causal chunk, from the gradient of the sums after it to that of those before it."""
        inputs, mask, _, _, found = part
        self.set(before)
        keys = self.keys(inputs.key, inputs.value, mask)
        log_scale = highest(before, keys)
        if not is_gentle(before, log_scale, keys):
            self._step_by_autograd(part, before)
            return
        self.rescale(log_scale[:, None])
        scaled, value = self.key_weights(keys), keys.value
        key_change = self._key_change(value)
        value_gradient = torch.bmm(scaled, self.numerator_gradient)
        for query, out, back, its_found in _each_head([part]):
            weight = self.query_weights(query)
            pairs, denominator = self.pairs(weight, weight, scaled)
            nothing = denominator < self.tiny
            back = (back / denominator.masked_fill_(nothing, 1)).masked_fill_(nothing, 0)
            common = (back * out).sum(-1, keepdim=True).neg_()
            pair_change = self.buffer("pair change", *pairs.shape[1:])
            torch.baddbmm(common, back, value.mT, out=pair_change).tril_()
            change = self.buffer("change", *weight.shape[1:])
            torch.mul(common, self.denominator, out=change)
            change.baddbmm_(back, self.numerator.mT).baddbmm_(pair_change, scaled)
            key_change.baddbmm_(pair_change.mT, weight)
            value_gradient.baddbmm_(pairs.mT, back)
            self.numerator_gradient.baddbmm_(weight.mT, back)
            self._queries_back(change.mul_(weight), query, its_found)
            self.denominator_gradient += weight.mul_(common).sum(-2, keepdim=True)
        found.value.copy_(value_gradient)
        self._keys_back(key_change.mul_(scaled), inputs.key, mask, found.key)
        self._move_back(before.log_scale[:, None])

    def _key_change(self, value: Tensor) -> Tensor:
        """∂b of keys that later sums hold."""
        out = self.buffer("key change", value.shape[1], self.key_weight.shape[-1])
        by_sums = self.numerator_gradient.mT
        return torch.baddbmm(self.denominator_gradient, value, by_sums, out=out)

    def _queries_back(self, change: Tensor, query: Tensor, found: Tensor) -> None:
        found.copy_(torch.bmm(change, self.query_weight.mT))
        self._learn("query_weight", lambda: torch.bmm(query.to(self.dtype).mT, change))
        self._learn("query_bias", lambda: change.sum(-2))

    def _keys_back(self, change: Tensor, key: Tensor, mask: Tensor | None, found: Tensor) -> None:
        key = key.to(self.dtype) if mask is None else key.to(self.dtype).masked_fill(~mask, 0)
        total = torch.bmm(change, self.key_weight.mT)
        if self.quadratic is not None:
            row = change.sum(-1, keepdim=True)
            total.addcmul_(key * self.quadratic, row, value=-2)
            name = f"{self.key_prefix}_quadratic"
            self._learn(name, lambda: (key * key * row).sum(-2).neg_())
        found.copy_(total)
        self._learn(f"{self.key_prefix}_weight", lambda: torch.bmm(key.mT, change))
        self._learn(f"{self.key_prefix}_bias", lambda: change.sum(-2))

    def _learn(self, name: str, gradient: Callable[[], Tensor]) -> None:
        if name in self.learned:
            total, found = self.learned[name], gradient()
            total += found if found.ndim == total.ndim else found.sum(0)

    def _move_back(self, log_scale: Tensor) -> None:
        """From the gradient of the sums at their scale to that at an earlier one."""
        kept = exp_(log_scale - self.log_scale)
        self.numerator_gradient *= kept.mT
        self.denominator_gradient *= kept

    def _step_by_autograd(self, part: Sequence, before: Carry) -> None:
        """A chunk whose logs rise steeply, as the portable op halves it."""
        inputs, mask, _, gradient, found = part
        arrays = self.features.arrays()
        with torch.enable_grad():
            leaves = [a.detach().requires_grad_() for a in (*inputs, *before[:2])]
            trained = {name: arrays[name].detach().requires_grad_() for name in self.learned}
            features = self.features.with_arrays(arrays | trained)
            query, key, value, *sums = leaves
            carry = Carry(sums[0], sums[1], before.log_scale)
            args = (query.flatten(0, 1), key, value, mask, carry)
            out, after = causal_op.portable(features, *args, chunk_size=key.shape[1])
            back = torch.autograd.grad(
                (out, after.numerator, after.denominator),
                (*leaves, *trained.values()),
                (
                    gradient.flatten(0, 1).to(out.dtype),
                    self.numerator_gradient,
                    self.denominator_gradient[:, 0],
                ),
                materialize_grads=True,
            )
        for target, source in zip(found, back[:3], strict=True):
            target.copy_(source)
        self.begin(*back[3:5])
        for total, learned in zip(self.learned.values(), back[5:], strict=True):
            total += learned


def _each_head(parts: list[Sequence]) -> Iterator[tuple[Tensor, ...]]:
    """Query, output, its gradient and memory for the query's: of each of the group's heads."""
    for part in parts:
        arrays = (part.inputs.query, part.out, part.back, part.found.query)
        yield from zip(*(a.unbind(1) for a in arrays), strict=True)
