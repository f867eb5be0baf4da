"""Random feature maps and linear attention, on whatever array you hold."""

from rfx import diagnostics, features, kernels, projections
from rfx.attention import State, kernel_attention, linear_attention, merge
from rfx.dispatch import explain, options
from rfx.features import gram
from rfx.machine import libraries

__all__ = [
    "State",
    "diagnostics",
    "explain",
    "features",
    "gram",
    "kernel_attention",
    "kernels",
    "libraries",
    "linear_attention",
    "merge",
    "options",
    "projections",
]

__version__ = "0.1.0"
