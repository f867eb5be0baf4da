"""Polynomial maps: error against degree and number of columns, measured and in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import rfx
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.features import Maclaurin, ProductSketch, Spec, TensorSketch
from rfx.kernels import DotProduct, Polynomial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "METHODS", "SERIES", "points"]

_DEGREES = (2, 3, 5, 8)
_COLUMNS = (64, 256, 1024)
_LIGHT = 3
"""The highest degree at which a mean over draws says what the expectation is."""

_KINDS = ("sphere", "positive")

_DESCRIPTION = """\
Error of the sketches of (x.y)^p against the degree p and the number of columns m, and of random
Maclaurin features of exp(x.y) against m.

Points have norm 1 and 32 axes: on the sphere, where inner products are near 0, or with positive
coordinates of very different size, as counts of words are, where they are near 1. The error is the
root of E |estimate - K|^2 / |K|^2 over the kernel matrix of 20 and 30 points; a seed is a number of
draws. Beside each stands the value of the closed form.

tensorsketch: count sketches and one convolution. real, gaussian, complex: products of projections
on vectors of signs, of normal numbers, and of 1, -1, i, -i. maclaurin: degrees drawn at random, as
in its paper; with strata (and complex signs): degrees 0 and 1 exact, and the others shared out."""


class Method(NamedTuple):
    """A column: its title, and what makes the spec for a number of columns and a kernel."""

    title: str
    spec: Callable[..., Spec]


METHODS = (
    Method("tensorsketch", TensorSketch),
    Method("real", lambda m, kernel: ProductSketch(m, kernel, signs="rademacher")),
    Method("gaussian", lambda m, kernel: ProductSketch(m, kernel, signs="gaussian")),
    Method("complex", lambda m, kernel: ProductSketch(m, kernel, signs="complex")),
)
SERIES = (
    Method("maclaurin", lambda m, kernel: Maclaurin(m, kernel, stratified=False)),
    Method("strata", lambda m, kernel: Maclaurin(m, kernel)),
    Method("strata, complex", lambda m, kernel: Maclaurin(m, kernel, signs="complex")),
)


def points(kind: str, dim: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """20 and 30 points of norm 1."""
    rng = np.random.default_rng(20_260_101)
    found = rng.standard_normal((50, dim))
    if kind == "positive":
        found = np.exp(found)
    found = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return found[:20], found[20:]


def measure(request: Request, advance: Advance) -> Outcome:
    """The error of every method at every degree and number of columns, on both sets of points."""
    draws = 5 if request.quick else 20
    columns = _COLUMNS[:2] if request.quick else _COLUMNS
    rows: list[dict[str, Any]] = []
    for kind in _KINDS:
        for degree in _DEGREES[:2] if request.quick else _DEGREES:
            advance(f"{kind} points, degree {degree}")
            power = Polynomial(degree, scale=1.0)
            rows += _rows(METHODS, power, columns, kind, degree, draws, request.seeds)
        advance(f"{kind} points, exp")
        kernel = DotProduct("exp", scale=1.0)
        rows += _rows(SERIES, kernel, columns, kind, None, draws, request.seeds)
    return Outcome(
        settings={"dim": 32, "draws": draws * request.seeds},
        grids=(*(_grid(rows, kind) for kind in _KINDS), _series_grid(rows)),
        claims=tuple(_claims(rows)),
        notes=(
            "Numbers are roots of mean squared errors, relative to the kernel matrix: measured, "
            "and by the closed form in brackets. The answer 0 has the error 1.",
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows),
        plot_size=(13.0, 4.5),
    )


def _rows(
    methods: tuple[Method, ...],
    kernel: Any,
    columns: tuple[int, ...],
    kind: str,
    degree: int | None,
    draws: int,
    seeds: int,
) -> list[dict[str, Any]]:
    x, y = points(kind)
    exact = kernel(x, y)
    size = float(np.sum(exact**2))
    wide = [np.broadcast_to(a, (draws, *a.shape)) for a in (x, y)]
    rows = []
    for method in methods:
        for m in columns:
            spec = method.spec(m, kernel)
            errors = []
            for seed in range(seeds):
                phi = spec.draw(x.shape[-1], seed=seed, like=x, heads=draws)
                gram = rfx.gram(*wide, features=phi)
                errors += (np.sum((gram - exact) ** 2, axis=(-2, -1)) / size).tolist()
            variance = np.asarray(spec.variance(x, y))
            rows.append(
                {
                    "points": kind,
                    "degree": degree,
                    "method": method.title,
                    "m": m,
                    "error": math.sqrt(float(np.mean(errors))),
                    "mse": float(np.mean(errors)),
                    "standard_error": float(np.std(errors, ddof=1)) / math.sqrt(len(errors)),
                    "closed_form": float(np.sum(variance)) / size,
                }
            )
    return rows


def _find(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def _cells(rows: list[dict[str, Any]]) -> list[Cell]:
    """The measured error of each row, and the closed form's in brackets."""
    cells: list[Cell] = []
    for row in rows:
        cells += [row["error"], f"({math.sqrt(row['closed_form']):.3g})"]
    return cells


def _grid(rows: list[dict[str, Any]], kind: str) -> Grid:
    own = [row for row in _find(rows, points=kind) if row["degree"] is not None]
    lines = [
        (str(degree), str(m), *_cells(_find(own, degree=degree, m=m)))
        for degree in dict.fromkeys(row["degree"] for row in own)
        for m in dict.fromkeys(row["m"] for row in own)
    ]
    titles = [cell for method in METHODS for cell in (method.title, "")]
    return Grid(f"(x.y)^p, {kind} points", ("p", "m", *titles), tuple(lines), labels=0)


def _series_grid(rows: list[dict[str, Any]]) -> Grid:
    own = _find(rows, degree=None)
    lines = [
        (kind, str(m), *_cells(_find(own, points=kind, m=m)))
        for kind in _KINDS
        for m in dict.fromkeys(row["m"] for row in own)
    ]
    titles = [cell for method in SERIES for cell in (method.title, "")]
    return Grid("exp(x.y)", ("points", "m", *titles), tuple(lines))


def _claims(rows: list[dict[str, Any]]) -> list[Claim]:
    light = [row for row in rows if (row["degree"] or 0) <= _LIGHT]
    far = [r for r in light if abs(r["mse"] - r["closed_form"]) > 5.0 * r["standard_error"]]
    found = [
        Claim(
            f"{len(light) - len(far)} of {len(light)} mean squared errors up to p = {_LIGHT} lie "
            "within 5 standard errors of the closed form. Beyond, tails are too heavy for a mean.",
            not far,
        )
    ]
    found.append(_order(rows, ("complex", "real"), "positive"))
    found.append(_order(rows, ("strata", "maclaurin"), None))
    falls = []
    for row in _find(rows, m=max(r["m"] for r in rows)):
        first = _find(rows, points=row["points"], degree=row["degree"], method=row["method"])[0]
        falls.append(math.sqrt(first["closed_form"] / row["closed_form"]))
    ratio = math.sqrt(max(r["m"] for r in rows) / min(r["m"] for r in rows))
    found.append(
        Claim(
            f"{ratio**2:.0f} times as many columns lower the expected error {min(falls):.2g} to "
            f"{max(falls):.2g} times; of independent columns it is {ratio:.0f} times.",
            min(falls) > 0.9 * ratio,
        )
    )
    return found


def _order(rows: list[dict[str, Any]], pair: tuple[str, str], kind: str | None) -> Claim:
    """Whether the first method's closed form is the lower one wherever both were run."""
    better, worse = pair
    total = held = 0
    for row in _find(rows, method=better):
        if kind is not None and row["points"] != kind:
            continue
        key = {name: row[name] for name in ("points", "degree", "m")}
        other = _find(rows, method=worse, **key)[0]
        total, held = total + 1, held + (row["closed_form"] < other["closed_form"])
    where = f" on {kind} points" if kind else ""
    text = f"Expected: {better} below {worse}{where}; so by the closed forms in {held} of {total}."
    return Claim(text, held == total)


def _plot(figure: Figure, rows: list[dict[str, Any]]) -> None:
    axes = figure.subplots(1, 3)
    m = max(row["m"] for row in rows)
    for axis, kind in zip(axes, _KINDS, strict=False):
        for method in METHODS:
            own = _find(rows, points=kind, method=method.title, m=m)
            axis.plot([r["degree"] for r in own], [r["error"] for r in own], "o-",
                      label=method.title)  # fmt: skip
        axis.axhline(1.0, color="0.5", lw=0.8)
        axis.set_title(f"(x·y)^p, {kind} points, m = {m}")
        axis.set_xlabel("degree p")
    for kind, style in zip(_KINDS, ("-", "--"), strict=True):
        for i, method in enumerate(SERIES):
            own = _find(rows, points=kind, method=method.title)
            axes[2].plot([r["m"] for r in own], [r["error"] for r in own], f"o{style}",
                         color=f"C{i}", label=f"{method.title}, {kind}")  # fmt: skip
    axes[2].set_xscale("log")
    axes[2].set_title("exp(x·y)")
    axes[2].set_xlabel("columns m")
    for axis in axes:
        axis.set_yscale("log")
        axis.set_ylabel("relative error")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")


EXPERIMENT = Experiment(
    name="polynomial",
    summary="Error of polynomial maps against degree and number of columns.",
    description=_DESCRIPTION,
    seeds=5,
    measure=measure,
)
