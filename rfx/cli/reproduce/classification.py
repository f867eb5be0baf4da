"""Classification by kernel regression with random features, on labelled sets."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

import rfx.cli.reproduce.kernel_regression as regression
import rfx.cli.reproduce.labelled as labelled
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.cli.reproduce.maps import Method, absent, available
from rfx.projections import IID, Orthogonal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

METHODS = (
    Method("trig", "favor"),
    Method("pos", "favor+"),
    Method("pos-ort", "favor+", Orthogonal()),
    Method("OPRF", "favor++"),
    Method("ADERF", "aderf"),
    Method("SDERF", "sderf"),
    Method("dense", "dense"),
)

EXPECTED = ("SDERF", "OPRF", "pos")
"""From the best average accuracy to the worst."""

_DESCRIPTION = """\
Classification by regression with the Gaussian kernel k, in time linear in the number of points.

DIR holds npz files with points X, floating (n, d), and classes y, whole numbers (n,). Each set is
split by seed into 90 % for training, 5 % for validation and 5 % for test, and standardised by the
training part. The score of class c at x is the sum of k(x, x_i) over training points of class c;
the largest wins. exact uses k, the others its estimate by m = 128 features. For each method, seed
and set the bandwidth is the one of nine that is best on the validation part.

Frequencies are iid but for pos-ort (orthogonal). OPRF (favor++), ADERF, SDERF and dense are fitted
to the training points on both sides; there ADERF has the law of OPRF, so their difference is noise.
Expected of the average: SDERF > OPRF > pos. Test parts are small: read differences beside their
standard error."""


def measure(request: Request, advance: Advance) -> Outcome:
    """Accuracy of the exact kernel and of each map, for each set and seed."""
    sets = [labelled.read(path) for path in request.files]
    num_features = 32 if request.quick else 128
    methods = available(METHODS)
    rows = []
    for data in sets:
        splits = [labelled.split(data, seed) for seed in range(request.seeds)]
        advance(f"{data.name}: exact kernel")
        tuned = [regression.tune(split, regression.exact_scores) for split in splits]
        rows.append(_row(data, splits[0], "exact", None, tuned))
        for method in methods:
            advance(f"{data.name}: {method.title}")
            tuned = []
            for seed, split in enumerate(splits):
                scores = regression.feature_scores(method, num_features, seed, IID())
                tuned.append(regression.tune(split, scores))
            rows.append(_row(data, splits[0], method.title, method.map, tuned))
    return Outcome(
        settings={"data": str(request.files[0].parent), "m": num_features, "kernel": "Gaussian"},
        grids=(_grid(rows),),
        claims=_claims(rows),
        notes=(
            "Test accuracy in percent, mean over seeds; spread: the standard deviation over seeds "
            "of the average over sets.",
            *_edges(rows),
            *absent(METHODS),
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows),
        plot_size=(11.0, 5.0),
    )


def _row(
    data: labelled.Labelled,
    split: labelled.Split,
    title: str,
    name: str | None,
    tuned: list[regression.Tuned],
) -> dict[str, Any]:
    values = [one.accuracy for one in tuned]
    return {
        "set": data.name,
        "train": len(split.train),
        "column": title,
        "map": name,
        "accuracy": float(np.mean(values)),
        "accuracies": values,
        "bandwidths": [one.bandwidth for one in tuned],
        "at_edge": sum(one.at_edge for one in tuned),
    }


def _averages(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Mean over the sets for each seed, by column."""
    titles = dict.fromkeys(row["column"] for row in rows)
    return {
        title: np.mean([row["accuracies"] for row in rows if row["column"] == title], axis=0)
        for title in titles
    }


def _grid(rows: list[dict[str, Any]]) -> Grid:
    averages = _averages(rows)
    lines: list[tuple[Cell, ...] | None] = []
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        lines.append((name, str(own[0]["train"]), *(row["accuracy"] for row in own)))
    means = [float(values.mean()) for values in averages.values()]
    spreads = [float(values.std()) for values in averages.values()]
    lines += [None, ("average", "", *means), ("spread", "", *spreads)]
    return Grid("", ("set", "train", *averages), tuple(lines))


def _claims(rows: list[dict[str, Any]]) -> tuple[Claim, ...]:
    averages = _averages(rows)
    order = [title for title in EXPECTED if title in averages]
    claims = []
    for better, worse in pairwise(order):
        mean, error = regression.paired_gap(averages[better], averages[worse])
        held = "held" if mean > 0.0 else "did NOT hold"
        text = f"Expected {better} > {worse} {held}: by {mean:+.1f} +- {error:.1f} points"
        sure = "." if abs(mean) > 2.0 * error else ", which is within the noise."
        claims.append(Claim(text + sure, mean > 0.0))
    if len(order) < len(EXPECTED):
        text = f"The expected order {' > '.join(EXPECTED)} cannot be checked in full: maps missing."
        claims.append(Claim(text))
    return tuple(claims)


def _edges(rows: list[dict[str, Any]]) -> list[str]:
    cases = [f"{row['column']} on {row['set']}" for row in rows if row["at_edge"]]
    if not cases:
        return []
    return [f"The best bandwidth of some seed lies at an end of the grid: {', '.join(cases)}."]


def _plot(figure: Figure, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots()
    names = list(dict.fromkeys(row["set"] for row in rows))
    averages = _averages(rows)
    width = 0.8 / len(averages)
    for i, (title, average) in enumerate(averages.items()):
        own = [row for row in rows if row["column"] == title]
        heights = [row["accuracy"] for row in own] + [float(average.mean())]
        spreads = [float(np.std(row["accuracies"])) for row in own] + [float(average.std())]
        at = np.arange(len(heights)) + (i - 0.5 * (len(averages) - 1)) * width
        color = "black" if title == "exact" else f"C{i - 1}"
        axes.bar(at, heights, width, yerr=spreads, label=title, color=color, ecolor="gray")
    axes.set_xticks(range(len(names) + 1), [*names, "average"])
    axes.set_ylabel("test accuracy in percent")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=8, frameon=False)


EXPERIMENT = Experiment(
    name="classification",
    summary="Kernel classification of labelled sets with 128 random features.",
    description=_DESCRIPTION,
    seeds=5,
    measure=measure,
    data="required",
    data_help="folder of npz files with X (n, d) and y (n,)",
)
