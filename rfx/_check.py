"""Checks of arguments, each raising one sentence: what was wanted, what came, and the fix."""

from __future__ import annotations

import math
import numbers
from typing import Any

from rfx._xp import Array, is_real_floating, library, namespace, same_device

__all__: list[str] = []


def positive_number(name: str, value: Any) -> float:
    """The value as a float, if it is a positive finite real number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {value!r}; pass a positive float")
    if not (math.isfinite(value) and float(value) > 0.0):
        raise ValueError(f"`{name}` must be positive and finite, got {value!r}")
    return float(value)


def number(name: str, value: Any) -> float:
    """The value as a float, if it is a finite real number."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {value!r}; pass a float")
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value!r}")
    return float(value)


def positive_int(name: str, value: Any, multiple: int = 1, why: str = "") -> int:
    """The value as an int, if it is a positive whole number and a multiple of ``multiple``."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int, got {value!r}; pass a positive whole number")
    if value < 1:
        raise ValueError(f"`{name}` must be at least {multiple}, got {value}")
    if value % multiple:
        nearest = (int(value) // multiple + 1) * multiple
        raise ValueError(
            f"`{name}` must be a multiple of {multiple} {why}, got {value}; use {nearest}"
        )
    return int(value)


def seed(value: Any) -> None:
    """Refuse what is no seed of NumPy's generators."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"`seed` must be an int, got {value!r}; pass for example 0")
    if value < 0:
        raise ValueError(f"`seed` must be at least 0, got {value}")


def array(name: str, value: Array) -> None:
    """Refuse what is not an array of real floating numbers."""
    if library(value) is None:
        raise TypeError(
            f"`{name}` must be an array that speaks the array API standard, got "
            f"{type(value).__name__}; convert it first, for example with numpy.asarray"
        )
    _plain_numpy(name, value)
    if not is_real_floating(value):
        raise TypeError(
            f"`{name}` must hold real floating numbers, got dtype {value.dtype}; "
            "convert it with astype(float32)"
        )


def _plain_numpy(name: str, value: Array) -> None:
    """Refuse NumPy arrays that are not what they seem."""
    if library(value) != "numpy":
        return
    if hasattr(value, "mask"):
        raise TypeError(
            f"`{name}` is a numpy masked array, whose mask would be ignored; "
            "fill it and pass the mask as `mask`"
        )
    if hasattr(value, "A1"):
        raise TypeError(
            f"`{name}` is a numpy.matrix, which keeps two axes; convert it with numpy.asarray"
        )
    if value.dtype.kind == "f" and (not value.dtype.isnative or value.dtype.itemsize > 8):
        raise TypeError(
            f"`{name}` must hold native float16, float32 or float64, got dtype {value.dtype.str}; "
            "convert it with astype(numpy.float64)"
        )


def together(first_name: str, first: Array, name: str, value: Array) -> None:
    """Refuse two arrays of different libraries or devices."""
    if library(first) != library(value):
        raise TypeError(
            f"`{name}` is an array of {library(value)}, but `{first_name}` is one of "
            f"{library(first)}; convert one of them"
        )
    if not same_device(first, value):
        raise ValueError(
            f"`{name}` is on {value.device}, but `{first_name}` is on {first.device}; "
            "move one of them"
        )


def has_length(name: str, value: Array) -> None:
    """Refuse points without an axis for the length."""
    if value.ndim < 2:
        raise ValueError(
            f"`{name}` must have shape (..., length, dim), got {tuple(value.shape)}; "
            "add an axis for the length"
        )


def _comparable(x_name: str, x: Array, y_name: str, y: Array) -> None:
    """Refuse points of another library, device, dtype or dimension."""
    together(x_name, x, y_name, y)
    if x.dtype != y.dtype:
        raise TypeError(
            f"`{x_name}` and `{y_name}` must share a dtype, got {x.dtype} and {y.dtype}; "
            "convert one of them"
        )
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"`{x_name}` and `{y_name}` must have the same last axis, got "
            f"d={x.shape[-1]} and d={y.shape[-1]}"
        )


def causal_lengths(query: Array, key: Array, other_fix: str = "") -> None:
    """Refuse more queries than keys."""
    if query.shape[-2] > key.shape[-2]:
        raise ValueError(
            f"causal attention needs at least as many keys as queries, got t={query.shape[-2]} and "
            f"s={key.shape[-2]}; pass the earlier keys too{other_fix}"
        )


def points(x: Array, y: Array, names: tuple[str, str] = ("x", "y")) -> None:
    """Refuse two sets of points, shapes (..., t, d) and (..., s, d), that cannot be compared."""
    for name, value in zip(names, (x, y), strict=True):
        array(name, value)
        has_length(name, value)
    _comparable(names[0], x, names[1], y)
    if x.ndim != y.ndim or tuple(x.shape[:-2]) != tuple(y.shape[:-2]):
        raise ValueError(
            f"`{names[0]}` and `{names[1]}` must have equal batch axes, got shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}; broadcast them first"
        )


def attention(query: Array, key: Array, value: Array) -> None:
    """Refuse queries, keys and values whose kinds or shapes do not fit."""
    for name, given in (("query", query), ("key", key), ("value", value)):
        array(name, given)
        has_length(name, given)
    _comparable("query", query, "key", key)
    together("query", query, "value", value)
    if key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"`key` and `value` must have the same length, got s={key.shape[-2]} and "
            f"s={value.shape[-2]}"
        )
    _batch_axes(query, key, value)


def _batch_axes(query: Array, key: Array, value: Array) -> None:
    same = query.ndim == key.ndim == value.ndim
    if not same or tuple(key.shape[:-2]) != tuple(value.shape[:-2]):
        raise ValueError(
            "`query`, `key` and `value` must have equal batch axes, got "
            f"{_shapes(query, key, value)}; broadcast them first"
        )
    if tuple(query.shape[:-3]) != tuple(key.shape[:-3]):
        raise ValueError(
            "`query` and `key` must have equal batch axes before the heads, got "
            f"{_shapes(query, key, value)}; broadcast them first"
        )
    if query.ndim > 2:
        heads, groups = query.shape[-3], key.shape[-3]
        if heads != groups and (groups == 0 or heads % groups):
            raise ValueError(
                f"the query's {heads} heads must be a multiple of the key's {groups} heads "
                f"(grouped queries), got {_shapes(query, key, value)}"
            )


def _shapes(query: Array, key: Array, value: Array) -> str:
    return f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"


def mask(mask: Array | None, key: Array, names: tuple[str, str] = ("mask", "key")) -> None:
    """Refuse a key mask that is not bool of shape (s,), or of key.ndim - 1 axes each 1 or key's."""
    name, of = names
    if mask is None:
        return
    if library(mask) is None:
        raise TypeError(
            f"`{name}` must be a bool array, got {type(mask).__name__}; convert it to an array"
        )
    _plain_numpy(name, mask)
    together(of, key, name, mask)
    if mask.dtype != namespace(key).bool:
        raise TypeError(
            f"`{name}` must be bool with True for positions to keep, got dtype {mask.dtype}; "
            "compare it first, for example mask > 0"
        )
    shape, wanted = tuple(mask.shape), tuple(key.shape[:-1])
    if shape == wanted[-1:]:
        return
    fits = mask.ndim == len(wanted) and all(
        have in (1, want) for have, want in zip(shape, wanted, strict=True)
    )
    if not fits or shape[-1] != wanted[-1]:
        raise ValueError(
            f"`{name}` must have shape ({wanted[-1]},) or {wanted} with 1 for shared axes, got "
            f"{shape}; {_mask_advice(shape, wanted)}"
        )


def _mask_advice(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(shape) == 2 and len(wanted) == 3 and shape[-1] == wanted[-1]:
        return "for a mask of (batch, length) pass mask[:, None, :]"
    if len(shape) > 1 and shape[-1] == wanted[-1]:
        return "masks over pairs of a query and a key are not possible in linear time"
    return "its last axis must be the keys' length"


def sample(query: Array, key: Array, key_mask: Array | None, query_mask: Array | None) -> None:
    """Refuse queries and keys that a map cannot be fitted to, and masks that do not fit them."""
    attention(query, key, key)
    mask(key_mask, key)
    mask(query_mask, query, ("query_mask", "query"))


def map_serves(features: Any, x: Array, name: str) -> None:
    """Refuse points that a drawn map was not drawn for."""
    has_length(name, x)
    if features.dim != x.shape[-1]:
        raise ValueError(
            f"`features` was drawn for dim={features.dim}, but `{name}` has d={x.shape[-1]}; "
            f"draw it again with dim={x.shape[-1]}"
        )
    own = features.like
    if library(own) != library(x):
        raise TypeError(
            f"`features` holds arrays of {library(own)}, but `{name}` is an array of "
            f"{library(x)}; use features.to_like({name})"
        )
    if not same_device(own, x):
        raise ValueError(
            f"`features` is on {own.device}, but `{name}` is on {x.device}; "
            f"use features.to_like({name})"
        )
    xp = namespace(x)
    if (own.dtype == xp.float64) != (x.dtype == xp.float64):
        raise TypeError(
            f"`features` works in {own.dtype}, but `{name}` has dtype {x.dtype}; "
            f"use features.to_like({name}) or draw it again with like={name}"
        )


def map_heads(features: Any, x: Array, name: str) -> None:
    """Refuse points whose heads are not those of a map that has an axis of heads."""
    heads = x.shape[-3] if x.ndim > 2 else None
    if features.heads not in (None, heads):
        raise ValueError(
            f"`features` was drawn for {features.heads} heads, but `{name}` has "
            f"{heads or 'no axis of heads'}; draw it again with heads={heads}"
        )
