"""Attention in time linear in the length, through the features of a drawn map."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, namespace
from rfx.attention.state import State, check_initial, from_carry, to_carry
from rfx.dispatch import Op, check_implementation, planned
from rfx.features import DrawnMap
from rfx.features._drawn import check_drawn
from rfx.ops import bidirectional, causal
from rfx.ops.carry import empty
from rfx.ops.heads import fold_heads, unfold_heads

__all__ = ["linear_attention"]

Plan = tuple[Op, tuple[Any, ...], dict[str, Any]]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    is_causal: bool = False,
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
    if initial_state is not None:
        check_initial(initial_state, features, key, value)
    elif is_causal:
        _check.causal_lengths(query, key, ", or an initial_state")
    check_implementation(implementation)
    if chunk_size is not None:
        _check.positive_int("chunk_size", chunk_size)
    # A single query sees all keys, causal or not.
    op = causal if is_causal and query.shape[-2] > 1 else bidirectional
    if initial_state is None:
        carry = empty(features, key, value)
    else:
        meets_keys = op is bidirectional and mask is None and key.shape[-2] > 0
        carry = to_carry(initial_state, meets_keys)
    args = (features, query, key, value, None if mask is None else mask[..., None], carry)
    size = _chunk_size(is_causal) if chunk_size is None else chunk_size
    options = {"chunk_size": size, "implementation": implementation}
    return op, args, options


@planned(_plan)
def linear_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    is_causal: bool = False,
    mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State]:
    """Attention Σ_k φ(q)·φ(k) v_k / Σ_k φ(q)·φ(k), in time linear in the length.

    The target is ``rfx.kernel_attention(query, key, value, kernel=features.kernel)``; the scale
    of the logits belongs to the kernel. The estimate is a ratio, so it is consistent, not unbiased.
    Features are never held for the whole sequence: beyond inputs and output the memory is that of
    the state and of one chunk.

    Parameters
    ----------
    query : Array, shape (..., Hq, t, d), or (t, d)
    key : Array, shape (..., H, s, d), or (s, d)
        Of the dtype of ``query``. Hq may be a multiple of H (grouped queries): query head i
        attends to key head i // (Hq / H).
    value : Array, shape (..., H, s, e), or (s, e)
        Of any real floating dtype. The other batch axes of all three are equal.
    features : DrawnMap
        Drawn for d, and for H heads if it has an axis of heads. A float32 map serves float16,
        bfloat16 and float32; a float64 map serves float64.
    is_causal : bool
        Query i sees the state and the keys j <= i + s - t. t > s needs ``initial_state``; the
        first t - s queries then see that alone.
    mask : Array of bool, optional
        True for keys to keep; shape (s,), or ``key.shape[:-1]`` with 1 for shared axes. A masked
        key is absent, whatever it and its value hold. A query with no key gives zeros.
    initial_state : State, optional
        Of the same map: keys seen before, which every query sees. It is not written to. While a
        compiler traces, the map's fingerprint has no value and is not compared.
    return_state : bool
        Return the state with the new keys too.
    chunk_size : int, optional
        Positions worked on at once; chosen by default. The result differs by rounding only.
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
        If shapes, devices, the map or the state do not fit together.

    Notes
    -----
    Projections, logs and sums are computed in float32, or in float64 for float64. NaN in a query
    touches its own row; in a key or value, the rows that may see it and, if causal, no more than
    its own chunk besides.

    References
    ----------
    Katharopoulos et al., Transformers are RNNs, 2020, equations 5 and 9 to 12; Choromanski et al.,
    Rethinking attention with Performers, 2021, equation 4.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16)).astype(np.float32)
    >>> phi = rfx.features.Positive(num_features=64).draw(16, seed=0, like=q)
    >>> rfx.linear_attention(q, k, v, features=phi, is_causal=True).shape
    (2, 100, 16)
    """
    op, args, options = _plan(
        query,
        key,
        value,
        features=features,
        is_causal=is_causal,
        mask=mask,
        initial_state=initial_state,
        chunk_size=chunk_size,
        implementation=implementation,
    )
    output, carry = op(features, *_placed(features, *args[1:5]), args[5], **options)
    output = namespace(value).astype(output, value.dtype, copy=False)
    if not return_state:
        return output
    s = key.shape[-2]
    return output, from_carry(carry, features, initial_state, s, mask is None and s > 0)


def _placed(
    features: DrawnMap, query: Array, key: Array, value: Array, mask: Array | None
) -> tuple[Array, Array, Array, Array | None]:
    """Queries and keys as the ops take them; see `rfx.features.DrawnMap.place`."""
    if features.moves("query"):
        folded = fold_heads(query, key.shape[-3:-2])
        query = unfold_heads(features.place(folded, "query"), query)
    if features.moves("key"):
        if mask is not None:  # padding may hold NaN, which would come back through the gradient
            key = namespace(key).where(mask, key, namespace(key).zeros_like(key))
        key = features.place(key, "key")
    return query, key, value, mask


def _check_features(features: DrawnMap, query: Array, key: Array) -> None:
    check_drawn(features, "query")
    _check.map_serves(features, query, "query")
    _check.map_heads(features, key, "key")


def _check_values(features: DrawnMap, query: Array, key: Array, mask: Array | None) -> None:
    """Refuse points that the kernel does not take; masked keys may be anything."""
    features.check_values(query, "query")
    features.check_values(key, "key", mask)


def _chunk_size(is_causal: bool) -> int:
    """Long enough for matrix products, short enough for a chunk's features to stay in cache."""
    return 128 if is_causal else 512
