"""Ridge regression with features, beside the exact kernel and a linear fit, on fixed splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import rfx
from rfx.cli.reproduce import tables
from rfx.cli.reproduce.experiment import Advance, Claim, Experiment, Grid, Outcome, Request
from rfx.cli.reproduce.kernel_regression import paired_gap
from rfx.cli.reproduce.tables import Split, Table
from rfx.features import DrawnMap
from rfx.kernels import Gaussian

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT"]

_BANDWIDTHS = (0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.2)
"""In units of sqrt(d), the typical distance of standardised points."""
_RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
_SIZES = (256, 1024, 4096)
_TUNING_ROWS, _EXACT_TUNING_ROWS, _EXACT_ROWS = 10000, 5000, 8000

_DESCRIPTION = """\
Ridge regression with the features of the Gaussian kernel, in time linear in the rows.

DIR holds npz files with points X, floating (n, d), targets y, floating (n,), and test_mask, bool
(n, splits), True for the test rows of a split. Points and targets are standardised by the training
part. Errors are root mean squares over the test part, in standard deviations of the training
targets: 1 is the error of predicting their mean.

linear is a linear fit, with a ridge of 1. exact is kernel ridge regression, on at most 8,000
training rows that are chosen at random. The others are rfx.ridge_regression with m trigonometric
features of all rows, orthogonal ones, drawn anew for each split. For each method apart, bandwidth
and ridge are those of a grid of 7 by 5 that do best on a fifth of the training part of the first
split, of at most 10,000 rows, or 5,000 for exact. A second table has both side by side at each of
the settings, for sets of which exact sees all rows: where the kernel matrix has more eigenvalues
above the ridge than the features resolve, they are apart."""


class _Setting(NamedTuple):
    width: float
    """Bandwidth in units of sqrt(d)."""
    ridge: float


_Scores = dict[_Setting, float]


def measure(request: Request, advance: Advance) -> Outcome:
    """Errors of all methods on all splits of each set."""
    sizes = _SIZES[:2] if request.quick else _SIZES
    rows: list[dict[str, Any]] = []
    ratios: dict[str, _Scores] = {}
    for data in (tables.read(path) for path in request.files):
        splits = min(request.seeds, data.test_mask.shape[1])
        advance(f"{data.name}: bandwidth and ridge")
        scores = {m: _scores(tables.split(data, 0), m) for m in (None, *sizes)}
        chosen = {m: min(found, key=found.__getitem__) for m, found in scores.items()}
        if len(data.points) <= _EXACT_ROWS:
            ratios[data.name] = {at: scores[sizes[-1]][at] / e for at, e in scores[None].items()}
        for number in range(splits):
            advance(f"{data.name}: split {number + 1} of {splits}")
            part = tables.split(data, number)
            errors = {"linear": _linear(part), "exact": _exact(part, chosen[None], number)}
            for m in sizes:
                errors[f"m = {m}"] = _featured(part, chosen[m], m, number)
            settings = (None, *chosen.values())
            for (method, error), setting in zip(errors.items(), settings, strict=True):
                rows.append(_row(data, method, number, error, setting))
    methods = ("linear", "exact", *(f"m = {m}" for m in sizes))
    return Outcome(
        settings={
            "exact_rows": _EXACT_ROWS,
            "tuning_rows": {"exact": _EXACT_TUNING_ROWS, "features": _TUNING_ROWS},
            "sizes": list(sizes),
        },
        grids=(_grid(rows, methods), *([_ratio_grid(ratios, methods[-1])] if ratios else [])),
        claims=tuple(_claims(rows, methods[-1])),
        notes=(
            "Numbers are root mean square errors over the test part, in standard deviations of the "
            "training targets; mean over splits, ± its standard error.",
        ),
        rows=rows,
        plot=lambda figure: _plot(figure, rows, methods),
    )


def _scores(part: Split, m: int | None) -> _Scores:
    """Errors of m features, or of the exact kernel, on rows held out of the training part."""
    limit = _EXACT_TUNING_ROWS if m is None else _TUNING_ROWS
    order = np.random.default_rng(0).permutation(len(part.train))[:limit]
    fit, judge = np.split(order, [len(order) * 4 // 5])
    x, fresh = part.train[fit], part.train[judge]
    y, wanted = part.train_targets[fit], part.train_targets[judge]
    found: _Scores = {}
    for width in _BANDWIDTHS:
        kernel = _kernel(width, x.shape[-1])
        if m is None:
            estimates = _exact_path(kernel, _RIDGES, x, y, fresh)
        else:
            equations = rfx.regression.normal_equations(x, y, features=_drawn(kernel, m, 0, x))
            models = (rfx.regression.solve(equations, ridge=ridge) for ridge in _RIDGES)
            estimates = (model.predict(fresh) for model in models)
        for ridge, estimate in zip(_RIDGES, estimates, strict=True):
            found[_Setting(width, ridge)] = _error(estimate, wanted)
    return found


def _kernel(width: float, dim: int) -> Gaussian:
    return Gaussian(bandwidth=width * dim**0.5)


def _exact_path(
    kernel: Gaussian,
    ridges: Sequence[float],
    x: np.ndarray,
    y: np.ndarray,
    fresh: np.ndarray,
) -> Iterator[np.ndarray]:
    """Predictions of kernel ridge regression for each of the ridges."""
    among, across = _matrix(kernel, x, x), _matrix(kernel, fresh, x)
    diagonal, before = np.einsum("ii->i", among), 0.0
    for ridge in ridges:
        diagonal += ridge - before
        before = ridge
        yield y.mean() + across @ np.linalg.solve(among, y - y.mean())


def _drawn(kernel: Gaussian, m: int, seed: int, like: np.ndarray) -> DrawnMap:
    spec = rfx.features.Trigonometric(m, kernel=kernel)
    return spec.draw(like.shape[-1], seed=seed, like=like)


def _linear(part: Split) -> float:
    gram = part.train.T @ part.train + np.eye(part.train.shape[-1])  # columns may be dependent
    theta = np.linalg.solve(gram, part.train.T @ part.train_targets)
    return _error(part.test @ theta, part.test_targets)


def _exact(part: Split, setting: _Setting, seed: int) -> float:
    rows = np.random.default_rng(seed).permutation(len(part.train))[:_EXACT_ROWS]
    x, y = part.train[rows], part.train_targets[rows]
    kernel = _kernel(setting.width, x.shape[-1])
    (estimate,) = _exact_path(kernel, (setting.ridge,), x, y, part.test)
    return _error(estimate, part.test_targets)


def _matrix(kernel: Gaussian, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The kernel matrix, by blocks of rows, whose intermediate results stay in cache."""
    out = np.empty((len(x), len(y)))
    for start in range(0, len(x), 64):
        rows = slice(start, start + 64)
        out[rows] = kernel(x[rows], y)
    return out


def _featured(part: Split, setting: _Setting, m: int, seed: int) -> float:
    """In float32 where rows are many and the ridge is large: it halves the time."""
    small = len(part.train) <= _EXACT_ROWS or setting.ridge < 0.1
    dtype = np.float64 if small else np.float32
    x, y, test = (a.astype(dtype) for a in (part.train, part.train_targets, part.test))
    phi = _drawn(_kernel(setting.width, x.shape[-1]), m, seed, x)
    model = rfx.ridge_regression(x, y, features=phi, ridge=setting.ridge)
    return _error(model.predict(test), part.test_targets)


def _error(estimate: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((estimate.astype(np.float64) - wanted) ** 2)))


def _row(
    data: Table, method: str, number: int, error: float, setting: _Setting | None
) -> dict[str, Any]:
    row = {"set": data.name, "rows": len(data.points), "dim": data.points.shape[-1]}
    row |= {"method": method, "split": number, "error": error}
    if setting is None:
        return row
    edge = setting.width in (_BANDWIDTHS[0], _BANDWIDTHS[-1])
    return row | setting._asdict() | {"at_edge": edge}


def _errors(rows: list[dict[str, Any]], name: str, method: str) -> np.ndarray:
    own = [r["error"] for r in rows if (r["set"], r["method"]) == (name, method)]
    return np.asarray(own)


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["set"] for row in rows))


def _grid(rows: list[dict[str, Any]], methods: tuple[str, ...]) -> Grid:
    lines = []
    for name in _names(rows):
        own = next(r for r in rows if r["set"] == name)
        cells = []
        for method in methods:
            mean, spread = paired_gap(_errors(rows, name, method), np.zeros(()))
            cells.append(f"{mean:.3f} ± {spread:.3f}")
        lines.append((name, f"{own['rows']} x {own['dim']}", *cells))
    return Grid("Test error", ("set", "rows x d", *methods), tuple(lines), labels=2)


def _ratio_grid(ratios: dict[str, _Scores], largest: str) -> Grid:
    lines = [
        (name, f"{width:g}", *(f"{found[_Setting(width, ridge)]:.3f}" for ridge in _RIDGES))
        for name, found in ratios.items()
        for width in _BANDWIDTHS
    ]
    title = f"Error of {largest} over that of exact at the same setting, on rows held out"
    ridges = (f"ridge {ridge:g}" for ridge in _RIDGES)
    return Grid(title, ("set", "bandwidth / sqrt(d)", *ridges), tuple(lines), labels=2)


def _claims(rows: list[dict[str, Any]], largest: str) -> list[Claim]:
    claims = []
    for name in _names(rows):
        exact, ours, linear = (_errors(rows, name, m) for m in ("exact", largest, "linear"))
        gap, spread = paired_gap(ours, exact)
        share = ours.mean() / exact.mean() - 1.0
        few = next(r["rows"] for r in rows if r["set"] == name) <= _EXACT_ROWS
        text = (
            f"{name}: {largest} is {100.0 * abs(share):.1f} % {'above' if share > 0 else 'below'} "
            f"exact (difference {gap:+.4f} ± {spread:.4f})"
        )
        if few:
            claims.append(Claim(f"{text}; within 3 % was expected.", bool(share < 0.03)))
        else:
            claims.append(Claim(f"{text}, which sees {_EXACT_ROWS} rows only."))
        ratio = ours.mean() / linear.mean()
        text = f"{name}: {largest} has {ratio:.2f} times the error of a linear fit."
        claims.append(Claim(text, bool(ratio < 0.9)))
        for method, title in (("exact", "exact"), (largest, "the features")):
            edge = next(r["at_edge"] for r in rows if (r["set"], r["method"]) == (name, method))
            if edge:
                claims.append(Claim(f"{name}: the best bandwidth of {title} is at the grid's end."))
    return claims


def _plot(figure: Figure, rows: list[dict[str, Any]], methods: tuple[str, ...]) -> None:
    axes = figure.subplots()
    names = _names(rows)
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        found = [paired_gap(_errors(rows, name, method), np.zeros(())) for name in names]
        means, spread = zip(*found, strict=True)
        places = np.arange(len(names)) + (i - 0.5 * (len(methods) - 1)) * width
        axes.bar(places, means, width, yerr=np.nan_to_num(spread), capsize=2, label=method)
    axes.set_xticks(np.arange(len(names)), names)
    axes.set_ylabel("test error, standard deviations of the targets")
    axes.legend(fontsize="small")
    axes.grid(axis="y", alpha=0.3)


EXPERIMENT = Experiment(
    name="regression",
    summary="Ridge regression with features beside kernel ridge and a linear fit, on fixed splits.",
    description=_DESCRIPTION,
    seeds=10,
    measure=measure,
    data="required",
    data_help="folder of npz files with X, y and test_mask",
)
