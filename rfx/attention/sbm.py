"""Attention on graphs of a stochastic block model, whose clusters queries and keys belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from rfx import _check
from rfx._xp import Array, full_precision, namespace, working_dtype
from rfx.attention.entmax import Known, attend_by_rows
from rfx.attention.products import default_scale
from rfx.attention.sbm_graph import (
    check_call,
    drawn_edges,
    first_row,
    kept_keys,
    rates_of,
    sbm_edges,
)
from rfx.dispatch import planned
from rfx.ops.edges import Edges, Memberships, attend_edges

__all__ = ["sbm_attention", "sbm_edges"]

Form = Literal["sampled", "expected"]
_FORMS = ("sampled", "expected")


def _plan(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    clusters: Array,
    membership: tuple[Array, Array] | None = None,
    form: Form = "sampled",
    edges: Edges | None = None,
    exploration: float = 0.01,
    seed: int = 0,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    _check.attention(query, key, value)
    check_call(query, key, clusters, membership, exploration, seed, is_causal, mask)
    if form not in _FORMS:
        raise ValueError(f"`form` must be one of {', '.join(_FORMS)}, got {form!r}")
    if scale is not None:
        _check.positive_number("scale", scale)
    if edges is not None:
        _check_edges(edges, query, key, form)
    return None, (query, key, value), {}


@planned(_plan)
def sbm_attention(
    query: Array,
    key: Array,
    value: Array,
    /,
    *,
    clusters: Array,
    membership: tuple[Array, Array] | None = None,
    form: Form = "sampled",
    edges: Edges | None = None,
    exploration: float = 0.01,
    seed: int = 0,
    scale: float | None = None,
    is_causal: bool = False,
    mask: Array | None = None,
) -> Array:
    """Σ_j A_ij e^(q_i·k_j / √d) v_j over the same without values; A is drawn by P = Q̂ S K̂ᵀ + ε.

    Q̂ = sigmoid(Q Cᵀ) and K̂ = sigmoid(K Cᵀ) say how far tokens belong to the clusters C, and S is
    the softmax of C Cᵀ over all its entries. ``form="sampled"`` draws A_ij = 1 with probability
    1 − exp(−P_ij), and computes on the pairs drawn alone: time and memory are linear in their
    number. ``form="expected"`` has P for A, by blocks of queries, in quadratic time.

    Parameters
    ----------
    query, key, value : Array
        As in `rfx.linear_attention`, grouped queries included.
    clusters : Array, shape (c, d) or (Hq, c, d)
        C. With ``membership`` given its last axis may have any length.
    membership : tuple of two Arrays, shapes (..., Hq, t, c) and (..., Hq, s, c), optional
        Q̂ and K̂, at least 0, for example of an MLP.
    form : {"sampled", "expected"}
    edges : Edges, optional
        Of `rfx.sbm_edges`, drawn before, in place of ``seed``. Needed inside ``jax.jit``, where
        nothing can be drawn.
    exploration : float
        ε, at least 0, a rate for every pair; the number of edges has ε t s with it.
    seed : int
        The same one draws the same graph; in training give another at each step.
    scale : float, optional
        Of the scores, ``d ** -0.5`` by default.
    is_causal : bool
        Query i sees the keys j <= i + s - t; needs t <= s.
    mask : Array of bool, optional
        True for keys to keep, as in `rfx.linear_attention`.

    Returns
    -------
    Array, shape (..., Hq, t, e), of the library, device and dtype of ``value``
        Zeros for a query with no edge, or no key.

    Raises
    ------
    TypeError, ValueError
        As `rfx.linear_attention`; if the clusters or memberships do not fit, are negative, hold NaN
        or make rates above 100 on average where a graph is drawn, or if it would be drawn while a
        compiler traces.

    Notes
    -----
    Computed in float32, or in float64 for float64; the graph is drawn by NumPy on the host. In
    torch and JAX the gradient with respect to A_ij goes to P_ij for the pairs that were drawn, cut
    to [−1, 1], and from there to clusters and memberships; pairs that were not drawn have none,
    which is what ε is for.

    References
    ----------
    Cho et al., Transformers meet stochastic block models: attention with data-adaptive sparsity and
    cost, 2022; Rohe et al., A note on quickly sampling a sparse matrix with low rank expectation,
    2018, for the graph.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> from rfx.attention.sbm import sbm_attention
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 2, 50, 16))
    >>> c = np.random.default_rng(1).standard_normal((8, 16))
    >>> sbm_attention(q, k, v, clusters=c, seed=3).shape
    (2, 50, 16)
    """
    _plan(
        query,
        key,
        value,
        clusters=clusters,
        membership=membership,
        form=form,
        edges=edges,
        exploration=exploration,
        seed=seed,
        scale=scale,
        is_causal=is_causal,
        mask=mask,
    )
    xp, scale = namespace(query), default_scale(query, scale)
    rates = rates_of(query, key, clusters, membership, exploration, mask)
    if form == "expected":
        return attend_by_rows(
            query,
            key,
            value,
            alpha=1.0,
            scale=scale,
            is_causal=is_causal,
            mask=mask,
            known=_expected(rates),
        )
    if edges is None:
        edges = drawn_edges(rates, query, key, seed, is_causal, mask)
    else:
        edges = edges.within(first_row(query, key, is_causal), kept_keys(mask, query))
    dtype = working_dtype(query)
    q, k, v = (xp.astype(a, dtype, copy=False) for a in (query, key, value))
    out = attend_edges(q, k, v, edges, scale=scale, rates=rates)
    return xp.astype(out, value.dtype, copy=False)


def _expected(rates: Memberships) -> Callable[[slice, slice], Known]:
    xp, left = namespace(rates.query), rates.left()

    def known(rows: slice, columns: slice) -> Known:
        right = xp.matrix_transpose(rates.key[..., columns, :])
        with full_precision(left):
            rate = xp.matmul(left[..., rows, :], right) + rates.exploration
        seen = rate > 0.0
        return Known(seen, xp.log(xp.where(seen, rate, xp.ones_like(rate))))

    return known


def _check_edges(edges: Any, query: Array, key: Array, form: str) -> None:
    if not isinstance(edges, Edges):
        raise TypeError(f"`edges` must be what rfx.sbm_edges returns, got {type(edges).__name__}")
    wanted = (*query.shape[:-1], key.shape[-2])
    if edges.shape != tuple(wanted):
        raise ValueError(
            f"`edges` were drawn for pairs of shape {edges.shape}, but here they have "
            f"{tuple(wanted)}; draw them again"
        )
    if form != "sampled":
        raise ValueError(f"`edges` must be left out for form={form!r}, which draws no graph")
