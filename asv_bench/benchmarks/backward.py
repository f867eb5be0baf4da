"""Forward and backward pass: the output, and the gradient of sum(output * g) by q, k and v."""

from __future__ import annotations

import math

from ._cases import LENGTHS, NAMES, QUICK, Problem, axis
from ._clock import medians
from ._rows import Prepared, Timed

__all__ = ["LONGEST_EXACT", "Comparison", "Length"]

LONGEST_EXACT = {"torch": 4096, "jax": 4096, "torch-cuda": 16384, "jax-cuda": 8192}
"""By library: where exact attention ends; NumPy and CuPy compute no gradients."""


class Length(Timed):
    """Time by length."""

    params = (LENGTHS[:1] if QUICK else (1024, 8192, 65536), NAMES, axis(False, True))
    param_names = ("L", "library", "is_causal")

    def prepare(self, L: int, name: str, is_causal: bool) -> None:
        self.keep(Problem(name, L=L, is_causal=is_causal).linear_gradient())

    def time_backward(self, L: int, name: str, is_causal: bool) -> None:
        self.run()


class Comparison(Prepared):
    """Time over that of the library's exact attention, called in turn."""

    params = (LENGTHS[:1] if QUICK else (1024, 4096), NAMES, axis(False, True))
    param_names = ("L", "library", "is_causal")
    unit = "ratio"

    def prepare(self, L: int, name: str, is_causal: bool) -> None:
        problem = Problem(name, L=L, is_causal=is_causal)
        self.calls = {"forward": problem.linear(), "linear": problem.linear_gradient()}
        if LONGEST_EXACT[name] >= L:
            self.calls["exact"] = problem.exact_gradient()

    def track_ratio_to_exact(self, L: int, name: str, is_causal: bool) -> float:
        """NaN beyond `LONGEST_EXACT`."""
        if "exact" not in self.calls:
            return math.nan
        found = medians({side: self.calls[side] for side in ("linear", "exact")})
        return found["linear"] / found["exact"]

    def seconds(self, L: int, name: str, is_causal: bool) -> dict[str, float]:
        """Medians of all, and of the forward pass alone, for the page."""
        return medians(self.calls)
