"""Attention on recorded activations: fitted and drawn maps, LARA, EVA and uniform attention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import rfx
from rfx.cli import inputs
from rfx.cli.errors import UserError
from rfx.cli.inputs import Inputs
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.cli.reproduce.maps import Method, absent, available, drawn
from rfx.cli.reproduce.rivals import described, rivals
from rfx.diagnostics import relative_error, uniform_attention
from rfx.kernels import Softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

_ORACLE = "dense, same text"
METHODS = (
    *(
        Method(name, name)
        for name in ("favor+", "favor+hyp", "favor++", "favor#", "aderf", "sderf", "dense")
    ),
    Method(_ORACLE, "dense"),
)
_FEW = (32, 64, 128)
"""Smaller numbers of features, for the columns of the second table alone."""
_BY_NUMBER = ("favor+", "dense", "lara", "eva")

_DESCRIPTION = """\
Error of attention outputs on queries, keys and values recorded from models.

DIR holds npz files with arrays q0, k0, v0, q1, ... (any layer numbers) of shape (heads, length,
dim), as they enter attention. A file with `causal` in its name is causal: there maps that need data
are fitted to the first half of the tokens, attention runs over all of them, and only the second
half is judged, so no map knows what it is judged on. The column "dense, same text" is fitted to the
whole text: an oracle, to show what is lost. In other files maps are fitted to the text itself,
which bidirectional attention has at hand.

lara and eva draw frequencies around means of the activations. They cost a query what m features
do, m (d + e) multiply-adds for dimensions d of queries and e of values: lara has m (d + e) / (2d +
e) proposals, each of which a query meets twice, and eva sees at most m keys and groups of keys, the
groups being half of them. What is spent on keys is not counted; it is as much for a map and lara,
and less for eva. lara cannot be causal. A query that sees m keys can have exact attention at the
cost of m features, so the rows with few features say more of long sequences.

The error is |estimate - exact| / |exact| of the output of one head, mean over heads and seeds, with
m = 256 features; exact is computed in float64. uniform averages the values that a query may see and
reads no query: an estimate above it is of no use."""


class _Part(NamedTuple):
    """One layer of a file, where its judged rows begin, and exact attention in float64."""

    data: Inputs
    is_causal: bool
    first_row: int
    target: np.ndarray


def measure(request: Request, advance: Advance) -> Outcome:
    """Errors of each column on each layer of each file, and of some with fewer features."""
    most = 32 if request.quick else 256
    methods = available(METHODS)
    few = tuple(method for method in methods if method.title in _BY_NUMBER)
    rows: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    for part in [part for path in request.files for part in _read(path, request.quick)]:
        advance(f"{part.data.source}, layer {part.data.layer}")
        rows += [_uniform(part), *_layer(part, methods, most, request.seeds)]
        for m in () if request.quick else _FEW:
            rows += _layer(part, few, m, request.seeds)
        name = Path(part.data.source).name
        notes[name] = f"{name}: {described(part.data, most, part.is_causal)}."
    return Outcome(
        settings={"data": str(request.files[0].parent), "m": most, "target": "softmax"},
        grids=tuple(grid for name in notes for grid in _grids(name, rows, most)),
        claims=tuple(claim for name in notes for claim in _claims(name, rows, most)),
        notes=(
            "Numbers are |estimate - exact| / |exact| of the output, mean over heads and seeds.",
            *notes.values(),
            *absent(METHODS),
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows, most),
        plot_size=(6.5 * len(notes), 5.0),
    )


def _read(path: Path, quick: bool) -> Iterator[_Part]:
    layers = inputs.read(path, None, None).layers
    for layer in layers[: 2 if quick else None] or (None,):
        data = inputs.read(path, layer, None)
        t, s = data.query.shape[-2], data.key.shape[-2]
        is_causal = "causal" in path.name.lower()
        if is_causal and (t != s or t < 2):
            raise UserError(
                f"{path} is causal by its name, so it needs as many queries as keys, at least 2, "
                f"but has {t} queries and {s} keys; rename it if it is not causal"
            )
        host = (a.astype(np.float64) for a in (data.query, data.key, data.value))
        target = rfx.kernel_attention(*host, is_causal=is_causal)
        yield _Part(data, is_causal, t // 2 if is_causal else 0, target)


def _uniform(part: _Part) -> dict[str, Any]:
    host = (a.astype(np.float64) for a in (part.data.query, part.data.key, part.data.value))
    found = uniform_attention(*host, is_causal=part.is_causal)
    return _row(part, "uniform", None, [_errors(part, found)])


def _layer(part: _Part, methods: tuple[Method, ...], m: int, seeds: int) -> list[dict[str, Any]]:
    q, k, v = part.data.query, part.data.key, part.data.value
    rows = []
    for method in methods:
        if method.title == _ORACLE and not part.is_causal:
            continue  # there dense itself is fitted to the text
        fitted = None if method.title == _ORACLE else part.first_row or None
        errors = []
        for seed in range(seeds):
            spec = method.spec(m, Softmax())
            phi = drawn(spec, q[..., :fitted, :], k[..., :fitted, :], seed, method.map)
            estimate = rfx.linear_attention(q, k, v, features=phi, is_causal=part.is_causal)
            errors.append(_errors(part, estimate))
        rows.append(_row(part, method.title, m, errors))
    for rival in rivals(part.data, part.is_causal):
        errors = [_errors(part, rival.estimate(m, seed)) for seed in range(seeds)]
        rows.append(_row(part, rival.title, m, errors))
    return rows


def _errors(part: _Part, estimate: Any) -> list[float]:
    """Relative error of each head on the judged rows."""
    judged = (a[..., part.first_row :, :].astype(np.float64) for a in (estimate, part.target))
    return [float(error) for error in np.ravel(relative_error(*judged))]


def _row(part: _Part, title: str, m: int | None, errors: list[list[float]]) -> dict[str, Any]:
    return {
        "file": Path(part.data.source).name,
        "is_causal": part.is_causal,
        "first_row": part.first_row,
        "layer": part.data.layer,
        "column": title,
        "num_features": m,
        "error": float(np.mean(errors)),
        "spread": float(np.std(errors)),
        "errors": errors,
    }


def _means(name: str, rows: list[dict[str, Any]], m: int) -> dict[Any, dict[str, float]]:
    """Errors at m features by layer and column; "mean" is over layers."""
    own = [row for row in rows if row["file"] == name and row["num_features"] in (None, m)]
    found: dict[Any, dict[str, float]] = {}
    for row in own:
        found.setdefault(row["layer"], {})[row["column"]] = row["error"]
    titles = next(iter(found.values()))
    mean = {title: float(np.mean([layer[title] for layer in found.values()])) for title in titles}
    return found | {"mean": mean}


def _grids(name: str, rows: list[dict[str, Any]], most: int) -> Iterator[Grid]:
    """By layer at the largest number of features, and by their number."""
    means = _means(name, rows, most)
    ratios = [other for other in ("favor+", "uniform") if "dense" in means["mean"]]
    lines: list[tuple[Cell, ...] | None] = []
    for layer, errors in means.items():
        lines += [None] if layer == "mean" else []
        shares = (errors["dense"] / errors[other] for other in ratios)
        lines.append(("-" if layer is None else str(layer), *errors.values(), *shares))
    titles = (*means["mean"], *(f"dense/{other}" for other in ratios))
    first = next(row for row in rows if row["file"] == name)
    how = "bidirectional, fitted to the text itself"
    if first["is_causal"]:
        start = first["first_row"]
        how = f"causal, fitted to tokens before {start}, judged from token {start} on"
    yield Grid(f"{name}: {how}", ("layer", *titles), tuple(lines))
    columns = [title for title in (*_BY_NUMBER, "uniform") if title in means["mean"]]
    numbers = sorted({row["num_features"] for row in rows if row["num_features"] is not None})
    each = {m: _means(name, rows, m)["mean"] for m in numbers}
    by_number: tuple[tuple[Cell, ...], ...] = tuple(
        (str(m), *(each[m][title] for title in columns)) for m in numbers
    )
    title = f"{name}: by the number of features, or the cost of as many, mean over layers"
    yield Grid(title, ("m", *columns), by_number)


def _claims(name: str, rows: list[dict[str, Any]], most: int) -> list[Claim]:
    mean = _means(name, rows, most)["mean"]
    better = [t for t, error in mean.items() if error < mean["uniform"] and t != _ORACLE]
    listed = f"for {', '.join(better)}" if better else "for no column here"
    text = f"{name}: the mean error over layers is below that of uniform attention {listed}."
    claims = [Claim(text, bool(better))]
    if "dense" in mean:
        plain, bar = mean["dense"] / mean["favor+"], mean["dense"] / mean["uniform"]
        text = (
            f"{name}: the error of dense is {plain:.2f} that of favor+, {bar:.2f} that of uniform"
        )
        if _ORACLE in mean:
            text += f"; fitted to the judged text it would be {mean[_ORACLE] / mean['dense']:.2f}"
            text += " of its own"
        claims.append(Claim(f"{text}.", plain < 1.0 and bar < 1.0))
        for rival in ("lara", "eva"):
            if rival in mean:
                ratios = {o: mean[rival] / mean[o] for o in ("favor+", "uniform", "dense")}
                shares = ", ".join(f"{share:.2f} that of {o}" for o, share in ratios.items())
                text = f"{name}: at equal cost the error of {rival} is {shares}."
                held = ratios["favor+"] < 1.0 and ratios["uniform"] < 1.0
                claims.append(Claim(text, held))
    return claims


def _plot(figure: Figure, rows: list[dict[str, Any]], most: int) -> None:
    names = list(dict.fromkeys(row["file"] for row in rows))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        means = _means(name, rows, most)
        mean = means.pop("mean")
        layers = [str(layer) for layer in means]
        for i, title in enumerate(mean):
            style = {"uniform": "k--", _ORACLE: ":"}.get(title, "-")
            errors = [layer[title] for layer in means.values()]
            axes.plot(layers, errors, style, marker="osD^vP*X<>"[i % 10], label=title)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("layer")
        axes.set_ylabel("relative error of the attention output")
        axes.set_title(name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")


EXPERIMENT = Experiment(
    name="activations",
    summary="Error of attention on recorded activations of models, by layer.",
    description=_DESCRIPTION,
    seeds=5,
    measure=measure,
    data="required",
    data_help="folder of npz files with q0, k0, v0, q1, ...; `causal` in a name means causal",
)
