"""Random feature maps and linear attention, on whatever array you hold."""

from rfx import diagnostics, features, kernels, projections
from rfx.attention import (
    State,
    cosformer_attention,
    decay,
    fourier_attention,
    gated_attention,
    kernel_attention,
    landmarks,
    linear_attention,
    merge,
    nystrom_attention,
    relative_attention,
    skyformer_attention,
    soft_attention,
)
from rfx.dispatch import explain, options
from rfx.features import gram
from rfx.machine import libraries

__all__ = [
    "State",
    "cosformer_attention",
    "decay",
    "diagnostics",
    "explain",
    "features",
    "fourier_attention",
    "gated_attention",
    "gram",
    "kernel_attention",
    "kernels",
    "landmarks",
    "libraries",
    "linear_attention",
    "merge",
    "nystrom_attention",
    "options",
    "projections",
    "relative_attention",
    "skyformer_attention",
    "soft_attention",
]

__version__ = "0.1.0"
