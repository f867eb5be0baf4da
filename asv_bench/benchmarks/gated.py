"""Time of gated attention beside causal linear attention, which is the same without gates."""

from __future__ import annotations

import rfx

from ._cases import BATCH, HEADS, LENGTH, NAMES, NUM_FEATURES, Problem, axis, normal
from ._clock import medians
from ._rows import Timed

__all__ = ["Gated"]

RATE = 0.05


class Gated(Timed):
    """Time by whether a head has one gate at each step, or one for each feature; gates of 0.95."""

    params = (axis("one", "each feature"), NAMES)
    param_names = ("gates", "library")
    unit = "ratio"

    def prepare(self, gates: str, name: str) -> None:
        problem = Problem(name)
        library, phi = problem.library, problem.phi
        q, k, v = problem.inputs
        columns = 1 if gates == "one" else NUM_FEATURES
        like = normal(library, (BATCH, HEADS, LENGTH, columns), 3)
        log_gate = like * 0.0 - RATE
        self.calls = {
            "gated": library.finished(
                lambda: rfx.gated_attention(q, k, v, features=phi, log_gate=log_gate)
            ),
            "causal": problem.linear(),
        }
        for call in self.calls.values():
            call()

    def time_gated(self, gates: str, name: str) -> None:
        self.calls["gated"]()

    def track_ratio_to_causal(self, gates: str, name: str) -> float:
        found = self.seconds(gates, name)
        return found["gated"] / found["causal"]

    def seconds(self, gates: str, name: str) -> dict[str, float]:
        """Medians of both, called in turn."""
        return medians(self.calls)
