"""Targets and weights of regression, checked."""

from __future__ import annotations

from typing import Any

from rfx import _check
from rfx._xp import Array, namespace, truth

__all__ = ["check_targets", "check_weights"]


def check_targets(x: Array, y: Array, names: tuple[str, str] = ("x", "y")) -> tuple[Array, bool]:
    """Targets with an axis for several, (..., n, k), and whether they came without one."""
    _check.array(names[1], y)
    _check.together(names[0], x, names[1], y)
    rows, shape = tuple(x.shape[:-1]), tuple(y.shape)
    if shape == rows:
        return y[..., None], True
    if shape[:-1] != rows:
        raise ValueError(
            f"`{names[1]}` must have shape {rows}, or {(*rows, 'k')} for several targets, got "
            f"{shape}; it has a number for each row of `{names[0]}`".replace("'", "")
        )
    return y, False


def check_weights(weights: Any, x: Array, name: str = "x") -> Array | None:
    """Weights as (..., n, 1), or None."""
    if weights is None:
        return None
    _check.array("weights", weights)
    _check.together(name, x, "weights", weights)
    rows = tuple(x.shape[:-1])
    if tuple(weights.shape) not in (rows, rows[-1:]):
        raise ValueError(
            f"`weights` must have shape {rows[-1:]} or {rows}, got {tuple(weights.shape)}; "
            f"it has a number for each row of `{name}`"
        )
    xp = namespace(weights)
    if truth(xp.all(xp.logical_and(weights >= 0.0, xp.isfinite(weights)))) is False:
        raise ValueError("`weights` must be finite and at least 0; leave a row out with 0")
    return xp.broadcast_to(weights, rows)[..., None]
