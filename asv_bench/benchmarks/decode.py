"""Decoding: one token with a state, and a prompt followed by tokens."""

from __future__ import annotations

from typing import Any

from ._cases import DIM, HEADS, MAP, NAMES, NUM_FEATURES, QUICK, axis, draw, normal
from ._clock import medians
from ._libraries import Call, Library, start
from ._rows import Timed

__all__ = ["Prompt", "Token", "stepping"]

PROMPT, TOKENS = (64, 4) if QUICK else (512, 64)


class Token(Timed):
    """Time of one token for every sequence of a batch, and of a copy of the state's numerator.

    A token reads the state and writes a new one, so that a copy is what it takes at least.
    """

    params = (axis(1, 32), NAMES)
    param_names = ("batch", "library")
    repeat = (1, 3, 1.0) if QUICK else (20, 500, 2.0)
    unit = "ratio"

    def prepare(self, batch: int, name: str) -> None:
        self.calls = stepping(start(name), batch)
        for call in self.calls.values():
            call()

    def time_token(self, batch: int, name: str) -> None:
        self.calls["token"]()

    def time_copy(self, batch: int, name: str) -> None:
        self.calls["copy"]()

    def track_ratio_to_copy(self, batch: int, name: str) -> float:
        found = self.seconds(batch, name)
        return found["token"] / found["copy"]

    def seconds(self, batch: int, name: str) -> dict[str, float]:
        """Medians of both, called in turn."""
        return medians(self.calls)


class Prompt(Timed):
    """Time of a prompt of 512 tokens in one call, and 64 tokens after it one by one, batch 1."""

    params = (NAMES,)
    param_names = ("library",)

    def prepare(self, name: str) -> None:
        library = start(name)
        prompt, token = _inputs(library, 1, PROMPT), _inputs(library, 1, 1)
        step = library.stepper(draw(MAP, NUM_FEATURES, prompt[0]))

        def generate() -> Any:
            out, state = step(*prompt, None)
            for _ in range(TOKENS):
                out, state = step(*token, state)
            return out, state

        self.keep(library.finished(generate))

    def time_prompt_and_tokens(self, name: str) -> None:
        self.run()

    def seconds(self, name: str) -> dict[str, float]:
        """The median, for the page."""
        return medians({"prompt and tokens": self.run})


def stepping(library: Library, batch: int) -> dict[str, Call]:
    """A token after a prompt, and a copy of its state's numerator."""
    prompt, tokens = _inputs(library, batch, PROMPT), _inputs(library, batch, 1)
    step = library.stepper(draw(MAP, NUM_FEATURES, prompt[0]))
    _, state = step(*prompt, None)
    return {
        "token": library.finished(lambda: step(*tokens, state)),
        "copy": library.finished(library.copy(state.numerator)),
    }


def _inputs(library: Library, batch: int, L: int) -> list[Any]:
    return [normal(library, (batch, HEADS, L, DIM), seed) for seed in range(3)]
