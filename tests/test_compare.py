"""What `rfx compare` measures and says, against computations that share none of its code."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import rfx
from rfx import features
from rfx.cli import engines, main
from rfx.features import Deterministic, Positive

M = 32


def draw(q_heads: int = 2, heads: int = 2, t: int = 20, s: int = 20, scale: float = 0.8) -> Any:
    rng = np.random.default_rng(5)
    shapes = {"q": (q_heads, t, 8), "k": (heads, s, 8), "v": (heads, s, 5)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    arrays["q"], arrays["k"] = scale * arrays["q"], scale * arrays["k"]
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture
def run(tmp_path, capsys):
    """Run a comparison on arrays; gives the JSON report and what was printed."""

    def go(arrays: dict[str, np.ndarray], *argv: str, maps: str = "favor+") -> tuple[Any, str]:
        np.savez(tmp_path / "in.npz", **arrays)
        options = {"--maps": maps, "--num-features": str(M), "--seeds": "2"}
        options |= {"--input": str(tmp_path / "in.npz"), "--json": str(tmp_path / "out.json")}
        options |= dict(zip(argv[::2], argv[1::2], strict=True))
        flags = [part for pair in options.items() for part in pair if part]
        assert main(["compare", *flags]) == 0
        text = (tmp_path / "out.json").read_text()
        return json.loads(text, parse_constant=pytest.fail), capsys.readouterr().out

    return go


def normalised(weights: np.ndarray, is_causal: bool) -> np.ndarray:
    if is_causal:
        t, s = weights.shape[-2:]
        weights = weights * np.tril(np.ones((t, s)), s - t)
    return weights / weights.sum(axis=-1, keepdims=True)


def expected(
    arrays: dict[str, np.ndarray], seeds: tuple[int, ...], m: int = M, is_causal: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of favor+ (seeds, heads) and of uniform attention (heads,), from full matrices."""
    q, k, v = (arrays[name].astype(np.float64) for name in "qkv")
    group = q.shape[0] // k.shape[0]
    pairs = [(q[i], k[i // group], v[i // group], i // group) for i in range(q.shape[0])]
    uniform, errors = [], np.zeros((len(seeds), len(pairs)))
    for i, (x, y, z, own) in enumerate(pairs):
        exact = normalised(np.exp(x @ y.T / np.sqrt(x.shape[1])), is_causal) @ z
        mean = normalised(np.ones((len(x), len(y))), is_causal) @ z
        uniform.append(np.linalg.norm(mean - exact) / np.linalg.norm(exact))
        for j, seed in enumerate(seeds):
            spec = Positive(num_features=m)
            phi = spec.draw(x.shape[1], seed=seed, like=arrays["q"], heads=k.shape[0])
            weight = phi.arrays()["query_weight"].astype(np.float64)[own]
            rows = np.exp(x @ weight)  # the row terms of queries cancel
            columns = np.exp(y @ weight - (y**2).sum(-1, keepdims=True) / 2 / np.sqrt(x.shape[1]))
            estimate = normalised(rows @ columns.T, is_causal) @ z
            errors[j, i] = np.linalg.norm(estimate - exact) / np.linalg.norm(exact)
    return errors, np.asarray(uniform)


@pytest.mark.parametrize(
    ("shape", "is_causal"),
    [
        ({}, False),
        ({}, True),
        ({"t": 13, "s": 20}, True),
        ({"q_heads": 6, "heads": 2}, False),
        ({"q_heads": 6, "heads": 2, "t": 9}, True),
    ],
)
def test_report_holds_the_errors_of_full_matrices(run, shape, is_causal):
    arrays = draw(**shape)
    found, _ = run(arrays, *(("--causal", "") if is_causal else ()))
    errors, uniform = expected(arrays, (0, 1), is_causal=is_causal)
    row = found["rows"][0]
    np.testing.assert_allclose(row["errors"], errors, rtol=1e-4)
    np.testing.assert_allclose(found["uniform"]["errors"], uniform, rtol=1e-9)
    assert row["error"] == pytest.approx(errors.mean(), rel=1e-4)
    assert row["spread"] == pytest.approx(errors.std(), rel=1e-3)
    assert row["skill"] == pytest.approx(1 - errors.mean() / uniform.mean(), abs=1e-4)
    assert found["uniform"]["error"] == pytest.approx(uniform.mean())
    assert found["is_causal"] is is_causal
    assert found["exact"]["error"] < 1e-6
    assert row["seconds"] > 0.0
    assert found["exact"]["seconds"] > 0.0


def test_report_says_what_was_compared(run):
    arrays = draw(q_heads=4)
    found, out = run(arrays)
    assert found["versions"] == {
        "rfx": rfx.__version__,
        "python": ".".join(map(str, __import__("sys").version_info[:3])),
        "numpy": np.__version__,
    }
    assert found["input"]["shapes"] == {"q": [4, 20, 8], "k": [2, 20, 8], "v": [2, 20, 5]}
    assert found["seeds"] == [0, 1]
    assert (found["library"], found["device"], found["dtype"]) == ("numpy", "cpu", "float32")
    assert found["kernel"] == {"name": "softmax", "scale": pytest.approx(8**-0.5)}
    sizes = [np.median((arrays[name] ** 2).sum(-1)) / 8**0.5 for name in "qk"]
    given = found["input"]["median_squared_norm_over_sqrt_dim"]
    np.testing.assert_allclose([given["q"], given["k"]], sizes, rtol=1e-5)
    assert f"library  numpy {np.__version__} on cpu" in out
    assert f"|q|^2/sqrt(d) = {sizes[0]:.3g}, median |k|^2/sqrt(d) = {sizes[1]:.3g}" in out
    assert "exp(q.k / sqrt(8)), bidirectional" in out
    assert "exact: rfx.kernel_attention" in out


def test_table_shows_the_numbers_of_the_report(run):
    found, out = run(draw(), "--num-features", "8,32", maps="favor,favor+")
    rows = [line.split() for line in out.splitlines() if line.startswith("favor")]
    names = [("favor", "8"), ("favor", "32"), ("favor+", "8"), ("favor+", "32")]
    assert [(cells[0], cells[1]) for cells in rows] == names
    for cells, row in zip(rows, found["rows"], strict=True):
        assert float(cells[2]) == pytest.approx(row["error"], rel=0.01)
        assert float(cells[3]) == pytest.approx(row["spread"], rel=0.01, abs=1e-3)
        assert float(cells[4]) == pytest.approx(found["uniform"]["error"], rel=0.01)
        assert float(cells[5]) == pytest.approx(row["skill"], rel=0.01, abs=1e-3)
        assert float(cells[6]) == pytest.approx(1e3 * row["seconds"], abs=0.01, rel=0.01)
        assert float(cells[7]) == pytest.approx(1e3 * found["exact"]["seconds"], abs=0.01, rel=0.01)
        assert (cells[8:] == ["worse"]) == row["worse_than_uniform"]


def test_worse_than_uniform_is_said(run):
    arrays = draw(scale=2.5)
    found, out = run(arrays, "--num-features", "2,4")
    errors, uniform = expected(arrays, (0, 1), m=2)
    assert errors.mean() > uniform.mean()
    assert [row["worse_than_uniform"] for row in found["rows"]] == [True, True]
    assert "Worse than uniform attention: favor+ at m = 2, 4." in out


def test_nothing_worse_than_uniform_is_said_too(run):
    arrays = draw(scale=0.8)
    found, out = run(arrays, "--num-features", "512")
    errors, uniform = expected(arrays, (0, 1), m=512)
    assert errors.mean() < uniform.mean()
    assert found["rows"][0]["worse_than_uniform"] is False
    assert "No map here is worse than uniform attention." in out
    assert "Worse" not in out


def test_heads_choose_queries_with_the_keys_they_attend_to(run):
    arrays = draw(q_heads=6, heads=3)
    chosen, out = run(arrays, "--heads", "1,4,5")
    repeated = {
        "q": arrays["q"][[1, 4, 5]],
        "k": arrays["k"][[0, 2, 2]],
        "v": arrays["v"][[0, 2, 2]],
    }
    errors, uniform = expected(repeated, (0, 1))
    np.testing.assert_allclose(chosen["rows"][0]["errors"], errors, rtol=1e-4)
    np.testing.assert_allclose(chosen["uniform"]["errors"], uniform, rtol=1e-9)
    assert chosen["input"]["query_heads"] == [1, 4, 5]
    assert "query heads 1, 4, 5" in out


def test_batch_entries_count_as_heads(run):
    arrays = draw(q_heads=4, heads=4)
    batched = {name: array.reshape(2, 2, *array.shape[1:]) for name, array in arrays.items()}
    found, _ = run(batched)
    _, uniform = expected(arrays, (0,))
    np.testing.assert_allclose(found["uniform"]["errors"], uniform, rtol=1e-9)
    assert np.shape(found["rows"][0]["errors"]) == (2, 4)


def test_layers_are_taken_by_number(run):
    parts = {2: draw(), 10: draw(t=9)}
    arrays = {f"{name}{layer}": a for layer, part in parts.items() for name, a in part.items()}
    arrays["ids"] = np.arange(3)
    first, out = run(arrays)
    assert first["input"]["layer"] == 2
    assert first["input"]["layers"] == [2, 10]
    assert first["input"]["shapes"]["q"] == [2, 20, 8]
    assert "layer 2 (of 2, 10)" in out
    other, out = run(arrays, "--layer", "10")
    assert other["input"]["shapes"]["q"] == [2, 9, 8]
    assert "layer 10 (of 2, 10)" in out


@pytest.mark.parametrize(
    ("stored", "computed"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_half_precision_is_computed_in_float32_and_said(run, stored, computed):
    arrays = {name: array.astype(stored) for name, array in draw().items()}
    found, out = run(arrays)
    assert found["input"]["stored_dtypes"] == [stored]
    assert found["dtype"] == computed
    assert ("in the file, computed in float32" in out) == (stored == "float16")
    errors, _ = expected(arrays, (0, 1))
    np.testing.assert_allclose(found["rows"][0]["errors"], errors, rtol=1e-4)


def test_seed_is_the_first_of_the_seeds(run):
    pair, out = run(draw(), "--seed", "4")
    assert pair["seeds"] == [4, 5]
    assert "seeds    4, 5 " in out
    single, _ = run(draw(), "--seed", "5", "--seeds", "1")
    assert single["rows"][0]["errors"][0] == pair["rows"][0]["errors"][1]


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_libraries_agree_with_numpy(run, library):
    module = pytest.importorskip(library)
    arrays = draw(q_heads=4)
    numpy, _ = run(arrays)
    other, out = run(arrays, "--library", library)
    want, have = numpy["rows"][0]["errors"], other["rows"][0]["errors"]
    np.testing.assert_allclose(have, want, rtol=1e-3)
    assert other["versions"][library] == module.__version__
    assert other["library"] == library
    exact = {"torch": "torch.nn.functional.scaled_dot_product_attention"}
    # v has another last axis than q, which jax.nn.dot_product_attention does not take
    assert other["exact"]["name"] == exact.get(library, "rfx.kernel_attention")
    assert f"exact: {other['exact']['name']}" in out
    assert other["exact"]["error"] < 1e-5


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("q_heads", "t"), [(2, 20), (4, 13)])
def test_timed_exact_attention_is_the_target(library, is_causal, q_heads, t):
    pytest.importorskip(library)
    arrays = draw(q_heads=q_heads, t=t)
    arrays["v"] = np.concatenate([arrays["v"], arrays["v"][..., :3]], axis=-1)  # e = d
    engine = engines.start(library)
    name, call = engine.exact(*(engine.move(a) for a in arrays.values()), is_causal)
    fused = {"jax": "jax.nn.dot_product_attention"}
    assert name == fused.get(library, "torch.nn.functional.scaled_dot_product_attention")
    want = rfx.kernel_attention(*arrays.values(), is_causal=is_causal)
    np.testing.assert_allclose(np.asarray(call()), want, atol=1e-5)


def test_time_is_the_median_after_a_warm_up(monkeypatch):
    clock, calls = [0.0], []
    durations = iter([9.0, 0.01, 0.08, 0.02, 0.03, 0.04, 7.0])

    def call() -> None:
        calls.append(None)
        clock[0] += next(durations)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert engines.Engine().seconds(call) == pytest.approx(0.03)
    assert len(calls) == 6


def test_slow_calls_are_timed_three_times(monkeypatch):
    clock = [0.0]

    def call() -> None:
        clock[0] += 1.0

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert engines.Engine().seconds(call) == pytest.approx(1.0)
    assert clock[0] == pytest.approx(4.0)


@dataclass(frozen=True)
class Fitted(Positive):
    needs_data: ClassVar[bool] = True


MAPS = {
    "fitted": Fitted,
    "fixed": Deterministic,
    "gauss": partial(Positive, kernel=rfx.kernels.Gaussian(bandwidth=2.0)),
}


@pytest.fixture
def other_maps(monkeypatch):
    monkeypatch.setattr(features, "NAMES", MAPS)
    ready = (Fitted(num_features=8), Deterministic(), MAPS["gauss"](num_features=8))
    monkeypatch.setattr(features, "ALL", ready)


@pytest.mark.usefixtures("other_maps")
def test_map_without_num_features_has_one_row(run):
    found, _ = run(draw(), "--num-features", "8,16", maps="fixed,fitted")
    rows = [(row["map"], row["num_features"]) for row in found["rows"]]
    assert rows == [("fixed", 8), ("fitted", 8), ("fitted", 16)]


@pytest.mark.usefixtures("other_maps")
def test_fitted_maps_and_other_kernels_are_named(run):
    found, out = run(draw(), maps="fixed,fitted,gauss")
    assert [row["fitted_to_input"] for row in found["rows"]] == [False, True, False]
    assert "Fitted to the queries and keys that they are tried on: fitted." in out
    assert "Made for another kernel, yet compared with softmax attention: fixed, gauss." in out
    _, out = run(draw(), "--causal", "", maps="fitted")
    assert "tried on, whose future they thereby know: fitted." in out
    assert "another kernel" not in out
    _, out = run(draw(), maps="fixed")
    assert "Fitted" not in out


def test_number_that_is_not_finite_is_null_and_worse(run, monkeypatch):
    real = rfx.linear_attention

    def broken(*args: Any, **kwargs: Any) -> np.ndarray:
        return real(*args, **kwargs) * np.float32(np.nan)

    broken.plan = real.plan
    monkeypatch.setattr(rfx, "linear_attention", broken)
    found, out = run(draw())
    row = found["rows"][0]
    assert (row["error"], row["spread"], row["skill"]) == (None, None, None)
    assert row["errors"] == [[None, None], [None, None]]
    assert row["worse_than_uniform"] is True
    assert "Worse than uniform attention: favor+ at m = 32." in out


@pytest.mark.parametrize("ending", ["png", "svg", "PDF"])
def test_plot_is_written(run, tmp_path, ending):
    path = tmp_path / f"plot.{ending}"
    run(draw(), "--plot", str(path), maps="favor,favor+")
    start = {"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}
    assert path.read_bytes().startswith(start[ending])
    assert path.stat().st_size > 5_000


def test_plot_names_the_maps_and_the_best_one(run, tmp_path):
    import matplotlib

    path = tmp_path / "plot.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        found, _ = run(draw(scale=1.5), "--plot", str(path), "--heads", "1", maps="favor,favor+")
    rows = {row["map"]: row for row in found["rows"]}
    best = min(rows, key=lambda name: rows[name]["error"])
    text = path.read_text()
    for words in (f"{best}, m = {M}: error {rows[best]['error']:.2f}", "uniform attention"):
        assert words in text
    assert "query (head 1)" in text
    assert "in.npz: bidirectional attention, 1 heads of 20 queries" in text


@pytest.mark.parametrize("is_causal", [False, True])
def test_drawn_matrices_are_the_attention_weights(is_causal):
    from rfx.cli import inputs, measure, plot

    arrays = draw(q_heads=4, t=70, s=70)
    data = inputs.Inputs(*arrays.values(), "memory", None, (), ("float32",), None)
    found = measure.compare(
        data,
        [("favor+", Positive(num_features=M))],
        engines.start("numpy"),
        is_causal=is_causal,
        seeds=(3,),
    )
    exact, estimate = plot.attention_weights(found, found.rows[0], 3)
    x, y = (a.astype(np.float64) for a in (arrays["q"][3], arrays["k"][1]))
    want = normalised(np.exp(x @ y.T / np.sqrt(8)), is_causal)[:64, :64]
    np.testing.assert_allclose(exact, want, atol=1e-6)
    phi = Positive(num_features=M).draw(8, seed=3, like=arrays["q"], heads=2)
    whole = rfx.gram(arrays["q"][[1, 3]], arrays["k"], features=phi)[1]
    np.testing.assert_allclose(estimate, normalised(whole, is_causal)[:64, :64], atol=1e-5)


def test_default_run_uses_the_sample(capsys):
    assert main(["compare", "--num-features", "8", "--seeds", "1", "--heads", "0,11"]) == 0
    out = capsys.readouterr().out
    assert "the sample that comes with rfx, layer 0 (of 0, 5)" in out
    sample = Path(rfx.__file__).parent / "data" / "sample.npz"
    with np.load(sample) as archive:
        arrays = {name: archive[f"{name}0"][[0, 11]].astype(np.float32) for name in "qkv"}
    errors, uniform = expected(arrays, (0,), m=8)
    row = next(line for line in out.splitlines() if line.startswith("favor+ ")).split()
    assert row[2] == f"{errors.mean():.3f}"
    assert row[4] == f"{uniform.mean():.3f}"
