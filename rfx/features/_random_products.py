"""Arrays of a `PolynomialMap` of random products, with exact columns of low degree beside them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rfx.features._side import Side
from rfx.features._signs import Host, Signs, draw_signs
from rfx.features.products import Factors

__all__ = ["Products", "random_arrays"]


class Products(NamedTuple):
    """For each product its degree, its factor, and the factor of each of its linear forms."""

    degrees: Host
    scale: Host
    forms: Host


def random_arrays(
    signs: Signs,
    rng: np.random.Generator,
    dim: int,
    count: int,
    products: Products,
    linear: float = 0.0,
    constant: float = 0.0,
) -> dict[str, Any]:
    """``query_side`` and ``factors`` of a map of ``count`` features.

    Where ``linear`` is not 0, it times each coordinate is a column, and so is ``constant``. With
    complex signs two of these columns are the parts of one feature. What is left is 0.
    """
    order = np.argsort(-products.degrees, kind="stable")
    degrees, scale, forms = (array[order] for array in products)
    is_complex = signs == "complex"
    exact, phase = _exact(dim, linear, constant if is_complex else 0.0, is_complex)
    factors = []
    for i in range(max(int(np.max(degrees, initial=0)), 1)):
        number = int(np.sum(degrees > i))
        factors.append(forms[:number] * draw_signs(signs, rng, dim, number))
    factors[0] = np.concatenate([factors[0], exact], axis=-1)
    width = factors[0].shape[-1]
    first = width - exact.shape[-1]
    alone = [] if phase.any() or not constant else [constant]
    scales = np.concatenate([scale[:first], np.ones(exact.shape[-1]), scale[first:], alone])
    weight = np.concatenate(factors, axis=-1)
    side = Side(weight.real, scale=np.pad(scales, (0, count - len(scales))))
    if is_complex:
        padding = (first, weight.shape[-1] - width)
        phases = np.pad(phase, padding) if phase.any() else None
        side = side._replace(frequency=weight.imag, phase=phases)
    widths = (factor.shape[-1] for factor in factors) if width else ()
    return {"query_side": side, "factors": Factors.of(widths)}


def _exact(dim: int, linear: float, constant: float, is_complex: bool) -> tuple[Host, Host]:
    """Linear forms that are coordinates, or pairs of them, and their imaginary constants.

    For odd d the constant is the imaginary part of the last one, so that no column is wasted.
    """
    if linear == 0.0:
        return np.zeros((dim, 0)), np.zeros(0)
    forms = linear * np.eye(dim)
    if not is_complex:
        return forms, np.zeros(dim)
    pairs = forms[:, 0::2].astype(complex)
    pairs[:, : dim // 2] += 1j * forms[:, 1::2]
    phase = np.zeros(pairs.shape[-1])
    if dim % 2:
        phase[-1] = constant
    return pairs, phase
