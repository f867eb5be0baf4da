"""Sketches of a polynomial of even degree that are never negative."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeAlias

from rfx import _check
from rfx.features._signs import SIGNS
from rfx.features._spec import Spec
from rfx.features.combination import Composed
from rfx.features.sketches import ProductSketch, TensorSketch
from rfx.kernels import Polynomial

__all__ = ["PolySketch"]

Sketch: TypeAlias = Literal["tensor", "rademacher", "gaussian", "complex"]


@dataclass(frozen=True)
class PolySketch(Composed):
    """φ(x) = S(x) ⊗ S(x) for a sketch S of (x·y + c)^(p/2): the gram is (S(x)·S(y))² >= 0.

    An estimate of the polynomial of even degree p that is never negative, so that attention is an
    average of the values, as with a sketch of degree p it is not. It is too large on average, by
    the variance of the sketch.

    Parameters
    ----------
    num_features : int
        Output columns, m = r² for r columns of the sketch.
    degree : int
        p, even.
    offset, scale : float
        Of the kernel, `rfx.kernels.Polynomial`.
    sketch : {"tensor", "rademacher", "gaussian", "complex"}
        `TensorSketch`, or a `ProductSketch` of that law, for which r is even if it is "complex".

    Raises
    ------
    ValueError
        If ``num_features`` is no square, ``degree`` is not even, or there is no such sketch.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Kacham, Mirrokni and Zhong, PolySketchFormer: fast transformers via sketching polynomial
    kernels, 2024.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.random.default_rng(0).standard_normal((2, 100, 8))
    >>> phi = rfx.features.PolySketch(num_features=64, degree=4).draw(8, seed=0, like=x)
    >>> bool(np.all(rfx.gram(x, y, features=phi) >= 0.0))
    True
    """

    num_features: int = 256
    degree: int = 4
    offset: float = 0.0
    scale: float | None = None
    sketch: Sketch = "tensor"

    paper: ClassVar[str] = "Kacham et al. 2024"

    terms = ((1.0, (0, 0)),)

    def __post_init__(self) -> None:
        if self.sketch not in ("tensor", *SIGNS):
            names = ", ".join(("tensor", *SIGNS))
            raise ValueError(f"`sketch` must be one of {names}, got {self.sketch!r}")
        degree = _check.positive_int("degree", self.degree, 2, "(a square)")
        kernel = Polynomial(degree, self.offset, self.scale)
        columns = _check.positive_int("num_features", self.num_features)
        step = 2 if self.sketch == "complex" else 1
        below = max(math.isqrt(columns) // step, 1) * step
        if below**2 != columns:
            near = sorted({below, below + step if below**2 < columns else below})
            what = "the square of an even number" if step == 2 else "a square"
            raise ValueError(
                f"`num_features` must be {what}, of the columns of the sketch, got {columns}; use "
                f"{' or '.join(str(r * r) for r in near)}"
            )
        own = {"num_features": columns, "degree": degree, "offset": kernel.offset}
        for name, value in (own | {"scale": kernel.scale}).items():
            object.__setattr__(self, name, value)

    @property
    def kernel(self) -> Polynomial:  # type: ignore[override]
        return Polynomial(self.degree, self.offset, self.scale)

    @property
    def maps(self) -> tuple[Spec, ...]:  # type: ignore[override]
        kernel = Polynomial(self.degree // 2, self.offset, self.scale)
        columns = math.isqrt(self.num_features)
        if self.sketch == "tensor":
            return (TensorSketch(columns, kernel),)
        return (ProductSketch(columns, kernel, self.sketch),)

    def replace(self, **hyperparameters: Any) -> Self:
        kernel = hyperparameters.pop("kernel", None)
        if kernel is not None:
            own = {name: getattr(kernel, name) for name in ("degree", "offset", "scale")}
            hyperparameters = own | hyperparameters
        return super().replace(**hyperparameters)
