"""Loops that numba compiles for arrays in the host's memory, which several backends share.

numba is optional (``pip install rfx-features[numba]``), and is imported by the first call that
needs it. What that compiles, in ten seconds or so, is kept on disk for the processes after it.
"""

from __future__ import annotations

from rfx_numba.attention import attention
from rfx_numba.features import features, waves
from rfx_numba.gradient import gradient
from rfx_numba.refusals import (
    defer_few,
    defer_little,
    defer_unusable,
    refuse_dtype,
    refuse_missing,
)
from rfx_numba.sides import Sides
from rfx_numba.step import step, step_in_memory

__all__ = [
    "Sides",
    "attention",
    "defer_few",
    "defer_little",
    "defer_unusable",
    "features",
    "gradient",
    "refuse_dtype",
    "refuse_missing",
    "step",
    "step_in_memory",
    "waves",
]
