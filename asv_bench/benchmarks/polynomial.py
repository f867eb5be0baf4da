"""Attention by polynomials, causal and forward, beside linear attention and exact attention."""

from __future__ import annotations

from functools import partial
from typing import Any

import rfx

from ._cases import LENGTHS, NAMES, QUICK, Problem, axis
from ._clock import medians
from ._rows import Timed, unit

__all__ = ["Polynomial"]

SMALL = 16
"""Axes of queries and keys for Taylor maps, as in the papers: 153 features."""
WINDOW = 64
METHODS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "based": (
        rfx.based_attention,
        rfx.features.Taylor(kernel=rfx.kernels.Softmax()),
        {"window": WINDOW},
    ),
    "fastmax": (rfx.fastmax_attention, rfx.features.Taylor(2, 1.0), {"is_causal": True}),
    "polysketch": (rfx.polysketch_attention, rfx.features.PolySketch(256), {"is_causal": True}),
    "polysketch, window": (
        rfx.polysketch_attention,
        rfx.features.PolySketch(256),
        {"is_causal": True, "window": WINDOW},
    ),
    "schoenbat": (rfx.schoenbat_attention, rfx.features.Maclaurin(256), {"is_causal": True}),
}


class Polynomial(Timed):
    """Time of causal attention, with 16 axes for Taylor maps and 64 for the others."""

    params = (axis(*METHODS), LENGTHS[:1] if QUICK else (1024, 4096, 16384), NAMES)
    param_names = ("method", "L", "library")

    def prepare(self, method: str, L: int, name: str) -> None:
        problem = Problem(name, L=L)
        function, spec, options = METHODS[method]
        q, k, v = problem.inputs
        if isinstance(spec, rfx.features.Taylor):
            q, k = q[..., :SMALL], k[..., :SMALL]
        phi = spec.draw(q.shape[-1], seed=0, like=q)
        attend: Any = partial(function, features=phi, **options)
        if name.startswith("jax"):  # as it is used: compiled, with arrays as arguments
            attend = problem.library.library.jit(attend)
        call = problem.library.finished(lambda: attend(q, k, v))
        self.calls = {"method": call, "linear": problem.linear(), "exact": problem.exact()}
        self.keep(call)

    def time_forward(self, method: str, L: int, name: str) -> None:
        self.run()

    @unit("ratio")
    def track_ratio_to_linear(self, method: str, L: int, name: str) -> float:
        """Over linear attention with 256 features, called in turn."""
        found = self.seconds()
        return found["method"] / found["linear"]

    @unit("ratio")
    def track_ratio_to_exact(self, method: str, L: int, name: str) -> float:
        """Over the library's exact attention, called in turn."""
        found = self.seconds()
        return found["method"] / found["exact"]

    def seconds(self, *params: Any) -> dict[str, float]:
        """Medians of all three."""
        return medians(self.calls)
