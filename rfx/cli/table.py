"""The table of a comparison, and the progress bar, on a terminal or in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rfx.cli.measure import Comparison, Row
from rfx.cli.sentences import footnotes, header, verdict

__all__ = ["number", "paragraph", "progress", "show", "whole"]


@contextmanager
def progress(steps: int | None) -> Iterator[Callable[[str], None]]:
    """Show a bar on stderr if that is a terminal; gives the function that begins a step.

    ``steps`` is None where their number is not known.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=steps)
        begun = 0

        def advance(text: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=text)
            begun += 1

        yield advance


def show(found: Comparison) -> None:
    """Print header, table, verdict and footnotes on stdout."""
    console = Console(highlight=False)
    for name, text in header(found):
        paragraph(console, Text.assemble((f"{name:<8} ", "bold"), text))
    console.print()
    whole(console, _table(found))
    console.print()
    worse = any(row.worse_than_uniform for row in found.rows)
    paragraph(console, Text(verdict(found), style="bold red" if worse else "bold green"))
    console.print()
    for note in footnotes(found):
        paragraph(console, Text(note, style="dim"))


def whole(console: Console, table: Table) -> None:
    """Print a table with every number whole, if need be wider than the terminal."""
    needed = Console(width=10_000).measure(table).maximum
    width, console.width = console.width, max(console.width, needed)
    console.print(table)
    console.width = width


def paragraph(console: Console, text: Text) -> None:
    """Print text, wrapped by words on a terminal and on one line in a pipe."""
    console.print(text, soft_wrap=not console.is_terminal)


def _table(found: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("map", no_wrap=True)
    for title in ("m", "error", "spread", "uniform", "skill", "time ms", "exact ms"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    exact = _milliseconds(found.exact.seconds)
    for i, row in enumerate(found.rows):
        last = i + 1 == len(found.rows) or found.rows[i + 1].map != row.map
        table.add_row(*_cells(row, exact), end_section=last)
    return table


def _cells(row: Row, exact: str) -> list[Text]:
    style = "red" if row.worse_than_uniform else ""
    return [
        Text(row.map, style="bold"),
        Text(str(row.num_features)),
        Text(number(row.error)),
        Text(number(row.spread), style="dim"),
        Text(number(row.uniform)),
        Text(number(row.skill), style=style or "green"),
        Text(_milliseconds(row.seconds)),
        Text(exact),
        Text("worse" if row.worse_than_uniform else "", style=style),
    ]


def number(value: float) -> str:
    """Three decimals or three digits, in at most seven characters."""
    size = abs(value)
    if not size < 1e5:
        return f"{value:.0e}"
    return f"{value:.3f}" if size < 10.0 else f"{value:.1f}" if size < 100.0 else f"{value:.0f}"


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.2f}" if value < 10.0 else f"{value:.1f}" if value < 1e3 else f"{value:.0f}"
