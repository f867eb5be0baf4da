"""Clusters of queries and keys: a map for each pair of them, against one map for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import rfx
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Grid, Request
from rfx.features import Aligned, Clustered, ComplexExponential, Positive, Spec, Trigonometric
from rfx.kernels import Softmax
from rfx.projections import IID

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["METHODS", "PUBLISHED", "VARIANCES", "claims", "draw", "grid", "measure", "points"]

_KERNEL, _LAW = Softmax(scale=1.0), IID()
VARIANCES = (1.0, 10.0)
"""Of each coordinate around its centre, before norms are set."""

_KEPT = 12
"""Coordinates in which the signs of a pair of centres are left as they come."""


class Method(NamedTuple):
    """A row of the table: columns for each frequency, and the spec of so many columns."""

    columns: int
    spec: Callable[[int], Spec]


def _clustered(member: Spec) -> Callable[[int], Spec]:
    return lambda m: Clustered(m, _KERNEL, _LAW, member=member)


METHODS = {
    "favor+": Method(1, lambda m: Positive(m, _KERNEL, _LAW)),
    "trig": Method(2, lambda m: Trigonometric(m, _KERNEL, _LAW)),
    "clusters, real": Method(4, _clustered(Aligned(Positive(1), None, "diagonal"))),
    "clusters, complex": Method(8, _clustered(ComplexExponential(2, A="diagonal"))),
    "clusters, dense": Method(8, _clustered(ComplexExponential(2, A="dense"))),
}

PUBLISHED = {
    ("favor+", 1.0, 20): (0.0071, 0.1455),
    ("trig", 1.0, 20): (0.0039, 0.0808),
    ("clusters, real", 1.0, 20): (0.0016, 0.0183),
    ("favor+", 1.0, 200): (0.0013, 0.0205),
    ("trig", 1.0, 200): (0.0004, 0.0087),
    ("clusters, real", 1.0, 200): (0.0002, 0.0010),
    ("favor+", 10.0, 200): (0.0037, 0.0150),
    ("trig", 10.0, 200): (0.0018, 0.0050),
    ("clusters, real", 10.0, 200): (0.0011, 0.0031),
}
"""Least and largest mean squared error of 20 repetitions, as the authors' notebook prints them."""


def points(variance: float, length: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys, float32 of shape (2 length, dim), in two clusters each.

    A centre of queries has coordinates in (−4, −3) and one of keys in ±(2, 5), both turned by one
    rotation for each pair. The keys' signs are then made opposite, but for the first coordinates,
    and the second centre of queries takes the signs of the first. Queries have norm 0.1, keys 1.
    """
    rng = np.random.default_rng(1263)
    queries = rng.uniform(-4.0, -3.0, dim)
    keys = rng.uniform(2.0, 5.0, dim) * rng.choice([-1.0, 1.0], dim)
    turns = [np.linalg.qr(rng.standard_normal((dim, dim)))[0] for _ in range(2)]
    first, second = (queries @ turn for turn in turns)
    centres, signs = [], np.sign(first)
    for query, turn in zip((first, signs * np.abs(second)), turns, strict=True):
        key = keys @ turn
        query[:_KEPT] = np.abs(query[:_KEPT]) * signs[:_KEPT]
        key[_KEPT:] = -np.sign(query[_KEPT:]) * np.abs(key[_KEPT:])
        centres.append((query, key))
    sides = []
    for side, norm in ((0, 0.1), (1, 1.0)):
        noise = variance**0.5 * rng.standard_normal((2, length, dim))
        cloud = (np.stack([pair[side] for pair in centres])[:, None] + noise).reshape(-1, dim)
        sides.append(norm * cloud / np.linalg.norm(cloud, axis=-1, keepdims=True))
    return sides[0].astype(np.float32), sides[1].astype(np.float32)


def measure(request: Request, advance: Advance) -> list[dict[str, Any]]:
    """The mean squared error of each method over all pairs, for each seed."""
    length, dim, sizes = (60, 20, (5, 20)) if request.quick else (1000, 50, (20, 200))
    rows = []
    for variance in VARIANCES:
        query, key = points(variance, length, dim)
        exact = _KERNEL(query, key)
        for m in sizes:
            for name, method in METHODS.items():
                advance(f"variance {variance:g}, m = {m}: {name}")
                spec, errors = method.spec(m * method.columns), []
                for seed in range(request.seeds):
                    phi = spec.fit(query, key, seed=seed)
                    estimate = rfx.gram(query, key, features=phi)
                    errors.append(float(np.mean((estimate - exact) ** 2)))
                published = None if request.quick else PUBLISHED.get((name, variance, m))
                key_of = {"part": "clusters", "variance": variance, "m": m, "method": name}
                found = {"columns": m * method.columns, "errors": errors, "published": published}
                rows.append(key_of | found)
    return rows


def grid(rows: list[dict[str, Any]]) -> Grid:
    """Least, mean and largest error beside the published ones."""
    lines: list[tuple[Cell, ...] | None] = []
    for row in rows:
        if lines and row["method"] == "favor+":
            lines.append(None)
        errors, published = row["errors"], row["published"] or (None, None)
        shown = (min(errors), float(np.mean(errors)), max(errors), *published)
        cells = ("" if value is None else f"{value:.2g}" for value in shown)
        lines.append((f"{row['variance']:g}", str(row["m"]), row["method"], *cells, row["columns"]))
    titles = ("variance", "m", "map", "least", "mean", "largest", "published", "", "columns")
    return Grid("Mean squared error on clusters", titles, tuple(lines), labels=3)


def claims(rows: list[dict[str, Any]]) -> list[Claim]:
    """What the paper has, and what the numbers say besides."""
    groups = list(dict.fromkeys((row["variance"], row["m"]) for row in rows))
    mean = {(r["variance"], r["m"], r["method"]): float(np.mean(r["errors"])) for r in rows}
    ordered = all(
        mean[*group, "clusters, real"] < min(mean[*group, "trig"], mean[*group, "favor+"])
        for group in groups
    )
    text = "Expected, at equal m: less error with clusters, real, than with trig and favor+, and "
    by = ", ".join(
        f"{mean[*group, 'trig'] / mean[*group, 'clusters, real']:.2g}" for group in groups
    )
    held = "held" if ordered else "did NOT hold"
    found = [Claim(f"{text}it {held}: trig has {by} times it, in the order of the table.", ordered)]
    known = [row for row in rows if row["published"] is not None]
    if known:
        apart = [row for row in known if not _meets(row["errors"], row["published"])]
        text = f"{len(known) - len(apart)} of {len(known)} ranges overlap with the published ones."
        found.append(Claim(text, not apart))
    best = "clusters, dense"
    shares = {g: mean[*g, "trig"] / 4.0 / mean[*g, best] for g in groups}
    ratios = ", ".join(f"{s:.2g} (variance {v:g}, m = {m})" for (v, m), s in shares.items())
    text = f"At equal columns, trig has so many times the error of {best}: {ratios}."
    return [*found, Claim(text, min(shares.values()) > 1.0)]


def _meets(errors: list[float], published: tuple[float, float]) -> bool:
    return min(errors) <= published[1] and published[0] <= max(errors)


def draw(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Ranges and means, and the published ranges beside them."""
    groups = list(dict.fromkeys((row["variance"], row["m"]) for row in rows))
    for i, name in enumerate(METHODS):
        for place, group in enumerate(groups):
            (row,) = (r for r in rows if (r["variance"], r["m"], r["method"]) == (*group, name))
            at, errors = place + 0.14 * (i - 2), row["errors"]
            label = name if place == 0 else None
            axes.plot([at, at], [min(errors), max(errors)], color=f"C{i}", linewidth=3)
            axes.plot(at, float(np.mean(errors)), "o", color=f"C{i}", label=label)
            if row["published"] is not None:
                axes.plot([at + 0.05] * 2, row["published"], color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(groups)), [f"variance {v:g}\nm = {m}" for v, m in groups])
    axes.set_ylabel("mean squared error; black: published")
    axes.set_title("Clusters")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small")
