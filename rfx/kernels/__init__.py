"""Exact kernels: frozen records that, when called, give the Gram matrix of two sets of points."""

from typing import TYPE_CHECKING

from rfx._lazy import on_demand
from rfx.kernels._base import Kernel, SignedKernel
from rfx.kernels.exponential import ExponentialKernel, Gaussian, Softmax, squared_distance

if TYPE_CHECKING:
    from rfx.kernels.pointwise import ArcCosine, Expectation, Pointwise

__all__ = [
    "ArcCosine",
    "Expectation",
    "ExponentialKernel",
    "Gaussian",
    "Kernel",
    "Pointwise",
    "SignedKernel",
    "Softmax",
    "squared_distance",
]

__getattr__ = on_demand(
    __name__, {"ArcCosine": "pointwise", "Expectation": "pointwise", "Pointwise": "pointwise"}
)


def __dir__() -> list[str]:
    return __all__
