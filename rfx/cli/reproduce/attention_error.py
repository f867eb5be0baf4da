"""Error of the attention matrix and of its output against the number of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import rfx
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.cli.reproduce.maps import Method, projection
from rfx.diagnostics import relative_error, uniform_attention
from rfx.kernels import Softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "errors", "inputs"]

METHODS = (Method("trigonometric", "favor"), Method("positive", "favor+"))
PROJECTIONS = ("iid", "orthogonal")
_LINES = tuple((method.title, law) for method in METHODS for law in PROJECTIONS)
_PARTS = {"matrix": "Attention matrix", "output": "Attention output"}

_DESCRIPTION = """\
How the error of attention falls with the number of features m, for trigonometric (favor) and
positive (favor+) features with independent (iid) and orthogonal frequencies.

Queries, keys and values are drawn from N(0, 1), 4096 of 16 axes. The error is
|estimate - exact| / |exact|, of the attention matrix (rows that sum to 1) and of the attention
output. 1 is the error of the answer 0. Read it beside uniform attention, which averages all values
and reads no query: an estimate above that line is of no use, however well it compares with others.
Each seed draws new points and new frequencies."""


def inputs(seed: int, length: int, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values, float32 of shape (length, dim)."""
    q, k, v = np.random.default_rng(seed).standard_normal((3, length, dim), dtype=np.float32)
    return q, k, v


def measure(request: Request, advance: Advance) -> Outcome:
    """Errors of each map, law and m, and of uniform attention, for each seed."""
    length, dim, most = (128, 8, 3) if request.quick else (4096, 16, 6)
    sizes = [4**i for i in range(2, most + 1)]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for seed in range(request.seeds):
        advance(f"seed {seed}")
        for key, error in errors(seed, length, dim, sizes).items():
            found.setdefault(key, []).append(error)
    rows = [
        _row(*key, part, [error[part] for error in values])
        for part in _PARTS
        for key, values in found.items()
    ]
    return Outcome(
        settings={"shape of q, k, v": (length, dim), "target": f"exp(q.k / sqrt({dim}))"},
        grids=tuple(_grid(part, rows) for part in _PARTS),
        claims=tuple(claim for part in _PARTS for claim in _claims(part, rows)),
        notes=(
            "Numbers are |estimate - exact| / |exact|: mean over seeds, and +- their standard "
            "deviation. uniform: equal weights, at any m.",
            "A signed map may divide by nearly nothing, so the means of trigonometric errors rest "
            "on a few rows and seeds; a positive map cannot.",
            f"|q + k|^2 / sqrt(d) is {2.0 * dim**0.5:.1f} on average, and exp of it the relative "
            f"second moment of one positive feature: far below m = {np.exp(2.0 * dim**0.5):.0f} "
            "the positive estimate knows little, and its error hardly falls.",
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows),
        plot_size=(12.0, 5.0),
    )


def errors(
    seed: int, length: int, dim: int, sizes: list[int]
) -> dict[tuple[str, str, int], dict[str, float]]:
    """Errors of the matrix and of the output by (map, law of frequencies, m)."""
    q, k, v = inputs(seed, length, dim)
    log = Softmax().log(q, k)
    exact = _rows_to_one(np.exp(log - log.max(axis=-1, keepdims=True)))
    output = rfx.kernel_attention(*(a.astype(np.float64) for a in (q, k, v)))
    uniform = np.full_like(exact, 1.0 / length)
    found = {("uniform", "", 0): _pair(uniform, exact, uniform_attention(q, k, v), output)}
    for method in METHODS:
        for law in PROJECTIONS:
            for m in sizes:
                spec = method.spec(m, Softmax(), projection(law))
                phi = spec.draw(dim, seed=seed, like=q)
                with np.errstate(all="ignore"):  # a signed map may divide by nearly nothing
                    matrix = _rows_to_one(rfx.gram(q, k, features=phi))
                    estimate = rfx.linear_attention(q, k, v, features=phi)
                    found[method.title, law, m] = _pair(matrix, exact, estimate, output)
    return found


def _rows_to_one(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=-1, keepdims=True)


def _pair(
    matrix: np.ndarray, exact: np.ndarray, estimate: Any, output: np.ndarray
) -> dict[str, float]:
    return {
        "matrix": float(relative_error(matrix, exact)),
        "output": float(relative_error(estimate.astype(np.float64), output)),
    }


def _row(title: str, law: str, m: int, part: str, values: list[float]) -> dict[str, Any]:
    return {
        "part": part,
        "map": title,
        "projection": law or None,
        "num_features": m or None,
        "error": float(np.mean(values)),
        "spread": float(np.std(values)),
        "errors": values,
    }


def _select(rows: list[dict[str, Any]], part: str, title: str, law: str | None) -> list[Any]:
    return [r for r in rows if (r["part"], r["map"], r["projection"]) == (part, title, law)]


def _grid(part: str, rows: list[dict[str, Any]]) -> Grid:
    lines = [_select(rows, part, *line) for line in _LINES]
    uniform = _select(rows, part, "uniform", None)[0]
    cells: list[tuple[Cell, ...]] = []
    for at_m in zip(*lines, strict=True):
        spreads = [cell for row in at_m for cell in (row["error"], _plus_minus(row["spread"]))]
        cells.append((str(at_m[0]["num_features"]), *spreads, uniform["error"]))
    titles = [
        title for line in _LINES for title in (" ".join(line).replace("trigonometric", "trig"), "")
    ]
    return Grid(_PARTS[part], ("m", *titles, "uniform"), tuple(cells), labels=0)


def _plus_minus(spread: float) -> str:
    return f"+-{spread:.1g}"


def _claims(part: str, rows: list[dict[str, Any]]) -> list[Claim]:
    """Positive beside trigonometric, orthogonal beside iid, and the best of them beside uniform."""
    pos, trig = (_select(rows, part, m, "orthogonal") for m in ("positive", "trigonometric"))
    iid = _select(rows, part, "positive", "iid")
    texts = {
        "positive features have {:.2g} times the error of trigonometric ones": trig,
        "orthogonal frequencies give positive features {:.2g} times the error of iid ones": iid,
    }
    claims = []
    for text, others in texts.items():
        logs = np.log([row["errors"] for row in pos]) - np.log([row["errors"] for row in others])
        by_seed = logs.mean(axis=0)
        mean, spread = np.exp(by_seed.mean()), np.exp(by_seed.std())
        how = f"(geometric mean over m and seeds; seeds differ by factors of {spread:.2g})"
        claims.append(Claim(f"{_PARTS[part]}: {text.format(mean)} {how}.", bool(mean < 1.0)))
    uniform = _select(rows, part, "uniform", None)[0]["error"]
    useful = [str(row["num_features"]) for row in pos if row["error"] < uniform]
    where = f"at m = {', '.join(useful)}" if useful else "at no m here"
    text = f"{_PARTS[part]}: positive orthogonal features beat uniform attention {where}."
    return [*claims, Claim(text, bool(useful))]


def _plot(figure: Figure, rows: list[dict[str, Any]]) -> None:
    both = figure.subplots(1, 2)
    for axes, (part, title) in zip(both, _PARTS.items(), strict=True):
        for i, (name, law) in enumerate(_LINES):
            line = _select(rows, part, name, law)
            axes.errorbar(
                [1.03 ** (i - 1.5) * row["num_features"] for row in line],
                [row["error"] for row in line],
                [row["spread"] for row in line],
                marker="os"[i % 2],
                linestyle=("--", "-")[i % 2],
                color=f"C{i // 2}",
                capsize=3,
                label=f"{name}, {law}",
            )
        uniform = _select(rows, part, "uniform", None)[0]["error"]
        axes.axhline(uniform, color="black", linestyle=":", label="uniform attention")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("number of features m")
        axes.set_ylabel("relative error")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    both[0].legend()


EXPERIMENT = Experiment(
    name="attention-error",
    summary="Error of attention on Gaussian points against the number of features.",
    description=_DESCRIPTION,
    seeds=5,
    measure=measure,
)
