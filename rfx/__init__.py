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
        based_attention,
        cosformer_attention,
        decay,
        entmax_attention,
        eva_attention,
        fastmax_attention,
        fourier_attention,
        gated_attention,
        landmarks,
        lara_attention,
        nystrom_attention,
        polysketch_attention,
        relative_attention,
        sbm_attention,
        sbm_edges,
        scaling,
        schoenbat_attention,
        sigmoid_attention,
        skyformer_attention,
        soft_attention,
        sparsefinder_attention,
        supports,
    )
    from rfx.regression import kernel_regression, ridge_regression

__all__ = [
    "State",
    "based_attention",
    "cosformer_attention",
    "decay",
    "diagnostics",
    "entmax_attention",
    "eva_attention",
    "explain",
    "fastmax_attention",
    "features",
    "fourier_attention",
    "gated_attention",
    "gram",
    "kernel_attention",
    "kernel_regression",
    "kernels",
    "landmarks",
    "lara_attention",
    "libraries",
    "linear_attention",
    "merge",
    "nystrom_attention",
    "options",
    "polysketch_attention",
    "projections",
    "regression",
    "relative_attention",
    "ridge_regression",
    "sbm_attention",
    "sbm_edges",
    "scaling",
    "schoenbat_attention",
    "sigmoid_attention",
    "skyformer_attention",
    "soft_attention",
    "sparsefinder_attention",
    "supports",
]

__getattr__ = on_demand(
    __name__,
    dict.fromkeys(
        (
            "based_attention",
            "cosformer_attention",
            "decay",
            "entmax_attention",
            "eva_attention",
            "fastmax_attention",
            "fourier_attention",
            "gated_attention",
            "landmarks",
            "lara_attention",
            "nystrom_attention",
            "polysketch_attention",
            "relative_attention",
            "sbm_attention",
            "sbm_edges",
            "scaling",
            "schoenbat_attention",
            "sigmoid_attention",
            "skyformer_attention",
            "soft_attention",
            "sparsefinder_attention",
            "supports",
        ),
        "attention",
    )
    | {"kernel_regression": "regression", "regression": "", "ridge_regression": "regression"},
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


__version__ = "0.1.0"
