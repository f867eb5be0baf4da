"""Fast paths of rfx for NumPy: heads in threads, chunks in place, and one token at a time."""

from __future__ import annotations

from functools import partial

from rfx_numba import defer_few, defer_little, defer_unusable

from rfx.dispatch import FastPath
from rfx.ops import bidirectional, causal
from rfx.ops.refusals import refuse_long
from rfx_numpy import compiled
from rfx_numpy.chi_squared import chi_squared_features, refuse_chi_squared
from rfx_numpy.features import features, refuse_features
from rfx_numpy.fwht import fwht, refuse_fwht
from rfx_numpy.gated import fused_gated, refuse_gated
from rfx_numpy.paths import fused, refuse_form, refuse_short, threaded, threaded_gated
from rfx_numpy.products import polynomial_features, refuse_polynomial
from rfx_numpy.relative import refuse_relative, relative
from rfx_numpy.step import step

__all__ = ["FAST_PATHS"]

_CPU = ("cpu",)

FAST_PATHS = (
    FastPath(
        "features",
        "numpy",
        "numpy-numba",
        compiled.features,
        _CPU,
        compiled.refuse_features,
        defer=defer_few,
    ),
    FastPath("features", "numpy", "numpy-blocks", features, _CPU, refuse_features),
    FastPath("features", "numpy", "numpy-rows", polynomial_features, _CPU, refuse_polynomial),
    FastPath("features", "numpy", "numpy-chi2", chi_squared_features, _CPU, refuse_chi_squared),
    FastPath("fwht", "numpy", "numpy-fwht", fwht, _CPU, refuse_fwht),
    FastPath("gated", "numpy", "numpy-fused", fused_gated, _CPU, refuse_gated),
    FastPath("gated", "numpy", "numpy-threads", threaded_gated, _CPU, refuse_short),
    FastPath("relative", "numpy", "numpy-threads", relative, _CPU, refuse_relative),
    FastPath(
        "bidirectional",
        "numpy",
        "numpy-numba-step",
        compiled.step,
        _CPU,
        compiled.refuse_step,
        defer=defer_unusable,
    ),
    FastPath("bidirectional", "numpy", "numpy-step", step, _CPU, refuse_long),
    *(
        path
        for op, is_causal in ((bidirectional, False), (causal, True))
        for path in (
            FastPath(
                op.name,
                "numpy",
                "numpy-numba",
                partial(compiled.attention, is_causal),
                _CPU,
                compiled.refuse_attention,
                defer=defer_little,
            ),
            FastPath(op.name, "numpy", "numpy-fused", partial(fused, is_causal), _CPU, refuse_form),
            FastPath(op.name, "numpy", "numpy-threads", partial(threaded, op), _CPU, refuse_short),
        )
    ),
)
