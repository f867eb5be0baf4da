"""Values of command-line options: comma-separated lists, and files that will be written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from rfx.cli.errors import UserError

__all__ = ["check_writable", "names", "whole_number", "whole_numbers"]


def names(text: str) -> tuple[str, ...]:
    """Split ``"a,b"`` into ``("a", "b")``."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"expected a list such as a,b without gaps, got {text!r}")
    _refuse_repeats(found)
    return found


def whole_number(least: int) -> Callable[[str], int]:
    """Make a reader of one whole number that is at least ``least``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {number}")
        return number

    return read


def whole_numbers(least: int) -> Callable[[str], tuple[int, ...]]:
    """Make a reader of lists such as ``"64,256"`` of numbers that are at least ``least``."""
    one = whole_number(least)

    def read(text: str) -> tuple[int, ...]:
        numbers = tuple(one(part) for part in names(text))
        _refuse_repeats(numbers)
        return numbers

    return read


def check_writable(path: Path, option: str, source: Path | None) -> None:
    """Refuse, before anything is computed, a file that cannot be written or is the input."""
    existed = path.exists()
    if existed and source is not None and source.exists() and os.path.samefile(path, source):
        raise UserError(f"{option} would overwrite the input {path}; name another file")
    try:
        with open(path, "ab"):
            pass
    except OSError as error:
        raise UserError(f"{option} cannot write {path}: {error.strerror}") from error
    if not existed:
        path.unlink()


def _refuse_repeats(items: tuple[object, ...]) -> None:
    repeated = [item for i, item in enumerate(items) if item in items[:i]]
    if repeated:
        raise argparse.ArgumentTypeError(f"{repeated[0]} is listed twice")
