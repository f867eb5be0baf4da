"""Fast paths of rfx for JAX, and its records as pytrees."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax

from rfx.attention import State
from rfx.attention.positional import PositionalMap
from rfx.dispatch import FastPath
from rfx.features import FORMS, DrawnMap
from rfx.regression import NormalEquations, RidgeModel
from rfx_jax import compiled
from rfx_jax.features import features, refuse_features
from rfx_jax.fwht import fwht
from rfx_jax.products import polynomial_features, refuse_polynomial
from rfx_jax.regression import normal, predicted
from rfx_jax.relative import relative
from rfx_jax.scan import bidirectional, causal, gated, windowed

__all__ = ["FAST_PATHS"]

_DEVICES = ("cpu", "cuda", "tpu")

FAST_PATHS = (
    FastPath(
        "features",
        "jax",
        "jax-numba",
        compiled.features,
        ("cpu",),
        compiled.refuse_features,
        defer=compiled.defer_features,
    ),
    FastPath(
        "bidirectional",
        "jax",
        "jax-numba-step",
        compiled.step,
        ("cpu",),
        compiled.refuse_step,
        defer=compiled.defer_step,
    ),
    *(
        FastPath(
            op,
            "jax",
            "jax-numba",
            partial(compiled.attention, op == "causal"),
            ("cpu",),
            compiled.refuse_attention,
            defer=compiled.defer_attention,
        )
        for op in ("bidirectional", "causal")
    ),
    FastPath("bidirectional", "jax", "jax-scan", bidirectional, _DEVICES),
    FastPath("causal", "jax", "jax-scan", causal, _DEVICES),
    FastPath("gated", "jax", "jax-scan", gated, _DEVICES),
    FastPath("windowed", "jax", "jax-scan", windowed, _DEVICES),
    FastPath("relative", "jax", "jax-scan", relative, _DEVICES),
    FastPath("normal", "jax", "jax-scan", normal, _DEVICES),
    FastPath("predicted", "jax", "jax-scan", predicted, _DEVICES),
    FastPath("features", "jax", "jax-cosine", features, ("cpu",), refuse_features),
    FastPath("features", "jax", "jax-compiled", polynomial_features, _DEVICES, refuse_polynomial),
    FastPath("fwht", "jax", "jax-fwht", fwht, ("cpu",)),
)

_forms: tuple[type[DrawnMap], ...] = (*FORMS, PositionalMap)
for _form in _forms:
    _names = [f.name for f in dataclasses.fields(_form)]  # type: ignore[arg-type]  # it is one
    _statics = [name for name in _names if name not in _form.array_fields]
    jax.tree_util.register_dataclass(_form, list(_form.array_fields), _statics)
for _record in (State, NormalEquations, RidgeModel):
    _names = [f.name for f in dataclasses.fields(_record)]
    _statics = [name for name in _names if name in ("single", "path")]
    _arrays = [name for name in _names if name not in _statics]
    jax.tree_util.register_dataclass(_record, _arrays, _statics)
