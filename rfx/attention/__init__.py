"""What features are for: attention, one form a file."""

from rfx.attention import landmarks
from rfx.attention.exact import kernel_attention
from rfx.attention.linear import linear_attention
from rfx.attention.nystrom import nystrom_attention
from rfx.attention.skyformer import skyformer_attention
from rfx.attention.soft import soft_attention
from rfx.attention.state import State, merge

__all__ = [
    "State",
    "kernel_attention",
    "landmarks",
    "linear_attention",
    "merge",
    "nystrom_attention",
    "skyformer_attention",
    "soft_attention",
]
