"""What features are for: attention, one form a file."""

from rfx.attention.exact import kernel_attention
from rfx.attention.linear import linear_attention
from rfx.attention.state import State, merge

__all__ = ["State", "kernel_attention", "linear_attention", "merge"]
