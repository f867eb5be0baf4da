"""The benchmarks run, measure what they say, and use nothing of rfx but its public names.

And the page that is made of them says what it must. It is made of the same classes,
imported in the same way, so the tests of both are in this one long file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rfx
import rfx.reference
from tests.conftest import one_name_per_form

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "asv_bench"
CASES = {
    "forward": ("Length", "Dimension", "Features", "Dtype", "Map", "FirstCall"),
    "comparison": ("Forward", "BFloat16", "Crossover"),
    "backward": ("Length", "Comparison"),
    "memory": ("Forward", "Backward", "Device"),
    "decode": ("Token", "Prompt"),
    "compiled": ("Loops",),
    "features": ("CountSketch", "Matrix", "Sampler"),
    "fwht": ("Project",),
    "gated": ("Gated",),
    "imports": ("Import",),
    "drawing": ("Draw",),
    "error": ("Map", "Dtype", "Uniform"),
    "landmarks": ("Landmarks",),
    "polynomial": ("Polynomial",),
    "randomized": ("Memory", "Randomized"),
    "regression": ("Ridge",),
    "relative": ("Growth", "Relative"),
    "sigmoid": ("Memory", "Sigmoid"),
    "sparse": ("Sparse",),
}
WITHOUT_LIBRARY = (("imports", "Import"),)
NAMES = ("numpy", "torch", "jax", "torch-cuda", "jax-cuda", "cupy")
ON_GPU = NAMES[3:]
WITHOUT_GRADIENTS = ("numpy", "cupy")
PREFIXES = ("time_", "track_", "peakmem_")
ANY_SIGN = ("track_skill", "track_beyond_numpy", "track_extra", "track_power")
SECTIONS = (
    "Where rfx loses", "Forward pass", "Forward and backward pass", "bfloat16", "Memory",
    "Decoding", "Features", "numba", "Error on real activations", "Import and drawing",
    "Not measured",
)  # fmt: skip

Modules = dict[str, ModuleType]


@contextmanager
def loaded(quick: str) -> Iterator[Modules]:
    """The modules of the suite and of the page, imported with or without the small sizes."""
    names = [*(f"benchmarks.{n}" for n in (*CASES, "_cases", "_clock", "_floor", "_libraries"))]
    names += [f"report.{name}" for name in ("jobs", "machine", "page", "sections")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT), *sys.path])
        patch.setenv("RFX_BENCH_QUICK", quick)
        for name in [n for n in sys.modules if n.split(".")[0] == "asv_bench"]:
            patch.delitem(sys.modules, name)
        yield {n.split(".")[1]: importlib.import_module(f"asv_bench.{n}") for n in names}
        for name in [n for n in sys.modules if n.split(".")[0] == "asv_bench"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def suite() -> Iterator[Modules]:
    with loaded("1") as modules:
        yield modules


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
    return tuple(name if p == NAMES else p[0] for p in getattr(case, "params", ()))


def methods(case: Any) -> list[str]:
    return [n for n, _ in inspect.getmembers(case) if n.startswith(PREFIXES)]


def run_once(case: Any, params: tuple[Any, ...]) -> None:
    for method in methods(case):
        case.setup(*params)
        result = getattr(case, method)(*params)
        assert (result is None) != method.startswith("track_")
        if result is not None and method != "track_crossover":  # NaN where there is none
            assert math.isfinite(result)
            assert result > 0.0 or method in ANY_SIGN


def test_every_benchmark_is_tested(suite: Modules) -> None:
    files = {file.stem for file in (FOLDER / "benchmarks").glob("[!_]*.py")}
    assert files == set(CASES)
    for module, names in CASES.items():
        found = {
            name: case
            for name, case in vars(suite[module]).items()
            if inspect.isclass(case) and not name.startswith("_") and methods(case)
        }
        assert set(found) == set(names)
        for name, case in found.items():
            assert len(getattr(case, "params", ())) == len(getattr(case, "param_names", ()))
            if (module, name) not in WITHOUT_LIBRARY:
                assert case.params[case.param_names.index("library")] == NAMES


WITH_LIBRARY = [
    (m, c) for m, names in CASES.items() for c in names if (m, c) not in WITHOUT_LIBRARY
]
IN_TURN = ("torch", "jax")
"""Each case runs on one of these, which take seconds to compile or to start, besides the others."""


@pytest.mark.parametrize(
    ("module", "case_name", "name"),
    [
        (*case, name)
        for i, case in enumerate(WITH_LIBRARY)
        for name in NAMES
        if name not in IN_TURN or name == IN_TURN[i % 2]
    ],
)
def test_benchmark_runs_once(module: str, case_name: str, name: str, suite: Modules) -> None:
    case = getattr(suite[module], case_name)()
    params = smallest(case, name)
    cannot = {
        "Device": name not in ON_GPU,
        "Forward": module == "memory" and name in ON_GPU,
        "Backward": name in (*ON_GPU, "numpy"),
        "BFloat16": name in WITHOUT_GRADIENTS,
        "CountSketch": importlib.util.find_spec("sklearn") is None,
        "Sampler": importlib.util.find_spec("sklearn") is None,
        "Loops": name not in ("numpy", "torch"),
        "Ridge": importlib.util.find_spec("sklearn") is None,
    }
    backward = module == "backward" and name in WITHOUT_GRADIENTS
    if not present(name) or cannot.get(case_name, False) or backward:
        with pytest.raises(NotImplementedError):
            case.setup(*params)
        return
    run_once(case, params)


def test_import_is_measured_in_fresh_processes(suite: Modules) -> None:
    run_once(suite["imports"].Import(), ())


@pytest.mark.parametrize("kind", ["trigonometric", "positive"])
def test_features_are_measured_beside_scikit_learn(kind: str, suite: Modules) -> None:
    case = suite["features"].Sampler()
    if importlib.util.find_spec("sklearn") is None:
        with pytest.raises(NotImplementedError, match="scikit-learn cannot be imported"):
            case.setup(kind, "numpy")
        return
    run_once(case, (kind, "numpy"))
    ours, theirs = (call() for call in case.calls.values())
    assert ours is None  # a call that waits for its library
    assert theirs.dtype == np.float32


def problem(suite: Modules, name: str, is_causal: bool) -> Any:
    return suite["_cases"].Problem(name, L=63, is_causal=is_causal)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_exact_attention_of_a_library_is_exact(name: str, is_causal: bool, suite: Modules) -> None:
    if not present(name):
        return  # that it is left out is asserted above
    case = problem(suite, name, is_causal)
    q, k, v = (case.library.to_host(a) for a in case.inputs)
    out = case.library.to_host(case.library.exact(*case.inputs, is_causal)())
    if out.shape[1] != q.shape[1]:  # jax puts the heads after the length
        out = out.swapaxes(1, 2)
    kernel = rfx.kernels.Softmax()
    target = rfx.reference.kernel_attention(q, k, v, kernel=kernel, is_causal=is_causal)
    np.testing.assert_allclose(out, target, rtol=0, atol=1e-5 * abs(target).max())


@pytest.mark.parametrize("kind", ["linear", "exact"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_all_three_inputs(name: str, kind: str, suite: Modules) -> None:
    if not present(name) or name in WITHOUT_GRADIENTS:
        return  # that it is left out is asserted above
    case = problem(suite, name, False)
    library, inputs = case.library, [case.library.to_host(a) for a in case.inputs]
    g = suite["_cases"].normal(library, case.inputs[2].shape, 3)
    call = {
        "linear": lambda: library.linear_gradient(case.phi, *case.inputs, g, False)(),
        "exact": lambda: library.exact_gradient(*case.inputs, g, False)(),
    }[kind]
    result = call()
    gradients = [library.to_host(a) for a in (result[1] if len(result) == 2 else result)]

    def loss(points: list[np.ndarray]) -> float:
        if kind == "linear":
            out = rfx.reference.linear_attention(*points, features=case.phi)
        else:
            kernel = rfx.kernels.Softmax()
            out = rfx.reference.kernel_attention(*points, kernel=kernel)
        return float((out * library.to_host(g)).sum())

    rng = np.random.default_rng(7)
    for i, gradient in enumerate(gradients):
        step = rng.standard_normal(inputs[i].shape) * 1e-5
        moved = [[a + sign * step * (j == i) for j, a in enumerate(inputs)] for sign in (1, -1)]
        expected = (loss(moved[0]) - loss(moved[1])) / 2
        if gradient.shape != step.shape:  # jax puts the heads after the length
            gradient = gradient.swapaxes(1, 2)
        size = float(np.linalg.norm(gradient) * np.linalg.norm(step))
        assert abs(float((gradient * step).sum()) - expected) < 1e-3 * size


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_one(name: str, suite: Modules) -> None:
    if not present(name):
        return  # that it is left out is asserted above
    library = suite["_libraries"].start(name)
    array = suite["_cases"].normal(library, (3, 4), 0)
    copy = library.copy(array)()
    np.testing.assert_array_equal(library.to_host(copy), library.to_host(array))
    assert address(copy) != address(array)


def address(array: Any) -> int:
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(array, name):
            return int(getattr(array, name)())
    interface = getattr(array, "__array_interface__", None) or array.__cuda_array_interface__
    return int(interface["data"][0])


def test_errors_on_the_sample_are_those_of_estimates(suite: Modules) -> None:
    case = suite["error"].Map()
    params = (0, "numpy", False, "favor+")
    case.setup(*params)
    found = case.numbers(*params)
    assert 0.1 < found["uniform"] < 1.0
    assert 0.1 < found["error"] < 1.5
    errors = [case.error(a) for a in (case._estimate("favor+", 0), case.uniform)]
    assert math.isclose(found["skill"], float((1 - errors[0] / errors[1]).mean()))


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({512: 4.0, 1024: 0.25}, 512 * 2**0.5),  # log(ratio) is 0 half way
        ({512: 4.0, 1024: 2.0, 2048: 0.5, 4096: 2.0}, 1024 * 2**0.5),
        ({512: 0.5, 1024: 0.25}, 512.0),
        ({512: 1.0, 1024: 0.5}, 512.0),
        ({512: 2.0, 1024: 1.5}, math.nan),
    ],
)
def test_crossing_is_interpolated_in_log_length(
    ratios: dict[int, float], expected: float, suite: Modules
) -> None:
    np.testing.assert_allclose(suite["_clock"].crossing(ratios), expected, rtol=1e-12)


def test_calls_are_made_in_turn(suite: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made, now = suite["_clock"], [], [0.0]
    durations = {"a": iter([9.0, 1.0, 5.0, 2.0]), "b": iter([9.0, 8.0, 6.0, 7.0])}
    monkeypatch.setattr(clock, "ROUNDS", (3, 3, 0.0))
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def call(name: str) -> None:
        made.append(name)
        now[0] += next(durations[name])

    calls = {name: lambda name=name: call(name) for name in "ab"}
    assert clock.medians(calls) == {"a": 2.0, "b": 7.0}
    assert made == list("abababab"), "the first call of each is not counted"


def test_the_floor_counts_the_operations_of_a_call(suite: Modules) -> None:
    floor = suite["_floor"]
    assert floor.operations(4096, False) == 8 * 8 * 4096 * 64 * 256
    assert floor.operations(4096, True) == 8 * 8 * 4096 * 64 * 256 + 2 * 8 * 4096 * 128 * 320
    seconds = floor.floor(4096, False, 0.5)
    np.testing.assert_allclose(seconds, 0.5 * floor.operations(4096, False) / (2 * floor.SIDE**3))


def test_memory_of_a_call_is_what_it_holds_at_once(suite: Modules) -> None:
    extra, size = suite["memory"].extra, 64 * 2**20

    def call() -> None:
        for _ in range(2):  # one after the other
            np.ones(size // 8)

    assert 0.95 * size < extra(call) < 1.2 * size


def test_each_class_varies_one_axis() -> None:
    with loaded("0") as full:
        lengths = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
        assert full["forward"].Length.params == (lengths, NAMES, (False, True))
        assert full["forward"].Dimension.params[0] == (64, 128)
        assert full["forward"].Features.params[0] == (64, 128, 256, 512)
        assert full["forward"].Dtype.params[0] == ("float32", "bfloat16", "float16")
        assert set(full["forward"].Map.params[0]) >= set(one_name_per_form())
        assert set(full["comparison"].LONGEST_EXACT) == set(NAMES)
        assert set(full["backward"].LONGEST_EXACT) == set(NAMES) - set(WITHOUT_GRADIENTS)


def test_a_smoke_run_writes_a_page_that_is_marked_as_one() -> None:
    before = (ROOT / "BENCHMARKS.md").exists()
    command = [sys.executable, "-m", "asv_bench.report", "--quick", "--libraries", "numpy", "cupy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    page = done.stdout
    assert page.startswith("# Benchmarks (smoke run)\n\n**Smoke run: tiny sizes")
    assert "Nothing on this page is a measurement" in page
    assert tuple(line[3:] for line in page.splitlines() if line.startswith("## ")) == SECTIONS
    for fact in ("date", "commit", "processor", "threads", "versions", "duration"):
        assert f"\n- {fact}: " in page
    for version in (f"numpy {np.__version__}", f"Python {sys.version.split()[0]}"):
        assert version in page
    assert page.count("\n| 1024 | ") == 2, "one row in each direction"
    assert "| numpy | 1 | " in page
    assert ("- cupy: " in page) != present("cupy")
    assert (ROOT / "BENCHMARKS.md").exists() == before, "a smoke run is printed only"


def results(suite: Modules, scope: Any) -> Any:
    """A number for every job: linear attention takes 2 s, the rest 1 s, errors are 0.5."""
    found = suite["jobs"].Found()
    for section in suite["page"].SECTIONS:
        for job in section.jobs(scope):
            case = getattr(importlib.import_module(f"asv_bench.{job.module}"), job.case)
            assert len(job.params) == len(getattr(case, "params", ()))
            assert callable(getattr(case, job.method))
            names = ("exact", "floor", "forward", "float32", "copy", "RBFSampler", "numpy", "draw")
            names = (*names, "prompt and tokens", "PolynomialCountSketch", "with", "without")
            found.results[job] = dict.fromkeys(names, 1.0)
            found.results[job] |= dict.fromkeys(("linear", "bfloat16", "token", "rfx"), 2.0)
            found.results[job] |= {"error": 0.5, "uniform": 0.75, "skill": 0.25}
            if job.method == "track_extra":
                found.results[job] = 0.4
    return found


def test_the_page_says_where_rfx_loses(suite: Modules) -> None:
    scope = suite["sections"].Scope(("numpy", "torch"), False)
    found = results(suite, scope)
    text = suite["page"].page(scope, found, {"commit": "abc"})
    assert text.startswith("# Benchmarks\n")
    assert "moke" not in text
    assert "| 65536 | 2,000 | 2.00 | 2.00 | 2,000 | 2.00 | 2.00 |" in text
    assert "| torch | none up to 65536 | none up to 65536 |" in text
    slower = "slower than exact attention at length"
    assert f"- Forward, torch, causal: {slower} 512 (2.00 times), 1024 (2.00 times)" in text
    assert "- bfloat16, torch, causal, length 4096: slower than float32 (2.00 times)." in text
    assert "- Features, positive, torch: slower than RBFSampler (2.00 times)." in text
    assert "- Features, torch: slower than PolynomialCountSketch (2.00 times)." in text
    assert "worse than uniform attention with" not in text
    for job, result in found.results.items():
        if job.case == "Map":
            result["error"] = 0.8
        if job.params == (512, "torch", True):
            result["exact"] = 4.0
    text = suite["page"].page(scope, found, {})
    worse = "worse than uniform attention with 0.750."
    assert f"- Error, layer 5, causal, favor: 0.800, {worse}" in text
    assert f"- Forward, torch, causal: {slower} 1024 (2.00 times)" in text
    assert "| torch | none up to 65536 | 512 or before |" in text


def test_a_page_without_a_loss_says_so(suite: Modules) -> None:
    scope = suite["sections"].Scope(("numpy", "torch"), False)
    found = results(suite, scope)
    for job, result in found.results.items():
        if job.method != "track_extra":
            found.results[job] = dict.fromkeys(result, 0.5)
    assert "\n\nNone.\n" in suite["page"].page(scope, found, {})


def test_a_measurement_that_breaks_is_named_on_the_page(suite: Modules) -> None:
    jobs, scope = suite["jobs"], suite["sections"].Scope(("numpy",), True)
    wrong = jobs.Job("benchmarks.forward", "Length", "no_such_method", (256, "numpy", True))
    right = jobs.Job("benchmarks.imports", "Import", "seconds")
    found = jobs.Found()
    jobs.run("Nothing", [[right, wrong], [right]], found, quick=True)
    assert found.failed
    assert found.number(right, "rfx") > 0.0
    assert "no_such_method" in found.reason(wrong, failed=True)
    found = results(suite, scope)
    first = next(iter(found.results))
    found.results[first] = jobs.Absent("it broke", True)
    text = suite["page"].page(scope, found, {})
    assert f"## Failed\n\n- Forward pass, {first.params}: it broke\n" in text


def test_the_commit_is_marked_where_files_differ_from_it(
    suite: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = suite["machine"]
    answers = {"rev-parse": "abc", "status": ""}
    monkeypatch.setattr(machine, "_git", lambda *args: answers[args[0]])
    assert machine._commit() == "abc"
    answers["status"] = " M rfx/__init__.py"
    assert machine._commit() == "abc **with changes that are not committed**"


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
