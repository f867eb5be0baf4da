"""The state of linear attention: what is kept of the keys that were seen, and merging two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rfx import _check
from rfx._xp import Array, DType, full, library, namespace, truth
from rfx.features import DrawnMap
from rfx.ops import carry as carries
from rfx.ops.carry import Carry

__all__ = ["State", "merge"]


@dataclass(frozen=True, eq=False)
class State:
    """Sums over the keys seen so far: a record of arrays of constant size.

    Σ_k φ_j(k) v_k is ``numerator[j] * exp(log_scale[j])``, and Σ_k φ_j(k) is
    ``denominator[j] * exp(log_scale[j])``.

    Attributes
    ----------
    numerator : Array, shape (..., heads, m, e), in the map's dtype
    denominator : Array, shape (..., heads, m)
    log_scale : Array, shape (..., heads, m), or (..., heads, 1) for a map with one log for a row
        -inf where no key was seen.
    length : Array, 0-d int32
        Positions seen, masked ones included.
    fingerprint : Array, 0-d
        Of the draw of the map; a state serves no other. It is compared where it has a value, that
        is outside of ``jax.jit`` and ``torch.compile``.
    """

    numerator: Array
    denominator: Array
    log_scale: Array
    length: Array
    fingerprint: Array

    def __repr__(self) -> str:
        shape = getattr(self.numerator, "shape", "")
        return f"<State of {library(self.numerator)} arrays, numerator {tuple(shape)}>"


def merge(first: State, second: State) -> State:
    """The state of two sets of keys together.

    Associative and commutative to rounding: the halves of a sequence, seen apart, give the state of
    the whole.

    Parameters
    ----------
    first, second : State
        Of the same map and shapes.

    Returns
    -------
    State

    Raises
    ------
    TypeError
        If an argument is no `State`, or the two are of different libraries.
    ValueError
        If they are of different shapes, or, outside of ``jax.jit``, of different maps.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> k = np.random.default_rng(0).standard_normal((1, 8, 4))
    >>> phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=k)
    >>> call = dict(features=phi, return_state=True)
    >>> _, a = rfx.linear_attention(k[:, :5], k[:, :5], k[:, :5], **call)
    >>> _, b = rfx.linear_attention(k[:, 5:], k[:, 5:], k[:, 5:], **call)
    >>> int(rfx.merge(a, b).length)
    8
    """
    for name, state in (("first", first), ("second", second)):
        check_kind(name, state)
    _check.together("first", first.numerator, "second", second.numerator)
    if tuple(first.numerator.shape) != tuple(second.numerator.shape):
        raise ValueError(
            f"`first` and `second` must have the same shape, got {tuple(first.numerator.shape)} "
            f"and {tuple(second.numerator.shape)}; merge states of the same heads and map"
        )
    check_dtype("second", second, first.numerator.dtype)
    check_same_map("second", second.fingerprint, first.fingerprint)
    both = carries.merge(to_carry(first), to_carry(second))
    return _record(both, first.length + second.length, first.fingerprint)


def to_carry(state: State, meets_keys: bool = False) -> Carry:
    """The state as the ops take it: finite where it is empty.

    ``meets_keys`` if a visible key comes before all that reads it, which makes it finite too.
    """
    if meets_keys:
        return Carry(state.numerator, state.denominator, state.log_scale)
    xp = namespace(state.log_scale)
    low = carries.empty_log(state.log_scale.dtype, xp)
    return Carry(state.numerator, state.denominator, xp.clip(state.log_scale, low, None))


def from_carry(
    carry: Carry, features: DrawnMap, before: State | None, seen: int, has_keys: bool = False
) -> State:
    """The state after ``seen`` more positions; ``has_keys`` if it is known not to be empty."""
    xp = namespace(carry.numerator)
    length = full(carry.numerator, (), seen, xp.int32) if before is None else before.length + seen
    if has_keys:
        return State(*carry, length, features.fingerprint)
    return _record(carry, length, features.fingerprint)


def _record(carry: Carry, length: Array, fingerprint: Array) -> State:
    xp = namespace(carry.log_scale)
    low = carries.empty_log(carry.log_scale.dtype, xp)
    nothing = xp.full_like(carry.log_scale, -float("inf"))
    log_scale = xp.where(carry.log_scale <= low, nothing, carry.log_scale)
    return State(carry.numerator, carry.denominator, log_scale, length, fingerprint)


def check_kind(name: str, state: Any) -> None:
    """Refuse what is no state."""
    if not isinstance(state, State):
        raise TypeError(
            f"`{name}` must be an rfx.State, got {type(state).__name__}; pass what "
            "linear_attention(..., return_state=True) returned"
        )


def check_dtype(name: str, state: State, dtype: DType) -> None:
    """Refuse a state of another working dtype."""
    if state.numerator.dtype != dtype:
        raise TypeError(
            f"`{name}` must have dtype {dtype}, got {state.numerator.dtype}; "
            "make both with the same map"
        )


def check_same_map(name: str, mine: Array, wanted: Array) -> None:
    """Refuse a state of another map, where both fingerprints have values."""
    if mine is wanted:
        return
    _check.together("features", wanted, name, mine)
    if truth(mine == wanted) is False:
        raise ValueError(
            f"`{name}` was made with another map (fingerprint {mine} against {wanted}); "
            "use the map that made it"
        )


def check_initial(state: Any, features: DrawnMap, key: Array, value: Array) -> None:
    """Refuse an initial state that does not fit a call."""
    check_kind("initial_state", state)
    _check.together("key", key, "initial_state", state.numerator)
    check_dtype("initial_state", state, features.like.dtype)
    check_same_map("initial_state", state.fingerprint, features.fingerprint)
    wanted = (*key.shape[:-2], features.num_features, value.shape[-1])
    if tuple(state.numerator.shape) != wanted:
        raise ValueError(
            f"`initial_state` must have a numerator of shape {wanted}, got "
            f"{tuple(state.numerator.shape)}; its batch axes, heads and value dimension are fixed "
            f"by the call that made it ({library(key)} arrays)"
        )
