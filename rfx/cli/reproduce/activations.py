"""Attention on recorded activations: fitted maps against drawn ones and uniform attention."""

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
from rfx.diagnostics import relative_error, uniform_attention
from rfx.kernels import Softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

METHODS = tuple(
    Method(name, name)
    for name in ("favor+", "favor+hyp", "favor++", "favor#", "aderf", "sderf", "dense")
)
_ORACLE = "dense, same text"

_DESCRIPTION = """\
Error of attention outputs on queries, keys and values recorded from models.

DIR holds npz files with arrays q0, k0, v0, q1, ... (any layer numbers) of shape (heads, length,
dim), as they enter attention. A file with `causal` in its name is causal: there maps that need data
are fitted to the first half of the tokens, attention runs over all of them, and only the second
half is judged, so no map knows what it is judged on. The column "dense, same text" is fitted to the
whole text: an oracle, to show what is lost. In other files maps are fitted to the text itself,
which bidirectional attention has at hand.

The error is |estimate - exact| / |exact| of the output of one head, mean over heads and seeds, with
m = 256 features; exact is computed in float64. uniform averages the values that a query may see and
reads no query: an estimate above it is of no use."""


class _Part(NamedTuple):
    """One layer of a file, and where its judged rows begin."""

    data: Inputs
    is_causal: bool
    first_row: int


def measure(request: Request, advance: Advance) -> Outcome:
    """Errors of each map and of uniform attention on each layer of each file."""
    num_features = 32 if request.quick else 256
    parts = [part for path in request.files for part in _read(path, request.quick)]
    methods = available(METHODS)
    rows = []
    for part in parts:
        advance(f"{part.data.source}, layer {part.data.layer}")
        rows += _layer(part, methods, num_features, request.seeds)
    names = list(dict.fromkeys(row["file"] for row in rows))
    return Outcome(
        settings={"data": str(request.files[0].parent), "m": num_features, "target": "softmax"},
        grids=tuple(_grid(name, rows) for name in names),
        claims=tuple(claim for name in names for claim in _claims(name, rows)),
        notes=(
            "Numbers are |estimate - exact| / |exact| of the output, mean over heads and seeds.",
            *absent(METHODS),
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows),
        plot_size=(6.5 * len(names), 5.0),
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
        yield _Part(data, is_causal, t // 2 if is_causal else 0)


def _layer(
    part: _Part, methods: tuple[Method, ...], num_features: int, seeds: int
) -> list[dict[str, Any]]:
    q, k, v = part.data.query, part.data.key, part.data.value
    host = [a.astype(np.float64) for a in (q, k, v)]
    target = rfx.kernel_attention(*host, is_causal=part.is_causal)
    uniform = uniform_attention(*host, is_causal=part.is_causal)
    rows = [_row(part, "uniform", [_errors(part, uniform, target)])]
    columns = [(method, method.title, part.first_row or None) for method in methods]
    if part.is_causal:
        columns += [(method, _ORACLE, None) for method in methods if method.title == "dense"]
    for method, title, fitted in columns:
        errors = []
        for seed in range(seeds):
            spec = method.spec(num_features, Softmax())
            phi = drawn(spec, q[..., :fitted, :], k[..., :fitted, :], seed, method.map)
            estimate = rfx.linear_attention(q, k, v, features=phi, is_causal=part.is_causal)
            errors.append(_errors(part, estimate, target))
        rows.append(_row(part, title, errors))
    return rows


def _errors(part: _Part, estimate: Any, target: np.ndarray) -> list[float]:
    """Relative error of each head on the judged rows."""
    judged = (a[..., part.first_row :, :].astype(np.float64) for a in (estimate, target))
    return [float(error) for error in np.ravel(relative_error(*judged))]


def _row(part: _Part, title: str, errors: list[list[float]]) -> dict[str, Any]:
    return {
        "file": Path(part.data.source).name,
        "is_causal": part.is_causal,
        "first_row": part.first_row,
        "layer": part.data.layer,
        "column": title,
        "error": float(np.mean(errors)),
        "spread": float(np.std(errors)),
        "errors": errors,
    }


def _means(name: str, rows: list[dict[str, Any]]) -> dict[Any, dict[str, float]]:
    """Errors by layer and column; "mean" is over layers."""
    own = [row for row in rows if row["file"] == name]
    found: dict[Any, dict[str, float]] = {}
    for row in own:
        found.setdefault(row["layer"], {})[row["column"]] = row["error"]
    titles = next(iter(found.values()))
    mean = {title: float(np.mean([layer[title] for layer in found.values()])) for title in titles}
    return found | {"mean": mean}


def _grid(name: str, rows: list[dict[str, Any]]) -> Grid:
    means = _means(name, rows)
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
    return Grid(f"{name}: {how}", ("layer", *titles), tuple(lines))


def _claims(name: str, rows: list[dict[str, Any]]) -> list[Claim]:
    mean = _means(name, rows)["mean"]
    better = [t for t, error in mean.items() if error < mean["uniform"] and t != _ORACLE]
    listed = f"for {', '.join(better)}" if better else "for no map here"
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
    return claims


def _plot(figure: Figure, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(row["file"] for row in rows))
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        means = _means(name, rows)
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
