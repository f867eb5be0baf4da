"""Sparse attention, forward, beside exact softmax attention."""

from __future__ import annotations

from typing import Any

import numpy as np

import rfx

from ._cases import DIM, HEADS, NAMES, QUICK, Problem, axis, normal
from ._clock import medians
from ._libraries import Library
from ._rows import Timed, unit

__all__ = ["Sparse"]

CLUSTERS = 16
METHODS = ("entmax", "sparsemax", "sparsefinder", "sbm")


class Sparse(Timed):
    """Time in one direction; each call of sbm draws a graph with about 4 % of the pairs."""

    params = (axis(*METHODS), (256,) if QUICK else (1024, 4096), NAMES)
    param_names = ("method", "L", "library")

    def prepare(self, method: str, L: int, name: str) -> None:
        problem = Problem(name, L=L, is_causal=False)
        q, k, v = problem.inputs
        finished = problem.library.finished
        attend = _attention(method, problem.library, L)
        exact: Any = rfx.kernel_attention
        if name.startswith("jax"):  # as it is used; a graph cannot be drawn inside
            exact = problem.library.library.jit(exact)
            attend = attend if method == "sbm" else problem.library.library.jit(attend)
        self.calls = {
            "sparse": finished(lambda: attend(q, k, v)),
            "exact": finished(lambda: exact(q, k, v)),
        }
        self.keep(self.calls["sparse"])

    def time_forward(self, method: str, L: int, name: str) -> None:
        self.run()

    @unit("ratio")
    def track_ratio_to_exact(self, method: str, L: int, name: str) -> float:
        """Over exact softmax attention of rfx, called in turn."""
        found = self.seconds()
        return found["sparse"] / found["exact"]

    def seconds(self, *params: Any) -> dict[str, float]:
        """Medians of both."""
        return medians(self.calls)


def _attention(method: str, library: Library, L: int) -> Any:
    if method in ("entmax", "sparsemax"):
        alpha = 1.5 if method == "entmax" else 2.0
        return lambda q, k, v: rfx.entmax_attention(q, k, v, alpha=alpha)
    if method == "sparsefinder":
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((2, HEADS, DIM, 4)) / DIM**0.5
        rule = rfx.supports.Distance(rfx.supports.Projection(a, b), 1.0)
        return lambda q, k, v: rfx.sparsefinder_attention(q, k, v, rule=rule)
    rng = np.random.default_rng(4)
    shares = 0.4 * rng.random((2, 1, HEADS, L, CLUSTERS), dtype=np.float32)
    clusters = normal(library, (CLUSTERS, DIM), 5)
    query, key = (library.move(side, "float32") for side in shares)
    call = {"clusters": clusters, "membership": (query, key), "exploration": 0.0}
    return lambda q, k, v: rfx.sbm_attention(q, k, v, **call)
