"""Exact kernels: frozen records that, when called, give the Gram matrix of two sets of points."""

from typing import TYPE_CHECKING

from rfx._lazy import on_demand
from rfx.kernels._base import Kernel, SignedKernel
from rfx.kernels.exponential import ExponentialKernel, Gaussian, Softmax, squared_distance

if TYPE_CHECKING:
    from rfx.kernels.chi_squared import AdditiveChiSquared, SkewedChiSquared
    from rfx.kernels.combination import Combination
    from rfx.kernels.dot_product import DotProduct, Polynomial
    from rfx.kernels.logistic import Logistic
    from rfx.kernels.neuron import Neuron
    from rfx.kernels.normalized import Angular, Normalized
    from rfx.kernels.pointwise import ArcCosine, Expectation, Pointwise
    from rfx.kernels.rescaled import Rescaled
    from rfx.kernels.stationary import Cauchy, Laplace, Matern, RationalQuadratic, Stationary

__all__ = [
    "AdditiveChiSquared",
    "Angular",
    "ArcCosine",
    "Cauchy",
    "Combination",
    "DotProduct",
    "Expectation",
    "ExponentialKernel",
    "Gaussian",
    "Kernel",
    "Laplace",
    "Logistic",
    "Matern",
    "Neuron",
    "Normalized",
    "Pointwise",
    "Polynomial",
    "RationalQuadratic",
    "Rescaled",
    "SignedKernel",
    "SkewedChiSquared",
    "Softmax",
    "Stationary",
    "squared_distance",
]

__getattr__ = on_demand(
    __name__,
    {
        "AdditiveChiSquared": "chi_squared",
        "Angular": "normalized",
        "ArcCosine": "pointwise",
        "Cauchy": "stationary",
        "Combination": "combination",
        "DotProduct": "dot_product",
        "Expectation": "pointwise",
        "Laplace": "stationary",
        "Logistic": "logistic",
        "Matern": "stationary",
        "Neuron": "neuron",
        "Normalized": "normalized",
        "Pointwise": "pointwise",
        "Polynomial": "dot_product",
        "RationalQuadratic": "stationary",
        "Rescaled": "rescaled",
        "SkewedChiSquared": "chi_squared",
        "Stationary": "stationary",
    },
)


def __dir__() -> list[str]:
    return __all__
