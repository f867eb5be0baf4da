"""Linear attention beside exact attention: time, first call, memory and error."""

from __future__ import annotations

import os
import statistics
import time
from importlib import resources
from typing import Any

import numpy as np

import rfx

from ._libraries import LIBRARIES, Call, Library, start

QUICK = os.environ.get("RFX_BENCH_QUICK", "") not in ("", "0")
LENGTHS = (256, 1024) if QUICK else (1024, 4096, 16384)
BATCH, HEADS, DIM, NUM_FEATURES = 1, 8, 64, 256
MAPS = ("favor+", "favor")
EXACT = "exact"
NAMES = tuple(LIBRARIES)

TOO_LARGE = {
    ("numpy", EXACT, 16384): "rfx.kernel_attention is too slow on NumPy",
    ("jax", EXACT, 16384): "jax.nn.dot_product_attention holds all logits, 8.6 GB a copy, on a CPU",
}
"""Cases left out although the library is there, and why."""


class _Case:
    """What all benchmarks of a long sequence share."""

    param_names = ("L", "library", "is_causal", "attention")
    timeout = 600.0

    def prepare(self, L: int, name: str) -> None:
        """Start the library, and give it queries, keys and values of standard normal numbers."""
        self.library = start(name)
        rng = np.random.default_rng(0)
        host = rng.standard_normal((3, BATCH, HEADS, L, DIM), dtype=np.float32)
        self.inputs = [self.library.move(a) for a in host]

    def attention(self, L: int, name: str, is_causal: bool, attention: str) -> Call:
        """Return a call of a map's attention, or of exact attention, on the inputs."""
        if (name, attention, L) in TOO_LARGE:
            raise NotImplementedError(TOO_LARGE[name, attention, L])
        return _call(self.library, self.inputs, is_causal, attention, seed=0)


class Attention(_Case):
    """Time of a call, when compilation is done."""

    params = (LENGTHS, NAMES, (False, True), (*MAPS, EXACT))
    number = 1
    repeat = (1, 3, 1.0) if QUICK else (5, 20, 10.0)
    rounds = 1 if QUICK else 2
    warmup_time = 0.0

    def setup(self, L: int, name: str, is_causal: bool, attention: str) -> None:
        self.prepare(L, name)
        self.call = self.attention(L, name, is_causal, attention)
        _seconds(self.library, self.call)

    def time_attention(self, L: int, name: str, is_causal: bool, attention: str) -> None:
        self.library.wait(self.call())


class FirstCall(_Case):
    """Time of the first call in a fresh process, compilation included."""

    params = (LENGTHS[:1], NAMES, (False, True), (*MAPS, EXACT))
    unit = "seconds"

    def setup(self, L: int, name: str, is_causal: bool, attention: str) -> None:
        self.prepare(L, name)
        self.call = self.attention(L, name, is_causal, attention)

    def track_first_call(self, L: int, name: str, is_causal: bool, attention: str) -> float:
        return _seconds(self.library, self.call)


class Ratio(_Case):
    """Time of a map's attention over that of exact attention, called in turn in one process."""

    params = (LENGTHS, NAMES, (False, True), MAPS)
    unit = "ratio"
    calls = 3 if QUICK else 9

    def setup(self, L: int, name: str, is_causal: bool, attention: str) -> None:
        self.prepare(L, name)
        self.pair = [self.attention(L, name, is_causal, a) for a in (attention, EXACT)]
        for call in self.pair:
            _seconds(self.library, call)

    def track_ratio_to_exact(self, L: int, name: str, is_causal: bool, attention: str) -> float:
        times = [[_seconds(self.library, call) for call in self.pair] for _ in range(self.calls)]
        linear, exact = (statistics.median(column) for column in zip(*times, strict=True))
        return linear / exact


class Memory(_Case):
    """Peak memory of the process that makes one call, on a CPU."""

    params = (LENGTHS, NAMES, (False, True), (*MAPS, EXACT))

    def setup(self, L: int, name: str, is_causal: bool, attention: str) -> None:
        if LIBRARIES[name][1]:
            raise NotImplementedError("memory of the host says nothing about a GPU")
        self.prepare(L, name)
        self.call = self.attention(L, name, is_causal, attention)

    def peakmem_attention(self, L: int, name: str, is_causal: bool, attention: str) -> None:
        self.library.wait(self.call())


class DeviceMemory(_Case):
    """Peak memory that the library held on its GPU, inputs and one call."""

    params = (LENGTHS, NAMES, (False, True), (*MAPS, EXACT))
    unit = "bytes"

    def setup(self, L: int, name: str, is_causal: bool, attention: str) -> None:
        if not LIBRARIES[name][1]:
            raise NotImplementedError(f"{name} runs on a CPU")
        self.prepare(L, name)
        self.call = self.attention(L, name, is_causal, attention)

    def track_device_peak(self, L: int, name: str, is_causal: bool, attention: str) -> int:
        self.library.wait(self.call())
        return self.library.device_peak()


class Error:
    """Relative error on the sample of real activations, mean over heads and draws.

    The target is exact attention, computed by NumPy in float64.
    """

    params = ((0,) if QUICK else (0, 5), NAMES, (False, True), MAPS)
    param_names = ("layer", "library", "is_causal", "attention")
    timeout = 600.0
    unit = "relative error"
    seeds = range(1) if QUICK else range(8)

    def setup(self, layer: int, name: str, is_causal: bool, attention: str) -> None:
        self.library = start(name)
        self.host = _sample(layer)
        self.inputs = [self.library.move(a.astype(np.float32)) for a in self.host]
        self.target = rfx.kernel_attention(*self.host, is_causal=is_causal)

    def track_error(self, layer: int, name: str, is_causal: bool, attention: str) -> float:
        return float(np.mean([self._error(is_causal, attention, seed) for seed in self.seeds]))

    def track_uniform_error(self, layer: int, name: str, is_causal: bool, attention: str) -> float:
        """That of uniform attention: an estimate must be better than this to be of use."""
        uniform = rfx.diagnostics.uniform_attention(*self.inputs, is_causal=is_causal)
        return self._mean_error(uniform)

    def _error(self, is_causal: bool, attention: str, seed: int) -> float:
        with np.errstate(all="ignore"):  # a signed map may divide by nearly nothing
            call = _call(self.library, self.inputs, is_causal, attention, seed)
            return self._mean_error(call())

    def _mean_error(self, estimate: Any) -> float:
        host = self.library.to_host(estimate).astype(np.float64)
        return float(np.mean(rfx.diagnostics.relative_error(host, self.target)))


def _call(library: Library, inputs: list[Any], is_causal: bool, attention: str, seed: int) -> Call:
    q, k, v = inputs
    if attention == EXACT:
        return library.exact(q, k, v, is_causal)
    spec = rfx.features.named(attention, num_features=NUM_FEATURES)
    phi = spec.draw(q.shape[-1], seed=seed, like=q)
    return library.linear(phi, q, k, v, is_causal)


def _seconds(library: Library, call: Call) -> float:
    begin = time.perf_counter()
    library.wait(call())
    return time.perf_counter() - begin


def _sample(layer: int) -> list[np.ndarray]:
    """Queries, keys and values of one layer, shape (12, 192, 32), float64."""
    with (resources.files("rfx") / "data" / "sample.npz").open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        return [archive[f"{letter}{layer}"].astype(np.float64) for letter in "qkv"]
