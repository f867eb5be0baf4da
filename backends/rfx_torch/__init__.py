"""Fast paths of rfx for PyTorch, and drawn maps inside modules."""

from __future__ import annotations

from functools import partial

import torch
from rfx_numba import defer_few, defer_unusable

from rfx.attention import State
from rfx.dispatch import FastPath
from rfx_torch import compiled
from rfx_torch.chi_squared import chi_squared_features, refuse_chi_squared
from rfx_torch.features import features, refuse_features
from rfx_torch.fused import refuse
from rfx_torch.fwht import fwht, refuse_fwht
from rfx_torch.gated import fused_gated, refuse_gated
from rfx_torch.module import FeatureModule
from rfx_torch.paths import run, run_gated, run_windowed
from rfx_torch.products import polynomial_features, refuse_polynomial
from rfx_torch.relative import relative
from rfx_torch.step import compiled_step, refuse_step, step

__all__ = ["FAST_PATHS", "FeatureModule"]

_ANY = ("cpu", "cuda")

FAST_PATHS = (
    FastPath(
        "bidirectional",
        "torch",
        "torch-numba-step",
        compiled.step,
        ("cpu",),
        compiled.refuse_step,
        defer=defer_unusable,
    ),
    FastPath("bidirectional", "torch", "torch-step", step, _ANY, refuse_step),
    FastPath(
        "bidirectional",
        "torch",
        "torch-compiled-step",
        compiled_step,
        _ANY,
        refuse_step,
        by_name=True,
    ),
    FastPath("gated", "torch", "torch-fused", fused_gated, ("cpu",), refuse_gated),
    FastPath("gated", "torch", "torch-stream", run_gated, _ANY),
    FastPath("windowed", "torch", "torch-stream", run_windowed, _ANY),
    FastPath("relative", "torch", "torch-stream", relative, _ANY),
    FastPath(
        "features",
        "torch",
        "torch-numba",
        compiled.features,
        ("cpu",),
        compiled.refuse_features,
        defer=defer_few,
    ),
    FastPath("features", "torch", "torch-blocks", features, ("cpu",), refuse_features),
    FastPath("features", "torch", "torch-logs", chi_squared_features, ("cpu",), refuse_chi_squared),
    FastPath("features", "torch", "torch-rows", polynomial_features, ("cpu",), refuse_polynomial),
    FastPath("fwht", "torch", "torch-fwht", fwht, ("cpu",), refuse_fwht),
    *(
        FastPath(
            op,
            "torch",
            "torch-numba",
            partial(compiled.attention, op == "causal"),
            ("cpu",),
            compiled.refuse_attention,
            defer=compiled.defer_attention,
        )
        for op in ("bidirectional", "causal")
    ),
    *(
        FastPath(op, "torch", name, partial(run, name, op == "causal"), devices, refusal)
        for op in ("bidirectional", "causal")
        for name, devices, refusal in (
            ("torch-fused", ("cpu",), refuse),
            ("torch-stream", _ANY, None),
        )
    ),
)

torch.export.register_dataclass(State)  # so that torch.func.vmap returns states
