"""Why a path does not serve a call: one sentence each, or None. They are composed with ``or``."""

from __future__ import annotations

import torch
from torch import Tensor

from rfx.features import DrawnMap
from rfx.ops import Carry

__all__ = [
    "refuse_compiler",
    "refuse_forward_mode",
    "refuse_gradient",
    "refuse_log_scale",
    "refuse_transforms",
    "refuse_witnesses",
]


def refuse_compiler() -> str | None:
    """Calls that torch.compile traces."""
    if torch.compiler.is_compiling():
        return "it writes in place, which a compiler does not see through"
    return None


def refuse_gradient(features: DrawnMap, *arrays: Tensor) -> str | None:
    """Calls that autograd records."""
    if torch.is_grad_enabled():
        tensors = (*arrays, *features.arrays().values())
        if any(a.requires_grad for a in tensors):
            return "it has no gradient"
    return None


def refuse_log_scale(carry: Carry) -> str | None:
    """A carry whose log scale is differentiated."""
    if torch.is_grad_enabled() and carry.log_scale.requires_grad:
        return "it has no gradient for the log scale of a state"
    return None


def refuse_transforms() -> str | None:
    """Calls inside torch.func."""
    if torch._C._are_functorch_transforms_active():
        return "it writes in place, which torch.func does not see through"
    return None


def refuse_forward_mode() -> str | None:
    """Calls inside torch.autograd.forward_ad."""
    if torch.autograd.forward_ad._current_level >= 0:
        return "it has no derivative in forward mode"
    return None


def refuse_witnesses(features: DrawnMap, *arrays: Tensor) -> str | None:
    """Calls that a tracer records, or with tensors of classes that are more than their numbers."""
    if torch._C._is_tracing() or torch._C._len_torch_dispatch_stack() > 0:
        return "it leaves torch, which a tracer or a mode of torch does not see through"
    for array in (*arrays, *features.arrays().values()):
        if type(array) not in (Tensor, torch.nn.Parameter):
            return f"it serves plain tensors, and one is a {type(array).__name__}"
    return None
