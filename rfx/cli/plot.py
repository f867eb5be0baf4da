"""The figure of a comparison: errors against m, and attention matrices of one head."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

import rfx
from rfx._xp import Array
from rfx.cli.errors import UserError
from rfx.cli.measure import Comparison, Row

__all__ = ["attention_weights", "check_ending", "draw"]

_TOKENS = 64
_MARKERS = "osD^vP*X<>"


def check_ending(path: Path) -> None:
    """Refuse a file whose kind matplotlib cannot write."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise UserError(f"--plot cannot write {path}: its name must end in .png, .pdf or .svg")


def draw(found: Comparison, path: Path) -> None:
    """Draw the figure and write it."""
    figure = Figure(figsize=(15.0, 5.8), dpi=120, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1.0, 1.0))
    figure.suptitle(_title(found))
    _draw_errors(left, found)
    columns = min(8, 1 + len({row.map for row in found.rows}))
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    _draw_matrices(figure, (middle, right), found)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"--plot cannot write {path}: {error.strerror}") from error


def _title(found: Comparison) -> str:
    inputs = found.inputs
    layer = "" if inputs.layer is None else f", layer {inputs.layer}"
    direction = "causal" if found.is_causal else "bidirectional"
    heads = f"{len(found.uniform)} heads of {inputs.query.shape[-2]} queries"
    return f"{Path(inputs.source).name}{layer}: {direction} attention, {heads}"


def _draw_errors(axes: Axes, found: Comparison) -> None:
    uniform = float(np.mean(found.uniform))
    finite = [row.error for row in found.rows if np.isfinite(row.error)]
    top = max(10.0 * uniform, min(finite, default=0.0))
    names = list(dict.fromkeys(row.map for row in found.rows))
    colors = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    for i, name in enumerate(names):
        rows = sorted((r for r in found.rows if r.map == name), key=lambda r: r.num_features)
        above = all(not row.error <= top for row in rows)
        shown = [] if above else rows
        shift = 1.03 ** (i - 0.5 * (len(names) - 1))  # keeps the bars of two maps apart
        axes.errorbar(
            [shift * row.num_features for row in shown],
            [row.error for row in shown],
            [row.spread for row in shown],
            label=f"{name} (errors above the plot)" if above else name,
            color=colors(i % colors.N),
            marker=_MARKERS[i % len(_MARKERS)],
            capsize=3,
        )
    axes.axhline(uniform, color="black", linestyle="--", label="uniform attention")
    errors = [row.error for row in found.rows if row.error <= top] + [uniform]
    low = max(0.6 * min(errors), 1e-9)
    high = max(1.7 * max(errors), 2.0 * low)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    marks = (1.0, 2.0, 5.0) if high > 10.0 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    axes.yaxis.set_major_locator(LogLocator(subs=marks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xscale("log")
    ticks = sorted({row.num_features for row in found.rows})
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.set_xticks(ticks, [str(m) for m in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("number of features m")
    axes.set_ylabel("relative error of the attention output")
    axes.set_title("Error: mean and standard deviation")
    axes.grid(alpha=0.3)


def _draw_matrices(figure: Figure, pair: tuple[Axes, Axes], found: Comparison) -> None:
    best = _best(found)
    by_head = np.mean(best.errors, axis=0)
    head = int(np.argsort(by_head)[len(by_head) // 2])  # of median error
    exact, estimate = attention_weights(found, best, head)
    # Square roots of weights show the small ones; a few keys that all queries see are cut off.
    largest = max(float(np.quantile(exact, 0.998)), 1e-12)
    norm = PowerNorm(0.5, vmin=0.0, vmax=largest, clip=True)
    estimated = f"{best.map}, m = {best.num_features}: error {by_head[head]:.2f} on this head"
    for axes, weights, title in zip(
        pair, (exact, estimate), ("Exact attention", estimated), strict=True
    ):
        image = axes.imshow(weights, norm=norm, cmap="magma", interpolation="nearest")
        axes.set_title(title)
        axes.set_xlabel("key")
    pair[0].set_ylabel(f"query (head {_name(found, head)})")
    ticks = [largest * share**2 for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    label = "attention weight" + (" (black: 0 or less)" if (estimate < 0.0).any() else "")
    bar = figure.colorbar(image, ax=list(pair), label=label, shrink=0.8, extend="max")
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.minorticks_off()


def _best(found: Comparison) -> Row:
    """The row with the least error among those with the most features."""
    most = max(row.num_features for row in found.rows)
    rows = [row for row in found.rows if row.num_features == most]
    return min(rows, key=lambda row: row.error if np.isfinite(row.error) else np.inf)


def attention_weights(found: Comparison, row: Row, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact and estimated attention weights of a head, first queries and first keys.

    Attention is linear in the values: with unit vectors for values the output is the weights.
    """
    query, key = found.inputs.query, found.inputs.key
    length = key.shape[-2]
    shown = min(_TOKENS, length)
    value = np.broadcast_to(np.eye(length, shown, dtype=key.dtype), (*key.shape[:-1], shown))
    phi = row.spec.fit(query, key, seed=found.seeds[0])
    causal = found.is_causal
    with np.errstate(all="ignore"):  # a signed map may divide by nearly nothing
        both: list[Array] = [
            rfx.kernel_attention(query, key, value, is_causal=causal),
            rfx.linear_attention(query, key, value, features=phi, is_causal=causal),
        ]
    exact, estimate = (a.reshape(-1, *a.shape[-2:])[head, :_TOKENS] for a in both)
    return exact, estimate


def _name(found: Comparison, head: int) -> str:
    """The head's number in the file."""
    heads = found.inputs.heads
    index = head % found.inputs.query.shape[-3]
    return str(index if heads is None else heads[index])
