"""What least squares in feature space needs of its rows, summed chunk by chunk."""

from __future__ import annotations

from typing import Any, NamedTuple

from rfx._xp import Array, full, has_float64, namespace
from rfx.dispatch import op
from rfx.ops.driver import EAGER, Driver
from rfx.ops.features import features as features_op

__all__ = ["Sums", "matrix", "merged", "no_rows", "normal", "predicted"]


class Sums(NamedTuple):
    """Of the rows seen, with their weights: means, and sums of products of what is left of them.

    weight : Σ w, shape (..., 1, 1)
    mean, target : Σ w φ / Σ w, shape (..., 1, m), and Σ w y / Σ w, shape (..., 1, k)
    gram, cross : Σ w (φ − mean)ᵀ(φ − mean), shape (..., m, m), and with y, shape (..., m, k)
    """

    weight: Array
    mean: Array
    target: Array
    gram: Array
    cross: Array


@op("normal")
def normal(
    features: Any,
    x: Array,
    y: Array,
    weights: Array | None,
    sums: Sums,
    *,
    chunk_size: int,
    driver: Driver = EAGER,
) -> Sums:
    """The sums with more rows: x (..., n, d) as placed, y (..., n, k), weights (..., n, 1) or None.

    Products of a chunk are in the map's dtype, sums over chunks in that of ``sums``.
    """

    def step(sums: Sums, chunk: tuple[Array, Array, Array | None]) -> tuple[Sums, None]:
        x, y, weights = chunk
        return merged(sums, _of_chunk(matrix(features, x), y, weights, sums.gram.dtype)), None

    return driver.scan(step, sums, (x, y, weights), x.shape[-2], chunk_size)[0]


@op("predicted")
def predicted(
    features: Any,
    x: Array,
    coefficients: Array,
    intercept: Array,
    *,
    chunk_size: int,
    driver: Driver = EAGER,
) -> Array:
    """φ(x) times (..., m, k), plus (..., 1, k), for placed points (..., n, d)."""

    def step(none: tuple[()], chunk: tuple[Array]) -> tuple[tuple[()], Array]:
        return none, namespace(x).matmul(matrix(features, chunk[0]), coefficients) + intercept

    return driver.scan(step, (), (x,), x.shape[-2], chunk_size)[1]


def matrix(features: Any, x: Array) -> Array:
    """Features of placed queries as plain numbers, (..., n, m)."""
    log, value = features_op(features, x, side="query")
    factor = namespace(x).exp(log)
    return factor if value is None else factor * value


def no_rows(like: Array, batch: tuple[int, ...], columns: int, targets: int) -> Sums:
    """Sums of no rows, in float64 where the library of ``like`` has it."""
    xp = namespace(like)
    dtype = xp.float64 if has_float64(xp) else like.dtype
    shapes = ((1, 1), (1, columns), (1, targets), (columns, columns), (columns, targets))
    return Sums(*(full(like, (*batch, *shape), 0.0, dtype) for shape in shapes))


def merged(first: Sums, second: Sums) -> Sums:
    """The sums of two sets of rows together.

    The means of both are brought to the common one: nothing is lost where they are large beside
    the deviations, as it would be in Σ φφᵀ − n mean meanᵀ.
    """
    xp = namespace(first.weight)
    weight = first.weight + second.weight
    share = second.weight / xp.where(weight > 0.0, weight, xp.ones_like(weight))
    by_mean, by_target = second.mean - first.mean, second.target - first.target
    apart = xp.matrix_transpose(by_mean) * (first.weight * share)
    return Sums(
        weight,
        first.mean + share * by_mean,
        first.target + share * by_target,
        first.gram + second.gram + apart * by_mean,
        first.cross + second.cross + apart * by_target,
    )


def _of_chunk(design: Array, y: Array, weights: Array | None, wide: Any) -> Sums:
    """Sums of the rows of one chunk, from their features."""
    xp = namespace(design)
    y = xp.astype(y, design.dtype, copy=False)
    if weights is None:
        total = full(design, (*design.shape[:-2], 1, 1), design.shape[-2], design.dtype)
        mean, target = (xp.mean(a, axis=-2, keepdims=True) for a in (design, y))
    else:
        weights = xp.astype(weights, design.dtype, copy=False)
        total = xp.sum(weights, axis=-2, keepdims=True)
        share = weights / xp.where(total > 0.0, total, xp.ones_like(total))
        mean, target = (xp.sum(share * a, axis=-2, keepdims=True) for a in (design, y))
    design, y = design - mean, y - target
    left = xp.matrix_transpose(design if weights is None else weights * design)
    found = (total, mean, target, xp.matmul(left, design), xp.matmul(left, y))
    return Sums(*(xp.astype(a, wide, copy=False) for a in found))
