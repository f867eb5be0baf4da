"""How a loop over chunks and a choice between two computations are carried out.

The mathematics of an op is a step (carry, chunk) -> (carry, out). A backend replaces these two
functions, by ``lax.scan`` and ``lax.cond`` for example, and keeps the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rfx._xp import Array, namespace, truth
from rfx.ops.chunks import chunks

__all__ = ["EAGER", "Driver", "branch", "scan"]

Step = Callable[[Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Driver:
    """``scan(step, carry, arrays, length, chunk_size)`` and ``branch(flag, yes, no)``.

    ``scan`` walks over the second last axis of ``arrays`` (entries may be None) and returns the
    last carry and the outputs, joined along that axis, or None if the step gives none. ``branch``
    returns ``yes()`` or ``no()``, both of which must be right; ``yes`` only where the flag holds.
    ``again(function)`` is the function, computed once more in the backward pass where a step of
    ``scan`` is no such checkpoint by itself.
    """

    scan: Callable[..., tuple[Any, Any]]
    branch: Callable[..., Any]
    again: Callable[..., Any] = lambda function: function


def scan(
    step: Step, carry: Any, arrays: Sequence[Array | None], length: int, chunk_size: int
) -> tuple[Any, Any]:
    """Loop over chunks in Python; the last one may be shorter."""
    outputs = []
    for rows in chunks(0, length, chunk_size):
        chunk = tuple(None if a is None else a[..., rows, :] for a in arrays)
        carry, out = step(carry, chunk)
        outputs.append(out)
    if not outputs or outputs[0] is None:
        return carry, None
    return carry, namespace(outputs[0]).concat(outputs, axis=-2)


def branch(flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """Look at the flag where it has a value; while it is traced, take what is right for both."""
    return yes() if truth(flag) else no()


EAGER = Driver(scan, branch)
