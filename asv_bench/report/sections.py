"""What a section of the page is: jobs, a table of their results, and what rfx loses there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .jobs import Found, Job

__all__ = ["DIRECTIONS", "Scope", "Section", "number", "table"]

DIRECTIONS = {False: "bidirectional", True: "causal"}


@dataclass(frozen=True)
class Scope:
    """Which libraries are measured, and whether at sizes that measure nothing."""

    names: tuple[str, ...]
    quick: bool


class Section(ABC):
    """One table or two of the page."""

    title: str
    alone = False
    """Whether each job needs a process of its own; otherwise those of a library share one."""

    @abstractmethod
    def jobs(self, scope: Scope) -> list[Job]:
        """What is measured; jobs that name a library have it among their parameters."""

    @abstractmethod
    def body(self, scope: Scope, found: Found) -> list[str]:
        """The lines below the title."""

    def losses(self, scope: Scope, found: Found) -> list[str]:
        """A line for each group of rows where rfx is slower or wrong."""
        return []

    def batches(self, scope: Scope) -> list[list[Job]]:
        """The jobs by the process that runs them."""
        if self.alone:
            return [[job] for job in self.jobs(scope)]
        groups: dict[str, list[Job]] = {}
        for job in self.jobs(scope):
            name = next((p for p in job.params if p in scope.names), "")
            groups.setdefault(name, []).append(job)
        return list(groups.values())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table: names on the left, numbers on the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return ["", *(f"| {' | '.join(row)} |" for row in (head, rule, *rows)), ""]


def number(value: float | None, scale: float = 1.0) -> str:
    """Three digits that count; a dash where nothing was measured."""
    if value is None or value != value:
        return "–"
    value *= scale
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
