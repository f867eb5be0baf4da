"""Features in log space, and the arrays of one side of a map."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from rfx._xp import Array, device_kind, full_precision, namespace, truth
from rfx.projections.structured import Structured

__all__ = ["LogFeatures", "Side", "Weight"]

Weight: TypeAlias = Any
"""A matrix (d, w), as an array or as a `Structured`."""


class LogFeatures(NamedTuple):
    """Features as ``value * exp(log_scale)``, so that no unbounded number is exponentiated.

    ``log_scale`` has shape (..., t, m) or (..., t, 1); ``value`` has shape (..., t, m) and is
    bounded, or is None for 1.
    """

    log_scale: Array
    value: Array | None

    def exp(self) -> Array:
        """The plain feature matrix, shape (..., t, m); may overflow where the logs are large."""
        xp, on_cpu = namespace(self.log_scale), device_kind(self.log_scale) == "cpu"
        if self.value is not None and on_cpu and truth(xp.all(self.log_scale == 0.0)):
            return self.value  # a product with ones would cost a pass over the matrix
        scale = xp.exp(self.log_scale)
        return scale if self.value is None else self.value * scale


class Side(NamedTuple):
    """Arrays of one side of a map, the query's or the key's; a leading axis of heads is optional.

    A point x is first placed, z = (x − shift) T. Features are made of z @ weight + bias, and of the
    row term, which all features of a row share:
    constant + linear·z − Σ quadratic z² − |z metric|² / 2.

    weight : shape (d, w), or `Structured`: the frequencies, in the unit of the placed points.
    bias : shape (w,), or None for 0.
    quadratic, linear : shape (d,), or None for 0.
    metric : shape (d,) or (d, r), or None for 0.
    constant : shape (), or None for 0.
    shift : shape (d,), or None for 0.
    transform : T, shape (d,) for a diagonal one or (d, r), or None for the identity.
    frequency, phase : shapes of weight and bias, for maps with angles z @ frequency + phase.
    scale : shape (m,), or None for 1: factors of the features of a `PolynomialMap`; shape (w,)
        for a `CellMap`, its values.
    twist : shape (d,), or None for 0: angles have the term Σ twist z² besides.
    """

    weight: Weight
    bias: Array | None = None
    quadratic: Array | None = None
    linear: Array | None = None
    constant: Array | None = None
    metric: Array | None = None
    shift: Array | None = None
    transform: Array | None = None
    frequency: Weight | None = None
    phase: Array | None = None
    scale: Array | None = None
    twist: Array | None = None

    @property
    def moves(self) -> bool:
        """Whether points are placed elsewhere than they are."""
        return self.shift is not None or self.transform is not None

    def place(self, x: Array) -> Array:
        """(x − shift) T in the map's dtype, or x itself where a map has neither."""
        if not self.moves:
            return x
        with full_precision(x):
            x = namespace(x).astype(x, self.weight.dtype, copy=False)
            if self.shift is not None:
                x = x - self.shift[..., None, :]
            return x if self.transform is None else self._times(x, self.transform)

    def project(self, z: Array) -> Array:
        """``z @ weight + bias`` in the map's dtype, shape (..., t, w)."""
        return _projected(z, self.weight, self.bias)

    def angle(self, z: Array) -> Array:
        """``z @ frequency + phase + z² @ twist`` in the map's dtype, shape (..., t, w)."""
        angle = _projected(z, self.frequency, self.phase)
        if self.twist is None:
            return angle
        z = namespace(z).astype(z, self.weight.dtype, copy=False)
        return angle + namespace(z).matmul(z * z, self.twist[..., :, None])

    def row_term(self, z: Array) -> Array:
        """The part of the log that is common to all features of a row, shape (..., t, 1)."""
        xp = namespace(z)
        z = xp.astype(z, self.weight.dtype, copy=False)
        if self.quadratic is None:
            term = xp.zeros_like(z[..., :1])
        else:
            term = xp.matmul(z * z, -self.quadratic[..., :, None])
        if self.metric is not None:
            far = self._times(z, self.metric)
            term = term - 0.5 * xp.sum(far * far, axis=-1, keepdims=True)
        if self.linear is not None:
            term = term + xp.matmul(z, self.linear[..., :, None])
        return term if self.constant is None else term + self.constant[..., None, None]

    @property
    def has_plain_row_term(self) -> bool:
        """Whether the row term is quadratic alone."""
        return self.linear is None and self.constant is None and self.metric is None

    def _times(self, z: Array, factor: Array) -> Array:
        """By a diagonal, or by a matrix."""
        if factor.ndim == self.weight.ndim:
            return namespace(z).matmul(z, factor)
        return z * factor[..., None, :]


def _projected(z: Array, weight: Any, bias: Array | None) -> Array:
    z = namespace(z).astype(z, weight.dtype, copy=False)
    dense = not isinstance(weight, Structured)
    projected = namespace(z).matmul(z, weight) if dense else weight.project(z)
    return projected if bias is None else projected + bias[..., None, :]
