"""What features are for: attention, one form a file."""

from typing import TYPE_CHECKING

from rfx._lazy import on_demand
from rfx.attention.exact import kernel_attention
from rfx.attention.linear import linear_attention
from rfx.attention.state import State, merge

if TYPE_CHECKING:
    from rfx.attention import decay, landmarks, scaling, supports
    from rfx.attention.based import based_attention
    from rfx.attention.cosformer import cosformer_attention
    from rfx.attention.entmax import entmax_attention
    from rfx.attention.eva import eva_attention
    from rfx.attention.fastmax import fastmax_attention
    from rfx.attention.fourier_bias import fourier_attention, fourier_points
    from rfx.attention.gated import decayed, gated_attention
    from rfx.attention.lara import lara_attention
    from rfx.attention.nystrom import nystrom_attention
    from rfx.attention.polysketch import polysketch_attention
    from rfx.attention.relative import relative_attention
    from rfx.attention.sbm import sbm_attention, sbm_edges
    from rfx.attention.schoenbat import schoenbat_attention
    from rfx.attention.sigmoid import sigmoid_attention
    from rfx.attention.skyformer import skyformer_attention
    from rfx.attention.soft import soft_attention
    from rfx.attention.sparsefinder import sparsefinder_attention
    from rfx.attention.window import WindowState

__all__ = [
    "State",
    "WindowState",
    "based_attention",
    "cosformer_attention",
    "decay",
    "decayed",
    "entmax_attention",
    "eva_attention",
    "fastmax_attention",
    "fourier_attention",
    "fourier_points",
    "gated_attention",
    "kernel_attention",
    "landmarks",
    "lara_attention",
    "linear_attention",
    "merge",
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
]

__getattr__ = on_demand(
    __name__,
    {
        "WindowState": "window",
        "based_attention": "based",
        "cosformer_attention": "cosformer",
        "decay": "",
        "decayed": "gated",
        "entmax_attention": "entmax",
        "eva_attention": "eva",
        "fastmax_attention": "fastmax",
        "fourier_attention": "fourier_bias",
        "fourier_points": "fourier_bias",
        "gated_attention": "gated",
        "landmarks": "",
        "lara_attention": "lara",
        "nystrom_attention": "nystrom",
        "polysketch_attention": "polysketch",
        "relative_attention": "relative",
        "sbm_attention": "sbm",
        "sbm_edges": "sbm",
        "scaling": "",
        "schoenbat_attention": "schoenbat",
        "sigmoid_attention": "sigmoid",
        "skyformer_attention": "skyformer",
        "soft_attention": "soft",
        "sparsefinder_attention": "sparsefinder",
        "supports": "",
    },
)


def __dir__() -> list[str]:
    return __all__
