"""The benchmarks run, and use nothing of rfx but its public names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rfx

FOLDER = Path(__file__).parents[1] / "asv_bench"
PACKAGE = "rfx_asv_benchmarks"
CASES = ("Attention", "FirstCall", "Ratio", "Memory", "DeviceMemory", "Error")
NAMES = ("numpy", "torch", "jax", "torch-cuda", "jax-cuda", "cupy")
ON_GPU = NAMES[3:]
TOO_LARGE = {("numpy", "exact", 16384), ("jax", "exact", 16384)}
PREFIXES = ("time_", "track_", "peakmem_")


def load(quick: str) -> Iterator[ModuleType]:
    """Import the benchmarks by their path, under a name of their own."""
    folder = FOLDER / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFX_BENCH_QUICK", quick)
        package = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, PACKAGE, package)
        spec.loader.exec_module(package)
        yield importlib.import_module(f"{PACKAGE}.attention")
        for name in [n for n in sys.modules if n.startswith(f"{PACKAGE}.")]:
            del sys.modules[name]


@pytest.fixture
def attention() -> Iterator[ModuleType]:
    yield from load("1")


@pytest.fixture
def full() -> Iterator[ModuleType]:
    yield from load("0")


def present(name: str) -> bool:
    """Whether the library and its device are here, asked without the benchmarks."""
    if importlib.util.find_spec(name.split("-")[0]) is None:
        return False
    if name in ("torch-cuda", "cupy"):
        module = importlib.import_module(name.split("-")[0])
        return bool(getattr(module, "cuda" if name == "torch-cuda" else name).is_available())
    if name == "jax-cuda":
        return any(d.platform == "gpu" for d in importlib.import_module("jax").devices())
    return True


def smallest(case: Any, name: str) -> tuple[Any, ...]:
    return tuple(name if p == NAMES else p[0] for p in case.params)


def methods(case: Any) -> list[str]:
    return [n for n, _ in inspect.getmembers(case) if n.startswith(PREFIXES)]


def test_every_benchmark_is_tested(attention: ModuleType) -> None:
    found = {
        name: case
        for name, case in vars(attention).items()
        if inspect.isclass(case) and not name.startswith("_") and methods(case)
    }
    assert set(found) == set(CASES)
    assert attention.NAMES == NAMES
    for case in found.values():
        assert len(case.params) == len(case.param_names)
        assert case.params[case.param_names.index("library")] == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case_name", CASES)
def test_benchmark_runs_once_on_each_library(
    case_name: str, name: str, attention: ModuleType
) -> None:
    case = getattr(attention, case_name)()
    params = smallest(case, name)
    wrong_device = {"Memory": name in ON_GPU, "DeviceMemory": name not in ON_GPU}
    if not present(name) or wrong_device.get(case_name, False):
        with pytest.raises(NotImplementedError):
            case.setup(*params)
        return
    for method in methods(case):
        case.setup(*params)
        result = getattr(case, method)(*params)
        assert (result is None) != method.startswith("track_")
        assert result is None or (math.isfinite(result) and result > 0.0)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_exact_attention_of_a_library_is_exact(
    name: str, is_causal: bool, attention: ModuleType
) -> None:
    if not present(name):
        return  # that it is left out is asserted above
    case = attention.Error()
    case.setup(0, name, is_causal, "favor+")
    q, k, v = (a[None] for a in case.inputs)
    out = case.library.to_host(case.library.exact(q, k, v, is_causal)())
    if out.shape[1] != q.shape[1]:  # jax puts the heads after the length
        out = out.swapaxes(1, 2)
    np.testing.assert_allclose(out[0], case.target, rtol=0, atol=1e-5 * abs(case.target).max())


def test_errors_on_the_sample_are_those_of_estimates(attention: ModuleType) -> None:
    case = attention.Error()
    params = (0, "numpy", False, "favor+")
    case.setup(*params)
    assert 0.1 < case.track_uniform_error(*params) < 1.0
    assert 0.1 < case.track_error(*params) < 1.5


def test_only_listed_cases_are_left_out_for_their_size(full: ModuleType) -> None:
    assert set(full.TOO_LARGE) == TOO_LARGE
    lengths, names, causal, maps = full.Attention.params
    assert lengths == (1024, 4096, 16384)
    left_out = set()
    for L, name, is_causal, what in product(lengths, names, causal, maps):
        case = full.Attention()
        case.library, case.inputs = None, []
        full._call = lambda *args, **kwargs: None
        try:
            case.attention(L, name, is_causal, what)
        except NotImplementedError:
            left_out.add((name, what, L))
    assert left_out == TOO_LARGE


def test_benchmarks_use_public_names_of_rfx_only() -> None:
    files = sorted(FOLDER.rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.split(".")[0] == "rfx"]
                assert set(names) <= {"rfx"}, f"{file.name} imports {names}"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rfx":
                raise AssertionError(f"{file.name} imports from {node.module}; use rfx.name")
            elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("rfx."):
                _assert_public(ast.unparse(node), file.name)


def _assert_public(dotted: str, where: str) -> None:
    """Each step is in the ``__all__`` of the module before it."""
    found: Any = rfx
    for part in dotted.split(".")[1:]:
        if isinstance(found, ModuleType):
            assert part in found.__all__, f"{where} uses {dotted}, which is not public"
        found = getattr(found, part)


def test_configuration_names_the_package_and_its_folders() -> None:
    config = json.loads((FOLDER / "asv.conf.json").read_text(encoding="utf-8"))
    assert (FOLDER / config["benchmark_dir"] / "__init__.py").is_file()
    assert (FOLDER / config["repo"] / "pyproject.toml").is_file()
    for folder in ("env_dir", "results_dir", "html_dir"):
        assert config[folder].startswith(".asv/"), "which git ignores"
