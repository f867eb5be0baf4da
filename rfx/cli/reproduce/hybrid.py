"""Hybrid features: error over the angle between points, and on clusters of queries and keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import rfx
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.features import AngularHybrid, Clustered, ComplexExponential, Positive, Spec, Trigonometric
from rfx.kernels import Softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "METHODS", "PUBLISHED", "clusters", "pairs"]

_DIM, _COLUMNS = 8, 128
_NORMS = (0.5, 0.75, 1.0)
_ANGLES = tuple(math.pi * i / 8 for i in range(9))

METHODS: dict[str, Callable[[], Spec]] = {
    "trig": lambda: Trigonometric(_COLUMNS, Softmax(1.0)),
    "hyperbolic": lambda: Positive(_COLUMNS, Softmax(1.0), hyperbolic=True),
    "angular, n=1": lambda: AngularHybrid(_COLUMNS, Softmax(1.0)),
    "angular, n=7": lambda: AngularHybrid(_COLUMNS, Softmax(1.0), num_signs=7),
}

PUBLISHED = {
    ("cluster", 1.0, 20): (0.0016, 0.0183),
    ("favor+", 1.0, 20): (0.0071, 0.1455),
    ("trig", 1.0, 20): (0.0039, 0.0808),
    ("cluster", 1.0, 200): (0.0002, 0.0010),
    ("favor+", 1.0, 200): (0.0013, 0.0205),
    ("trig", 1.0, 200): (0.0004, 0.0087),
    ("cluster", 10.0, 200): (0.0011, 0.0031),
    ("favor+", 10.0, 200): (0.0037, 0.0150),
    ("trig", 10.0, 200): (0.0018, 0.0050),
}
"""Least and largest mean squared error in the authors' notebook, by method, spread and m."""

_SIZES = {"cluster": 8, "favor+": 1, "trig": 2}
"""Columns of each map for one frequency: the authors' m counts frequencies of an estimator."""

_DESCRIPTION = """\
Two experiments on hybrid random features of exp(x.y).

First, the error over the angle between two points of equal norm: trigonometric features are exact
at 0, hyperbolic positive ones at pi, and the angular hybrid at both. All maps have 128 columns, so
that the hybrid has fewer frequencies. The error is the root of E (estimate - k)^2 / k^2, from the
closed form and measured.

Then clusters: two of 1000 queries and two of 1000 keys with 50 axes, around centres drawn from
N(0, 1), with a spread of 1 or 10 around them; queries are divided by their norm and by ten, keys by
their norm. The clustered map has a complex exponential fitted to each pair of clusters. The mean
squared error over all pairs is given as the least and the largest of the repetitions, a seed being
one; the paper's own are from its authors' notebook, whose points may be drawn in another way."""


def pairs(norm: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Two points, shape (1, dim), of this norm and angle, in no special direction."""
    basis = np.linalg.qr(np.random.default_rng(7).standard_normal((_DIM, 2)))[0].T
    x = norm * basis[0]
    return x[None], norm * (math.cos(angle) * basis[0] + math.sin(angle) * basis[1])[None]


def clusters(spread: float, seed: int, count: int, dim: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys, shape (2 count, dim), in two clusters each."""
    rng = np.random.default_rng(seed)
    sides = []
    for norm in (0.1, 1.0):
        centres = rng.standard_normal((2, 1, dim))
        found = (centres + spread * rng.standard_normal((2, count, dim))).reshape(-1, dim)
        sides.append(norm * found / np.linalg.norm(found, axis=-1, keepdims=True))
    return sides[0], sides[1]


def measure(request: Request, advance: Advance) -> Outcome:
    """Errors over angles and norms, and on clusters."""
    draws = 400 if request.quick else 2000
    rows: list[dict[str, Any]] = []
    for title, make in METHODS.items():
        advance(title)
        rows += _over_angles(title, make(), draws)
    for spread, m in ((1.0, 20), (1.0, 200), (10.0, 20), (10.0, 200)):
        advance(f"clusters, spread {spread:g}, m = {m}")
        rows += _on_clusters(spread, m, request.seeds, 100 if request.quick else 1000)
    return Outcome(
        settings={"dim": _DIM, "columns": _COLUMNS, "draws": draws},
        grids=(*(_angle_grid(rows, norm) for norm in _NORMS), _cluster_grid(rows)),
        claims=tuple(_claims(rows)),
        notes=(
            "Angles: root of the mean squared relative error, measured, and by the closed form in "
            "brackets.",
            "Clusters: least to largest mean squared error of the repetitions.",
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows),
        plot_size=(13.0, 4.5),
    )


def _over_angles(title: str, spec: Spec, draws: int) -> list[dict[str, Any]]:
    rows = []
    x, y = (
        np.concatenate(side)
        for side in zip(*(pairs(r, a) for r in _NORMS for a in _ANGLES), strict=True)
    )
    phi = spec.draw(_DIM, seed=0, like=x, heads=draws)
    wide = [np.broadcast_to(a, (draws, *a.shape)) for a in (x, y)]
    found = np.diagonal(rfx.gram(*wide, features=phi), axis1=-2, axis2=-1)
    exact = np.diagonal(spec.kernel(x, y))
    squares = (found / exact - 1.0) ** 2
    variance = np.diagonal(np.asarray(spec.variance(x, y))) / exact**2
    for i, (norm, angle) in enumerate((r, a) for r in _NORMS for a in _ANGLES):
        rows.append(
            {
                "part": "angle",
                "method": title,
                "norm": norm,
                "angle": angle,
                "mse": float(np.mean(squares[:, i])),
                "standard_error": float(np.std(squares[:, i], ddof=1)) / math.sqrt(draws),
                "closed_form": max(float(variance[i]), 0.0),
            }
        )
    return rows


def _on_clusters(spread: float, m: int, seeds: int, count: int) -> list[dict[str, Any]]:
    makers: dict[str, Callable[[int], Spec]] = {
        "cluster": lambda n: Clustered(n, Softmax(1.0), member=ComplexExponential(2, Softmax(1.0))),
        "favor+": lambda n: Positive(n, Softmax(1.0)),
        "trig": lambda n: Trigonometric(n, Softmax(1.0)),
    }
    rows = []
    for title, make in makers.items():
        spec = make(m * _SIZES[title])
        errors = []
        for seed in range(seeds):
            x, y = clusters(spread, seed, count)
            phi = spec.fit(x, y, seed=seed)
            squares = (rfx.gram(x, y, features=phi) - spec.kernel(x, y)) ** 2
            errors.append(float(np.mean(squares)))
        rows.append({"part": "clusters", "method": title, "spread": spread, "m": m,
                     "errors": errors})  # fmt: skip
    return rows


def _find(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def _angle_grid(rows: list[dict[str, Any]], norm: float) -> Grid:
    lines = []
    for angle in _ANGLES:
        cells: list[Cell] = [f"{angle / math.pi:.3f}"]
        for method in METHODS:
            row = _find(rows, part="angle", method=method, norm=norm, angle=angle)[0]
            cells += [math.sqrt(row["mse"]), f"({math.sqrt(row['closed_form']):.3g})"]
        lines.append(tuple(cells))
    titles = [title for method in METHODS for title in (method, "")]
    return Grid(f"|x| = |y| = {norm:g}", ("angle/pi", *titles), tuple(lines), labels=0)


def _cluster_grid(rows: list[dict[str, Any]]) -> Grid:
    lines: list[tuple[Cell, ...]] = []
    for row in _find(rows, part="clusters"):
        own = PUBLISHED.get((row["method"], row["spread"], row["m"]))
        published = "" if own is None else f"{own[0]:.4f} to {own[1]:.4f}"
        range_ = f"{min(row['errors']):.4f} to {max(row['errors']):.4f}"
        lines.append((f"{row['spread']:g}", str(row["m"]), row["method"], range_, published))
    titles = ("spread", "m", "map", "mean squared error", "published")
    return Grid("Clusters", titles, tuple(lines), labels=0)


def _claims(rows: list[dict[str, Any]]) -> list[Claim]:
    angles = _find(rows, part="angle")
    light = [r for r in angles if r["norm"] == _NORMS[0]]
    near = [r for r in light if _is_near(r)]
    found = [
        Claim(
            f"{len(near)} of {len(light)} mean squared errors at norm {_NORMS[0]:g} lie within 5 "
            "standard errors of the closed form; at larger norms tails are too heavy for a mean.",
            len(near) == len(light),
        )
    ]
    worst = {
        method: math.sqrt(max(r["closed_form"] for r in _find(angles, method=method)))
        for method in METHODS
    }
    best_plain = min(worst["trig"], worst["hyperbolic"])
    listed = ", ".join(f"{name} {value:.3g}" for name, value in worst.items())
    found.append(
        Claim(
            f"Largest error over angles and norms, by the closed forms: {listed}.",
            worst["angular, n=1"] < best_plain,
        )
    )
    ratios = {}
    for row in _find(rows, part="clusters", method="cluster"):
        others = [
            r for r in _find(rows, part="clusters", spread=row["spread"], m=row["m"])
            if r is not row
        ]  # fmt: skip
        least = min(float(np.mean(r["errors"])) for r in others)
        ratio = float(np.mean(row["errors"])) / least
        ratios[f"{ratio:.2g} at spread {row['spread']:g} and m = {row['m']}"] = ratio
    text = "Expected: the clustered map has the least error on clusters. Its mean error over that"
    found.append(
        Claim(
            f"{text} of the better of the others: {', '.join(ratios)}.", max(ratios.values()) < 1.0
        )
    )
    return found


def _is_near(row: dict[str, Any]) -> bool:
    slack = 5.0 * row["standard_error"] + 1e-16  # of rounding, where the estimate is exact
    return bool(abs(row["mse"] - row["closed_form"]) <= slack)


def _plot(figure: Figure, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots(1, len(_NORMS), sharey=True)
    for axis, norm in zip(axes, _NORMS, strict=True):
        for i, method in enumerate(METHODS):
            own = _find(rows, part="angle", method=method, norm=norm)
            at = [r["angle"] / math.pi for r in own]
            axis.plot(at, [math.sqrt(r["closed_form"]) for r in own], color=f"C{i}")
            axis.plot(at, [math.sqrt(r["mse"]) for r in own], "o", color=f"C{i}", label=method)
        axis.set_title(f"|x| = |y| = {norm:g}")
        axis.set_xlabel("angle / π")
        axis.set_yscale("log")
        axis.set_ylim(1e-3, None)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("relative error; lines are closed forms")
    axes[0].legend(fontsize="small")


EXPERIMENT = Experiment(
    name="hybrid",
    summary="Error of hybrid features over the angle between points, and on clusters.",
    description=_DESCRIPTION,
    seeds=20,
    measure=measure,
)
