"""Error on the sample of real activations, beside the error of uniform attention."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np

import rfx

from ._cases import MAP, NAMES, NUM_FEATURES, QUICK, axis, draw
from ._libraries import start
from ._rows import Prepared, unit

__all__ = ["Dtype", "Map", "Uniform"]

LAYERS = axis(0, 5)
SEEDS = range(1) if QUICK else range(8)


class _Sample(Prepared):
    """One layer of the sample; the target is exact attention, computed by NumPy in float64."""

    unit = "relative error"

    def load(self, layer: int, name: str, is_causal: bool, dtype: str = "float32") -> None:
        self.library = start(name)
        self.is_causal = is_causal
        host = _activations(layer)
        self.inputs = [self.library.move(a.astype(np.float32), dtype) for a in host]
        self.target = rfx.kernel_attention(*host, is_causal=is_causal)
        self.uniform = rfx.diagnostics.uniform_attention(*host, is_causal=is_causal)

    def mean(self, attention: str, measure: Callable[[np.ndarray], np.ndarray]) -> float:
        """Mean over heads and draws of a measure of the estimate."""
        return float(np.mean([measure(self._estimate(attention, seed)) for seed in SEEDS]))

    def error(self, estimate: np.ndarray) -> np.ndarray:
        """|estimate - exact| / |exact| of each head."""
        return rfx.diagnostics.relative_error(estimate, self.target)

    def skill(self, estimate: np.ndarray) -> np.ndarray:
        """1 - error / error of uniform attention, of each head."""
        return rfx.diagnostics.skill(estimate, self.target, self.uniform)

    def _estimate(self, attention: str, seed: int) -> np.ndarray:
        phi = draw(attention, NUM_FEATURES, self.inputs[0], seed)
        q, k, v = self.inputs
        with np.errstate(all="ignore"):  # a signed map may divide by nearly nothing
            return self.library.to_host(self.library.linear(phi, q, k, v, self.is_causal)())


class Map(_Sample):
    """Error and skill by the map."""

    params = (LAYERS, NAMES, axis(False, True), axis("favor+", "favor"))
    param_names = ("layer", "library", "is_causal", "map")

    def prepare(self, layer: int, name: str, is_causal: bool, attention: str) -> None:
        self.load(layer, name, is_causal)

    def track_error(self, layer: int, name: str, is_causal: bool, attention: str) -> float:
        return self.mean(attention, self.error)

    @unit("skill")
    def track_skill(self, layer: int, name: str, is_causal: bool, attention: str) -> float:
        return self.mean(attention, self.skill)

    def numbers(self, layer: int, name: str, is_causal: bool, attention: str) -> dict[str, float]:
        """Error, skill, and the error of uniform attention, for the page."""
        return {
            "error": self.mean(attention, self.error),
            "skill": self.mean(attention, self.skill),
            "uniform": float(np.mean(self.error(self.uniform))),
        }


class Dtype(_Sample):
    """Error by the dtype of queries, keys and values, causal, favor+, in the first layer."""

    params = (axis("float32", "bfloat16", "float16"), NAMES)
    param_names = ("dtype", "library")

    def prepare(self, dtype: str, name: str) -> None:
        self.load(0, name, True, dtype)

    def track_error(self, dtype: str, name: str) -> float:
        return self.mean(MAP, self.error)


class Uniform(_Sample):
    """Error of uniform attention, computed by the library: an estimate must be below it."""

    params = (LAYERS, NAMES, axis(False, True))
    param_names = ("layer", "library", "is_causal")

    def prepare(self, layer: int, name: str, is_causal: bool) -> None:
        self.load(layer, name, is_causal)

    def track_uniform_error(self, layer: int, name: str, is_causal: bool) -> float:
        uniform = rfx.diagnostics.uniform_attention(*self.inputs, is_causal=is_causal)
        return float(np.mean(self.error(self.library.to_host(uniform))))


def _activations(layer: int) -> list[Any]:
    """Queries, keys and values of one layer, shape (12, 192, 32), float64."""
    with (resources.files("rfx") / "data" / "sample.npz").open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        return [archive[f"{letter}{layer}"].astype(np.float64) for letter in "qkv"]
