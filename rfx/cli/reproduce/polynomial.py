"""Sketches of the polynomial kernel: error against the degree and the number of features."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

import rfx
from rfx.cli import inputs
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.features import Maclaurin, ProductSketch, Spec, TensorSketch
from rfx.kernels import DotProduct, Polynomial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "METHODS", "closed_form", "measured", "points", "spec"]

METHODS = ("maclaurin", "real", "tensor", "complex", "strata")
SETS = ("sphere", "keys")
_TITLES = {"sphere": "Points on the sphere", "keys": "Keys of a sentence encoder, at norm 1"}

_SIZES = (64, 256, 1024)

_DESCRIPTION = """\
The relative error |estimate - exact| / |exact| of the matrix of (x.y + 1)^p between 60 points of
norm 1 and themselves, for sketches of degree p with m features:

  maclaurin  random Maclaurin features with random degrees, as in the paper (maclaurin with
             stratified=False)
  real       products of p vectors of random signs (ctr-sketch with signs="rademacher")
  tensor     TensorSketch (tensorsketch)
  complex    products of p vectors with entries 1, i, -1 and -i, as real and imaginary parts: m
             columns are m/2 products (ctr-sketch)
  strata     Maclaurin features with exact low degrees and shares of the columns for the others
             (maclaurin)

Points are uniform on the sphere of 32 axes, or keys of one head of a sentence encoder, from the
sample that comes with rfx, divided by their norms. Each seed draws new maps, and new points on the
sphere. The closed form is the root of the mean variance over that of the mean squared kernel.

Expected: errors at their closed forms; errors of sketches that fall as m^(-1/2); TensorSketch and
complex signs better than real ones, the more so the higher the degree; and strata better than
random degrees."""


def points(name: str, seed: int, count: int, dim: int) -> np.ndarray:
    """Points of norm 1, float64 of shape (count, dim)."""
    if name == "sphere":
        found = np.random.default_rng(seed).standard_normal((count, dim))
    else:
        found = inputs.read(None, None, None).key[0].astype(np.float64)[:count, :dim]
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def spec(method: str, degree: int, num_features: int) -> Spec:
    """A map of (x·y + 1)^degree."""
    kernel = Polynomial(degree, offset=1.0, scale=1.0)
    series = tuple(float(math.comb(degree, n)) for n in range(degree + 1))
    match method:
        case "maclaurin":
            return Maclaurin(num_features, DotProduct(series, scale=1.0), stratified=False)
        case "strata":
            return Maclaurin(num_features, DotProduct(series, scale=1.0))
        case "tensor":
            return TensorSketch(num_features, kernel)
        case "complex":
            return ProductSketch(num_features, kernel)
    return ProductSketch(num_features, kernel, "rademacher")


def closed_form(of: Spec, x: np.ndarray) -> float:
    """The root of the mean variance, over that of the mean squared kernel."""
    variance = of.variance(x, x)
    assert variance is not None
    return float(np.sqrt(np.mean(variance) / np.mean(np.square(of.kernel(x, x)))))


def measured(of: Spec, x: np.ndarray, seed: int) -> float:
    """The relative error of one draw."""
    exact = of.kernel(x, x)
    found = rfx.gram(x, x, features=of.draw(x.shape[-1], seed=seed, like=x))
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def measure(request: Request, advance: Advance) -> Outcome:
    """Errors of each method at each degree and m, on both sets of points."""
    count, degrees, sizes = (30, (2, 3), (16, 64)) if request.quick else (60, (2, 3, 4, 6), _SIZES)
    rows = []
    for name in SETS:
        each = [points(name, seed, count, 32) for seed in range(request.seeds)]
        for degree in degrees:
            for m in sizes:
                advance(f"{name}: degree {degree}, m = {m}")
                for method in METHODS:
                    of = spec(method, degree, m)
                    errors = [measured(of, x, seed) for seed, x in enumerate(each)]
                    formulas = [closed_form(of, x) for x in each[: 1 if name == "keys" else None]]
                    key = {"set": name, "degree": degree, "num_features": m, "method": method}
                    rows.append(key | _summary(errors, formulas))
    return Outcome(
        settings={"points": count, "dim": 32, "kernel": "(x.y + 1)^p"},
        grids=tuple(_grid(name, rows) for name in SETS),
        claims=_claims(rows),
        notes=(
            "measured: root of the mean squared relative error over seeds; in front of it is the "
            "closed form, by which the orders are judged.",
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows),
        plot_size=(11.0, 8.0),
    )


def _summary(errors: list[float], formulas: list[float]) -> dict[str, Any]:
    """Means of squares, and the standard error of the measured one, as roots and to first order."""
    squares = np.square(errors)
    error = float(np.sqrt(squares.mean()))
    spread = float(squares.std(ddof=1)) if len(errors) > 1 else math.nan
    return {
        "closed_form": float(np.sqrt(np.mean(np.square(formulas)))),
        "error": error,
        "standard_error": spread / len(errors) ** 0.5 / (2.0 * error),
        "errors": errors,
    }


def _grid(name: str, rows: list[dict[str, Any]]) -> Grid:
    own = [row for row in rows if row["set"] == name]
    lines: list[tuple[Cell, ...] | None] = []
    for degree, m in dict.fromkeys((row["degree"], row["num_features"]) for row in own):
        if lines and m == own[0]["num_features"]:
            lines.append(None)
        cells: list[Cell] = [str(degree), str(m)]
        for row in own:
            if (row["degree"], row["num_features"]) == (degree, m):
                cells += [f"{row['closed_form']:.3g}", f"{row['error']:.3g}"]
        lines.append(tuple(cells))
    titles = [title for method in METHODS for title in (method, "measured")]
    return Grid(f"{_TITLES[name]}: relative error", ("p", "m", *titles), tuple(lines), labels=0)


def _claims(rows: list[dict[str, Any]]) -> tuple[Claim, ...]:
    far = [r for r in rows if not abs(r["error"] - r["closed_form"]) <= _slack(r)]
    text = f"{len(rows) - len(far)} of {len(rows)} errors are at their closed form, within 4"
    claims = [Claim(f"{text} standard errors or 10 %.", not far), _falls(rows)]
    table = {
        (r["set"], r["degree"], r["num_features"], r["method"]): r["closed_form"] for r in rows
    }
    for better, worse in (("complex", "real"), ("tensor", "real"), ("strata", "maclaurin")):
        claims.append(_order(table, better, worse))
    degrees = sorted({key[1] for key in table})
    shares = [_share(table, "complex", "real", degree) for degree in degrees]
    each = [f"p = {degree}: {share:.2f}" for degree, share in zip(degrees, shares, strict=True)]
    text = "Error of complex signs, that of real ones being 1, falls with the degree: "
    if not _falling(shares):
        text = "Error of complex signs, that of real ones being 1, does NOT fall with the degree: "
    claims.append(Claim(f"{text}{', '.join(each)}.", _falling(shares)))
    means = {method: _share(table, method, "maclaurin") for method in METHODS}
    best = sorted(METHODS, key=lambda method: means[method])
    listed = ", ".join(f"{method} {means[method]:.2f}" for method in best)
    claims.append(Claim(f"All cases, that of maclaurin being 1 (geometric mean): {listed}."))
    return tuple(claims)


def _slack(row: dict[str, Any]) -> float:
    """With heavy tails a standard error of few seeds says little of itself."""
    spread = 0.0 if math.isnan(row["standard_error"]) else 4.0 * row["standard_error"]
    return max(spread, 0.1 * row["closed_form"])


def _falls(rows: list[dict[str, Any]]) -> Claim:
    """Whether the errors of sketches fall as the root of m, on the whole."""
    first, *_, last = sorted({row["num_features"] for row in rows})
    table = {(r["set"], r["degree"], r["num_features"], r["method"]): r["error"] for r in rows}
    wanted, falls = (last / first) ** -0.5, {}
    for own in ("real", "tensor", "complex"):
        places = [key for key in table if key[2:] == (first, own)]
        logs = [math.log(table[*place[:2], last, own] / table[place]) for place in places]
        falls[own] = math.exp(sum(logs) / len(logs))
    each = ", ".join(f"{own} to {fall:.3f}" for own, fall in falls.items())
    text = f"From m = {first} to {last} errors fall by geometric mean: {each}; m^(-1/2) is"
    near = all(abs(fall / wanted - 1.0) < 0.1 for fall in falls.values())
    return Claim(f"{text} {wanted:.3f}, which is {'met' if near else 'NOT met'} within 10 %.", near)


def _falling(values: list[float]) -> bool:
    return all(later < earlier for earlier, later in pairwise(values))


Table = dict[tuple[str, int, int, str], float]


def _order(table: Table, better: str, worse: str) -> Claim:
    """Whether one method has less error than another wherever both were measured."""
    places = dict.fromkeys(key[:3] for key in table)
    missed = [p for p in places if table[*p, better] >= table[*p, worse]]
    text = f"{better} is below {worse} in {len(places) - len(missed)} of {len(places)} cases."
    return Claim(text, not missed)


def _share(table: Table, method: str, other: str, degree: int | None = None) -> float:
    """Geometric mean of the ratio of two methods, at one degree or at all."""
    places = dict.fromkeys(key[:3] for key in table if degree in (None, key[1]))
    logs = [math.log(table[*place, method] / table[*place, other]) for place in places]
    return math.exp(sum(logs) / len(logs))


def _plot(figure: Figure, rows: list[dict[str, Any]]) -> None:
    """Against m at one degree, and against the degree at one m; lines are closed forms."""
    panels = figure.subplots(2, len(SETS), sharey=True)
    degrees = sorted({row["degree"] for row in rows})
    sizes = sorted({row["num_features"] for row in rows})
    fixed = {"degree": degrees[len(degrees) // 2], "num_features": sizes[len(sizes) // 2]}
    for column, name in enumerate(SETS):
        for line, (along, at) in enumerate(
            (("num_features", "degree"), ("degree", "num_features"))
        ):
            axes = panels[line, column]
            for i, method in enumerate(METHODS):
                own = [
                    row
                    for row in rows
                    if (row["set"], row["method"], row[at]) == (name, method, fixed[at])
                ]
                where = [row[along] for row in own]
                axes.plot(where, [row["closed_form"] for row in own], color=f"C{i}")
                errors = [row["error"] for row in own]
                bars = [2.0 * row["standard_error"] for row in own]
                axes.errorbar(where, errors, bars, fmt="o", capsize=3, color=f"C{i}", label=method)
            axes.set_yscale("log")
            if along == "num_features":
                axes.set_xscale("log")
                axes.set_xticks(sizes, [str(m) for m in sizes])
                axes.minorticks_off()
                axes.set_xlabel(f"features m, degree {fixed[at]}")
            else:
                axes.set_xticks(degrees)
                axes.set_xlabel(f"degree p, m = {fixed[at]}")
            axes.grid(alpha=0.3)
        panels[0, column].set_title(_TITLES[name])
        panels[column, 0].set_ylabel("relative error")
    panels[0, 0].legend()


EXPERIMENT = Experiment(
    name="polynomial",
    summary="Error of sketches of the polynomial kernel against degree and number of features.",
    description=_DESCRIPTION,
    seeds=100,
    measure=measure,
)
