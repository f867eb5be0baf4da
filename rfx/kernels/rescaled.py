"""A kernel of points with a unit of its own on each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfx import _check
from rfx._xp import Array, from_numpy, namespace, working_dtype
from rfx.kernels._base import Kernel, SignedKernel

__all__ = ["Rescaled"]


@dataclass(frozen=True)
class Rescaled(SignedKernel):
    """kernel(c ∘ x, c ∘ y): another kernel with each coordinate in its own unit.

    With a Gaussian kernel of bandwidth 1 and c = 1/bandwidths it is the kernel of automatic
    relevance determination.

    Parameters
    ----------
    kernel : Kernel
    factors : tuple of float
        c, positive, one for each coordinate.

    Raises
    ------
    TypeError
        If ``kernel`` is no record of `rfx.kernels`, or ``factors`` no tuple of numbers.
    ValueError
        If a factor is not positive and finite; when called, if points have another number of axes,
        or as ``kernel`` does.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.0, 0.0]]), np.asarray([[2.0, 1.0]])
    >>> rfx.kernels.Rescaled(rfx.kernels.Gaussian(), (0.5, 1.0))(x, y).round(4)  # exp(-1)
    array([[0.3679]])
    """

    kernel: Kernel
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            raise TypeError(
                f"`kernel` must be a record of rfx.kernels, got {self.kernel!r}; "
                "pass for example rfx.kernels.Gaussian()"
            )
        if not isinstance(self.factors, Sequence) or isinstance(self.factors, str):
            raise TypeError(
                f"`factors` must be a tuple of numbers, one for each coordinate, got "
                f"{self.factors!r}"
            )
        checked = tuple(_check.positive_number("factors", each) for each in self.factors)
        object.__setattr__(self, "factors", checked)

    def check(self, x: Array, name: str, keep: Array | None = None) -> None:
        if x.shape[-1] != len(self.factors):
            raise ValueError(
                f"`{name}` must have {len(self.factors)} coordinates, one for each factor of the "
                f"kernel, got d={x.shape[-1]}"
            )
        self.kernel.check(self._placed(x), name, keep)

    def _placed(self, x: Array) -> Array:
        dtype = working_dtype(x)
        factors = from_numpy(np.asarray(self.factors), x, dtype)
        return namespace(x).astype(x, dtype, copy=False) * factors

    def _values(self, x: Array, y: Array) -> Array:
        return self.kernel._values(self._placed(x), self._placed(y))

    def _log(self, x: Array, y: Array) -> Array:
        return self.kernel._log(self._placed(x), self._placed(y))

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        log, factor = self.kernel._log_and_factor(self._placed(x), self._placed(y))
        return log, namespace(log).ones_like(log) if factor is None else factor
