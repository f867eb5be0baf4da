"""What features are for: attention, one form a file."""

from rfx.attention import decay, landmarks
from rfx.attention.cosformer import cosformer_attention
from rfx.attention.exact import kernel_attention
from rfx.attention.fourier_bias import fourier_attention, fourier_points
from rfx.attention.gated import decayed, gated_attention
from rfx.attention.linear import linear_attention
from rfx.attention.nystrom import nystrom_attention
from rfx.attention.relative import relative_attention
from rfx.attention.skyformer import skyformer_attention
from rfx.attention.soft import soft_attention
from rfx.attention.state import State, merge

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
