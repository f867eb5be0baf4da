"""Attention with a relative bias: by length, and beside exact attention with the same bias."""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import rfx

from ._cases import HEADS, MAP, NAMES, QUICK, axis, draw, normal
from ._clock import medians, seconds
from ._libraries import Call, start
from ._rows import Prepared, Timed, unit

__all__ = ["Growth", "Relative"]

FEATURES, BLOCK = 64, 512
LENGTHS = (64, 256) if QUICK else (1024, 2048, 4096, 8192, 16384, 32768)
LONGEST_EXACT = 8192


def calls(name: str, L: int, is_causal: bool) -> dict[str, Call]:
    """Attention with 64 features and a bias of each head, by both methods, and the exact one.

    Biases fall with the logarithm of the distance, down to -20, so that float32 does at all lengths
    and what grows is the length alone. Where they fall so far that it does not, the FFT runs in
    float64, at about three times the time.
    """
    library = start(name)
    q, k, v = (0.5 * normal(library, (1, HEADS, L, 64), seed) for seed in range(3))
    phi = draw(MAP, FEATURES, q)
    distance = np.abs(np.arange(2 * L - 1) - (L - 1.0))
    slopes = 2.0 ** -np.arange(1.0, HEADS + 1.0)[:, None]
    bias = library.move((-4.0 * slopes * np.log1p(distance))[None].astype(np.float32))
    xp = import_module("jax.numpy") if name.startswith("jax") else library.library
    exact: Any = partial(_exact, xp, is_causal)
    attend: Any = partial(_attend, is_causal)
    if name.startswith("jax"):  # as it is used: compiled, with arrays as arguments
        exact = library.library.jit(exact)
        attend = library.library.jit(attend, static_argnums=0)
    found = {method: partial(attend, method, phi, q, k, v, bias) for method in ("direct", "fft")}
    found["exact"] = partial(exact, q, k, v, bias)
    return {side: library.finished(call) for side, call in found.items()}


def _attend(is_causal: bool, method: str, phi: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
    return rfx.relative_attention(
        q, k, v, features=phi, bias=bias, is_causal=is_causal, method=method
    )


def _exact(xp: Any, is_causal: bool, q: Any, k: Any, v: Any, bias: Any) -> Any:
    """Softmax attention with the bias added to the logits, by blocks of queries."""
    length, outputs = q.shape[-2], []
    for first in range(0, length, BLOCK):
        stop = min(first + BLOCK, length)
        last, rows = stop if is_causal else length, stop - first
        window = bias[..., length - stop : length - first + last - 1]
        log = q[..., first:stop, :] @ k[..., :last, :].swapaxes(-1, -2) * q.shape[-1] ** -0.5
        log = log + _matrix(xp, window, rows, last)
        if is_causal:
            seen = xp.tril(xp.ones_like(log[0, 0]), first)
            log = log - 1e30 * (1.0 - seen)
        weight = xp.exp(log - xp.amax(log, axis=-1, keepdims=True))
        outputs.append(weight @ v[..., :last, :] / weight.sum(axis=-1, keepdims=True))
    return xp.concatenate(outputs, axis=-2)


def _matrix(xp: Any, diagonals: Any, rows: int, columns: int) -> Any:
    """Entry (r, c) is diagonal c - r + rows - 1: rows of one sequence, each cut one place later."""
    ahead, behind = diagonals[..., rows - 1 :], diagonals[..., : rows - 1]
    around = xp.concatenate([ahead, diagonals[..., :1], behind], axis=-1)
    batch, period = tuple(diagonals.shape[:-1]), rows + columns
    flat = xp.broadcast_to(around[..., None, :], (*batch, rows, period))
    flat = flat.reshape((*batch, rows * period))[..., : rows * (period - 1)]
    return flat.reshape((*batch, rows, period - 1))[..., :columns]


class Relative(Timed):
    """Time with 64 features by length and method."""

    params = (LENGTHS[:1] if QUICK else LENGTHS, axis("fft", "direct"), NAMES, axis(False, True))
    param_names = ("L", "method", "library", "is_causal")

    def prepare(self, L: int, method: str, name: str, is_causal: bool) -> None:
        if method == "direct" and L > LONGEST_EXACT:
            raise NotImplementedError("a call takes many seconds")
        self.calls = calls(name, L, is_causal)
        self.length, self.method = L, method
        self.keep(self.calls[method])

    def time_forward(self, L: int, method: str, name: str, is_causal: bool) -> None:
        self.run()

    @unit("ratio")
    def track_ratio_to_exact(self, L: int, method: str, name: str, is_causal: bool) -> float:
        """Over exact attention with the same bias, called in turn; above 1 exact is faster."""
        if L > LONGEST_EXACT:
            return math.nan
        found = medians({side: self.calls[side] for side in (method, "exact")})
        return found[method] / found["exact"]


class Growth(Prepared):
    """How time grows with the length, and from which length on the FFT is faster than exact."""

    params = (NAMES, axis(False, True))
    param_names = ("library", "is_causal")

    def prepare(self, name: str, is_causal: bool) -> None:
        self.found: dict[str, dict[int, float]] = {"fft": {}, "exact": {}}
        for L in LENGTHS:
            here = calls(name, L, is_causal)
            for side, times in self.found.items():
                if side == "fft" or L <= LONGEST_EXACT:
                    here[side]()
                    times[L] = min(seconds(here[side]) for _ in range(3))

    @unit("power of the length")
    def track_power(self, name: str, is_causal: bool) -> float:
        """Of the time of the FFT, by least squares over all lengths."""
        times = self.found["fft"]
        return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])

    @unit("length")
    def track_crossover(self, name: str, is_causal: bool) -> float:
        """Between or beyond the last two lengths of exact attention, in powers of the length.

        Below it exact attention with the same bias is faster. NaN: it does not come nearer.
        """
        both = sorted(self.found["exact"])
        ratios = [self.found["fft"][L] / self.found["exact"][L] for L in both]
        slope = math.log(ratios[-1] / ratios[-2]) / math.log(both[-1] / both[-2])
        return both[-1] * ratios[-1] ** (-1.0 / slope) if slope < 0.0 else math.nan
