"""Linear attention beside exact attention and beside the arithmetic floor, called in turn."""

from __future__ import annotations

import math

from ._cases import LENGTH, LENGTHS, NAMES, QUICK, Problem, axis
from ._clock import crossing, medians
from ._floor import floor, product
from ._libraries import start
from ._rows import Prepared

__all__ = ["LONGEST_EXACT", "BFloat16", "Crossover", "Forward"]

LONGEST_EXACT = {
    "numpy": 8192,
    "torch": 16384,
    "jax": 8192,
    "torch-cuda": 65536,
    "jax-cuda": 16384,
    "cupy": 16384,
}
"""By library: where exact attention ends, for a call takes seconds, or holds all logits (jax)."""


class Forward(Prepared):
    """Median times of forward calls over those of what stands beside them."""

    params = (LENGTHS[:1] if QUICK else (1024, 4096, 16384), NAMES, axis(False, True))
    param_names = ("L", "library", "is_causal")
    unit = "ratio"

    def prepare(self, L: int, name: str, is_causal: bool) -> None:
        problem = Problem(name, L=L, is_causal=is_causal)
        self.calls = {"linear": problem.linear(), "product": product(problem.library)}
        if LONGEST_EXACT[name] >= L:
            self.calls["exact"] = problem.exact()

    def track_ratio_to_exact(self, L: int, name: str, is_causal: bool) -> float:
        """NaN beyond `LONGEST_EXACT`."""
        if "exact" not in self.calls:
            return math.nan
        found = medians({side: self.calls[side] for side in ("linear", "exact")})
        return found["linear"] / found["exact"]

    def track_ratio_to_floor(self, L: int, name: str, is_causal: bool) -> float:
        found = medians({side: self.calls[side] for side in ("linear", "product")})
        return found["linear"] / floor(L, is_causal, found["product"])

    def seconds(self, L: int, name: str, is_causal: bool) -> dict[str, float]:
        """Medians of all, and the floor, for the page."""
        found = medians(self.calls)
        return {**found, "floor": floor(L, is_causal, found["product"])}


class BFloat16(Prepared):
    """Time with queries, keys and values in bfloat16 over that in float32, called in turn."""

    params = ((LENGTH,), NAMES, axis(False, True))
    param_names = ("L", "library", "is_causal")
    unit = "ratio"

    def prepare(self, L: int, name: str, is_causal: bool) -> None:
        self.calls = {
            dtype: Problem(name, L=L, dtype=dtype, is_causal=is_causal).linear()
            for dtype in ("bfloat16", "float32")
        }

    def track_ratio_to_float32(self, L: int, name: str, is_causal: bool) -> float:
        found = self.seconds(L, name, is_causal)
        return found["bfloat16"] / found["float32"]

    def seconds(self, L: int, name: str, is_causal: bool) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


class Crossover(Prepared):
    """Length from which on linear attention is faster than exact attention.

    A ladder of lengths is climbed until it is. The first length: there or before. NaN: nowhere up
    to `LONGEST_EXACT`.
    """

    params = (NAMES, axis(False, True))
    param_names = ("library", "is_causal")
    unit = "length"

    def prepare(self, name: str, is_causal: bool) -> None:
        start(name)

    def track_crossover(self, name: str, is_causal: bool) -> float:
        ratios: dict[int, float] = {}
        for L in (L for L in LENGTHS if LONGEST_EXACT[name] >= L):
            problem = Problem(name, L=L, is_causal=is_causal)
            found = medians({"linear": problem.linear(), "exact": problem.exact()})
            ratios[L] = found["linear"] / found["exact"]
            if ratios[L] < 1.0:
                break
        return crossing(ratios)
