"""The logistic function, with the scale and the bias that attention gives it."""

from __future__ import annotations

from dataclasses import dataclass

from rfx import _check
from rfx._xp import Array, namespace

__all__ = ["Logistic", "falling"]


@dataclass(frozen=True)
class Logistic:
    """f(u) = 1 / (1 + exp(−scale u − bias)), an elementwise function of arrays.

    What `rfx.kernels.Neuron` and `rfx.features.Universal` take for a function. With the scale and
    the bias of sigmoid attention, the neuron of a query and a key is their weight.

    Parameters
    ----------
    bias : float
    scale : float

    Raises
    ------
    TypeError, ValueError
        If one is no finite number.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.kernels.logistic import Logistic
    >>> Logistic(bias=0.0, scale=2.0)(np.asarray([-50.0, 0.0, 50.0])).round(6)
    array([0. , 0.5, 1. ])
    """

    bias: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("bias", "scale"):
            object.__setattr__(self, name, _check.number(name, getattr(self, name)))

    def __call__(self, u: Array) -> Array:
        return falling(-self.scale * u - self.bias)


def falling(u: Array) -> Array:
    """1 / (1 + exp(u)), with the relative precision of the dtype and no overflow.

    Beyond ±80 (±600 in float64) it is as there, so that its gradient is 0 and never inf · 0.
    """
    xp = namespace(u)
    limit = 600.0 if u.dtype == xp.float64 else 80.0
    return 1.0 / (1.0 + xp.exp(xp.clip(u, -limit, limit)))
