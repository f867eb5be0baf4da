"""Attention through landmarks on recorded activations: error against their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import rfx
from rfx.attention.landmarks import KMeans, Leverage, Rule, SegmentMeans, Uniform
from rfx.cli import inputs
from rfx.cli.errors import UserError
from rfx.cli.inputs import Inputs
from rfx.cli.reproduce.experiment import Advance, Cell, Claim, Experiment, Grid, Outcome, Request
from rfx.cli.reproduce.maps import Method, drawn
from rfx.diagnostics import relative_error, uniform_attention
from rfx.kernels import Gaussian, Softmax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

_NUMBERS = (16, 32, 64, 128)
_RULES = {
    "uniform": Uniform,
    "means": SegmentMeans,
    "k-means": KMeans,
    "leverage": Leverage,
}
_EXACT_TOKENS, _EXACT_HEADS = 384, 2

_DESCRIPTION = """\
How the error of attention falls with the number of landmarks, on queries, keys and values recorded
from models: in --data DIR, npz files with arrays q0, k0, v0, q1, ... of shape (heads, length, dim),
or else the sample that comes with rfx. Files with `causal` in their name are left out, since
landmarks cannot be causal.

Each method has its own target: softmax attention for the Nystromformer, for Skyformer
exp(-|q - k|^2 / (2 sqrt d)) times the values, and the same of keys with keys for SOFT, whose
queries are its keys. favor+ has as many features as there are landmarks, which costs about the
same, and the target of the Nystromformer. uniform averages the values: an estimate above it is of
no use; where no denominator divides, it is 1, the error of the answer 0. no ridge leaves the ridge
of the inverse away, as its paper does.

The error is |estimate - exact| / |exact| of the output of one head, mean over layers, heads and
seeds; exact is computed in float64. A seed draws landmarks and features anew."""


class _Part(NamedTuple):
    """A layer of a file with its targets, float64."""

    data: Inputs
    softmax: np.ndarray
    uniform: np.ndarray
    skyformer: np.ndarray
    soft: np.ndarray
    normalised: np.ndarray


Estimate = Callable[[Any, Any, Any, int, int], Any]
"""Of q, k, v, number of landmarks and seed."""


class _Column(NamedTuple):
    title: str
    target: str
    estimate: Estimate
    is_random: bool = False


def _rule(name: str, num: int, seed: int) -> Rule:
    return SegmentMeans(num) if name == "means" else _RULES[name](num, seed)


def _favor(q: Any, k: Any, v: Any, num: int, seed: int) -> Any:
    phi = drawn(Method("favor+", "favor+").spec(num, Softmax()), q, k, seed, "favor+")
    return rfx.linear_attention(q, k, v, features=phi)


def _columns() -> tuple[_Column, ...]:
    nystrom, skyformer, soft = rfx.nystrom_attention, rfx.skyformer_attention, rfx.soft_attention
    found = [
        _Column("nystrom", "softmax", lambda q, k, v, n, s: nystrom(q, k, v, landmarks=n)),
        _Column(
            "no ridge", "softmax", lambda q, k, v, n, s: nystrom(q, k, v, landmarks=n, ridge=0.0)
        ),
        _Column("favor+", "softmax", _favor, True),
    ]
    for name in _RULES:
        random = name != "means"

        def sky(q: Any, k: Any, v: Any, n: int, s: int, name: str = name) -> Any:
            return skyformer(q, k, v, landmarks=_rule(name, n, s))

        def own(q: Any, k: Any, v: Any, n: int, s: int, name: str = name) -> Any:
            return soft(k, v, landmarks=_rule(name, n, s))

        found.append(_Column(f"skyformer, {name}", "skyformer", sky, random))
        found.append(_Column(f"soft, {name}", "soft", own, random))
    norm = _Column(
        "soft normalised, means",
        "normalised",
        lambda q, k, v, n, s: soft(k, v, landmarks=n, normalize=True),
    )
    return (*found, norm)


def measure(request: Request, advance: Advance) -> Outcome:
    """Errors of each method and rule at each number of landmarks, and those of all landmarks."""
    files, left_out = _files(request)
    numbers = _NUMBERS[:2] if request.quick else _NUMBERS
    columns = _columns()
    rows: list[dict[str, Any]] = []
    exact: dict[str, float] = {}
    for part in (part for path in files for part in _read(path, request.quick)):
        advance(f"{part.data.source}, layer {part.data.layer}")
        _check_length(part.data, numbers[-1])
        rows += _layer(part, columns, numbers, request.seeds)
        for name, error in _all_landmarks(part.data).items():
            exact[name] = max(exact.get(name, 0.0), error)
    rows += [{"part": "all landmarks", "method": n, "difference": d} for n, d in exact.items()]
    notes = [
        "Numbers are |estimate - exact| / |exact| of the output, mean over layers, heads and "
        "seeds.",
        "means: means of segments, which Nystromformer and SOFT take; the paper of Skyformer draws "
        "uniformly. k-means and leverage: rfx.landmarks.KMeans and Leverage.",
        *(f"Left out, because it is causal by its name: {path.name}." for path in left_out),
    ]
    return Outcome(
        settings={
            "data": [str(path) for path in request.files] or "the sample that comes with rfx",
            "ridge": "1e-3, the default",
        },
        grids=(_softmax_grid(rows, numbers), *(_rules_grid(rows, numbers, m) for m in _METHODS)),
        claims=tuple(_claims(rows, numbers, exact)),
        notes=tuple(notes),
        rows=rows,
        plot=lambda figure: _plot(figure, rows, numbers),
        plot_size=(12.0, 5.0),
    )


_METHODS = ("skyformer", "soft")


def _files(request: Request) -> tuple[tuple[Path | None, ...], tuple[Path, ...]]:
    causal = tuple(path for path in request.files if "causal" in path.name.lower())
    kept = tuple(path for path in request.files if path not in causal)
    if request.files and not kept:
        raise UserError(
            "--data holds only files that are causal by their name, and landmarks cannot be "
            "causal; rename those that are not, or leave --data out"
        )
    return kept or (None,), causal


def _check_length(data: Inputs, most: int) -> None:
    least = min(data.query.shape[-2], data.key.shape[-2])
    if least < most:
        raise UserError(
            f"{data.source} has {least} tokens, too few for {most} landmarks; name longer ones"
        )


def _read(path: Path | None, quick: bool) -> Iterator[_Part]:
    layers = inputs.read(path, None, None).layers
    for layer in layers[: 1 if quick else None] or (None,):
        data = inputs.read(path, layer, None)
        q, k, v = (a.astype(np.float64) for a in (data.query, data.key, data.value))
        kernel, groups = Gaussian(bandwidth=data.dim**0.25), q.shape[-3] // k.shape[-3]
        wide = [np.repeat(a, groups, axis=-3) for a in (k, v)]
        own = kernel(k, k)
        root = own.sum(axis=-1, keepdims=True) ** -0.5
        yield _Part(
            data,
            rfx.kernel_attention(q, k, v),
            uniform_attention(q, k, v),
            kernel(q, wide[0]) @ wide[1],
            own @ v,
            root * (own @ (root * v)),
        )


def _layer(
    part: _Part, columns: tuple[_Column, ...], numbers: tuple[int, ...], seeds: int
) -> list[dict[str, Any]]:
    q, k, v = part.data.query, part.data.key, part.data.value
    key = {
        "part": "errors",
        "file": Path(part.data.source).name,
        "layer": part.data.layer,
    }
    uniform = np.ravel(relative_error(part.uniform, part.softmax)).tolist()
    rows = [{**key, "column": "uniform", "landmarks": None, "errors": [uniform]}]
    for column in columns:
        target = getattr(part, column.target)
        for num in numbers:
            errors = []
            for seed in range(seeds if column.is_random else 1):
                out = column.estimate(q, k, v, num, seed).astype(np.float64)
                errors.append(np.ravel(relative_error(out, target)).tolist())
            rows.append({**key, "column": column.title, "landmarks": num, "errors": errors})
    return rows


def _all_landmarks(data: Inputs) -> dict[str, float]:
    """Largest difference from the target with all tokens for landmarks, float64, first heads."""
    arrays = (data.query, data.key, data.value)
    q, k, v = (
        a.reshape(-1, *a.shape[-2:])[:_EXACT_HEADS, :_EXACT_TOKENS].astype(np.float64)
        for a in arrays
    )
    if len(k) < len(q):  # grouped queries
        q = q[: len(k)]
    kernel = Gaussian(bandwidth=data.dim**0.25)
    call: dict[str, Any] = {"ridge": 0.0, "inverse": "decomposition"}
    t, s = q.shape[-2], k.shape[-2]
    found = {
        "skyformer": (rfx.skyformer_attention(q, k, v, landmarks=t + s, **call), kernel(q, k) @ v),
        "soft": (rfx.soft_attention(k, v, landmarks=s, **call), kernel(k, k) @ v),
    }
    if t == s:
        estimate = rfx.nystrom_attention(q, k, v, landmarks=s, **call)
        found["nystrom"] = (estimate, rfx.kernel_attention(q, k, v))
    return {name: float(np.abs(out - want).max()) for name, (out, want) in found.items()}


def _mean(rows: list[dict[str, Any]], column: str, num: int | None) -> float:
    own = [r for r in rows if r["part"] == "errors" and r["column"] == column]
    return float(np.mean([np.mean(r["errors"]) for r in own if r["landmarks"] == num]))


def _softmax_grid(rows: list[dict[str, Any]], numbers: tuple[int, ...]) -> Grid:
    titles = ("nystrom", "no ridge", "favor+")
    lines: list[tuple[Cell, ...]] = [
        (str(n), *(_mean(rows, title, n) for title in titles), _mean(rows, "uniform", None))
        for n in numbers
    ]
    title = "Softmax attention, landmarks or features"
    return Grid(title, ("number", *titles, "uniform"), tuple(lines), labels=0)


def _rules_grid(rows: list[dict[str, Any]], numbers: tuple[int, ...], method: str) -> Grid:
    titles = {name: f"{method}, {name}" for name in _RULES}
    if method == "soft":
        titles["normalised, means"] = "soft normalised, means"
    lines: list[tuple[Cell, ...]] = [
        (str(n), *(_mean(rows, title, n) for title in titles.values()), 1.0) for n in numbers
    ]
    title = {"skyformer": "Skyformer", "soft": "SOFT"}[method]
    return Grid(f"{title}, by rule", ("number", *titles, "zero"), tuple(lines), labels=0)


def _claims(
    rows: list[dict[str, Any]], numbers: tuple[int, ...], exact: dict[str, float]
) -> Iterator[Claim]:
    listed = ", ".join(f"{name} {error:.0e}" for name, error in sorted(exact.items()))
    held = max(exact.values()) < 1e-10
    yield Claim(f"With all landmarks, largest difference from the target: {listed}.", held)
    for other, num in (("favor+", True), ("uniform", False)):
        pairs = {
            n: (_mean(rows, "nystrom", n), _mean(rows, other, n if num else None)) for n in numbers
        }
        better = [str(n) for n, (mine, theirs) in pairs.items() if mine < theirs]
        where = f"at {', '.join(better)} landmarks" if better else "at no number here"
        text = f"The error of nystrom is below that of {other} {where}."
        yield Claim(text, len(better) == len(numbers))
    for column in ("skyformer, uniform", "soft, means", "nystrom"):
        errors = [_mean(rows, column, n) for n in numbers]
        falls = all(b < a for a, b in pairwise(errors))
        words = "falls" if falls else "does NOT fall"
        yield Claim(f"The error of {column.split(',')[0]} {words} with every doubling.", falls)
    worst = max(_mean(rows, "no ridge", n) / _mean(rows, "nystrom", n) for n in numbers)
    yield Claim(f"Without its ridge nystrom has up to {worst:.2g} times the error.", worst > 1.0)
    for method in _METHODS:
        errors_by_rule = {r: _mean(rows, f"{method}, {r}", numbers[-1]) for r in _RULES}
        best = min(errors_by_rule, key=lambda rule: errors_by_rule[rule])
        yield Claim(f"The best landmarks of {method} at {numbers[-1]} are those of {best}.")


def _plot(figure: Figure, rows: list[dict[str, Any]], numbers: tuple[int, ...]) -> None:
    left, right = figure.subplots(1, 2)
    for i, title in enumerate(("nystrom", "no ridge", "favor+")):
        errors = [_mean(rows, title, n) for n in numbers]
        left.plot(numbers, errors, marker="osD"[i], label=title)
    uniform = _mean(rows, "uniform", None)
    left.axhline(uniform, color="black", linestyle=":", label="uniform attention")
    left.set_title("Softmax attention")
    for method, style in zip(_METHODS, ("-", "--"), strict=True):
        for i, rule in enumerate(_RULES):
            errors = [_mean(rows, f"{method}, {rule}", n) for n in numbers]
            label = f"{method}, {rule}"
            right.plot(numbers, errors, style, color=f"C{i}", marker="osD^"[i], label=label)
    right.set_title("Gaussian kernel, no denominator")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("number of landmarks")
        axes.set_ylabel("relative error of the output")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")


EXPERIMENT = Experiment(
    name="landmarks",
    summary="Error of attention through landmarks against their number, on recorded activations.",
    description=_DESCRIPTION,
    seeds=3,
    measure=measure,
    data="optional",
    data_help="folder of npz files with q0, k0, v0, q1, ... (default: the sample of rfx)",
)
