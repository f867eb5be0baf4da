"""Regression with kernels and with random features."""

from rfx.regression.kernel import kernel_regression
from rfx.regression.ridge import (
    NormalEquations,
    RidgeModel,
    merge,
    normal_equations,
    ridge_regression,
    solve,
)

__all__ = [
    "NormalEquations",
    "RidgeModel",
    "kernel_regression",
    "merge",
    "normal_equations",
    "ridge_regression",
    "solve",
]
