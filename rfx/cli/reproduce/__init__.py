"""``rfx reproduce NAME``: experiments of the papers, run again with the maps of this version."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from rfx.cli.errors import UserError, require
from rfx.cli.options import check_writable, whole_number
from rfx.cli.reproduce.activations import EXPERIMENT as ACTIVATIONS
from rfx.cli.reproduce.attention_error import EXPERIMENT as ATTENTION_ERROR
from rfx.cli.reproduce.classification import EXPERIMENT as CLASSIFICATION
from rfx.cli.reproduce.experiment import Experiment, Request
from rfx.cli.reproduce.folder import archives
from rfx.cli.reproduce.hybrid import EXPERIMENT as HYBRID
from rfx.cli.reproduce.landmarks import EXPERIMENT as LANDMARKS
from rfx.cli.reproduce.polynomial import EXPERIMENT as POLYNOMIAL
from rfx.cli.reproduce.regression import EXPERIMENT as REGRESSION
from rfx.cli.reproduce.simplex import EXPERIMENT as SIMPLEX
from rfx.cli.reproduce.sparsefinder import EXPERIMENT as SPARSEFINDER
from rfx.cli.reproduce.variance import EXPERIMENT as VARIANCE

__all__ = ["EXPERIMENTS", "add_parser", "list_experiments", "run"]

EXPERIMENTS: tuple[Experiment, ...] = (
    VARIANCE,
    ATTENTION_ERROR,
    SIMPLEX,
    CLASSIFICATION,
    ACTIVATIONS,
    HYBRID,
    LANDMARKS,
    POLYNOMIAL,
    REGRESSION,
    SPARSEFINDER,
)

_DESCRIPTION = """\
Run an experiment of the papers again, with the maps that this version of rfx has.

Each prints a table, says what it shows and which expectation it misses, and saves a plot. Without
a name, the experiments are listed; `rfx reproduce NAME --help` explains one."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "reproduce",
        help="Run an experiment of the papers again: table, plot and verdict.",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=list_experiments)
    names = parser.add_subparsers(metavar="NAME", required=False)
    for experiment in EXPERIMENTS:
        _add_experiment(names, experiment)


def _add_experiment(names: Any, experiment: Experiment) -> None:
    parser = names.add_parser(
        experiment.name,
        help=experiment.summary,
        description=experiment.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    if experiment.data is not None:
        needed = experiment.data == "required"
        add("--data", type=Path, metavar="DIR", required=needed, help=experiment.data_help)
    text = f"number of seeds (default: {experiment.seeds}, or {experiment.quick_seeds} if --quick)"
    add("--seeds", type=whole_number(1), metavar="N", help=text)
    add("--quick", action="store_true", help="small sizes, to see it run within seconds")
    plot = Path(f"{experiment.name}.png")
    add("--plot", type=Path, metavar="FILE.png", default=plot, help=f"the plot (default: {plot})")
    add("--json", type=Path, metavar="FILE", help="also write every number to a JSON file")
    parser.set_defaults(run=partial(run, experiment))


def list_experiments(args: argparse.Namespace) -> None:
    """Print the experiments, one line each."""
    width = max(len(experiment.name) for experiment in EXPERIMENTS)
    for experiment in EXPERIMENTS:
        print(f"{experiment.name:<{width}}  {experiment.summary}")


def run(experiment: Experiment, args: argparse.Namespace) -> None:
    """Check everything that can be wrong, compute, and report."""
    purpose = f"rfx reproduce {experiment.name}"
    require("rich", "cli", purpose)
    require("matplotlib", "plot", purpose)
    from rfx.cli import plot, table
    from rfx.cli.reproduce import present

    folder = getattr(args, "data", None)
    files = () if folder is None else archives(folder)
    plot.check_ending(args.plot)
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        if path is not None:
            for source in files or (None,):
                check_writable(path, option, source)
    if args.json == args.plot:
        raise UserError("--json and --plot name the same file; name two files")
    seeds = args.seeds or (experiment.quick_seeds if args.quick else experiment.seeds)
    request = Request(seeds, args.quick, files)
    with table.progress(None) as advance:
        found = experiment.measure(request, advance)
    present.show(experiment, request, found)
    if args.json is not None:
        present.write(experiment, request, found, args.json)
    present.draw(experiment, found, args.plot)
