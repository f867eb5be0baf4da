"""Time and memory of LARA and EVA beside linear attention with as many features as they see."""

from __future__ import annotations

from functools import partial
from typing import Any

import rfx

from ._cases import NAMES, QUICK, Problem, axis
from ._clock import medians
from ._libraries import LIBRARIES, Call
from ._rows import Prepared, Timed, unit
from .memory import extra

__all__ = ["Memory", "Randomized"]

LENGTHS = (256,) if QUICK else (1024, 4096, 16384)
WINDOW, GROUPS, PROPOSALS = 128, 128, 170
"""What costs a query about as much as 256 features."""


def _call(problem: Problem, method: str, L: int) -> Call:
    if method == "lara":
        attend: Any = partial(rfx.lara_attention, num_proposals=min(PROPOSALS, L))
    else:
        options: Any = {"window": WINDOW, "group_size": max(L // GROUPS, 1)}
        attend = partial(rfx.eva_attention, **options, is_causal=method != "eva")
    if problem.library.module == "jax":  # as it is used: compiled, with arrays as arguments
        attend = problem.library.library.jit(attend)
    return problem.library.finished(lambda: attend(*problem.inputs))


class Randomized(Timed):
    """Time by length."""

    params = (axis("lara", "eva", "eva causal"), LENGTHS, NAMES)
    param_names = ("method", "L", "library")

    def prepare(self, method: str, L: int, name: str) -> None:
        problem = Problem(name, L=L, is_causal=method == "eva causal")
        self.calls = {"randomized": _call(problem, method, L), "linear": problem.linear()}
        self.keep(self.calls["randomized"])

    def time_forward(self, method: str, L: int, name: str) -> None:
        self.run()

    @unit("ratio")
    def track_ratio_to_linear(self, method: str, L: int, name: str) -> float:
        """Over linear attention with 256 features, called in turn."""
        found = self.seconds()
        return found["randomized"] / found["linear"]

    def seconds(self, *params: Any) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


class Memory(Prepared):
    """What a call needs beyond its inputs, by length."""

    params = (axis("lara", "eva", "eva causal"), LENGTHS[-2:], NAMES)
    param_names = ("method", "L", "library")
    unit = "sizes of q, k and v together"

    def prepare(self, method: str, L: int, name: str) -> None:
        if LIBRARIES[name][1]:
            raise NotImplementedError("memory of the host says nothing about a GPU")
        problem = Problem(name, L=L)
        self.size, self.call = problem.input_bytes, _call(problem, method, L)

    def track_extra(self, method: str, L: int, name: str) -> float:
        return extra(self.call) / self.size
