"""Random feature maps and linear attention, on whatever array you hold."""

from typing import TYPE_CHECKING

from rfx import diagnostics, features, kernels, projections
from rfx._lazy import on_demand
from rfx.attention import State, kernel_attention, linear_attention, merge
from rfx.dispatch import explain, options
from rfx.features import gram
from rfx.machine import libraries

if TYPE_CHECKING:
    from rfx.attention import (
        cosformer_attention,
        decay,
        fourier_attention,
        gated_attention,
        landmarks,
        nystrom_attention,
        relative_attention,
        skyformer_attention,
        soft_attention,
    )
    from rfx.regression import kernel_regression, ridge_regression

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
    "kernel_regression",
    "kernels",
    "landmarks",
    "libraries",
    "linear_attention",
    "merge",
    "nystrom_attention",
    "options",
    "projections",
    "regression",
    "relative_attention",
    "ridge_regression",
    "skyformer_attention",
    "soft_attention",
]

__getattr__ = on_demand(
    __name__,
    dict.fromkeys(
        (
            "cosformer_attention",
            "decay",
            "fourier_attention",
            "gated_attention",
            "landmarks",
            "nystrom_attention",
            "relative_attention",
            "skyformer_attention",
            "soft_attention",
        ),
        "attention",
    )
    | {"kernel_regression": "regression", "regression": "", "ridge_regression": "regression"},
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


__version__ = "0.1.0"
