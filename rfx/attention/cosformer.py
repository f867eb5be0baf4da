"""Attention whose weights fall off as a cosine of the distance, in time linear in the length."""

from __future__ import annotations

import math
from typing import Any

from rfx import _check
from rfx._xp import Array, namespace, truth
from rfx.attention.fourier_bias import attend_with_positions
from rfx.attention.state import State
from rfx.features import DrawnMap

__all__ = ["cosformer_attention"]


def cosformer_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap | None = None,
    max_length: int | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State]:
    """Attention with the weights φ(q_i)·φ(k_j) cos(π (i − j) / 2M), for lengths up to M.

    cos(a − b) = cos a cos b + sin a sin b, so that it is linear attention with twice the features.
    The factor is never negative within M positions.

    Parameters
    ----------
    query, key, value : Array
        As for `rfx.linear_attention`.
    features : DrawnMap, optional
        φ; by default max(x, 0), as in the paper, which has a feature for each coordinate.
    max_length : int, optional
        M, by default the length of the longer side. It must be given where states are used.
    is_causal, mask, initial_state, return_state, chunk_size, implementation
        As for `rfx.linear_attention`. Positions count from 0 on both sides, or on from those of
        the state; causal attention aligns queries and keys at their ends.

    Returns
    -------
    Array, shape (..., Hq, t, e), or a tuple of it and a `State`

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together, or there are more than ``max_length`` positions.

    References
    ----------
    Qin et al., cosFormer: rethinking softmax in attention, 2022.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> rfx.cosformer_attention(q, k, v, is_causal=True).shape
    (2, 100, 16)
    """
    _check.attention(query, key, value)
    longest = max(query.shape[-2], key.shape[-2])
    if max_length is None:
        if initial_state is not None or return_state:
            raise ValueError(
                "`max_length` must be given where a state is, since each part of a sequence must "
                "have the same; pass the largest length"
            )
        max_length = max(longest, 1)
    _check.positive_int("max_length", max_length)
    if initial_state is not None and isinstance(initial_state, State):
        length: Any = initial_state.length
        if truth(length + longest <= max_length) is False:
            longest += int(length)
    if longest > max_length:
        raise ValueError(
            f"`max_length` must be at least the number of positions, {longest}, since the cosine "
            f"is negative farther away, got {max_length}; pass a larger one"
        )
    if features is None:
        from rfx.features.pointwise import Deterministic  # not at import, as all specs

        features = Deterministic("relu").draw(query.shape[-1], seed=0, like=query)

    def of_positions(position: Array) -> Array:
        xp = namespace(position)
        angle = position * (0.5 * math.pi / max_length)
        return xp.concat([xp.cos(angle), xp.sin(angle)], axis=-1)

    return attend_with_positions(
        query,
        key,
        value,
        features,
        (of_positions, of_positions, 2),
        is_causal=is_causal,
        mask=mask,
        initial_state=initial_state,
        return_state=return_state,
        chunk_size=chunk_size,
        implementation=implementation,
    )
