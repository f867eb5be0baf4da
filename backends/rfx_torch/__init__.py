"""Fast paths of rfx for PyTorch, and drawn maps inside modules."""

from __future__ import annotations

import torch

from rfx.attention import State
from rfx.dispatch import FastPath
from rfx_torch.module import FeatureModule
from rfx_torch.paths import bidirectional, causal

__all__ = ["FAST_PATHS", "FeatureModule"]

_DEVICES = ("cpu", "cuda")

FAST_PATHS = (
    FastPath("bidirectional", "torch", "torch-stream", bidirectional, _DEVICES),
    FastPath("causal", "torch", "torch-stream", causal, _DEVICES),
)

torch.export.register_dataclass(State)  # so that torch.func.vmap returns states
