"""SOFT: Gaussian-kernel attention of tokens to themselves, with and without its norm."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, full, namespace, working_dtype
from rfx.attention.landmarks import (
    Rule,
    SegmentMeans,
    check_call,
    check_number,
    check_rule,
    landmark_gram,
    landmark_kernel,
)
from rfx.attention.products import kernel_product, visible
from rfx.dispatch import planned
from rfx.kernels import Kernel
from rfx.ops.inverse import Inverse, solve

__all__ = ["soft_attention"]


def _plan(
    query: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    landmarks: int | Rule = 128,
    ridge: float = 1e-3,
    normalize: bool = False,
    mask: Array | None = None,
    inverse: Inverse = "iteration",
    is_causal: bool = False,
) -> tuple[None, tuple[Any, ...], dict[str, Any]]:
    for name, given in (("query", query), ("value", value)):
        _check.array(name, given)
        _check.has_length(name, given)
    _check.together("query", query, "value", value)
    if tuple(query.shape[:-1]) != tuple(value.shape[:-1]):
        raise ValueError(
            "`query` and `value` must have equal batch axes, heads and lengths, got shapes "
            f"{tuple(query.shape)} and {tuple(value.shape)}; the queries are the keys too"
        )
    _check.mask(mask, query, ("mask", "query"))
    check_call(kernel, ridge, inverse, is_causal)
    rule = check_rule(landmarks, SegmentMeans)
    check_number(rule, query.shape[-2], "tokens")
    return None, (query, value, rule), {}


@planned(_plan)
def soft_attention(
    query: Array,
    value: Array,
    /,
    *,
    kernel: Kernel | None = None,
    landmarks: int | Rule = 128,
    ridge: float = 1e-3,
    normalize: bool = False,
    mask: Array | None = None,
    inverse: Inverse = "iteration",
    is_causal: bool = False,
) -> Array:
    """S V with S = κ(Q, Q̃) (κ(Q̃, Q̃) + ridge I)⁻¹ κ(Q̃, Q), landmarks Q̃ and Q for keys too.

    The target is κ(Q, Q) V; the default kernel is exp(−|q_i − q_j|² / (2 √d)). One projection
    serves for queries and keys, so that κ(Q, Q) is positive semi-definite and needs no softmax.
    Time and memory are linear in the length.

    Parameters
    ----------
    query : Array, shape (..., H, t, d), or (t, d)
        Queries, which are the keys too. There are no grouped queries, since a query head would have
        to share its projection with others.
    value : Array, shape (..., H, t, e), or (t, e)
        Of any real floating dtype, with the batch axes of ``query``.
    kernel : Kernel, optional
        Bounded and positive definite; ``Gaussian(bandwidth=d ** 0.25)`` by default.
    landmarks : int or Rule
        A number stands for `rfx.landmarks.SegmentMeans`.
    ridge : float
        Added to the diagonal of κ(Q̃, Q̃), whose entries are 1 for the default kernel.
    normalize : bool
        D^(−1/2) S D^(−1/2) in the place of S, where D is diagonal and holds the sums of the rows of
        S; a row whose sum is not positive counts as 0.
    mask : Array of bool, optional
        True for tokens to keep, of shape (t,) or of the shape of ``query`` without its last axis,
        where an axis may be 1. A masked token is absent from what others attend to and from the
        landmarks, and its own row is 0.
    inverse : {"iteration", "decomposition"}
        Matrix products only, or eigenvalues.
    is_causal : bool
        Refused: a landmark that one query may see would be in the future of another.

    Returns
    -------
    Array, shape (..., H, t, e), of the library, device and dtype of ``value``

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit together, there are more landmarks than tokens, ``ridge`` is negative
        or ``is_causal`` is set.

    Notes
    -----
    Computed in float32, or in float64 for float64. NaN in a visible token touches its own head.

    References
    ----------
    Lu et al., SOFT: softmax-free transformer with linear complexity, 2021; its normalised form: Lu
    et al., Softmax-free linear transformers, 2024. Their landmarks come from a convolution or a
    mean over a window of an image, and their inverse from Newton's iteration.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> q, v = np.random.default_rng(0).standard_normal((2, 2, 50, 16))
    >>> call = {"landmarks": 50, "ridge": 0.0, "inverse": "decomposition"}
    >>> exact = rfx.kernels.Gaussian(bandwidth=2.0)(q, q) @ v
    >>> bool(abs(rfx.soft_attention(q, v, **call) - exact).max() < 1e-10)
    True
    """
    *_, rule = _plan(
        query,
        value,
        kernel=kernel,
        landmarks=landmarks,
        ridge=ridge,
        normalize=normalize,
        mask=mask,
        inverse=inverse,
        is_causal=is_causal,
    )[1]
    xp, dtype = namespace(query), working_dtype(query)
    q, v = (xp.astype(a, dtype, copy=False) for a in (query, value))
    kernel = landmark_kernel(kernel, q)
    q, v = visible(q, mask), visible(v, mask)  # padding may hold NaN
    points, present = rule.choose(q, mask)
    among = landmark_gram(kernel, points, present)

    def attend(values: Array) -> Array:
        seen = visible(kernel_product(kernel, points, q, values), present)
        weights = solve(among, seen, ridge=ridge, inverse=inverse)
        return kernel_product(kernel, q, points, weights)

    if normalize:
        ones = full(v, (*v.shape[:-1], 1), 1.0, dtype)
        scale = _inverse_root(attend(visible(ones, mask)))
        out = scale * attend(scale * v)
    else:
        out = attend(v)
    return xp.astype(visible(out, mask), value.dtype, copy=False)


def _inverse_root(sums: Array) -> Array:
    """sums^(−1/2), 0 where it has none."""
    xp = namespace(sums)
    smallest = float(xp.finfo(sums.dtype).eps)
    positive = sums > smallest
    root = xp.sqrt(xp.where(positive, sums, xp.ones_like(sums)))
    return xp.where(positive, 1.0 / root, xp.zeros_like(sums))
