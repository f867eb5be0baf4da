"""What a kernel is: a frozen record that, when called, gives a Gram matrix."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from rfx import _check
from rfx._xp import Array, full_precision, namespace, truth

__all__ = ["Kernel", "SignedKernel", "any_kept"]


class Kernel(ABC):
    """A positive definite function of two points.

    Subclasses are frozen dataclasses, so that a kernel can be compared, hashed and be a static
    argument of ``jax.jit``.
    """

    def __call__(self, x: Array, y: Array) -> Array:
        """Gram matrix k(x_i, y_j).

        Parameters
        ----------
        x : Array, shape (..., t, d)
        y : Array, shape (..., s, d)
            Of the library, device and dtype of ``x``.

        Returns
        -------
        Array, shape (..., t, s), dtype of ``x``
            ``inf`` where the value exceeds the dtype; `log` has no such limit.

        Raises
        ------
        TypeError
            If an argument is no floating array, or the two are of different libraries or dtypes.
        ValueError
            If the last axes or the batch axes differ, or as `check` does.
        """
        self._refuse(x, y)
        xp = namespace(x)
        with full_precision(x):
            return xp.astype(self._values(x, y), x.dtype)

    def log(self, x: Array, y: Array) -> Array:
        """Log of the Gram matrix, in the working dtype (float64 for float64, else float32).

        −inf where the kernel is 0; of its absolute value where it is negative.
        """
        self._refuse(x, y)
        with full_precision(x):
            return self._log(x, y)

    def log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array | None]:
        """A log and a factor, such that the Gram matrix is factor · exp(log).

        The factor is None for 1; a kernel that may be negative has one.
        """
        self._refuse(x, y)
        with full_precision(x):
            return self._log_and_factor(x, y)

    def check(  # noqa: B027 - a hook, not an abstract method
        self, x: Array, name: str, keep: Array | None = None
    ) -> None:
        """Refuse points on which the kernel is not defined; most kernels take all.

        Parameters
        ----------
        x : Array, shape (..., t, d)
        name : str
            Of the argument, for the message.
        keep : Array of bool, shape (..., t), optional
            False for points that do not count, whatever they are.

        Raises
        ------
        ValueError
            If a point is outside the domain. While `jax.jit` or `torch.compile` traces, nothing is
            known of the points: then the kernel is NaN there. NaN is never refused.
        """

    def _refuse(self, x: Array, y: Array) -> None:
        _check.points(x, y)
        self.check(x, "x")
        self.check(y, "y")

    def _values(self, x: Array, y: Array) -> Array:
        return namespace(x).exp(self._log(x, y))

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array | None]:
        return self._log(x, y), None

    @abstractmethod
    def _log(self, x: Array, y: Array) -> Array: ...


class SignedKernel(Kernel):
    """A kernel that may be negative, given as factor · exp(log) with a finite log."""

    @abstractmethod
    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]: ...

    def _values(self, x: Array, y: Array) -> Array:
        xp = namespace(x)
        log, factor = self._log_and_factor(x, y)
        largest = math.log(float(xp.finfo(log.dtype).max)) - 1.0
        finite = xp.clip(log, None, largest)  # inf · 0 would be no number
        return factor * xp.exp(xp.where(factor == 0.0, finite, log))

    def _log(self, x: Array, y: Array) -> Array:
        xp = namespace(x)
        log, factor = self._log_and_factor(x, y)
        nothing = factor == 0.0
        size = xp.log(xp.where(nothing, xp.ones_like(factor), xp.abs(factor)))
        return xp.where(nothing, xp.full_like(log, -float("inf")), log + size)


def any_kept(outside: Array, keep: Array | None) -> bool | None:
    """Whether any point is outside, (..., t, d) or (..., t, 1), of those to keep (..., t).

    None while it is traced and has no value.
    """
    xp = namespace(outside)
    if keep is not None:
        outside = xp.logical_and(outside, keep[..., None])
    return truth(xp.any(outside))
