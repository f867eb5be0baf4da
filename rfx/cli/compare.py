"""``rfx compare``: which map estimates attention well on these queries and keys, and how fast."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rfx import features
from rfx.cli import engines, inputs, measure, report
from rfx.cli.errors import UserError, require
from rfx.cli.options import check_writable, names, whole_number, whole_numbers

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Compare random feature maps with exact attention on real queries, keys and values.

Without --input, activations of a sentence encoder that come with rfx are used. Every error
stands beside that of uniform attention, which any useful map must beat."""

_EXAMPLES = """\
examples:
  rfx compare
  rfx compare --maps favor,favor+ --num-features 64,256 --causal
  rfx compare --input qkv.npz --layer 5 --library torch --json errors.json --plot errors.png

qkv.npz holds floating arrays q, k, v of shape (heads, length, dim) or (batch, heads, length, dim),
or q0, k0, v0, q1, ... by layer; other arrays are ignored. q and k are taken as they enter
attention, before the factor 1/sqrt(dim). q may have a multiple of the heads of k and v. Write it
with numpy.savez("qkv.npz", q=q, k=k, v=v)."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "compare",
        help="Compare feature maps with exact attention: error, skill and time.",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--input", type=Path, metavar="FILE.npz", help="your own queries, keys and values")
    add("--layer", type=whole_number(0), metavar="N", help="layer of the file (default: the first)")
    add("--heads", type=whole_numbers(0), metavar="0,3", help="query heads (default: all)")
    add("--maps", type=names, metavar="NAME,NAME", help="maps by name (default: all)")
    add(
        "--num-features",
        type=whole_numbers(1),
        default=(64, 256, 1024),
        metavar="64,256",
        help="numbers of features m (default: 64,256,1024)",
    )
    add("--causal", action="store_true", help="each query sees only keys up to its own place")
    add(
        "--seeds", type=whole_number(1), default=3, metavar="N", help="number of seeds (default: 3)"
    )
    add("--seed", type=whole_number(0), default=0, metavar="N", help="the first seed (default: 0)")
    add(
        "--library",
        choices=tuple(engines.ENGINES),
        default="numpy",
        help="array library, on its GPU if there is one (default: numpy)",
    )
    add("--json", type=Path, metavar="FILE", help="also write every number to a JSON file")
    add("--plot", type=Path, metavar="FILE.png", help="also draw the errors and the attention")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Check everything that can be wrong, measure, and report."""
    require("rich", "cli", "rfx compare")
    from rfx.cli import table

    _check_outputs(args)
    specs = measure.plan(args.maps, args.num_features)
    absent = [name for name in features.NAMES if name not in dict(specs)]
    if args.maps is None and absent:
        few = ", ".join(map(str, args.num_features))
        print(f"left out, which cannot have m = {few}: {', '.join(absent)}", file=sys.stderr)
    data = inputs.read(args.input, args.layer, args.heads)
    if args.causal and data.query.shape[-2] > data.key.shape[-2]:
        raise UserError(
            f"--causal needs at least as many keys as queries, but {data.source} has "
            f"{data.query.shape[-2]} queries and {data.key.shape[-2]} keys; leave --causal out"
        )
    engine = engines.start(args.library)
    seeds = range(args.seed, args.seed + args.seeds)
    with table.progress(len(specs) + 1) as advance:
        found = measure.compare(
            data, specs, engine, is_causal=args.causal, seeds=seeds, advance=advance
        )
    table.show(found)
    if args.json is not None:
        report.write(found, args.json)
        print(f"wrote {args.json}", file=sys.stderr)
    if args.plot is not None:
        from rfx.cli import plot

        plot.draw(found, args.plot)
        print(f"wrote {args.plot}", file=sys.stderr)


def _check_outputs(args: argparse.Namespace) -> None:
    if args.plot is not None:
        require("matplotlib", "plot", "--plot")
        from rfx.cli import plot

        plot.check_ending(args.plot)
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        if path is not None:
            check_writable(path, option, args.input)
    if args.json is not None and args.json == args.plot:
        raise UserError("--json and --plot name the same file; name two files")
