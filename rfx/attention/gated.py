"""Attention to a state that a gate multiplies at each step, in time linear in the length."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, namespace, truth
from rfx.attention.linear import _check_features, _check_values, _placed
from rfx.attention.state import State, check_initial, check_kind, from_carry, to_carry
from rfx.dispatch import Op, check_implementation, planned
from rfx.features import DrawnMap
from rfx.ops import bidirectional
from rfx.ops.carry import Carry, empty
from rfx.ops.gated import decayed as decayed_carry
from rfx.ops.gated import gated
from rfx.ops.gates import made

__all__ = ["decayed", "gated_attention"]

Plan = tuple[Op, tuple[Any, ...], dict[str, Any]]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    log_gate: Array,
    log_weight: Array | None = None,
    normalize: bool = True,
    mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Plan:
    """Check the arguments, and say which op runs with what."""
    _check.attention(query, key, value)
    _check_features(features, query, key)
    _check.mask(mask, key)
    _check_values(features, query, key, mask)
    if query.shape[-2] != key.shape[-2]:
        raise ValueError(
            "gated attention needs as many queries as keys, since each position is a step of the "
            f"state, got t={query.shape[-2]} and s={key.shape[-2]}; pass the keys before the first "
            "query in a call of their own, and its state as initial_state"
        )
    _check_gate("log_gate", log_gate, key, (1, features.num_features))
    if truth(namespace(key).any(log_gate > 0)):
        raise ValueError(
            "`log_gate` must be at most 0, for a gate between 0 and 1, got "
            f"{float(namespace(key).max(log_gate)):.3g}; pass the log of the gate"
        )
    if log_weight is not None:
        _check_gate("log_weight", log_weight, key, (1,))
    if initial_state is not None:
        check_initial(initial_state, features, key, value)
    check_implementation(implementation)
    if chunk_size is not None:
        _check.positive_int("chunk_size", chunk_size)
    carry = empty(features, key, value) if initial_state is None else to_carry(initial_state)
    rows = None if mask is None else mask[..., None]
    size = _CHUNK if chunk_size is None else chunk_size
    options: dict[str, Any] = {"chunk_size": size, "implementation": implementation}
    args = (features, query, key, value, rows)
    if query.shape[-2] == 1 and normalize and log_weight is None:
        return bidirectional, (*args, _after_one(carry, log_gate, rows)), options
    if log_gate.shape[-1] > carry.log_scale.shape[-1]:
        xp = namespace(key)
        carry = carry._replace(log_scale=xp.broadcast_to(carry.log_scale, carry.denominator.shape))
    options["normalize"] = bool(normalize)
    return gated, (*args, carry, log_gate, log_weight), options


_CHUNK = 128


@planned(_plan)
def gated_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    log_gate: Array,
    log_weight: Array | None = None,
    normalize: bool = True,
    mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State]:
    """φ(q_i)·S_i / φ(q_i)·z_i, where S_i = g_i S_{i-1} + w_i φ(k_i) v_i.

    z_i is the same sum without values. Causal attention that forgets: the weight of key k for query
    i is multiplied by the gates behind k up to i. With gates of 1 it is causal
    `rfx.linear_attention`. It is computed by chunks, in log space, in time linear in the length.

    Parameters
    ----------
    query : Array, shape (..., Hq, t, d), or (t, d)
    key : Array, shape (..., H, t, d), or (t, d)
        Of the dtype of ``query``. Hq may be a multiple of H (grouped queries), which then share the
        gates of their key head.
    value : Array, shape (..., H, t, e), or (t, e)
    features : DrawnMap
        As for `rfx.linear_attention`.
    log_gate : Array, shape (..., H, t, 1) or (..., H, t, m); or (t, 1), (t, m)
        Log of g: one gate for a head and step, or one for each of the m features. Of any real
        floating dtype, at most 0, and -inf for a gate of 0, which forgets all that was before. Axes
        before t may be 1 for shared ones.
    log_weight : Array, shape (..., H, t, 1) or (t, 1), optional
        Log of w, a factor at least 0 for each key; 1 by default.
    normalize : bool
        False leaves the division out: φ(q_i)·S_i, at its true magnitude.
    mask : Array of bool, optional
        True for positions to keep; shape (t,), or ``key.shape[:-1]`` with 1 for shared axes. A
        position that is masked takes no step: its key is absent and its gate counts as 1, whatever
        they hold. A query with nothing to see gives zeros.
    initial_state : State, optional
        What came before. It is not written to.
    return_state : bool
        Return the state after the last position too.
    chunk_size : int, optional
        Positions worked on at once; chosen by default. The result differs by rounding only. Where
        gates for each feature are small, say below 0.7 throughout, shorter chunks are faster.
    implementation : str, optional
        ``"portable"`` or the name of a fast path (see `rfx.explain`), which must be able to run.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``
        With ``return_state``, a tuple of it and a `State`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind: libraries or dtypes that differ, integers.
    ValueError
        If shapes, devices, the map or the state do not fit together, or a log gate is positive,
        which is seen only where it has a value, that is outside of ``jax.jit``.

    Notes
    -----
    The rounding of a weight is relative to its own log: gates far from a pair of positions do not
    touch it. A gate with a log below -1e30 counts as closed. The gradient of a closed gate is 0.

    References
    ----------
    Peng et al., Random feature attention, 2021 (one gate); Yang et al., Gated linear attention
    transformers with hardware-efficient training, 2024 (a gate for each feature); Sun et al.,
    Retentive network, 2023 (constant gates).

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> phi = rfx.features.Positive(num_features=64).draw(16, seed=0, like=q)
    >>> log_gate = np.full((2, 100, 1), np.log(0.9))
    >>> rfx.gated_attention(q, k, v, features=phi, log_gate=log_gate).shape
    (2, 100, 16)
    """
    op, args, options = _plan(
        query,
        key,
        value,
        features=features,
        log_gate=log_gate,
        log_weight=log_weight,
        normalize=normalize,
        mask=mask,
        initial_state=initial_state,
        chunk_size=chunk_size,
        implementation=implementation,
    )
    output, carry = op(features, *_placed(features, *args[1:5]), *args[5:], **options)
    output = namespace(value).astype(output, value.dtype, copy=False)
    if not return_state:
        return output
    return output, from_carry(carry, features, initial_state, key.shape[-2])


def decayed(state: State, log_gate: Array) -> State:
    """The state times a gate, as after steps without keys.

    Two parts of a sequence that were read apart are put together by
    ``rfx.merge(decayed(first, total), second)``, where ``total`` is the sum of the log gates of the
    second part.

    Parameters
    ----------
    state : State
    log_gate : Array, shape (..., heads, 1) or (..., heads, m)
        At most 0; -inf for a gate of 0. Axes may be 1 for shared ones.

    Returns
    -------
    State

    Raises
    ------
    TypeError
        If ``state`` is no `State`, or ``log_gate`` no array of the same library.
    ValueError
        If the shapes do not fit, or a log gate is positive.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.gated import decayed
    >>> k = np.random.default_rng(0).standard_normal((1, 8, 4))
    >>> phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=k)
    >>> log_gate = np.full((1, 8, 1), -0.1)
    >>> def read(s):
    ...     x = k[:, s]
    ...     call = dict(features=phi, log_gate=log_gate[:, s], return_state=True)
    ...     return rfx.gated_attention(x, x, x, **call)[1]
    >>> total = log_gate[:, 5:].sum(axis=-2)
    >>> both = rfx.merge(decayed(read(slice(5)), total), read(slice(5, 8)))
    >>> bool(np.allclose(both.log_scale, read(slice(8)).log_scale))
    True
    """
    check_kind("state", state)
    _check.array("log_gate", log_gate)
    _check.together("state", state.numerator, "log_gate", log_gate)
    wanted = tuple(state.denominator.shape)
    if not _fits(tuple(log_gate.shape), wanted, (1, wanted[-1])):
        raise ValueError(
            f"`log_gate` must have shape {(*wanted[:-1], 1)} or {wanted}, with 1 for shared axes, "
            f"got {tuple(log_gate.shape)}; it is the sum of log gates over positions"
        )
    xp = namespace(log_gate)
    if truth(xp.any(log_gate > 0)):
        raise ValueError("`log_gate` must be at most 0, for a gate between 0 and 1")
    gates = made(log_gate, None, state.numerator.dtype)
    carry = decayed_carry(to_carry(state), *gates)
    return from_carry(carry, state, state, 0)  # type: ignore[arg-type]  # for its fingerprint


def _after_one(carry: Carry, log_gate: Array, mask: Array | None) -> Carry:
    """The carry after the gate of a single position."""
    gates = made(log_gate, mask, carry.numerator.dtype)
    return decayed_carry(carry, *(a[..., 0, :] for a in gates))


def _check_gate(name: str, gate: Any, key: Array, columns: tuple[int, ...]) -> None:
    """Refuse what is not one number for each key, or one for each of its features."""
    _check.array(name, gate)
    _check.together("key", key, name, gate)
    wanted = tuple(key.shape[:-1])
    shape = tuple(gate.shape)
    if len(shape) == 2 and len(wanted) > 1:
        fits = shape[0] == wanted[-1] and shape[1] in columns
    else:
        fits = _fits(shape[:-1], wanted, wanted[-1:]) and shape[-1] in columns
    if not fits:
        allowed = " or ".join(str((*wanted, n)) for n in dict.fromkeys(columns))
        raise ValueError(
            f"`{name}` must have shape {allowed}, with 1 for shared axes before the length, got "
            f"{shape}; it has a number for each key, and heads are those of the key"
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...], last: tuple[int, ...]) -> bool:
    """Whether axes are as wanted or 1, and the last one of those given."""
    return (
        len(shape) == len(wanted)
        and all(have in (1, want) for have, want in zip(shape[:-1], wanted[:-1], strict=True))
        and shape[-1] in last
    )
