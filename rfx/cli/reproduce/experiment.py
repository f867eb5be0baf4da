"""What an experiment is: a record of its texts and one function, and the record it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:  # a figure is only passed on; matplotlib is an optional package
    from matplotlib.figure import Figure

__all__ = ["Advance", "Cell", "Claim", "Experiment", "Grid", "Outcome", "Request"]

Cell = str | float | None
"""A number is shown with three decimals or three digits; None as a dash."""

Advance = Callable[[str], None]
"""Called with the name of what is computed next."""


class Request(NamedTuple):
    """What the user asked for.

    seeds : repetitions 0 ... seeds − 1
    files : the archives of --data, in the order of their names; empty without it
    """

    seeds: int
    quick: bool
    files: tuple[Path, ...]


class Grid(NamedTuple):
    """A table; the first ``labels`` columns are flush left, and None for a row is a rule."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...] | None, ...]
    labels: int = 1


class Claim(NamedTuple):
    """A sentence on the result; ``held`` is False where an expectation was missed."""

    text: str
    held: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    settings : sizes and constants, for the header and the JSON file
    rows : every number, as flat records for the JSON file
    """

    settings: dict[str, Any]
    grids: tuple[Grid, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]
    rows: list[dict[str, Any]]
    plot: Callable[[Figure], None]
    plot_size: tuple[float, float] = (9.0, 5.0)


@dataclass(frozen=True)
class Experiment:
    """A name, its texts for --help, its default number of seeds, and what computes it."""

    name: str
    summary: str
    description: str
    seeds: int
    measure: Callable[[Request, Advance], Outcome]
    data: Literal["required", "optional"] | None = None
    data_help: str = ""
    quick_seeds: int = 2
