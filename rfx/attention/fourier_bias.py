"""A factor, or a bias, of the distance that is a sum of cosines: in linear time, without an FFT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rfx import _check
from rfx._xp import Array, namespace
from rfx.attention.linear import _check_features, _check_values, linear_attention
from rfx.attention.positional import PositionalMap, placed_with, positions
from rfx.attention.state import State, check_kind
from rfx.features import DrawnMap

__all__ = ["attend_with_positions", "fourier_attention", "fourier_points"]

OfPositions = tuple[Callable[[Array], Array], Callable[[Array], Array], int]
"""Features (t, r) or (H, t, r) of positions (t, 1), of queries and of keys, and r."""


def fourier_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    features: DrawnMap,
    frequencies: Array,
    amplitudes: Array,
    is_causal: bool = False,
    mask: Array | None = None,
    initial_state: State | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, State]:
    """Attention with the weights φ(q_i)·φ(k_j) c(i − j), where c(x) = Σ_r a_r cos(w_r x).

    2R features of positions multiply those of the points. For an additive bias of the logits, as in
    FourierLearner transformers, see `fourier_points`.

    Parameters
    ----------
    query, key, value : Array
        As for `rfx.linear_attention`.
    features : DrawnMap
        φ.
    frequencies, amplitudes : Array, shape (R,), or (H, R) for each key head
        w in radians for each position, and a. Both may be trained. Where c is negative weights are,
        and where it adds up to nothing a denominator vanishes: keep the sum of the amplitudes
        positive, and frequencies small or decaying, or the output is no average of values.
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
        If shapes do not fit together.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> phi = rfx.features.Positive(num_features=64).draw(16, seed=0, like=q)
    >>> w, a = np.asarray([0.0, 0.01]), np.asarray([1.0, 0.5])
    >>> rfx.fourier_attention(q, k, v, features=phi, frequencies=w, amplitudes=a).shape
    (2, 100, 16)
    """
    _check.attention(query, key, value)
    _check_waves(frequencies, amplitudes, key)
    waves = _waves(frequencies)

    def of_queries(position: Array) -> Array:
        xp = namespace(position)
        twice = xp.concat([amplitudes, amplitudes], axis=-1)[..., None, :]
        return waves(position) * xp.astype(twice, position.dtype, copy=False)

    return attend_with_positions(
        query,
        key,
        value,
        features,
        (of_queries, waves, 2 * frequencies.shape[-1]),
        is_causal=is_causal,
        mask=mask,
        initial_state=initial_state,
        return_state=return_state,
        chunk_size=chunk_size,
        implementation=implementation,
    )


def fourier_points(
    query: Array,
    key: Array,
    /,
    *,
    frequencies: Array,
    amplitudes: Array,
    scale: float,
    is_causal: bool = False,
) -> tuple[Array, Array]:
    """Queries and keys (..., d + 2R) whose logits have the bias Σ_r a_r cos(w_r (i − j)).

    scale · q'_i·k'_j = scale · q_i·k_j + Σ_r a_r cos(w_r (i − j)): any map of the softmax kernel
    with this scale, drawn for d + 2R, then estimates attention with a relative bias, and
    `rfx.kernel_attention` has it exactly. That is the FourierLearner transformer.

    Parameters
    ----------
    query, key : Array
        As for `rfx.linear_attention`.
    frequencies, amplitudes : Array, shape (R,), or (H, R) for each key head
    scale : float
        Of the kernel, such as 1/√d: give it to the kernel too, ``rfx.kernels.Softmax(scale=...)``.
    is_causal : bool
        Positions are aligned at their ends; otherwise both count from 0.

    Returns
    -------
    tuple of Array
        In the dtype of ``query``.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together.

    References
    ----------
    Choromanski et al., Learning a Fourier transform for linear relative positional encodings in
    transformers, 2024.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> w, a = np.asarray([0.05, 0.2]), np.asarray([1.0, -0.5])
    >>> p, r = rfx.attention.fourier_points(q, k, frequencies=w, amplitudes=a, scale=0.25)
    >>> phi = rfx.features.Positive(64, kernel=rfx.kernels.Softmax(scale=0.25))
    >>> rfx.linear_attention(p, r, v, features=phi.draw(20, seed=0, like=q)).shape
    (2, 100, 16)
    """
    _check.attention(query, key, key)
    _check_waves(frequencies, amplitudes, key)
    share = 1.0 / _check.positive_number("scale", scale) ** 0.5
    xp, waves = namespace(query), _waves(frequencies)
    t, s = query.shape[-2], key.shape[-2]
    twice = xp.concat([amplitudes, amplitudes], axis=-1)[..., None, :]
    own = waves(positions(frequencies, t, s - t if is_causal else 0)) * (share * twice)
    theirs = waves(positions(frequencies, s, 0)) * share
    joined = []
    for x, position in ((query, own), (key, theirs)):
        if position.ndim == 3 and position.shape[0] != x.shape[-3]:
            position = xp.repeat(position, x.shape[-3] // position.shape[0], axis=0)
        position = xp.astype(position, x.dtype, copy=False)
        wide = xp.broadcast_to(position, (*x.shape[:-1], position.shape[-1]))
        joined.append(xp.concat([x, wide], axis=-1))
    return joined[0], joined[1]


def _waves(frequencies: Array) -> Callable[[Array], Array]:
    def waves(position: Array) -> Array:
        xp = namespace(position)
        angle = position * xp.astype(frequencies, position.dtype, copy=False)[..., None, :]
        return xp.concat([xp.cos(angle), xp.sin(angle)], axis=-1)

    return waves


def _check_waves(frequencies: Any, amplitudes: Any, key: Array) -> None:
    """Refuse what are not R numbers each, or R for each key head."""
    for name, given in (("frequencies", frequencies), ("amplitudes", amplitudes)):
        _check.array(name, given)
        _check.together("key", key, name, given)
    heads = key.shape[-3] if key.ndim > 2 else None
    shape = tuple(frequencies.shape)
    fits = frequencies.ndim == 1 or (frequencies.ndim == 2 and shape[0] == heads)
    if not fits or tuple(amplitudes.shape) != shape or shape[-1] == 0:
        raise ValueError(
            "`frequencies` and `amplitudes` must both have shape (R,), or (H, R) for the "
            f"{heads or 'no'} heads of the key, got {shape} and {tuple(amplitudes.shape)}"
        )


def attend_with_positions(
    query: Array,
    key: Array,
    value: Array,
    features: DrawnMap,
    of_positions: OfPositions,
    *,
    is_causal: bool,
    mask: Array | None,
    initial_state: State | None,
    **options: Any,
) -> Array | tuple[Array, State]:
    """Linear attention with φ(x_i) ⊗ p(i); the arrays are checked to be points."""
    _check_features(features, query, key)
    _check.mask(mask, key)
    _check_values(features, query, key, mask)
    start: Any = 0
    if initial_state is not None:
        check_kind("initial_state", initial_state)
        start = initial_state.length
    t, s = query.shape[-2], key.shape[-2]
    of_queries, of_keys, count = of_positions
    if mask is not None and features.moves("key"):  # padding may hold NaN
        key = namespace(key).where(mask[..., None], key, namespace(key).zeros_like(key))
    first = start + (s - t) if is_causal else start
    like = features.like
    query_position = of_queries(positions(like, t, first))
    key_position = of_keys(positions(like, s, start))
    positional = PositionalMap(features.spec, features, features.fingerprint, count)
    return linear_attention(
        placed_with(features, query, query_position, key, "query"),
        placed_with(features, key, key_position, key, "key"),
        value,
        features=positional,
        is_causal=is_causal,
        mask=mask,
        initial_state=initial_state,
        **options,
    )
