"""Attention by a Taylor polynomial, with an exact window of recent keys."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array
from rfx.attention.window import Plan, WindowState, attend_with_window, window_plan
from rfx.dispatch import planned
from rfx.features import DrawnMap
from rfx.kernels import Kernel, Softmax

__all__ = ["based_attention"]


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    window: int = 64,
    features: DrawnMap | None = None,
    kernel: Kernel | None = None,
    mask: Array | None = None,
    initial_state: WindowState | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Plan:
    """Check the arguments, and say which op runs with what."""
    return window_plan(
        query,
        key,
        value,
        features=_map(query, key, value, features, kernel),
        kernel=kernel,
        window=window,
        mask=mask,
        initial_state=initial_state,
        chunk_size=chunk_size,
        implementation=implementation,
    )


@planned(_plan)
def based_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    window: int = 64,
    features: DrawnMap | None = None,
    kernel: Kernel | None = None,
    mask: Array | None = None,
    initial_state: WindowState | None = None,
    return_state: bool = False,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, WindowState]:
    """Causal attention with weights exp(q·k / √d) of the last keys and φ(q)·φ(k) of older ones.

    One denominator is shared by both. φ is by default the Taylor map of order 2, whose φ(q)·φ(k) is
    1 + s + s²/2 for s = q·k / √d. With a window as long as the sequence it is exact softmax
    attention. Time and memory are linear in the length.

    Parameters
    ----------
    query, key, value : Array
        As for `rfx.linear_attention`, with t <= s: query i sees the keys j <= i + s - t. The Taylor
        map has 1 + d + d (d + 1)/2 features, so that d is best kept near 16.
    window : int
        How many keys are weighed exactly, a query's own among them.
    features : DrawnMap, optional
        φ, any map; by default ``Taylor(order=2, kernel=Softmax())``. Drawing it takes longer than a
        step of decoding: pass it there, and where torch.compile traces.
    kernel : Kernel, optional
        Of the exact weights; by default ``features.kernel``, which is ``Softmax()`` for the default
        map.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`. A masked key takes a place in the
        window all the same.
    initial_state : WindowState, optional
        What came before, of a call with the same map and window. It is not written to.
    return_state : bool
        Return the `WindowState` after the last key too.
    chunk_size : int, optional
        Positions worked on at once; chosen by default. The result differs by rounding only.
    implementation : str, optional
        ``"portable"`` or the name of a fast path (see `rfx.explain`), which must be able to run.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``
        With ``return_state``, a tuple of it and a `WindowState`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes, the map or the state do not fit together, or there are more queries than keys.

    Notes
    -----
    The paper has layers of Taylor attention and layers of window attention, with projections of
    their own; here both are in one layer and of the same queries and keys. For s well above 0 the
    polynomial is far below exp(s), so that an old key with a large weight loses most of it.

    Dtypes and NaN are as in `rfx.linear_attention`.

    References
    ----------
    Arora et al., Simple linear attention language models balance the recall-throughput tradeoff,
    2024.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.based import based_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 100, 16))
    >>> based_attention(q, k, v, window=32).shape
    (2, 100, 16)
    >>> exact = rfx.kernel_attention(q, k, v, is_causal=True)
    >>> bool(np.allclose(based_attention(q, k, v, window=100), exact))
    True
    """
    return attend_with_window(
        query,
        key,
        value,
        features=_map(query, key, value, features, kernel),
        kernel=kernel,
        window=window,
        mask=mask,
        initial_state=initial_state,
        return_state=return_state,
        chunk_size=chunk_size,
        implementation=implementation,
    )


def _map(
    query: Array, key: Array, value: Array, features: DrawnMap | None, kernel: Any
) -> DrawnMap:
    """The map that is given, or the paper's."""
    if not isinstance(kernel, Kernel | None):
        raise TypeError(
            f"`kernel` must be a record of rfx.kernels, got {kernel!r}; "
            "pass for example rfx.kernels.Softmax()"
        )
    if features is not None:
        return features
    _check.attention(query, key, value)
    from rfx.features.taylor import Taylor  # not at import, as all specs

    return Taylor(order=2, kernel=Softmax()).draw(query.shape[-1], seed=0, like=query)
