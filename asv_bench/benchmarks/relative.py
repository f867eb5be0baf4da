"""Attention with a relative bias: by length, and beside exact attention with the same bias."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

import rfx

from ._cases import HEADS, LENGTHS, MAP, NAMES, QUICK, axis, draw, normal
from ._clock import medians
from ._libraries import Call, start
from ._rows import Prepared, Timed, unit

__all__ = ["Crossover", "Relative"]

FEATURES = 64
BLOCK = 512
LADDER = LENGTHS[:2] if QUICK else (1024, 2048, 4096, 8192, 16384, 32768)
SECONDS = 20.0
"""A ladder ends at a call that takes longer."""


def calls(name: str, L: int, is_causal: bool) -> dict[str, Call]:
    """Attention with 64 features and a bias of each head, by both methods, and the exact one."""
    library = start(name)
    q, k, v = (normal(library, (1, HEADS, L, 64), seed) for seed in range(3))
    phi = draw(MAP, FEATURES, q)
    offset = np.abs(np.arange(2 * L - 1) - (L - 1.0))
    slopes = 2.0 ** -np.arange(1.0, HEADS + 1.0)[:, None]
    bias = library.move((-slopes * np.sqrt(offset))[None].astype(np.float32))
    exact: Any = partial(_exact, is_causal)
    if name.startswith("jax"):
        exact = library.library.jit(exact)

    def relative(method: str) -> Any:
        return rfx.relative_attention(
            q, k, v, features=phi, bias=bias, is_causal=is_causal, method=method
        )

    found = {method: partial(relative, method) for method in ("direct", "fft")}
    found["exact"] = lambda: exact(q, k, v, bias)
    return {side: library.finished(call) for side, call in found.items()}


def _exact(is_causal: bool, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Softmax attention with the bias added, by blocks of queries."""
    length, outputs = q.shape[-2], []
    for first in range(0, length, BLOCK):
        stop = min(first + BLOCK, length)
        last = stop if is_causal else length
        log = q[..., first:stop, :] @ k[..., :last, :].swapaxes(-1, -2) * q.shape[-1] ** -0.5
        rows = stop - first
        window = bias[..., length - stop : length - stop + rows + last - 1]
        log = log + _matrix(window, rows, last)
        if is_causal:
            ahead = np.triu(np.full((rows, last), -1e30, dtype=np.float32), k=first + 1)
            log = log + _beside(ahead, log)
        weight = log - _row(log, "max")
        weight = weight.exp() if hasattr(weight, "exp") else _namespace(weight).exp(weight)
        outputs.append(weight @ v[..., :last, :] / _row(weight, "sum"))
    return _namespace(q).concatenate(outputs, axis=-2)
