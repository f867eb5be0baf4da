"""Gates of a chunk: their logs added up between any two places, without cancellation.

A gate that is closed has the log −inf. It stands apart, as a bool, so that no sum is infinite and
no difference is inf − inf. Sums are formed of the gates between the two places alone: as a
difference of two sums from the start they would be as inexact as the larger one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rfx._xp import Array, full, namespace

__all__ = ["Gates", "made", "repeat_rows", "running_sums"]

_CLOSED = -1e30
"""A gate with a log below it is closed, so that sums of many stay finite in float32."""


class Gates(NamedTuple):
    """Logs of gates (..., C, m) or (..., C, 1), 0 where ``closed``, a bool of the same shape."""

    log: Array
    closed: Array

    def from_start(self) -> tuple[Array, Array]:
        """Log of the product of all gates up to each place, and whether one of them is closed."""
        return running_sums(self.log), self._count() > 0

    def to_end(self) -> tuple[Array, Array]:
        """The same of all gates behind each place."""
        xp = namespace(self.log)
        shape = (*self.log.shape[:-2], 1, self.log.shape[-1])
        nothing = full(self.log, shape, 0.0, self.log.dtype)
        behind = xp.concat([self.log[..., 1:, :], nothing], axis=-2)
        sums = xp.flip(running_sums(xp.flip(behind, axis=-2)), axis=-2)
        count = self._count()
        return sums, count < count[..., -1:, :]

    def between(self) -> tuple[Array, Array]:
        """The same of all gates behind place k up to i: (..., C, C, m), entry (i, k)."""
        xp = namespace(self.log)
        length = self.log.shape[-2]
        ones = full(self.log, (length, length), 1.0, self.log.dtype)
        behind = xp.tril(ones, k=-1)[..., None]
        sums = xp.cumulative_sum(self.log[..., :, None, :] * behind, axis=-3)
        count = self._count()
        return sums, count[..., :, None, :] > count[..., None, :, :]

    def _count(self) -> Array:
        """How many gates are closed up to each place."""
        xp = namespace(self.log)
        return xp.cumulative_sum(xp.astype(self.closed, xp.int32), axis=-2)


def made(log_gate: Array, mask: Array | None, dtype: Any) -> Gates:
    """Gates of a chunk: where a key is masked no step is taken, so that its gate counts as open."""
    xp = namespace(log_gate)
    log = xp.astype(log_gate, dtype, copy=False)
    closed = log < _CLOSED
    absent = closed
    if mask is not None:
        closed, absent = xp.logical_and(closed, mask), xp.logical_or(closed, xp.logical_not(mask))
        log = xp.broadcast_to(log, absent.shape)
    return Gates(xp.where(absent, full(log, (1, 1), 0.0, dtype), log), closed)


def running_sums(array: Array) -> Array:
    """Sums up to each row; of wide rows by doubling, which adds whole rows at a time."""
    xp = namespace(array)
    if array.shape[-1] == 1:
        return xp.cumulative_sum(array, axis=-2)
    step, length = 1, array.shape[-2]
    while step < length:
        later = array[..., step:, :] + array[..., : length - step, :]
        array = xp.concat([array[..., :step, :], later], axis=-2)
        step *= 2
    return array


def repeat_rows(array: Array, times: int) -> Array:
    """The rows of a chunk for each query of a group; ``array`` itself for one."""
    return array if times == 1 else namespace(array).concat([array] * times, axis=-2)
