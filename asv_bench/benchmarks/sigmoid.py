"""Time and memory of sigmoid attention beside exact softmax attention of rfx."""

from __future__ import annotations

from typing import Any

import rfx

from ._cases import NAMES, QUICK, Problem, axis
from ._clock import medians
from ._libraries import LIBRARIES, Call
from ._rows import Prepared, Timed, unit
from .memory import extra

__all__ = ["Memory", "Sigmoid"]


def _call(problem: Problem, attend: Any) -> Call:
    """The call, in JAX as it is used: compiled, with arrays as arguments."""
    if problem.library.module == "jax":
        attend = problem.library.library.jit(attend, static_argnames="is_causal")
    return problem.library.finished(lambda: attend(*problem.inputs, is_causal=problem.is_causal))


class Sigmoid(Timed):
    """Time by length, in both directions."""

    params = (axis(False, True), (256,) if QUICK else (1024, 4096), NAMES)
    param_names = ("is_causal", "L", "library")

    def prepare(self, is_causal: bool, L: int, name: str) -> None:
        problem = Problem(name, L=L, is_causal=is_causal)
        attends = {"sigmoid": rfx.sigmoid_attention, "softmax": rfx.kernel_attention}
        self.calls = {kind: _call(problem, attend) for kind, attend in attends.items()}
        self.keep(self.calls["sigmoid"])

    def time_forward(self, is_causal: bool, L: int, name: str) -> None:
        self.run()

    @unit("ratio")
    def track_ratio_to_softmax(self, is_causal: bool, L: int, name: str) -> float:
        """Over `rfx.kernel_attention`, called in turn."""
        found = self.seconds()
        return found["sigmoid"] / found["softmax"]

    def seconds(self, *params: Any) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


class Memory(Prepared):
    """What a call needs beyond its inputs, by length."""

    params = ((256,) if QUICK else (4096, 16384), NAMES)
    param_names = ("L", "library")
    unit = "sizes of q, k and v together"

    def prepare(self, L: int, name: str) -> None:
        if LIBRARIES[name][1]:
            raise NotImplementedError("memory of the host says nothing about a GPU")
        if name == "jax" and L > 4096:
            raise NotImplementedError("to compile a thousand blocks of pairs takes minutes")
        self.problem = Problem(name, L=L, is_causal=False)

    def track_extra(self, L: int, name: str) -> float:
        call = _call(self.problem, rfx.sigmoid_attention)
        return extra(call) / self.problem.input_bytes
