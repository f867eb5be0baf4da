"""Regression with kernels and with random features."""

from rfx.regression.equations import NormalEquations, merge, normal_equations
from rfx.regression.kernel import kernel_regression
from rfx.regression.model import RidgeModel
from rfx.regression.ridge import ridge_regression
from rfx.regression.solution import solve

__all__ = [
    "NormalEquations",
    "RidgeModel",
    "kernel_regression",
    "merge",
    "normal_equations",
    "ridge_regression",
    "solve",
]
