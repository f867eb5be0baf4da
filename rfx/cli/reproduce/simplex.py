"""Simplex random features against orthogonal and independent ones."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

import rfx
import rfx.cli.reproduce.kernel_regression as regression
import rfx.cli.reproduce.labelled as labelled
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.cli.reproduce.maps import Method, projection, projection_names
from rfx.kernels import Softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "closed_form", "monte_carlo"]

PROJECTIONS = ("iid", "orthogonal", "simplex", "simplex+")
"""From the largest expected error to the least."""

_NORMS = (0.25, 0.5, 0.75, 1.0, 1.25)
_RATIOS = (1, 2, 4, 10)
_POSITIVE = Method("pos", "favor+")

_DESCRIPTION = """\
Mean squared error of positive features (favor+) with m = d frequencies that are independent,
orthogonal, at the corners of a simplex, or of a simplex fitted to the norms (simplex+).

The error is relative, E (estimate - k)^2 / k^2 with k = exp(x.y), and depends on z = x + y through
its norm only. Lines are closed forms, points are means over draws with their standard error; a seed
is 4000 draws. Expected: each law better than the one before it.

With --data DIR, a folder of npz files with points X (n, d) and classes y, points are also
classified by kernel regression with m = 1, 2, 4 and 10 times d features; as in `rfx reproduce
classification`, whose help explains the procedure, the bandwidth is tuned for each law and m."""


def measure(request: Request, advance: Advance) -> Outcome:
    """Closed forms and Monte-Carlo means at each |z|, and accuracies on labelled data."""
    sets = [labelled.read(path) for path in request.files]
    dim, draws = (4, 400) if request.quick else (16, 4000)
    names = projection_names(PROJECTIONS)
    rows = []
    for name in names:
        advance(name)
        formula = closed_form(name, dim, np.asarray(_NORMS))
        means, errors = monte_carlo(name, dim, draws, request.seeds)
        for i, norm in enumerate(_NORMS):
            exact = None if formula is None else float(formula[i])
            point = {
                "closed_form": exact,
                "mse": float(means[i]),
                "standard_error": float(errors[i]),
            }
            rows.append({"part": "mse", "projection": name, "norm": norm, **point})
    accuracies = _accuracies(sets, names, request, advance)
    missing = [name for name in PROJECTIONS if name not in names]
    notes = ["formula: closed form; measured: mean over draws +- standard error."]
    if missing:
        text = "Left out, because this version of rfx has no such law of frequencies: "
        notes.append(f"{text}{', '.join(missing)}.")
    return Outcome(
        settings={"dim and m": dim, "draws": draws * request.seeds},
        grids=(_grid(rows, names), *([_accuracy_grid(accuracies, names)] if sets else [])),
        claims=(*_claims(rows, names), *([_accuracy_claim(accuracies, names)] if sets else [])),
        notes=tuple(notes),
        rows=rows + accuracies,
        plot=lambda figure: _plot(figure, rows, accuracies, names, dim),
        plot_size=(12.0, 5.0) if sets else (7.0, 5.0),
    )


def closed_form(name: str, dim: int, norms: np.ndarray) -> np.ndarray | None:
    """Relative mean squared error at each |z|, or None where no closed form is known."""
    x = _halves(dim, norms)
    spec = _POSITIVE.spec(dim, Softmax(scale=1.0), projection(name))
    variance = spec.variance(x, x)
    return None if variance is None else np.diagonal(variance / spec.kernel(x, x) ** 2)


def _halves(dim: int, norms: np.ndarray) -> np.ndarray:
    """Points x with |x + x| = norms, shape (len(norms), dim)."""
    return 0.5 * norms[:, None] * np.eye(1, dim)


def monte_carlo(name: str, dim: int, draws: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the relative squared error at each |z|, and its standard error."""
    x = _halves(dim, np.asarray(_NORMS))
    spec = _POSITIVE.spec(dim, Softmax(scale=1.0), projection(name))
    exact = np.diagonal(spec.kernel(x, x))
    errors = []
    for seed in range(seeds):
        phi = spec.draw(dim, seed=seed, like=x, heads=draws)
        gram = rfx.gram(*2 * [np.broadcast_to(x, (draws, *x.shape))], features=phi)
        errors.append((np.diagonal(gram, axis1=-2, axis2=-1) / exact - 1.0) ** 2)
    found = np.concatenate(errors)
    return found.mean(axis=0), found.std(axis=0, ddof=1) / len(found) ** 0.5


def _accuracies(
    sets: list[labelled.Labelled], names: tuple[str, ...], request: Request, advance: Advance
) -> list[dict[str, Any]]:
    rows = []
    for data in sets:
        splits = [labelled.split(data, seed) for seed in range(request.seeds)]
        for ratio in _RATIOS[:2] if request.quick else _RATIOS:
            for name in names:
                advance(f"{data.name}: {name}, m = {ratio} d")
                values = []
                for seed, split in enumerate(splits):
                    m = ratio * split.train.shape[-1]
                    scores = regression.feature_scores(_POSITIVE, m, seed, projection(name))
                    values.append(regression.tune(split, scores).accuracy)
                mean = {"accuracy": float(np.mean(values)), "accuracies": values}
                key = {"set": data.name, "m_over_d": ratio, "projection": name}
                rows.append({"part": "accuracy", **key, **mean})
    return rows


def _grid(rows: list[dict[str, Any]], names: tuple[str, ...]) -> Grid:
    lines: list[tuple[Cell, ...]] = []
    for norm in _NORMS:
        cells: list[Cell] = [f"{norm:g}"]
        for row in (r for r in rows if r["norm"] == norm):
            formula = row["closed_form"]
            cells.append(None if formula is None else f"{formula:.3g}")
            cells += [f"{row['mse']:.3g}", f"+-{row['standard_error']:.1g}"]
        lines.append(tuple(cells))
    titles = [title for name in names for title in (name, "measured", "")]
    return Grid("Relative mean squared error at m = d", ("|z|", *titles), tuple(lines), labels=0)


def _claims(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[Claim]:
    known = [row for row in rows if row["closed_form"] is not None]
    far = [r for r in known if abs(r["mse"] - r["closed_form"]) > 4.0 * r["standard_error"]]
    text = f"{len(known) - len(far)} of {len(known)} closed forms lie within 4 standard errors."
    best = np.asarray([_best(row) for row in rows]).reshape(len(names), len(_NORMS), 2)
    table = best[..., 0]
    gains = -np.diff(table, axis=0)
    ordered, noise = bool((gains > 0.0).all()), 2.0 * best[1:, :, 1]
    order = f"Expected order {' > '.join(names)} {'held' if ordered else 'did NOT hold'}"
    unsure = [f"{names[i + 1]} at |z| = {_NORMS[j]}" for i, j in np.argwhere(abs(gains) < noise)]
    order += f", within the noise for {', '.join(unsure)}." if unsure else " at every |z|."
    shares = [f"{n} {row[-1] / table[0, -1]:.2f}" for n, row in zip(names, table, strict=True)]
    return [
        Claim(text, not far),
        Claim(order, ordered),
        Claim(f"Error at |z| = {_NORMS[-1]}, that of {names[0]} being 1: {', '.join(shares)}."),
    ]


def _best(row: dict[str, Any]) -> tuple[float, float]:
    """The closed form, or else the measured mean; and its standard error."""
    if row["closed_form"] is None:
        return row["mse"], row["standard_error"]
    return row["closed_form"], 0.0


def _accuracy_grid(rows: list[dict[str, Any]], names: tuple[str, ...]) -> Grid:
    lines: list[tuple[Cell, ...] | None] = []
    keys = dict.fromkeys((row["set"], row["m_over_d"]) for row in rows)
    for name, ratio in keys:
        own = [row for row in rows if (row["set"], row["m_over_d"]) == (name, ratio)]
        lines.append((name, str(ratio), *(row["accuracy"] for row in own)))
    for ratio, means in _average(rows, names).items():
        lines += [None] if ratio == _RATIOS[0] else []
        lines.append(("average", str(ratio), *means))
    return Grid("Test accuracy in percent", ("set", "m/d", *names), tuple(lines))


def _average(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[int, list[float]]:
    """Mean over the sets by m/d, one number a law."""
    ratios = dict.fromkeys(row["m_over_d"] for row in rows)
    return {
        ratio: [
            float(
                np.mean(
                    [r["accuracy"] for r in rows if (r["m_over_d"], r["projection"]) == (ratio, n)]
                )
            )
            for n in names
        ]
        for ratio in ratios
    }


def _accuracy_claim(rows: list[dict[str, Any]], names: tuple[str, ...]) -> Claim:
    by_law = [[row["accuracies"] for row in rows if row["projection"] == name] for name in names]
    means = [np.mean(values, axis=0) for values in by_law]  # of each seed
    gaps = [regression.paired_gap(better, worse) for worse, better in pairwise(means)]
    ordered = all(gap > 0.0 for gap, _ in gaps)
    listed = ", ".join(
        f"{name} by {gap:+.1f} +- {error:.1f} points"
        for name, (gap, error) in zip(names[1:], gaps, strict=True)
    )
    held = "held" if ordered else "did NOT hold"
    text = f"That order {held} for the accuracy averaged over sets and m/d, each beside the last: "
    return Claim(f"{text}{listed}.", ordered)


def _plot(
    figure: Figure,
    rows: list[dict[str, Any]],
    accuracies: list[dict[str, Any]],
    names: tuple[str, ...],
    dim: int,
) -> None:
    both = figure.subplots(1, 2 if accuracies else 1, squeeze=False)[0]
    fine = np.linspace(0.2, 1.5, 50)
    for i, name in enumerate(names):
        line = closed_form(name, dim, fine)
        if line is not None:
            both[0].plot(fine, line, color=f"C{i}")
        own = [row for row in rows if row["projection"] == name]
        means, errors = [row["mse"] for row in own], [row["standard_error"] for row in own]
        both[0].errorbar(_NORMS, means, errors, fmt="o", capsize=3, color=f"C{i}", label=name)
    both[0].set_yscale("log")
    both[0].set_xlabel("|x + y|")
    both[0].set_ylabel("relative mean squared error")
    both[0].set_title(f"Positive features, m = d = {dim}: lines are closed forms")
    both[0].grid(alpha=0.3)
    both[0].legend()
    if accuracies:
        average = _average(accuracies, names)
        for i, name in enumerate(names):
            means = [values[i] for values in average.values()]
            both[1].plot(list(average), means, "o-", color=f"C{i}", label=name)
        both[1].set_xscale("log")
        both[1].set_xticks(list(average), [str(ratio) for ratio in average])
        both[1].minorticks_off()
        both[1].set_xlabel("m / d")
        both[1].set_ylabel("test accuracy in percent, mean over sets")
        both[1].grid(alpha=0.3)


EXPERIMENT = Experiment(
    name="simplex",
    summary="Error of positive features with independent, orthogonal and simplex frequencies.",
    description=_DESCRIPTION,
    seeds=5,
    measure=measure,
    data="optional",
    data_help="folder of npz files with X and y, for classification too",
)
