"""What `rfx reproduce` refuses: one sentence for each mistake, before anything is computed."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from rfx.cli.reproduce import variance
from rfx.features import Positive
from tests.conftest import refusal

X, Y = np.ones((50, 3), np.float32), np.arange(50) % 2


def activations(queries: int = 24) -> dict[str, np.ndarray]:
    q, k, v = np.random.default_rng(3).standard_normal((3, 2, 24, 8))
    return {"q": q[:, :queries], "k": k, "v": v}


def rejected(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    return refusal(["reproduce", *argv], capsys)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["variances"], "argument NAME: invalid choice: 'variances' (choose from 'variance', 'at"),
        (["variance", "--data", "."], "unrecognized arguments: --data ."),
        (["variance", "--seeds", "0"], "--seeds: expected at least 1, got 0"),
        (["variance", "--plot", "no/such.png"], "--plot cannot write no/such.png: No such file"),
        (["variance", "--plot", "plot.txt"], "--plot cannot write plot.txt: its name must end in"),
        (["variance", "--json", "."], "--json cannot write .: Is a directory"),
        (["variance", "--json", "a.svg", "--plot", "a.svg"], "name the same file; name two files"),
        (["classification"], "the following arguments are required: --data"),
        (["activations"], "the following arguments are required: --data"),
        (["activations", "--data", "missing"], "--data cannot read missing: No such file"),
        (["simplex", "--data", "empty"], "--data empty holds no npz archive; name a folder of"),
    ],
)
def test_mistake_in_the_arguments_is_one_sentence(argv, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert sentence in rejected(argv, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_unwritable_plot_is_refused_before_anything_is_computed(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variance.png").mkdir()
    monkeypatch.setattr(variance, "points", None)
    sentence = rejected(["variance", "--quick"], capsys)
    assert "--plot cannot write variance.png: Is a directory" in sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "FILE has no array X and no array y (found: nothing)"),
        ({"X": X, "z": Y}, "FILE has no array y (found: X, z); each npz file of --data must"),
        ({"X": X[0], "y": Y}, "array X in FILE must be floating of shape (n, d), got float32 of"),
        ({"X": X.astype(int), "y": Y}, "array X in FILE must be floating of shape (n, d), got int"),
        ({"X": X, "y": Y / 2}, "array y in FILE must hold one integer for each of the 50 rows"),
        ({"X": X, "y": Y[:40]}, "array y in FILE must hold one integer for each of the 50 rows"),
        ({"X": X * np.nan, "y": Y}, "array X in FILE holds NaN or infinity; remove those rows"),
        ({"X": X[:30], "y": Y[:30]}, "FILE holds 30 points of 2 classes, too few to split"),
        ({"X": X, "y": 0 * Y}, "FILE holds 50 points of 1 classes, too few to split"),
        ({"X": X, "y": np.array([None])}, "an array in FILE cannot be read (Object arrays"),
    ],
)
def test_mistake_in_a_labelled_file_is_one_sentence(content, sentence, capsys, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **content)
    argv = ["classification", "--data", str(tmp_path), "--plot", str(tmp_path / "a.png")]
    assert rejected(argv, capsys).replace(str(path), "FILE").startswith(sentence)


TARGETS, MASK = Y / 3.0, np.eye(len(X), 2, dtype=bool)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"X": X, "y": TARGETS}, "FILE has no array test_mask (found: X, y); each npz file of"),
        ({"X": X[0], "y": TARGETS, "test_mask": MASK}, "array X in FILE must be floating of shape"),
        ({"X": X, "y": Y, "test_mask": MASK}, "array y in FILE must hold one floating number"),
        ({"X": X, "y": TARGETS[:9], "test_mask": MASK}, "array y in FILE must hold one floating"),
        ({"X": X, "y": TARGETS, "test_mask": MASK[:9]}, "array test_mask in FILE must be bool of"),
        ({"X": X, "y": TARGETS * np.nan, "test_mask": MASK}, "X or y in FILE holds NaN"),
        ({"X": X, "y": TARGETS, "test_mask": ~MASK}, "every split of test_mask in FILE needs a"),
    ],
)
def test_mistake_in_a_regression_file_is_one_sentence(content, sentence, capsys, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **content)
    argv = ["regression", "--data", str(tmp_path), "--plot", str(tmp_path / "a.png")]
    assert rejected(argv, capsys).replace(str(path), "FILE").startswith(sentence)


def test_broken_file_is_one_sentence(capsys, tmp_path):
    path = tmp_path / "data.npz"
    argv = ["classification", "--data", str(tmp_path), "--plot", str(tmp_path / "a.png")]
    path.write_text("X y")
    assert f"{path} is not an npz archive" in rejected(argv, capsys)
    np.savez_compressed(path, X=np.random.default_rng(0).random((500, 9)), y=np.arange(500) % 2)
    whole = bytearray(path.read_bytes())
    whole[2000:2100] = bytes(100)
    path.write_bytes(bytes(whole))
    assert f"{path} is a damaged npz archive" in rejected(argv, capsys)


def test_mistake_in_recorded_activations_is_one_sentence(capsys, tmp_path):
    argv = ["activations", "--data", str(tmp_path), "--plot", str(tmp_path / "a.png")]
    np.savez(tmp_path / "set.npz", X=X, y=Y)
    sentence = rejected(argv, capsys)
    assert "set.npz has no array q and no array k and no array v (found: X, y)" in sentence
    (tmp_path / "set.npz").unlink()
    np.savez(tmp_path / "x_causal.npz", **activations(queries=9))
    sentence = rejected(argv, capsys)
    assert "as many queries as keys, at least 2, but has 9 queries and 24 keys" in sentence


def test_outputs_never_overwrite_the_data(capsys, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, X=X, y=Y)
    before = path.read_bytes()
    argv = ["classification", "--data", str(tmp_path), "--json", str(path)]
    assert "--json would overwrite the input" in rejected(argv, capsys)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("package", "extra"), [("rich", "cli"), ("matplotlib", "plot")])
def test_missing_extra_names_the_fix(package, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    sentence = rejected(["variance", "--quick"], capsys)
    assert f"needs the package {package}, which is not installed" in sentence
    assert f'pip install -e ".[{extra}]"' in sentence


def test_map_that_cannot_be_fitted_is_one_sentence(capsys, monkeypatch, tmp_path):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("`query` is too short; pass more rows")

    monkeypatch.setattr(Positive, "fit", refuse)
    np.savez(tmp_path / "a.npz", **activations())
    argv = ["activations", "--data", str(tmp_path), "--plot", str(tmp_path / "a.png")]
    sentence = rejected(argv, capsys)
    assert sentence == "the map favor+ cannot be fitted here: `query` is too short; pass more rows"
