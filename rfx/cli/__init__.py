"""The command line: a parser with one module for each command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import rfx
from rfx.cli import compare, info, reproduce
from rfx.cli.errors import UserError

__all__ = ["main"]

COMMANDS = (compare, info, reproduce)
"""Modules with ``add_parser(subparsers)``, which sets ``run`` to a function of the arguments."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rfx: error: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0, or 2 after one sentence on stderr that says what is wrong with the input.

    Raises
    ------
    SystemExit
        With code 2 if the arguments cannot be parsed, 0 after ``--help`` or ``--version``.
    """
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except UserError as error:
        print(f"rfx: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rfx: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rfx",
        description="Random feature maps and linear attention: how good, and how fast?",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rfx {rfx.__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser
