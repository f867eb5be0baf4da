"""What features are for: attention, one form a file."""

from typing import TYPE_CHECKING

from rfx._lazy import on_demand
from rfx.attention.exact import kernel_attention
from rfx.attention.linear import linear_attention
from rfx.attention.state import State, merge

if TYPE_CHECKING:
    from rfx.attention import decay, landmarks
    from rfx.attention.cosformer import cosformer_attention
    from rfx.attention.fourier_bias import fourier_attention, fourier_points
    from rfx.attention.gated import decayed, gated_attention
    from rfx.attention.nystrom import nystrom_attention
    from rfx.attention.relative import relative_attention
    from rfx.attention.skyformer import skyformer_attention
    from rfx.attention.soft import soft_attention

__all__ = [
    "State",
    "cosformer_attention",
    "decay",
    "decayed",
    "fourier_attention",
    "fourier_points",
    "gated_attention",
    "kernel_attention",
    "landmarks",
    "linear_attention",
    "merge",
    "nystrom_attention",
    "relative_attention",
    "skyformer_attention",
    "soft_attention",
]

__getattr__ = on_demand(
    __name__,
    {
        "cosformer_attention": "cosformer",
        "decay": "",
        "decayed": "gated",
        "fourier_attention": "fourier_bias",
        "fourier_points": "fourier_bias",
        "gated_attention": "gated",
        "landmarks": "",
        "nystrom_attention": "nystrom",
        "relative_attention": "relative",
        "skyformer_attention": "skyformer",
        "soft_attention": "soft",
    },
)


def __dir__() -> list[str]:
    return __all__
