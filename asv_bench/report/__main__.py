"""Measure, and write BENCHMARKS.md: ``python -m asv_bench.report`` at the root of a checkout."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from asv_bench.benchmarks._libraries import LIBRARIES

from .jobs import ROOT, Absent, Found, run
from .machine import facts, present
from .page import SECTIONS, page
from .sections import Scope

__all__ = ["main"]


def main() -> int:
    """Return 1 if a measurement failed; the page then says which."""
    args = _arguments()
    begin = time.perf_counter()
    found = Found()
    run("Libraries", [[present(name)] for name in args.libraries], found, quick=args.quick)
    here = tuple(n for n in args.libraries if not isinstance(found.results[present(n)], Absent))
    if not here:
        print(f"none of {', '.join(args.libraries)} can be used here", file=sys.stderr)
        return 1
    scope = Scope(here, args.quick)
    known = facts(scope.names, found)
    for section in SECTIONS:
        run(section.title, section.batches(scope), found, quick=args.quick)
    known["duration"] = f"{time.perf_counter() - begin:.0f} s for the whole page"
    text = page(scope, found, known)
    if args.output is None:
        print(text, end="")
    else:
        args.output.write_text(text, encoding="utf-8")
    return 1 if found.failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m asv_bench.report", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of a minute, printed and marked as one"
    )
    parser.add_argument("--output", type=Path, help="BENCHMARKS.md by default, but for --quick")
    parser.add_argument(
        "--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="NAME",
        help=f"of {', '.join(LIBRARIES)}; those that are here by default",
    )  # fmt: skip
    args = parser.parse_args()
    if args.output is None and not args.quick:
        args.output = ROOT / "BENCHMARKS.md"
    return args


if __name__ == "__main__":
    sys.exit(main())
