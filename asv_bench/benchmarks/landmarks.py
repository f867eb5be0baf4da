"""Attention through landmarks, forward, beside linear attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import rfx

from ._cases import LENGTHS, NAMES, QUICK, Problem, axis
from ._clock import medians
from ._rows import Timed, unit

__all__ = ["Landmarks"]

NUMBER = 16 if QUICK else 128
METHODS = {
    "nystrom": rfx.nystrom_attention,
    "skyformer": rfx.skyformer_attention,
    "soft": lambda q, k, v, **options: rfx.soft_attention(k, v, **options),
}


class Landmarks(Timed):
    """Time with 128 landmarks, in one direction, which is all that they have."""

    params = (axis(*METHODS), LENGTHS[:1] if QUICK else (1024, 4096, 16384), NAMES)
    param_names = ("method", "L", "library")

    def prepare(self, method: str, L: int, name: str) -> None:
        problem = Problem(name, L=L, is_causal=False)
        attend: Any = partial(METHODS[method], landmarks=NUMBER)
        if name.startswith("jax"):  # as it is used: compiled, with arrays as arguments
            attend = problem.library.library.jit(attend)
        call = problem.library.finished(lambda: attend(*problem.inputs))
        self.calls = {"landmarks": call, "linear": problem.linear()}
        self.keep(call)

    def time_forward(self, method: str, L: int, name: str) -> None:
        self.run()

    @unit("ratio")
    def track_ratio_to_linear(self, method: str, L: int, name: str) -> float:
        """Over linear attention with 256 features, called in turn."""
        found = self.seconds()
        return found["landmarks"] / found["linear"]

    def seconds(self, *params: Any) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)
