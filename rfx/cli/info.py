"""``rfx info``: the array libraries, devices and fast paths of this machine."""

from __future__ import annotations

import argparse
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import rfx
from rfx.machine import Library

__all__ = ["add_parser", "run"]


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    text = "Show the array libraries, devices and fast paths that rfx finds on this machine."
    parser = subparsers.add_parser("info", help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print what this machine has."""
    print(f"rfx     {rfx.__version__}")
    print(f"python  {platform.python_version()} on {platform.system()} {platform.machine()}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn of devices that are not there
        found = rfx.libraries()
    for library in found:
        print(f"{library.name:<7} {_describe(library)}")
    print(f"numba   {_numba()}")


def _describe(library: Library) -> str:
    if library.version is None:
        return "not installed"
    if library.problem is not None:
        return f"{library.version}, cannot be used: {library.problem}"
    devices = ", ".join(library.devices) or "not known"
    lines = [f"{library.version}; devices: {devices}; fast paths:"]
    ops: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for path in library.fast_paths:
        ops.setdefault((path.name, path.devices), []).append(path.op)
    lines += [
        f"{name}: {', '.join(names)}; on {', '.join(kinds)}" for (name, kinds), names in ops.items()
    ]
    return "\n          ".join(lines if ops else [f"{lines[0]} none"])


def _numba() -> str:
    try:
        found = version("numba")
    except PackageNotFoundError:
        return "not installed; NumPy and torch do without the paths that it compiles"
    return f"{found}; compiles the paths that are named after it"
