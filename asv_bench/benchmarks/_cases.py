"""The base case that every benchmark of attention varies, one axis at a time."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import rfx

from ._libraries import LIBRARIES, Call, Library, start

__all__ = [
    "EXACT",
    "LENGTH",
    "LENGTHS",
    "MAP",
    "NAMES",
    "QUICK",
    "Problem",
    "axis",
    "draw",
    "normal",
]

QUICK = os.environ.get("RFX_BENCH_QUICK", "") not in ("", "0")
NAMES = tuple(LIBRARIES)
LENGTHS = (256, 1024) if QUICK else tuple(2**n for n in range(9, 17))
BATCH, HEADS, DIM, NUM_FEATURES, DTYPE, MAP = 1, 8, 64, 256, "float32", "favor+"
LENGTH = 256 if QUICK else 4096
EXACT = "exact"


def axis(*values: Any) -> tuple[Any, ...]:
    """The values of an axis; in a quick run the first alone."""
    return values[:1] if QUICK else values


class Problem:
    """Queries, keys and values of standard normal numbers, a map drawn for them, and the calls.

    Calls return when the device has finished.
    """

    def __init__(
        self,
        name: str,
        *,
        L: int = LENGTH,
        d: int = DIM,
        m: int = NUM_FEATURES,
        dtype: str = DTYPE,
        is_causal: bool = True,
        attention: str = MAP,
    ) -> None:
        self.library = start(name)
        self.is_causal = is_causal
        shape = (BATCH, HEADS, L, d)
        self.inputs = [normal(self.library, shape, seed, dtype) for seed in range(3)]
        self.phi = draw(attention, m, self.inputs[0])

    def linear(self) -> Call:
        """Attention with the map."""
        q, k, v = self.inputs
        return self.library.finished(self.library.linear(self.phi, q, k, v, self.is_causal))

    def exact(self) -> Call:
        """The library's exact attention."""
        q, k, v = self.inputs
        return self.library.finished(self.library.exact(q, k, v, self.is_causal))

    def forward(self, attention: str) -> Call:
        """`exact` or `linear`, by the value of a benchmark's parameter."""
        return self.exact() if attention == EXACT else self.linear()

    def linear_gradient(self) -> Call:
        """Attention with the map, and its gradients."""
        q, k, v = self.inputs
        call = self.library.linear_gradient(self.phi, q, k, v, self._g(), self.is_causal)
        return self.library.finished(call)

    def exact_gradient(self) -> Call:
        """The library's exact attention, and its gradients."""
        q, k, v = self.inputs
        call = self.library.exact_gradient(q, k, v, self._g(), self.is_causal)
        return self.library.finished(call)

    def _g(self) -> Any:
        return normal(self.library, self.inputs[2].shape, 3)

    @property
    def input_bytes(self) -> int:
        """Size of queries, keys and values together."""
        return sum(int(a.nbytes) for a in self.inputs)


def normal(library: Library, shape: tuple[int, ...], seed: int, dtype: str = DTYPE) -> Any:
    """Standard normal numbers, on the library's device."""
    rng = np.random.default_rng(seed)
    return library.move(rng.standard_normal(shape, dtype=np.float32), dtype)


def draw(attention: str, m: int, like: Any, seed: int = 0) -> Any:
    """A map by its paper's name, with one set of frequencies for all heads.

    One that needs data is fitted to the points of ``like`` on both sides.
    """
    if attention == EXACT:
        return None
    spec = rfx.features.named(attention, num_features=m)
    return spec.fit(like, like, seed=seed, per_head=False)
