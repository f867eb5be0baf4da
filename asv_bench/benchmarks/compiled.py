"""The loops that numba compiles, beside what runs without numba, called in turn."""

from __future__ import annotations

from importlib.util import find_spec

import rfx

from ._cases import NAMES, Problem, axis
from ._clock import medians
from ._libraries import Call, start
from ._rows import Prepared
from .decode import stepping
from .features import matrix

__all__ = ["WITHOUT", "Loops"]

WITHOUT = {
    ("bidirectional", "numpy"): "numpy-fused",
    ("bidirectional", "torch"): "torch-fused",
    ("causal", "numpy"): "numpy-fused",
    ("causal", "torch"): "torch-fused",
    ("token", "numpy"): "numpy-step",
    ("token", "torch"): "torch-step",
    ("features", "numpy"): "numpy-blocks",
    ("features", "torch"): "torch-blocks",
}
"""By what is computed, and the library: the path without numba."""


class Loops(Prepared):
    """Time with numba over time without, of the base case in both directions, of one token at batch
    1, and of the features of the Gaussian kernel."""

    params = (axis("bidirectional", "causal", "token", "features"), NAMES)
    param_names = ("what", "library")
    unit = "ratio"

    def prepare(self, what: str, name: str) -> None:
        if (what, name) not in WITHOUT:
            raise NotImplementedError(f"numba compiles nothing for {name}")
        if find_spec("numba") is None:
            raise NotImplementedError("numba is not installed")
        call = self._call(what, name)
        self.calls = {"with": call, "without": _by(WITHOUT[what, name], call)}
        for each in self.calls.values():
            each()

    def _call(self, what: str, name: str) -> Call:
        if what == "token":
            return stepping(start(name), 1)["token"]
        if what == "features":
            return matrix("trigonometric", name)
        return Problem(name, is_causal=what == "causal").linear()

    def track_ratio_to_without(self, what: str, name: str) -> float:
        found = self.seconds(what, name)
        return found["with"] / found["without"]

    def seconds(self, what: str, name: str) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


def _by(implementation: str, call: Call) -> Call:
    def run() -> None:
        with rfx.options(implementation=implementation):
            call()

    return run
