"""Predicting the support of entmax attention: recall against sparsity, on recorded activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.cli.reproduce.sparsefinder_parts import (
    AXES,
    CLUSTERS,
    RULES,
    SETTINGS,
    SHARED,
    SPLITS,
    judge,
    parts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

_SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

_DESCRIPTION = f"""\
How many of the pairs that have a weight in 1.5-entmax attention are found by rules that look at
{AXES} numbers for each token, against the share of pairs that they leave out. The queries, keys
and values are recorded from models: in --data DIR, npz files with arrays q0, k0, v0, q1, ... of
shape (heads, length, dim), or else the sample that comes with rfx. Files with `causal` in their
name are taken as causal.

Projections, bins and clusters are fitted to one half of the tokens and judged on the other, each
head by itself: alternate fits to every other token and judges those between, so that both have the
same positions; halves fits to the first half and judges the second. The first token is in neither:
nearly every query may attend to it, which is what global tokens are for.

distance, bins and clusters compare projected tokens: pairs are predicted that are near, that share
a bin on {SHARED} of the {AXES} axes, or that share one of {CLUSTERS} clusters, of which a token has
one or several. not fitted compares all coordinates as they are, by their distance. window takes the
nearest keys and random any: what a rule must beat. Every query has its own position besides.

sparsity is the share of the visible pairs that is left out, recall the share of the exact support
that is not, and the error |output - exact| / |exact|, with uniform for averaging the values. All
are means over heads, layers, files and seeds; between settings they are interpolated."""

Rows = list[dict[str, Any]]


class _Found(NamedTuple):
    """What one way to split the tokens gave."""

    curves: dict[str, _Curve]
    exact: float
    """Sparsity of the exact support."""
    uniform: float
    """Error of uniform attention."""


def measure(request: Request, advance: Advance) -> Outcome:
    """Sparsity, recall and error of each rule at each of its settings."""
    rows: Rows = []
    for part in (p for path in request.files or (None,) for p in parts(path, request.quick)):
        layer = "" if part.layer is None else f", layer {part.layer}"
        advance(f"{part.name}{layer}, {part.split}")
        rows += judge(part, request)
    found = {split: _found([r for r in rows if r["split"] == split]) for split in SPLITS}
    return Outcome(
        settings={
            "data": [str(path) for path in request.files] or "the sample that comes with rfx",
            "attention": "1.5-entmax",
            "projection": f"to {AXES} axes",
        },
        grids=tuple(_grid(found[s], s, name) for name in ("recall", "error") for s in SPLITS),
        claims=tuple(claim for split in SPLITS for claim in _claims(found[split], split)),
        notes=(
            "Interpolated between the settings of each method; a dash where it has none so sparse, "
            "or so dense.",
            "The portable code leaves pairs out by a mask, which saves no time: these are the "
            "pairs that a kernel for sparse attention would have to compute.",
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, found),
        plot_size=(12.0, 9.0),
    )


def _found(rows: Rows) -> _Found:
    exact = [np.mean(r["exact_sparsity"]) for r in rows if r["method"] == "uniform"]
    curves = {method: _curve(rows, method) for method in SETTINGS}
    return _Found(curves, float(np.mean(exact)), _mean(rows, "uniform", None, "error"))


class _Curve(NamedTuple):
    """Means at each setting, by rising sparsity."""

    sparsity: np.ndarray
    recall: np.ndarray
    error: np.ndarray

    def at(self, name: str, sparsity: float) -> float | None:
        """Interpolated, or None outside of the settings."""
        if not self.sparsity[0] <= sparsity <= self.sparsity[-1]:
            return None
        return float(np.interp(sparsity, self.sparsity, getattr(self, name)))


def _curve(rows: Rows, method: str) -> _Curve:
    settings = dict.fromkeys(r["setting"] for r in rows if r["method"] == method)
    names = ("sparsity", "recall", "error")
    points = sorted(tuple(_mean(rows, method, s, name) for name in names) for s in settings)
    return _Curve(*np.asarray(points).T)


def _mean(rows: Rows, method: str, setting: float | None, name: str) -> float:
    own = [r[name] for r in rows if r["method"] == method and r["setting"] == setting]
    return float(np.mean([np.mean(values) for values in own]))


def _grid(found: _Found, split: str, name: str) -> Grid:
    lines: list[tuple[Cell, ...]] = []
    own = name == "error"
    for sparsity in _SPARSITIES:
        cells: list[Cell] = [curve.at(name, sparsity) for curve in found.curves.values()]
        lines.append((f"{sparsity:.2f}", *cells, *((found.uniform,) if own else ())))
    columns = ("sparsity", *found.curves, *(("uniform",) if own else ()))
    title = {"recall": "Recall of the exact support", "error": "Error of the output"}[name]
    return Grid(f"{title}, {split}", columns, tuple(lines), labels=0)


def _claims(found: _Found, split: str) -> Iterator[Claim]:
    curves = found.curves
    share = f"{100 * found.exact:.0f} %"
    yield Claim(f"{split}: 1.5-entmax itself gives {share} of the visible pairs no weight.")
    for other in ("random", "window", "not fitted"):
        for rule in RULES:
            compared = [
                (s, mine, theirs)
                for s in _SPARSITIES
                if (mine := curves[rule].at("recall", s)) is not None
                and (theirs := curves[other].at("recall", s)) is not None
            ]
            above = [f"{s:g}" for s, mine, theirs in compared if mine > theirs]
            if len(above) == len(compared):
                where = "at every sparsity"
            else:
                where = f"at {', '.join(above)} alone" if above else "at NO sparsity"
            yield Claim(
                f"{split}: {rule} finds more than {other} {where}.", len(above) == len(compared)
            )
    for sparsity in (0.7, 0.9):
        at = {rule: curves[rule].at("recall", sparsity) for rule in RULES}
        known = {rule: recall for rule, recall in at.items() if recall is not None}
        if known:
            best = max(known, key=lambda rule: known[rule])
            error = curves[best].at("error", sparsity)
            assert error is not None
            side = "below" if error < found.uniform else "NOT below"
            yield Claim(
                f"{split}: at sparsity {sparsity:g} the best rule is {best}, which finds "
                f"{known[best]:.2f} of the support, with an error of {error:.2f}, {side} the "
                f"{found.uniform:.2f} of uniform attention.",
                error < found.uniform,
            )


def _plot(figure: Figure, found: dict[str, _Found]) -> None:
    for pair, (split, own) in zip(figure.subplots(len(found), 2), found.items(), strict=True):
        for axes, name in zip(pair, ("recall", "error"), strict=True):
            for i, (method, curve) in enumerate(own.curves.items()):
                style = "-" if method in RULES else "--"
                y = getattr(curve, name)
                axes.plot(curve.sparsity, y, style, color=f"C{i}", marker="osD^vP"[i], label=method)
            _finish(axes, own.exact, split)
        pair[0].set_ylabel("recall of the exact support")
        pair[1].set_ylabel("relative error of the output")
        pair[1].axhline(own.uniform, color="black", linestyle=":", label="uniform attention")
        for axes in pair:
            axes.legend(fontsize="small")


def _finish(axes: Axes, exact: float, split: str) -> None:
    axes.axvline(exact, color="grey", linewidth=1.0, label="exact support")
    axes.set_title(split)
    axes.set_xlabel("sparsity: share of visible pairs left out")
    axes.set_xlim(0.0, 1.0)
    axes.grid(alpha=0.3)


EXPERIMENT = Experiment(
    name="sparsefinder",
    summary="Predicting the support of entmax attention: recall against sparsity.",
    description=_DESCRIPTION,
    seeds=2,
    measure=measure,
    data="optional",
    data_help="folder of npz files with q0, k0, v0, q1, ... (default: the sample of rfx)",
)
