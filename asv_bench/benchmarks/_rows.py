"""What the classes of benchmarks share: how they are set up, and how their calls are timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ._cases import QUICK
from ._libraries import Call

__all__ = ["Prepared", "Timed", "unit"]

Method = TypeVar("Method", bound=Callable[..., Any])


def unit(name: str) -> Callable[[Method], Method]:
    """Give one tracked metric of a class its own unit."""

    def mark(method: Method) -> Method:
        setattr(method, "unit", name)  # noqa: B010, mypy knows no attributes of functions
        return method

    return mark


class Prepared:
    """A benchmark whose `prepare` runs once in a process, though asv sets up for each sample."""

    timeout = 600.0
    ready: tuple[Any, ...] | None = None

    def setup(self, *params: Any) -> None:
        if self.ready != params:
            self.prepare(*params)
            self.ready = params

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Make what is timed from the parameters of the row."""
        raise NotImplementedError


class Timed(Prepared):
    """Seconds of a call; calls before it have compiled what there is to compile."""

    number = 1
    repeat = (1, 3, 1.0) if QUICK else (3, 20, 1.0)
    rounds = 1
    warmup_time = 0.0

    def keep(self, call: Call) -> None:
        """Keep what is to be timed, after one call of it."""
        call()
        self.run = call
