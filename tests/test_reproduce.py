"""What `rfx reproduce` computes and says, against computations that share none of its code.

All experiments are in one file, so that each runs once and its tests share what it found.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib.image import imread

import rfx
from rfx import features, projections, reference
from rfx.cli import main
from rfx.cli.reproduce import (
    EXPERIMENTS,
    attention_error,
    classification,
    hybrid,
    hybrid_clusters,
    kernel_regression,
    labelled,
    maps,
    polynomial,
    simplex,
    tables,
    variance,
)
from rfx.features import Positive
from rfx.kernels import Gaussian, Softmax
from rfx.projections import IID

NAMES = tuple(experiment.name for experiment in EXPERIMENTS)


class Run(NamedTuple):
    """The JSON report, what was printed, and the plot's bytes."""

    report: Any
    out: str
    plot: bytes

    def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        return [r for r in self.report["rows"] if all(r[key] == wanted[key] for key in wanted)]


def blobs(seed: int, n: int, shift: float) -> dict[str, np.ndarray]:
    """Three classes, one axis that is constant."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.standard_normal((n, 5)) + shift * np.eye(3, 5)[y]
    x[:, 4] = 7.0
    return {"X": x.astype(np.float32), "y": (10 * y).astype(np.int16)}


def activations() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    heads = {"q": 4, "k": 2, "v": 2}
    shapes = {f"{name}{layer}": (heads[name], 24, 8) for layer in (1, 10) for name in heads}
    found = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return {name: array.astype(np.float16) for name, array in found.items()}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    np.savez(folder / "far.npz", **blobs(0, 130, 9.0))
    np.savez(folder / "near.npz", **blobs(1, 203, 2.0))
    (folder / "notes.txt").write_text("not data")
    return folder


@pytest.fixture(scope="module")
def tabled(tmp_path_factory):
    """Two sets for regression: a curve that no line follows, and a line."""
    folder, rng = tmp_path_factory.mktemp("tabled"), np.random.default_rng(4)
    x = rng.standard_normal((240, 2)).astype(np.float32)
    mask = np.arange(240)[:, None] % 4 == np.arange(3)
    noise = 0.05 * rng.standard_normal(240).astype(np.float32)
    for name, y in (("curve", x[:, 0] ** 2 + noise), ("line", 7.0 + x[:, 1] + noise)):
        np.savez(folder / f"{name}.npz", X=x, y=y, test_mask=mask)
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    np.savez(folder / "a.npz", **activations())
    np.savez(folder / "b_causal.npz", **activations())
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, sets, recorded, tabled):
    """Run an experiment once; gives the same `Run` again when asked again."""
    done: dict[str, Run] = {}
    data = {"simplex": sets, "classification": sets, "activations": recorded}
    data["regression"] = tabled

    def go(name: str) -> Run:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            argv = ["reproduce", name, "--quick", "--json", str(folder / "out.json")]
            argv += ["--data", str(data[name])] if name in data else []
            out = io.StringIO()
            with contextlib.chdir(folder), contextlib.redirect_stdout(out):
                assert main(argv) == 0
            text = (folder / "out.json").read_text()
            report = json.loads(text, parse_constant=pytest.fail)
            done[name] = Run(report, out.getvalue(), (folder / f"{name}.png").read_bytes())
        return done[name]

    return go


def test_without_a_name_the_experiments_are_listed(capsys):
    assert main(["reproduce"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all(line.endswith(".") for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_help_explains_the_experiment(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["reproduce", name, "--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    for words in ("--seeds", "--quick", "--json", f"(default: {name}.png)"):
        assert words in " ".join(out.split())
    assert len(out.splitlines()) > 15
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_experiment_prints_a_table_and_saves_a_plot_and_its_numbers(name, run):
    found = run(name)
    assert found.plot.startswith(b"\x89PNG")
    pixels = imread(io.BytesIO(found.plot))[..., :3].min(axis=-1)
    assert (pixels[len(pixels) // 5 :] < 0.9).mean() > 0.01  # more than the title is drawn
    assert found.report["experiment"] == name
    assert found.report["quick"] is True
    assert found.report["seeds"] == [0, 1]
    assert found.report["versions"]["rfx"] == rfx.__version__
    assert found.report["rows"]
    assert "quick" in found.out
    for claim in found.report["claims"]:
        assert claim["text"] in found.out


def cells(out: str, first: str) -> list[str]:
    """The cells of the line of the table that begins so."""
    return next(line for line in out.splitlines() if line.startswith(first))[len(first) :].split()


def test_no_text_names_the_package_index():
    # The name rfx on the package index belongs to somebody else.
    for source in Path(maps.__file__).parent.glob("*.py"):
        assert "pip install rfx" not in source.read_text()


# variance


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=-1)


def log_ratios(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """log(Var/k²) of one frequency, by the formulas, of exp(x·y)."""
    far, near = squared(x, y), squared(x, -y)
    dim = x.shape[1]
    power = near.mean() / dim
    rho = np.linspace(1e-3, 1.0, 200_001)  # of the isotropic map, by search
    constant = np.log((1 + rho) / 2) - 0.5 * np.log(rho)
    best = np.argmin(constant + rho * power)
    return {
        "trig": np.log(0.5 * (1 - np.exp(-far)) ** 2) + far,
        "pos": np.log(np.expm1(near)),
        "hyp": np.log(0.5 * (1 - np.exp(-near)) ** 2) + near,
        "OPRF": np.log(np.expm1(dim * constant[best] + rho[best] * near)),
    }


@pytest.mark.parametrize("law", variance.LAWS)
def test_variance_is_that_of_the_formulas(law, run):
    found = run("variance")
    values: dict[str, list[float]] = {}
    for seed in (0, 1):
        for column, logs in log_ratios(*variance.points(law, seed, 32, 16)).items():
            values.setdefault(column, []).append(float(logs.mean()))
    for column, want in values.items():
        (row,) = found.rows(law=law, column=column)
        np.testing.assert_allclose(row["values"], want, rtol=1e-6)
        assert row["mean"] == pytest.approx(np.mean(want))
        assert row["spread"] == pytest.approx(np.std(want), rel=1e-4)
    shown = cells(found.out, f"{law} ")
    assert shown[0] == "measured"
    own = [row["mean"] for row in found.rows(law=law)]
    np.testing.assert_allclose([float(cell) for cell in shown[1:]], own, rtol=0.01)


@pytest.mark.parametrize(
    ("law", "slack"),
    [("normal .5", 0.5), ("sphere 3", 0.1), ("heterogeneous .5", 1.0), ("anisotropic .5", 4.0)],
)
def test_laws_of_points_are_those_of_the_reference(law, slack):
    logs = [log_ratios(*variance.points(law, seed, 128, 64)) for seed in range(10)]
    for method, want in zip(variance.METHODS, variance.REFERENCE[law], strict=True):
        if method.title in logs[0]:
            mean = np.mean([one[method.title] for one in logs])
            assert mean == pytest.approx(want, abs=slack)


def test_variance_far_from_the_reference_is_said():
    row = {"law": "normal .5", "column": "pos", "map": "favor+", "mean": 33.0, "agrees": False}
    others = [row | {"law": law, "agrees": True} for law in variance.LAWS if law != "normal .5"]
    claim = variance._claims([row, *others], quick=False)[0]
    assert claim.text == "Further than 0.5 from the reference: pos on normal .5."
    assert claim.held is False


def test_maps_that_this_version_lacks_are_left_out_and_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(features, "NAMES", {"favor+": Positive})
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "variance", "--quick", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "no such map: trig, hyp, OPRF, SADERF, ADERF, SDERF, two-step, centred." in out
    assert len(cells(out, "normal .5 ")) == 2  # "measured", and pos


# attention-error


def relative(estimate: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(estimate - exact) / np.linalg.norm(exact))


def normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(axis=-1, keepdims=True)


def test_attention_errors_are_those_of_full_matrices(run):
    found = run("attention-error")
    for seed in (0, 1):
        drawn = attention_error.inputs(seed, 128, 8)
        q, k, v = (a.astype(np.float64) for a in drawn)
        exact = normalised(np.exp(q @ k.T / 8**0.5))
        spec = Positive(num_features=64, projection=IID())
        w = spec.draw(8, seed=seed, like=drawn[0]).arrays()["query_weight"].astype(np.float64)
        norms = (k**2).sum(axis=-1, keepdims=True) / 2 / 8**0.5
        estimate = normalised(np.exp(q @ w) @ np.exp(k @ w - norms).T)
        for part, value in (("matrix", np.eye(128)), ("output", v)):
            (row,) = found.rows(part=part, map="positive", projection="iid", num_features=64)
            want = relative(estimate @ value, exact @ value)
            assert row["errors"][seed] == pytest.approx(want, rel=1e-4)
            (row,) = found.rows(part=part, map="uniform")
            want = relative(np.full((128, 128), 1 / 128) @ value, exact @ value)
            assert row["errors"][seed] == pytest.approx(want, rel=1e-4)
    shown = cells(found.out, "64 ")
    (row,) = found.rows(part="matrix", map="positive", projection="iid", num_features=64)
    assert float(shown[4]) == pytest.approx(row["error"], abs=1e-3)
    assert {row["num_features"] for row in found.report["rows"]} == {None, 16, 64}


# simplex


def test_error_of_independent_frequencies_is_the_closed_form(run):
    found = run("simplex")
    for row in found.rows(part="mse", projection="iid"):
        assert row["closed_form"] == pytest.approx(np.expm1(row["norm"] ** 2) / 4)
        assert abs(row["mse"] - row["closed_form"]) < 5 * row["standard_error"]
    shown = cells(found.out, "0.25 ")
    assert float(shown[0]) == pytest.approx(np.expm1(0.0625) / 4, rel=0.01)
    names = [name for name in simplex.PROJECTIONS if maps.projection(name) is not None]
    assert [row["projection"] for row in found.rows(part="mse", norm=1.0)] == names
    assert hasattr(projections, "Simplex") == ("simplex" in names)


def test_monte_carlo_is_the_mean_of_squared_errors():
    means, errors = simplex.monte_carlo("orthogonal", 4, 50, 2)
    spec = Positive(num_features=4, kernel=Softmax(scale=1.0))
    for i, norm in enumerate((0.25, 0.5, 0.75, 1.0, 1.25)):
        squares: list[float] = []
        for seed in (0, 1):
            phi = spec.draw(4, seed=seed, like=np.zeros(1), heads=50)
            first = phi.arrays()["query_weight"][:, 0, :]  # z lies along the first axis
            ratio = np.exp(norm * first - norm**2 / 2).mean(axis=-1)
            squares.extend((ratio - 1.0) ** 2)
        assert means[i] == pytest.approx(np.mean(squares))
        assert errors[i] == pytest.approx(np.std(squares, ddof=1) / 10)


def test_simplex_classifies_only_with_data(run, monkeypatch, capsys, tmp_path):
    accuracies = run("simplex").rows(part="accuracy")
    assert {row["set"] for row in accuracies} == {"far", "near"}
    assert {row["m_over_d"] for row in accuracies} == {1, 2}
    assert "Test accuracy" in run("simplex").out
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "simplex", "--quick", "--seeds", "1"]) == 0
    assert "accuracy" not in capsys.readouterr().out.lower()


# hybrid


def test_errors_over_the_angle_are_those_of_the_formulas(run):
    """sqrt of λ (λ − λ/n + 1/n) V_hyp + (1 − λ)(1 − λ + λ/n) V_trig over the frequencies."""
    found = run("hybrid")
    for row in found.rows(part="angle"):
        theta, square = row["angle"], row["norm"] ** 2
        far, near = (2 * square * (1 + s * np.cos(theta)) for s in (-1, 1))
        trig, hyperbolic = (0.5 * np.exp(p) * (1 - np.exp(-p)) ** 2 for p in (far, near))
        share, n = theta / np.pi, hybrid.METHODS[row["method"]]
        if n is None:
            want = {"trig": trig, "hyperbolic": hyperbolic}[row["method"]] / 64
        else:
            want = share * (share - share / n + 1 / n) * hyperbolic
            want += (1 - share) * (1 - share + share / n) * trig
            want /= 32 // (n + 1)
        assert row["closed_form"] == pytest.approx(want, rel=1e-6, abs=1e-15)
        assert abs(row["mse"] - want) < 8 * row["standard_error"] + 1e-15
    (row,) = found.rows(part="largest", method="n = inf", norm=1.5)
    assert row["error"] == pytest.approx(8.37, abs=0.01)
    assert "0.737" in cells(found.out, " 0.5 ")


def test_clusters_are_the_points_that_the_notebook_draws():
    query, key = hybrid_clusters.points(1.0, 500, 50)
    np.testing.assert_allclose(np.linalg.norm(query, axis=-1), 0.1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(key, axis=-1), 1.0, rtol=1e-6)
    centres = [a.reshape(2, 500, 50).mean(axis=1) for a in (query, key)]
    for first, second in zip(*centres, strict=True):
        clear = np.abs(first * second)[12:] > 3e-4  # by far more than the spread of a mean
        assert clear.sum() > 15
        assert np.all((first * second)[12:][clear] < 0)
    assert np.any(centres[0] * centres[1] > 3e-4)
    wide = hybrid_clusters.points(10.0, 500, 50)[1].reshape(2, 500, 50)
    spreads = [a.var(axis=1).sum() for a in (key.reshape(2, 500, 50), wide)]
    assert spreads[1] > 3 * spreads[0]


@pytest.mark.parametrize("name", ["favor+", "clusters, dense"])
def test_errors_on_clusters_are_those_of_all_pairs(name, run):
    (row,) = run("hybrid").rows(part="clusters", method=name, m=5, variance=10.0)
    query, key = hybrid_clusters.points(10.0, 60, 20)
    exact = np.exp(query.astype(float) @ key.astype(float).T)
    method = hybrid_clusters.METHODS[name]
    for seed in (0, 1):
        phi = method.spec(5 * method.columns).fit(query, key, seed=seed)
        estimate = reference.gram(query, key, features=phi)
        want = np.mean((estimate - exact) ** 2)
        assert row["errors"][seed] == pytest.approx(want, rel=1e-3)
    assert row["columns"] == phi.num_features
    assert row["published"] is None


def test_expectations_on_hybrids_that_fail_are_said():
    rows = [
        {"variance": 1.0, "m": 20, "method": name, "errors": [error], "published": None}
        for name, error in zip(hybrid_clusters.METHODS, (1.0, 2.0, 4.0, 1.0, 1.0), strict=True)
    ]
    first, last = hybrid_clusters.claims(rows)
    assert "did NOT hold: trig has 0.5 times it" in first.text
    assert (first.held, last.held) == (False, False)
    rows[0]["published"], rows[1]["published"] = (0.5, 1.5), (2.5, 3.0)
    text = hybrid_clusters.claims(rows)[1]
    assert (text.text, text.held) == ("1 of 2 ranges overlap with the published ones.", False)
    angles = [{"part": "angle", "mse": 1.0, "closed_form": 2.0, "standard_error": 0.1}]
    worst = [
        {"part": "largest", "norm": norm, "method": name, "error": 1.0}
        for norm in (0.5, 1.0, 1.5, 2.0)
        for name in ("trig", "hyperbolic", "n = 1", "n = 8", "n = 64", "n = inf")
    ]
    claims = hybrid._claims(angles + worst)
    assert [claim.held for claim in claims] == [False] * 4
    assert claims[0].text == "0 of 1 closed forms lie within 5 standard errors."


# classification


def test_split_is_standardised_by_the_training_part(sets):
    data = labelled.read(sets / "near.npz")
    parts = labelled.split(data, 5)
    assert [len(p) for p in (parts.train, parts.valid, parts.test)] == [182, 10, 11]
    np.testing.assert_allclose(parts.train.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(parts.train.std(axis=0), [1, 1, 1, 1, 0], atol=1e-9)
    order = np.random.default_rng(5).permutation(203)
    train, rest = data.points[order[:182], :4], data.points[order[182:], :4]
    both = np.concatenate([parts.valid, parts.test])[:, :4]
    np.testing.assert_allclose(both, (rest - train.mean(axis=0)) / train.std(axis=0))
    classes = np.concatenate([parts.valid_classes, parts.test_classes])
    np.testing.assert_array_equal(classes, data.classes[order[182:]])
    np.testing.assert_array_equal(parts.onehot.argmax(axis=-1), data.classes[order[:182]])
    assert (parts.onehot.sum(axis=-1) == 1.0).all()


def brute_force_scores(phi: Any, points: np.ndarray, parts: labelled.Split) -> np.ndarray:
    """Σ_i k(x, x_i) onehot_i over an explicit matrix of all features of all pairs."""
    log_x, value_x = reference.features(phi, points, "query")
    log_y, value_y = reference.features(phi, parts.train, "key")
    log = log_x[:, None, :] + log_y[None, :, :]
    log = log - log.max(axis=(1, 2), keepdims=True)
    return (np.exp(log) * (value_x[:, None, :] * value_y)).sum(axis=-1) @ parts.onehot


def brute_force_accuracy(parts: labelled.Split, name: str | None, seed: int) -> float:
    """Test accuracy in percent, at the bandwidth chosen on the validation part; None is exact."""
    points, best, found = np.concatenate([parts.valid, parts.test]), -1.0, 0.0
    for factor in kernel_regression.BANDWIDTHS:
        kernel = Gaussian(bandwidth=factor * 5**0.5)
        if name is None:
            log = -squared(points, parts.train) / (2 * kernel.bandwidth**2)
            scores = np.exp(log - log.max(axis=-1, keepdims=True)) @ parts.onehot
        else:
            spec = features.named(name, num_features=32, kernel=kernel, projection=IID())
            scores = brute_force_scores(spec.draw(5, seed=seed, like=points), points, parts)
        chosen, split = scores.argmax(axis=-1), len(parts.valid)
        valid = (chosen[:split] == parts.valid_classes).mean()
        if valid > best:
            best, found = valid, 100 * (chosen[split:] == parts.test_classes).mean()
    return float(found)


@pytest.mark.parametrize("name", ["favor", "favor+", "favor++", "sderf"])
def test_class_scores_are_those_of_the_whole_matrix(name, sets):
    parts = labelled.split(labelled.read(sets / "near.npz"), 0)
    for bandwidth in (0.2, 3.0):
        kernel = Gaussian(bandwidth=bandwidth)
        spec = features.named(name, num_features=32, kernel=kernel)
        phi = spec.fit(parts.train, parts.train, seed=0)
        found = kernel_regression.class_scores(phi, parts.test, parts.train, parts.onehot)
        want = brute_force_scores(phi, parts.test, parts)
        scale = np.abs(want).max(axis=-1, keepdims=True) / np.abs(found).max(axis=-1, keepdims=True)
        np.testing.assert_allclose(found * scale, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("title", "name"), [("exact", None), ("trig", "favor"), ("pos", "favor+")])
def test_accuracy_is_that_of_brute_force(title, name, run, sets):
    (row,) = run("classification").rows(set="near", column=title)
    for seed in (0, 1):
        parts = labelled.split(labelled.read(sets / "near.npz"), seed)
        want = brute_force_accuracy(parts, name, seed)
        assert row["accuracies"][seed] == pytest.approx(want)


def test_exact_kernel_classifies_as_the_sum_over_neighbours(sets):
    parts = labelled.split(labelled.read(sets / "near.npz"), 0)
    points = np.concatenate([parts.valid, parts.test])
    want = np.exp(-squared(points, parts.train) / (2 * 0.7**2)) @ parts.onehot
    found = kernel_regression.exact_scores(parts, 0.7)
    np.testing.assert_allclose(normalised(found), normalised(want))


def test_classification_table_has_the_sets_and_their_average(run):
    found = run("classification")
    columns = ["exact", *(method.title for method in maps.available(classification.METHODS))]
    for name, train in (("far", 117), ("near", 182)):
        shown = cells(found.out, f"{name} ")
        assert shown[0] == str(train)
        own = [row["accuracy"] for row in found.rows(set=name)]
        assert [row["column"] for row in found.rows(set=name)] == columns
        np.testing.assert_allclose([float(cell) for cell in shown[1:]], own, atol=0.51)
    assert found.rows(set="far", column="exact")[0]["accuracy"] == 100.0
    average = [float(cell) for cell in cells(found.out, "average ")]
    want = [np.mean([r["accuracy"] for r in found.rows(column=column)]) for column in columns]
    np.testing.assert_allclose(average, want, atol=0.51)


def test_order_is_judged_by_gaps_of_the_same_seeds():
    values = {"pos": [1.0, 1.0], "OPRF": [3.0, 5.0], "SDERF": [2.0, 4.5]}
    rows = [{"set": "a", "column": c, "accuracies": v} for c, v in values.items()]
    first, second = classification._claims(rows)
    text = "Expected SDERF > OPRF did NOT hold: by -0.8 +- 0.2 points."
    assert (first.text, first.held) == (text, False)
    text = "Expected OPRF > pos held: by +3.0 +- 1.0 points."
    assert (second.text, second.held) == (text, True)
    rows = [{"part": "accuracy", "projection": c, "accuracies": v} for c, v in values.items()]
    claim = simplex._accuracy_claim(rows, tuple(values))
    assert claim.text.endswith("OPRF by +3.0 +- 1.0 points, SDERF by -0.8 +- 0.2 points.")
    assert claim.held is False


# activations


def causal_errors(seed: int, name: str, *, fitted: int | None) -> np.ndarray:
    """Errors of layer 10 of the causal file, (heads,), by the oracle of linear attention."""
    arrays = {key[0]: a.astype(np.float32) for key, a in activations().items() if "10" in key}
    q, k, v = arrays.values()
    spec = features.named(name, num_features=32)
    phi = spec.fit(q[:, :fitted], k[:, :fitted], seed=seed)
    estimate = reference.linear_attention(q, k, v, features=phi, is_causal=True)
    target = reference.kernel_attention(q, k, v, kernel=Softmax(), is_causal=True)
    return np.asarray([relative(e[12:], t[12:]) for e, t in zip(estimate, target, strict=True)])


@pytest.mark.parametrize(
    ("column", "name", "fitted"),
    [("favor+", "favor+", None), ("dense", "dense", 12), ("dense, same text", "dense", None)],
)
def test_causal_errors_are_of_the_second_half_and_fitted_to_the_first(column, name, fitted, run):
    (row,) = run("activations").rows(file="b_causal.npz", layer=10, column=column)
    want = [causal_errors(seed, name, fitted=fitted) for seed in (0, 1)]
    np.testing.assert_allclose(row["errors"], want, rtol=1e-3)
    assert row["error"] == pytest.approx(np.mean(want), rel=1e-3)
    assert row["first_row"] == 12


def test_uniform_attention_is_the_mean_of_what_a_query_may_see(run):
    arrays = activations()
    v = np.repeat(arrays["v1"].astype(np.float64), 2, axis=0)
    q, k = arrays["q1"].astype(np.float64), np.repeat(arrays["k1"].astype(np.float64), 2, axis=0)
    for file, seen, first in (("a.npz", np.ones((24, 24)), 0), ("b_causal.npz", np.tri(24), 12)):
        exact = normalised(np.exp(q @ k.swapaxes(-1, -2) / 8**0.5) * seen) @ v
        mean = normalised(seen) @ v
        want = [relative(m[first:], e[first:]) for m, e in zip(mean, exact, strict=True)]
        (row,) = run("activations").rows(file=file, layer=1, column="uniform")
        np.testing.assert_allclose(row["errors"], [want], rtol=1e-9)


def test_activations_table_has_layers_and_ratios(run):
    found = run("activations")
    both = found.out.split("b_causal.npz: causal, fitted to tokens before 12")
    assert "dense, same text" in both[1]
    assert "dense, same text" not in both[0]
    for file, out in zip(("a.npz", "b_causal.npz"), both, strict=True):
        for layer in (1, 10):
            errors = {row["column"]: row["error"] for row in found.rows(file=file, layer=layer)}
            shown = [float(cell) for cell in cells(out, f"{layer} ")]
            ratios = [errors["dense"] / errors[other] for other in ("favor+", "uniform")]
            np.testing.assert_allclose(shown, [*errors.values(), *ratios], atol=2e-3)
        assert len(cells(out, "mean ")) == len(shown)


# polynomial


def test_polynomial_errors_and_formulas_are_those_of_full_matrices(run):
    found = run("polynomial")
    assert {row["num_features"] for row in found.report["rows"]} == {16, 64}
    for name in polynomial.SETS:
        squares, formulas = [], []
        for seed in (0, 1):
            x = polynomial.points(name, seed, 30, 32)
            np.testing.assert_allclose((x**2).sum(axis=-1), 1.0)
            t, fourth = x @ x.T, (x**2) @ (x**2).T
            exact = (t + 1.0) ** 3
            spec = polynomial.spec("real", 3, 64)
            phi = spec.draw(32, seed=seed, like=x)
            squares.append(relative(reference.gram(x, x, features=phi), exact) ** 2)
            # x and y have a coordinate 1 more
            second = (4.0 + 2.0 * (t + 1.0) ** 2 - 2.0 * (fourth + 1.0)) ** 3
            formulas.append(np.mean(second - exact**2) / 64 / np.mean(exact**2))
        (row,) = found.rows(set=name, degree=3, num_features=64, method="real")
        np.testing.assert_allclose(np.square(row["errors"]), squares)
        assert row["error"] == pytest.approx(np.mean(squares) ** 0.5)
        assert row["closed_form"] == pytest.approx(np.mean(formulas) ** 0.5)
        assert row["standard_error"] == pytest.approx(
            abs(squares[0] - squares[1]) / 2.0 / (2.0 * row["error"])
        )
    shown = cells(found.out, "3  64 ")
    (row,) = found.rows(set="sphere", degree=3, num_features=64, method="maclaurin")
    assert float(shown[1]) == pytest.approx(row["error"], rel=0.01)


def test_polynomial_claims_fail_where_an_expectation_is_missed(run):
    rows = run("polynomial").report["rows"]
    swapped = [
        row | {"method": {"real": "complex", "complex": "real"}.get(row["method"], row["method"])}
        for row in rows
    ]
    texts = {claim.text: claim.held for claim in polynomial._claims(swapped)}
    assert texts["complex is below real in 0 of 8 cases."] is False
    (fall,) = (held for text, held in texts.items() if "does NOT fall with the degree" in text)
    assert fall is False
    doubled = [row | {"error": 2.0 * row["closed_form"], "standard_error": 0.0} for row in rows]
    assert polynomial._claims(doubled)[0].text.startswith("0 of 40 errors are at their closed form")
    flat = [row | {"error": 1.0} for row in rows]
    assert polynomial._claims(flat)[1].text.endswith("which is NOT met within 10 %.")
    assert polynomial._claims(flat)[1].held is False


# regression


def test_regression_beats_a_line_where_there_is_none(run):
    found = run("regression")
    for title in ("exact", "m = 256", "m = 1024"):
        curve, line = (
            np.mean([r["error"] for r in found.rows(set=name, method=title)])
            for name in ("curve", "line")
        )
        assert curve < 0.2
        assert line < 0.1
    assert np.mean([r["error"] for r in found.rows(set="curve", method="linear")]) > 0.8
    assert np.mean([r["error"] for r in found.rows(set="line", method="linear")]) < 0.1
    assert {r["split"] for r in found.report["rows"]} == {0, 1}


def test_regression_scores_test_rows_in_units_of_the_training_targets(tabled):
    data = tables.read(tabled / "line.npz")
    part = tables.split(data, 1)
    train = ~data.test_mask[:, 1]
    assert len(part.test) == 60
    wanted = (data.targets[~train] - data.targets[train].mean()) / data.targets[train].std()
    np.testing.assert_allclose(part.test_targets, wanted)
    assert abs(part.train.mean()) < 1e-12
