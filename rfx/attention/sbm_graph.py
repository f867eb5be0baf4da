"""Random graphs of a stochastic block model, whose clusters queries and keys belong to."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from rfx import _check
from rfx._xp import Array, constant, full_precision, namespace, to_numpy, truth, working_dtype
from rfx.attention.products import repeat_heads, visible
from rfx.ops.edges import Edges, Memberships, draw_edges
from rfx.ops.entmax import entmax

__all__ = ["check_call", "drawn_edges", "first_row", "kept_keys", "rates_of", "sbm_edges"]

Host = np.ndarray[Any, Any]
_MOST = 100
"""Mean rate of the pairs of a head: what is drawn has repetitions, which cost time and memory."""


def sbm_edges(
    query: Array,
    key: Array,
    /,
    *,
    clusters: Array,
    membership: tuple[Array, Array] | None = None,
    exploration: float = 0.01,
    seed: int = 0,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Edges:
    """Draw the graph of `rfx.sbm_attention`: pair (i, j) is there with 1 − exp(−P_ij).

    Parameters
    ----------
    query, key, clusters, membership, exploration, seed, is_causal, mask
        As there.

    Returns
    -------
    Edges

    Raises
    ------
    TypeError, ValueError
        As there.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention.sbm import sbm_edges
    >>> q, k = np.random.default_rng(0).standard_normal((2, 2, 50, 16))
    >>> c = np.random.default_rng(1).standard_normal((8, 16))
    >>> sbm_edges(q, k, clusters=c).shape
    (2, 50, 50)
    """
    _check.attention(query, key, key)
    check_call(query, key, clusters, membership, exploration, seed, is_causal, mask)
    rates = rates_of(query, key, clusters, membership, exploration, mask)
    return drawn_edges(rates, query, key, seed, is_causal, mask)


def rates_of(
    query: Array,
    key: Array,
    clusters: Array,
    membership: tuple[Array, Array] | None,
    exploration: float,
    mask: Array | None,
) -> Memberships:
    """What pairs have by clusters; masked keys count as 0."""
    xp, dtype = namespace(query), working_dtype(query)
    c = xp.astype(clusters, dtype, copy=False)
    with full_precision(query):
        inner = xp.matmul(c, xp.matrix_transpose(c))
        flat = entmax(xp.reshape(inner, (*inner.shape[:-2], -1)), alpha=1.0)
        middle = xp.reshape(flat, inner.shape)
        if membership is None:
            sides = (query, visible(key, mask))
            q, k = (xp.astype(a, dtype, copy=False) for a in sides)
            if k.ndim > 2:
                k = repeat_heads(k, q.shape[-3], axis=-3)
            q, k = (_sigmoid(xp.matmul(a, xp.matrix_transpose(c))) for a in (q, k))
        else:
            q, k = (xp.astype(a, dtype, copy=False) for a in membership)
            k = visible(k, _for_heads(mask, q))
    return Memberships(q, middle, k, float(exploration))


def _sigmoid(x: Array) -> Array:
    xp = namespace(x)
    return 0.5 * (1.0 + xp.tanh(0.5 * x))


def _for_heads(mask: Array | None, query: Array) -> Array | None:
    """A key mask (..., H, s) for query heads, where it has heads."""
    if mask is None or mask.ndim < 2 or mask.shape[-2] == 1:
        return mask
    return repeat_heads(mask, query.shape[-3], axis=-2)


def drawn_edges(
    rates: Memberships, query: Array, key: Array, seed: int, is_causal: bool, mask: Array | None
) -> Edges:
    """The graph of these rates, drawn on the host."""
    xp = namespace(query)
    arrays = [constant(a) for a in (rates.query, rates.middle, rates.key)]
    if any(truth(xp.all(a >= 0.0)) is None for a in arrays):
        raise TypeError(
            "a graph is drawn on the host, which a compiled function cannot do; draw it before "
            "with rfx.sbm_edges and pass edges=, or take form='expected'"
        )
    q, middle, k = (to_numpy(a).astype(np.float64) for a in arrays)
    for name, side in (("query", q), ("key", k)):
        if not (np.isfinite(side).all() and (side >= 0.0).all()):
            raise ValueError(
                f"the memberships of `{name}` must be finite and at least 0 to draw a graph, got "
                "others; mask those keys, or mend the MLP they come from"
            )
    host = Memberships(q, middle, k, rates.exploration)
    _check_rates(host)
    return draw_edges(host, seed, first_row(query, key, is_causal), kept_keys(mask, query))


def _check_rates(rates: Memberships) -> None:
    """Refuse rates at which all pairs would be drawn, many times over."""
    pairs = max(rates.query.shape[-2] * rates.key.shape[-2], 1)
    with np.errstate(all="ignore"):  # an overflow is refused too
        rows = np.sum(rates.left(), axis=-2)
        mean = np.sum(rows * np.sum(rates.key, axis=-2), axis=-1) / pairs + rates.exploration
    if not (mean <= _MOST).all():
        raise ValueError(
            f"the rates of pairs must be at most {_MOST} on average to draw a graph, got "
            f"{np.max(mean):.1g}; take smaller memberships, clusters or `exploration`: from a rate "
            "of 1 on most pairs are drawn"
        )


def first_row(query: Array, key: Array, is_causal: bool) -> int | None:
    """The last key that the first query sees, or None for all."""
    return key.shape[-2] - query.shape[-2] if is_causal else None


def kept_keys(mask: Array | None, query: Array) -> Host | None:
    """The key mask for query heads, on the host."""
    if mask is None:
        return None
    if truth(namespace(mask).all(mask)) is None:
        raise TypeError(
            "`mask` chooses edges on the host, which a compiled function cannot do; leave it out "
            "and give it to rfx.sbm_edges"
        )
    return to_numpy(_for_heads(mask, query))


def check_call(
    query: Array,
    key: Array,
    clusters: Array,
    membership: tuple[Array, Array] | None,
    exploration: float,
    seed: int,
    is_causal: bool,
    mask: Array | None,
) -> None:
    """Refuse what is wrong with the graph."""
    _check.mask(mask, key)
    if is_causal:
        _check.causal_lengths(query, key)
    _check_clusters(clusters, query, membership is None)
    if membership is not None:
        _check_membership(membership, clusters, query, key)
    if not isinstance(exploration, numbers.Real) or isinstance(exploration, bool):
        raise TypeError(f"`exploration` must be a number, got {exploration!r}; pass 0.01")
    if not 0.0 <= exploration < float("inf"):
        raise ValueError(f"`exploration` must be finite and at least 0, got {exploration!r}")
    _check.seed(seed)


def _check_clusters(clusters: Array, query: Array, compared: bool) -> None:
    _check.array("clusters", clusters)
    _check.together("query", query, "clusters", clusters)
    heads = query.shape[-3] if query.ndim > 2 else None
    shape = tuple(clusters.shape)
    fits = len(shape) == 2 or (len(shape) == 3 and shape[0] == heads)
    if not fits or 0 in shape or (compared and shape[-1] != query.shape[-1]):
        raise ValueError(
            f"`clusters` must have shape (c, d), or ({heads or 'heads'}, c, d) with d="
            f"{query.shape[-1]}, got {shape}; give one row of d numbers for each cluster"
        )


def _check_membership(membership: Any, clusters: Array, query: Array, key: Array) -> None:
    if not isinstance(membership, tuple) or len(membership) != 2:
        raise TypeError(
            f"`membership` must be a tuple of two arrays, got {_kind(membership)}; pass "
            "(query_membership, key_membership)"
        )
    for side, given, like in (("query", membership[0], query), ("key", membership[1], key)):
        name = f"membership of {side}"
        _check.array(name, given)
        _check.together("query", query, name, given)
        wanted = (*query.shape[:-2], like.shape[-2], clusters.shape[-2])
        if tuple(given.shape) != wanted:
            raise ValueError(
                f"`{name}` must have shape {wanted}, a number for each query head, token and "
                f"cluster, got {tuple(given.shape)}"
            )


def _kind(given: Any) -> str:
    return f"a tuple of {len(given)}" if isinstance(given, tuple) else type(given).__name__
