"""The command line as its user meets it: help, versions, and one sentence for each mistake."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rfx
import rfx.cli
from rfx.cli import compare, main, measure
from tests.conftest import refusal

FAST = ["--maps", "favor+", "--num-features", "4", "--seeds", "1"]


def arrays(heads: int = 2, t: int = 12, d: int = 4, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    q, k, v = rng.standard_normal((3, heads, t, d)).astype(np.float32)
    return {"q": q, "k": k, "v": v} | changes


def save(path: Path, **content: np.ndarray) -> str:
    np.savez(path, **content)
    return str(path)


def test_version_names_the_program(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"rfx {rfx.__version__}\n"


def test_module_runs_as_a_program():
    run = subprocess.run(
        [sys.executable, "-m", "rfx", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"rfx {rfx.__version__}\n"


def test_help_shows_each_command_and_an_example(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    assert "compare" in out
    assert "info" in out
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "rfx compare --input qkv.npz" in capsys.readouterr().out


def test_info_lists_what_the_library_reports(capsys):
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rfx", rfx.__version__]
    assert lines[1].split()[:2] == ["python", platform.python_version()]
    numpy_line = next(line for line in lines if line.startswith("numpy"))
    assert np.__version__ in numpy_line
    assert "devices: cpu" in numpy_line
    for library in rfx.libraries():
        line = next(line for line in lines if line.startswith(library.name))
        assert ("not installed" in line) == (library.version is None)
        for path in library.fast_paths:
            mine = [row for row in lines if row.strip().startswith(f"{path.name}: ")]
            assert any(path.op in row and path.devices[0] in row for row in mine)


def test_info_says_whether_numba_is_there(capsys, monkeypatch):
    assert main(["info"]) == 0
    assert f"numba   {version('numba')}; compiles" in capsys.readouterr().out

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("rfx.cli.info.version", missing)
    assert main(["info"]) == 0
    assert "numba   not installed; NumPy and torch do without" in capsys.readouterr().out


def test_info_is_not_spoilt_by_warnings_of_the_libraries():
    command = [sys.executable, "-W", "always", "-m", "rfx", "info"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""


def test_importing_rfx_imports_nothing_of_the_command_line():
    code = (
        "import sys, rfx; "
        "print(*{'argparse', 'rich', 'matplotlib', 'rfx.cli'}.intersection(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_no_text_names_the_package_index():
    # The name rfx on the package index belongs to somebody else.
    for source in Path(rfx.cli.__file__).parent.glob("*.py"):
        assert "pip install rfx" not in source.read_text()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["compare", "--bogus"], "unrecognized arguments: --bogus"),
        (["compare", "--seed", "x"], "--seed: expected a whole number, got 'x'"),
        (["compare", "--seeds", "0"], "--seeds: expected at least 1, got 0"),
        (["compare", "--num-features", "0"], "--num-features: expected at least 1, got 0"),
        (["compare", "--num-features", "8,1e3"], "--num-features: expected a whole number"),
        (["compare", "--num-features", "8,8"], "--num-features: 8 is listed twice"),
        (["compare", "--num-features", "8,08"], "--num-features: 8 is listed twice"),
        (["compare", "--heads", "0,-1"], "--heads: expected at least 0, got -1"),
        (["compare", "--maps", "favor,"], "--maps: expected a list such as a,b without gaps"),
        (["compare", "--library", "tensorflow"], "--library: invalid choice: 'tensorflow'"),
        (["compare", "--maps", "favr+"], "there is no map named 'favr+'; did you mean favor+"),
        (
            ["compare", "--maps", "favor", "--num-features", "8,63"],
            "the map favor cannot be used with m = 63: `num_features` must be a multiple of 2",
        ),
        (["compare", "--layer", "3"], "there is no layer 3 in the sample that comes with rfx"),
        (["compare", "--heads", "0,12"], "there is no head 12; the query heads are 0 to 11"),
        (["compare", "--input", "missing.npz"], "cannot read missing.npz: No such file"),
        (["compare", "--input", "."], "cannot read .: Is a directory"),
        (["compare", "--json", "no/such/dir.json"], "--json cannot write no/such/dir.json: No"),
        (["compare", "--json", "."], "--json cannot write .: Is a directory"),
        (["compare", "--plot", "no/such/dir.png"], "--plot cannot write no/such/dir.png: No such"),
        (["compare", "--plot", "plot.txt"], "--plot cannot write plot.txt: its name must end in"),
        (["compare", "--json", "a.svg", "--plot", "a.svg"], "--json and --plot name the same file"),
    ],
)
def test_mistake_in_the_arguments_is_one_sentence(argv, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "compare", None)  # refused before anything is computed
    assert sentence in refusal(argv, capsys)
    assert list(tmp_path.iterdir()) == []


_MANY = {f"{name}{layer}": array for layer in (2, 10) for name, array in arrays().items()}
_NAN = arrays()["q"].copy()
_NAN[1, 3, 2] = np.nan


@pytest.mark.parametrize(
    ("content", "extra", "sentence"),
    [
        ({}, [], "has no array q and no array k and no array v (found: nothing)"),
        ({"q": arrays()["q"], "x": arrays()["k"]}, [], "has no array k and no array v (found: q"),
        ({"q3": arrays()["q"], "k3": arrays()["k"]}, [], "has no array v3 (found: q3, k3)"),
        (_MANY, ["--layer", "3"], "which has layers 2, 10"),
        (arrays(), ["--layer", "0"], "which has no numbered layers"),
        (arrays(k=np.ones((2, 12, 4), int)), [], "array k in FILE must be float16, float32"),
        (arrays(k=np.ones((2, 12, 4), complex)), [], "must be float16, float32 or float64, got c"),
        (arrays(v=np.array([None, "x"])), [], "array v in FILE cannot be read (Object arrays"),
        (arrays(q=np.ones((12, 4), np.float32)), [], "array q in FILE must have shape (heads"),
        (arrays(q=np.ones((2, 0, 4), np.float32)), [], "array q in FILE is empty"),
        (arrays(q=_NAN), [], "array q in FILE holds NaN or infinity"),
        (arrays(q=np.ones((2, 12, 5), np.float32)), [], "FILE: `query` and `key` must have the s"),
        (arrays(q=np.ones((3, 12, 4), np.float32)), [], "FILE: the query's 3 heads must be a mul"),
        (arrays(v=np.ones((2, 11, 4), np.float32)), [], "FILE: `key` and `value` must have the s"),
        (arrays(v=np.zeros((2, 12, 4), np.float32)), [], "the exact output of a head is all zero"),
        (arrays(t=1), [], "uniform attention is already exact here up to rounding"),
        (arrays(v=np.ones((2, 12, 4), np.float32)), [], "uniform attention is already exact"),
        (
            arrays(q=np.ones((2, 13, 4), np.float32)),
            ["--causal"],
            "--causal needs at least as many keys as queries, but FILE has 13 queries and 12 keys",
        ),
    ],
)
def test_mistake_in_the_file_is_one_sentence(content, extra, sentence, capsys, tmp_path):
    path = save(tmp_path / "in.npz", **content)
    found = refusal(["compare", "--input", path, *FAST, *extra], capsys)
    assert sentence in found.replace(path, "FILE")


def test_file_that_is_no_archive_is_one_sentence(capsys, tmp_path):
    path = tmp_path / "in.npz"
    path.write_text("q k v")
    assert "is not an npz archive" in refusal(["compare", "--input", str(path)], capsys)
    np.save(tmp_path / "q.npy", arrays()["q"])
    command = ["compare", "--input", str(tmp_path / "q.npy")]
    assert "is not an npz archive" in refusal(command, capsys)


def test_damaged_archive_is_one_sentence(capsys, tmp_path):
    path = tmp_path / "in.npz"
    np.savez_compressed(path, **arrays())
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 6
    whole[middle : middle + 40] = bytes(40)
    path.write_bytes(bytes(whole))
    assert "is a damaged npz archive" in refusal(["compare", "--input", str(path)], capsys)


def test_outputs_never_overwrite_the_input(capsys, monkeypatch, tmp_path):
    path = Path(save(tmp_path / "in.npz", **arrays()))
    before = path.read_bytes()
    monkeypatch.chdir(tmp_path)  # the same file by another name
    found = refusal(["compare", "--input", str(path), "--json", "in.npz", *FAST], capsys)
    assert "--json would overwrite the input" in found
    assert path.read_bytes() == before


def test_check_of_an_output_leaves_an_existing_file_alone(capsys, tmp_path):
    old = tmp_path / "old.json"
    old.write_text("precious")
    refusal(["compare", "--json", str(old), "--input", "missing.npz"], capsys)
    assert old.read_text() == "precious"


@pytest.mark.parametrize(
    ("package", "extra", "argv"),
    [
        ("rich", "cli", ["compare", *FAST]),
        ("matplotlib", "plot", ["compare", *FAST, "--plot", "a.png"]),
    ],
)
def test_missing_extra_names_the_fix(package, extra, argv, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    found = refusal(argv, capsys)
    assert f"needs the package {package}, which is not installed" in found
    assert f'pip install -e ".[{extra}]"' in found


def test_missing_library_names_the_fix(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = refusal(["compare", "--library", "cupy", *FAST], capsys)
    assert "the library cupy cannot be imported" in found
    assert 'pip install -e ".[cupy]"' in found


def test_interruption_is_no_traceback(capsys, monkeypatch):
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compare.measure, "compare", interrupt)
    assert main(["compare", *FAST]) == 130
    assert capsys.readouterr().err == "rfx: interrupted\n"


def test_pipe_gets_whole_rows_without_colour_or_progress():
    plain = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    run = subprocess.run(
        [sys.executable, "-m", "rfx", "compare", "--num-features", "16", "--seeds", "1"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        env=plain | {"COLUMNS": "40", "PYTHONIOENCODING": "utf-8"},
    )
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    assert "…" not in run.stdout
    lines = run.stdout.splitlines()
    assert "layer 0 (of 0, 5)" in lines[0]
    for name in rfx.features.NAMES:
        assert sum(line.startswith(f"{name} ") for line in lines) == 1
    assert any(line.startswith("error: ") and line.endswith("float64.") for line in lines)
