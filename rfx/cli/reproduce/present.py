"""An outcome on the terminal, as a figure and as JSON."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import rfx
from rfx.cli.errors import UserError
from rfx.cli.report import finite
from rfx.cli.reproduce.experiment import Cell, Experiment, Grid, Outcome, Request
from rfx.cli.table import number, paragraph, whole

__all__ = ["draw", "show", "write"]

_STYLES = {True: "bold green", False: "bold red", None: "bold"}


def show(experiment: Experiment, request: Request, found: Outcome) -> None:
    """Print header, tables, claims and notes on stdout."""
    console = Console(highlight=False)
    header = {"shows": experiment.summary} | found.settings | {"seeds": request.seeds}
    if request.quick:
        header["quick"] = "small sizes, to see it run; the numbers say little"
    width = max(map(len, header))
    for name, value in header.items():
        line = Text.assemble((f"{name.replace('_', ' '):<{width}} ", "bold"), _words(value))
        paragraph(console, line)
    for grid in found.grids:
        console.print()
        if grid.title:
            paragraph(console, Text(grid.title, style="bold"))
        whole(console, _table(grid))
    console.print()
    for claim in found.claims:
        paragraph(console, Text(claim.text, style=_STYLES[claim.held]))
    console.print()
    for note in found.notes:
        paragraph(console, Text(note, style="dim"))


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(grid: Grid) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for i, title in enumerate(grid.columns):
        table.add_column(title, justify="left" if i < grid.labels else "right", no_wrap=True)
    for row in grid.rows:
        if row is None:
            table.add_section()
        else:
            bold = [Text(_cell(cell), style="bold") for cell in row[: grid.labels]]
            table.add_row(*bold, *(Text(_cell(cell)) for cell in row[grid.labels :]))
    return table


def _cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    return number(cell) if isinstance(cell, float) else str(cell)


def draw(experiment: Experiment, found: Outcome, path: Path) -> None:
    """Draw the figure and write it."""
    figure = Figure(figsize=found.plot_size, dpi=120, layout="constrained")
    figure.suptitle(experiment.summary.rstrip("."))
    found.plot(figure)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"--plot cannot write {path}: {error.strerror}") from error
    print(f"wrote {path}", file=sys.stderr)


def write(experiment: Experiment, request: Request, found: Outcome, path: Path) -> None:
    """Write every number as JSON; those that are not finite become null."""
    content = {
        "experiment": experiment.name,
        "versions": {
            "rfx": rfx.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "quick": request.quick,
        "seeds": list(range(request.seeds)),
        "settings": found.settings,
        "claims": [claim._asdict() for claim in found.claims],
        "rows": found.rows,
    }
    text = json.dumps(finite(content), indent=2, allow_nan=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json cannot write {path}: {error.strerror}") from error
    print(f"wrote {path}", file=sys.stderr)
