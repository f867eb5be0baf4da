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
    **{
        (what, name): path
        for what in ("bidirectional", "causal")
        for name, path in (("numpy", "numpy-fused"), ("torch", "torch-fused"), ("jax", "jax-scan"))
    },
    ("backward", "torch"): "torch-fused",
    ("backward", "jax"): "jax-scan",
    ("token", "numpy"): "numpy-step",
    ("token", "torch"): "torch-step",
    ("token", "jax"): "jax-scan",
    ("features", "numpy"): "numpy-blocks",
    ("features", "torch"): "torch-blocks",
    ("features", "jax"): "jax-cosine",
}
"""By what is computed, and the library: the path without numba."""


class Loops(Prepared):
    """Time with numba over time without.

    Of the base case in both directions, of the causal one with its gradients, of one token at batch
    1, and of the features of the Gaussian kernel.
    """

    params = (axis("bidirectional", "causal", "backward", "token", "features"), NAMES)
    param_names = ("what", "library")
    unit = "ratio"

    def prepare(self, what: str, name: str) -> None:
        if (what, name) not in WITHOUT:
            raise NotImplementedError(f"numba compiles nothing for {name}")
        if find_spec("numba") is None:
            raise NotImplementedError("numba is not installed")
        self.calls = {"with": self._call(what, name)}
        start.cache_clear()  # what JAX compiled keeps the path that it was traced with
        self.calls["without"] = _by(WITHOUT[what, name], self._call(what, name))
        for each in self.calls.values():
            each()

    def _call(self, what: str, name: str) -> Call:
        if what == "token":
            return stepping(start(name), 1)["token"]
        if what == "features":
            return matrix("trigonometric", name)
        problem = Problem(name, is_causal=what != "bidirectional")
        return problem.linear_gradient() if what == "backward" else problem.linear()

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
