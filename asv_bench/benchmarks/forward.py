"""Time of linear attention: each class varies one axis around the base case."""

from __future__ import annotations

from ._cases import EXACT, LENGTHS, MAP, NAMES, Problem, axis
from ._clock import seconds
from ._rows import Prepared, Timed

__all__ = ["Dimension", "Dtype", "Features", "FirstCall", "Length", "Map"]


class Length(Timed):
    """Time by length, in both directions."""

    params = (axis(*LENGTHS), NAMES, axis(False, True))
    param_names = ("L", "library", "is_causal")

    def prepare(self, L: int, name: str, is_causal: bool) -> None:
        self.keep(Problem(name, L=L, is_causal=is_causal).linear())

    def time_forward(self, L: int, name: str, is_causal: bool) -> None:
        self.run()


class Dimension(Timed):
    """Time by the dimension of queries, keys and values, causal."""

    params = (axis(64, 128), NAMES)
    param_names = ("d", "library")

    def prepare(self, d: int, name: str) -> None:
        self.keep(Problem(name, d=d).linear())

    def time_forward(self, d: int, name: str) -> None:
        self.run()


class Features(Timed):
    """Time by the number of features, causal."""

    params = (axis(64, 128, 256, 512), NAMES)
    param_names = ("m", "library")

    def prepare(self, m: int, name: str) -> None:
        self.keep(Problem(name, m=m).linear())

    def time_forward(self, m: int, name: str) -> None:
        self.run()


class Dtype(Timed):
    """Time by the dtype of queries, keys and values, causal."""

    params = (axis("float32", "bfloat16", "float16"), NAMES)
    param_names = ("dtype", "library")

    def prepare(self, dtype: str, name: str) -> None:
        self.keep(Problem(name, dtype=dtype).linear())

    def time_forward(self, dtype: str, name: str) -> None:
        self.run()


class Map(Timed):
    """Time by the map, causal."""

    params = (
        axis("favor+", "favor+hyp", "favor", "favor-offset", "dense", "gerf", "favor+relu"),
        NAMES,
    )
    param_names = ("map", "library")

    def prepare(self, attention: str, name: str) -> None:
        self.keep(Problem(name, attention=attention).linear())

    def time_forward(self, attention: str, name: str) -> None:
        self.run()


class FirstCall(Prepared):
    """Time of the first call in a fresh process, compilation included."""

    params = (NAMES, axis(False, True), axis(MAP, EXACT))
    param_names = ("library", "is_causal", "attention")
    unit = "seconds"

    def prepare(self, name: str, is_causal: bool, attention: str) -> None:
        self.call = Problem(name, L=LENGTHS[0], is_causal=is_causal).forward(attention)

    def track_first_call(self, name: str, is_causal: bool, attention: str) -> float:
        return seconds(self.call)
