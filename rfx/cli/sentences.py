"""What is said about a comparison above and below its table."""

from __future__ import annotations

from collections.abc import Iterable

from rfx.cli.measure import Comparison, Row
from rfx.kernels import Softmax

__all__ = ["footnotes", "header", "verdict"]


def header(found: Comparison) -> list[tuple[str, str]]:
    """What was compared, as pairs of a name and a text."""
    inputs, engine = found.inputs, found.engine
    layer = "" if inputs.layer is None else f", layer {inputs.layer}"
    if len(inputs.layers) > 1 and inputs.layer is not None:
        layer += f" (of {', '.join(map(str, inputs.layers))})"
    query, key = inputs.logit_size()
    direction = "causal" if found.is_causal else "bidirectional"
    seeds = ", ".join(map(str, found.seeds))
    return [
        ("input", inputs.source + layer),
        ("arrays", _arrays(found)),
        ("library", f"{engine.name} {engine.version} on {engine.device}"),
        ("target", f"softmax attention, weights exp(q.k / sqrt({inputs.dim})), {direction}"),
        ("logits", f"median |q|^2/sqrt(d) = {query:.3g}, median |k|^2/sqrt(d) = {key:.3g}"),
        ("seeds", f"{seeds} (independent frequencies for each head of k)"),
    ]


def _arrays(found: Comparison) -> str:
    inputs = found.inputs
    shapes = ", ".join(
        f"{name} {array.shape}"
        for name, array in (("q", inputs.query), ("k", inputs.key), ("v", inputs.value))
    )
    text = f"{shapes}, {' and '.join(inputs.stored)}"
    if inputs.stored != (found.dtype,):
        text += f" in the file, computed in {found.dtype}"
    if inputs.heads is not None:
        text += f", query heads {', '.join(map(str, inputs.heads))}"
        text += " each with a copy of its key head"
    return text


def verdict(found: Comparison) -> str:
    """Say which maps are worse than uniform attention."""
    worse = [row for row in found.rows if row.worse_than_uniform]
    if not worse:
        return "No map here is worse than uniform attention."
    widths: dict[str, list[str]] = {}
    for row in worse:
        widths.setdefault(row.map, []).append(str(row.num_features))
    listed = "; ".join(f"{name} at m = {', '.join(m)}" for name, m in widths.items())
    return f"Worse than uniform attention: {listed}."


def footnotes(found: Comparison) -> list[str]:
    """Define the columns, and say what a reader could miss."""
    heads = len(found.uniform)
    notes = [
        "error: |estimate - exact| / |exact| of the attention output of one head, mean over "
        f"{_count(len(found.seeds), 'seed')} x {_count(heads, 'head')}; spread: standard deviation "
        "over them. The exact output is computed in float64.",
        "uniform: the error of equal weights, which reads no query and no key. "
        "skill: 1 - error / uniform; 1 is exact, 0 is no better than uniform.",
        _times(found),
    ]
    fitted = _maps(row for row in found.rows if row.spec.needs_data)
    if fitted:
        future = ", whose future they thereby know" if found.is_causal else ""
        notes.append(f"Fitted to the queries and keys that they are tried on{future}: {fitted}.")
    others = _maps(row for row in found.rows if row.spec.kernel != Softmax())
    if others:
        notes.append(f"Made for another kernel, yet compared with softmax attention: {others}.")
    return notes


def _times(found: Comparison) -> str:
    paths = ", ".join(dict.fromkeys(row.implementation for row in found.rows))
    note = f"; {found.engine.note}" if found.engine.note else ""
    return (
        f"time: rfx.linear_attention (implementation: {paths}), without drawing or fitting the "
        f"map; exact: {found.exact.name}. Both are medians of 3 to 5 calls after a warm-up{note}."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _maps(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(row.map for row in rows))
