"""What attentions with an exact window share: their state, their checks, and the call of the op."""

from __future__ import annotations

from typing import Any, NamedTuple

from rfx import _check
from rfx._xp import Array, library, namespace
from rfx.attention.linear import _check_features, _check_values
from rfx.attention.state import State, check_initial, from_carry, to_carry
from rfx.dispatch import Op, check_implementation
from rfx.features import DrawnMap
from rfx.kernels import Kernel
from rfx.ops.window import Memory, nothing_seen, windowed

__all__ = ["WindowState", "attend_with_window", "window_plan"]

Plan = tuple[Op, tuple[Any, ...], dict[str, Any]]


class WindowState(NamedTuple):
    """What attention with an exact window keeps: a tuple of a `State` and of the window's arrays.

    older : State
        Sums over the keys that have left the window. Its ``length`` counts all positions seen.
    key : shape (..., heads, w, d), in the map's dtype
        The last keys, 0 where absent.
    value : shape (..., heads, w, e)
    present : bool of shape (..., heads, w)
        False where no key was seen yet, or a masked one.
    """

    older: State
    key: Array
    value: Array
    present: Array


def window_plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    kernel: Kernel | None,
    window: int,
    mask: Array | None,
    initial_state: WindowState | None,
    chunk_size: int | None,
    implementation: str | None,
) -> Plan:
    """Check the arguments, and say which op runs with what."""
    _check.attention(query, key, value)
    _check_features(features, query, key)
    _check.mask(mask, key)
    _check_values(features, query, key, mask)
    _check.causal_lengths(query, key)
    window = _check.positive_int("window", window)
    if kernel is None:
        kernel = features.kernel
    else:
        kernel.check(query, "query")
        kernel.check(key, "key", mask)
    check_implementation(implementation)
    if chunk_size is not None:
        _check.positive_int("chunk_size", chunk_size)
    if initial_state is None:
        memory = nothing_seen(features, key, value, window)
    else:
        memory = _memory(initial_state, features, key, value, window)
    args = (features, query, key, value, None if mask is None else mask[..., None], memory)
    size = min(max(window, 64), 128) if chunk_size is None else chunk_size
    return windowed, args, {"kernel": kernel, "chunk_size": size, "implementation": implementation}


def attend_with_window(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    initial_state: WindowState | None,
    return_state: bool,
    **options: Any,
) -> Array | tuple[Array, WindowState]:
    """Run the op that `window_plan` names."""
    op, args, settings = window_plan(query, key, value, initial_state=initial_state, **options)
    output, memory = op(*args, **settings)
    output = namespace(value).astype(output, value.dtype, copy=False)
    if not return_state:
        return output
    before = None if initial_state is None else initial_state.older
    older = from_carry(memory.older, args[0], before, key.shape[-2])
    return output, WindowState(older, memory.key, memory.value, memory.present[..., 0] > 0.0)


def _memory(state: Any, features: DrawnMap, key: Array, value: Array, window: int) -> Memory:
    """The state as the op takes it; refuses one that does not fit the call."""
    if not isinstance(state, WindowState):
        raise TypeError(
            f"`initial_state` must be a WindowState, got {type(state).__name__}; pass what the "
            "same attention with a window returned for return_state=True"
        )
    check_initial(state.older, features, key, value)
    wanted = (*key.shape[:-2], window, key.shape[-1])
    if tuple(state.key.shape) != wanted:
        raise ValueError(
            f"`initial_state` must have window keys of shape {wanted}, got "
            f"{tuple(state.key.shape)}; `window` is fixed by the call that made it "
            f"({library(key)} arrays)"
        )
    xp = namespace(key)
    present = xp.astype(state.present[..., None], features.like.dtype)
    return Memory(*to_carry(state.older), state.key, state.value, present)
