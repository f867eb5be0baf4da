"""What runs in place of the portable code agrees with it, gradients in torch included."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest

import rfx
from rfx import dispatch, reference
from rfx._xp import to_numpy
from rfx.dispatch import FastPath
from rfx.features import ExponentialMap
from rfx.testing import EPS, ArrayLibrary, assert_agrees

torch = pytest.importorskip("torch")

CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
FLOATS = ("float64", "float32")
DIM, COLUMNS = 5, 4


@dataclass(frozen=True)
class Problem:
    """One call of linear attention; what differs from the first row is what is tested."""

    name: str
    query: tuple[int, ...] = (3, 100)
    key: tuple[int, ...] = (3, 100)
    form: str = "shared"
    mask: str | None = None
    steep: bool = False
    state: bool = False
    swapped: bool = False
    m: int = 24
    chunk_size: int = 32

    def draw(self, like) -> ExponentialMap:
        """The map; "biased" ones have two sides with all that a side may have."""
        heads = 3 if "heads" in self.form else None
        hyperbolic = "hyperbolic" in self.form
        spec = rfx.features.Positive(num_features=self.m, hyperbolic=hyperbolic)
        phi = spec.draw(DIM, seed=1, like=np.zeros(1), heads=heads)
        if "biased" in self.form:
            rng, lead = np.random.default_rng(2), () if heads is None else (heads,)
            arrays = {"fingerprint": phi.fingerprint}
            for side in ("query", "key"):
                arrays[f"{side}_weight"] = 0.5 * rng.standard_normal((*lead, DIM, self.m))
                arrays[f"{side}_bias"] = rng.standard_normal((*lead, self.m))
                arrays[f"{side}_quadratic"] = rng.uniform(0.1, 0.5, (*lead, DIM))
            phi = ExponentialMap.of(spec, arrays)
        return phi.to_like(like)

    def arrays(self, library: str, dtype: str) -> tuple[list[Any], Any, Any]:
        """Query, key and value, the mask, and other keys and values to make a state of."""
        rng = np.random.default_rng(3)
        q = rng.standard_normal((*self.query, DIM))
        k, v = (rng.standard_normal((*self.key, n)) for n in (DIM, COLUMNS))
        if self.steep:  # logs rise by hundreds inside a chunk
            k *= np.geomspace(100.0, 1.0, self.key[-1])[:, None]
        convert = ArrayLibrary(library, library).convert
        others = (rng.standard_normal((*self.key[:-1], 7, n)) for n in (DIM, COLUMNS))
        more = [convert(300.0 * a if self.steep else a, dtype) for a in others]
        if self.swapped:
            q, k, v = (convert(a.swapaxes(-3, -2), dtype).swapaxes(-3, -2) for a in (q, k, v))
        else:
            q, k, v = (convert(a, dtype) for a in (q, k, v))
        mask = self._mask(rng)
        return [q, k, v], mask if mask is None else convert(mask, "bool"), more

    def _mask(self, rng: np.random.Generator) -> np.ndarray | None:
        s = self.key[-1]
        kinds = {
            "left": np.arange(s) >= 40,
            "random": rng.random(self.key) < 0.7,
            "nothing": np.zeros(s, dtype=bool),
        }
        return None if self.mask is None else kinds[self.mask]

    def call(self, library: str, dtype: str) -> tuple[list[Any], dict[str, Any]]:
        """What to call linear attention with."""
        (q, k, v), mask, more = self.arrays(library, dtype)
        phi = self.draw(q)
        call = {"features": phi, "mask": mask, "chunk_size": self.chunk_size, "return_state": True}
        if self.state:
            options = {"features": phi, "return_state": True, "implementation": "portable"}
            _, call["initial_state"] = rfx.linear_attention(more[0], *more, **options)
        return [q, k, v], call

    def __str__(self) -> str:
        return self.name


PROBLEMS = (
    Problem("three heads"),
    Problem("no heads", (100,), (100,)),
    Problem("grouped", (2, 6, 100), (2, 3, 100), form="heads", swapped=True),
    Problem("grouped, random mask", (2, 6, 100), (2, 3, 100), mask="random", state=True),
    Problem("hyperbolic, left mask", form="hyperbolic", mask="left"),
    Problem("all masked", form="heads", mask="nothing"),
    Problem("all masked, a state", (2, 3, 63), (2, 3, 63), mask="nothing", state=True),
    Problem("fewer queries", (3, 37), form="biased"),
    Problem("fewer queries, left mask", (3, 63), mask="left", chunk_size=16),
    Problem("more queries", (3, 100), (3, 37), form="biased heads", state=True),
    Problem("biased, random mask", (2, 6, 63), (2, 3, 63), form="biased heads", mask="random"),
    Problem("steep", (2, 6, 100), (2, 3, 100), steep=True, swapped=True),
    Problem("steep, random mask", form="heads", steep=True, mask="random"),
    Problem("steep, biased", form="biased heads", steep=True),
    Problem("small chunks", (2, 6, 100), (2, 3, 100), form="hyperbolic heads", m=50, chunk_size=6),
    Problem("small chunks, steep", form="biased", steep=True, state=True, m=50, chunk_size=6),
)
ROWS = pytest.mark.parametrize("problem", PROBLEMS, ids=str)


@ROWS
@pytest.mark.parametrize(
    ("path", "is_causal", "dtype"),
    [
        *product(("numpy-fused", "torch-fused"), (False, True), FLOATS),
        *product(("numpy-numba", "torch-numba"), (False, True), ("float32",)),
    ],
)
def test_fused_paths_agree_with_the_portable_code(
    path: str, problem: Problem, is_causal: bool, dtype: str
) -> None:
    arrays, call = problem.call(path.partition("-")[0], dtype)
    call["is_causal"] = is_causal
    chosen = rfx.explain(rfx.linear_attention, *arrays, **call).implementation
    assert chosen == path.replace("numba", "fused")  # these problems are small
    out, state = rfx.linear_attention(*arrays, implementation=path, **call)
    want, wanted = rfx.linear_attention(*arrays, implementation="portable", **call)
    scale = reference.log_size(*arrays[:2], features=call["features"])
    size = float(np.abs(to_numpy(arrays[2])).max())
    assert_agrees(out, to_numpy(want), scale=scale, size=size)
    for name in ("numerator", "denominator", "log_scale"):
        assert_agrees(getattr(state, name), to_numpy(getattr(wanted, name)), scale=scale)


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.steep], ids=str)
def test_steep_problems_are_steep(problem: Problem) -> None:
    """Otherwise the tests here would not reach the halving of chunks."""
    (_, k, _), call = problem.call("numpy", "float64")
    log, _ = reference.features(call["features"], k, "key")
    seen = np.ones(k.shape[:-1], bool) if call["mask"] is None else call["mask"]
    rises = []
    for index in np.ndindex(*k.shape[:-2]):
        first, *rest = log[index][seen[index]][: problem.chunk_size // 2]
        if problem.state:
            first = np.maximum(first, call["initial_state"].log_scale[index])
        rises.append((np.max(rest, axis=0) - first).max())
    assert max(rises) > 300  # see rfx.ops.causal.is_gentle


def gradients(
    problem: Problem, is_causal: bool, path: str, dtype: str = "float64"
) -> dict[str, Any]:
    """Of output, numerator and denominator, by what they are of and by.

    In float64, by the arrays of the map too.
    """
    arrays, call = problem.call("torch", dtype)
    leaves = {n: a.requires_grad_() for n, a in zip("qkv", arrays, strict=True)}
    trained = {n: a for n, a in call["features"].arrays().items() if n != "fingerprint"}
    trained = trained if dtype == "float64" else {}
    leaves |= {n: a.clone().requires_grad_() for n, a in trained.items()}
    held = call["features"].arrays() | {n: leaves[n] for n in trained}
    call["features"] = call["features"].with_arrays(held)
    if problem.state:
        first = {n: getattr(call["initial_state"], n).clone() for n in ("numerator", "denominator")}
        leaves |= {n: a.requires_grad_() for n, a in first.items()}
        call["initial_state"] = dataclasses.replace(call["initial_state"], **first)
    out, state = rfx.linear_attention(*arrays, is_causal=is_causal, implementation=path, **call)
    found, rng = {}, torch.Generator().manual_seed(4)
    for name, result in (("out", out), ("N", state.numerator), ("D", state.denominator)):
        back = torch.randn(result.shape, generator=rng, dtype=result.dtype)
        parts = torch.autograd.grad(
            result, list(leaves.values()), back, retain_graph=True, materialize_grads=True
        )
        found |= {f"{name} by {by}": a for by, a in zip(leaves, parts, strict=True)}
    return found


@ROWS
@CAUSAL
def test_fused_gradients_of_torch_are_those_of_autograd(problem: Problem, is_causal: bool) -> None:
    got = gradients(problem, is_causal, "torch-fused")
    for name, want in gradients(problem, is_causal, "torch-stream").items():
        assert torch.isfinite(got[name]).all(), name
        assert (got[name] - want).norm() <= 1e-10 * want.norm(), name
    if problem.mask != "nothing":
        assert all(got[f"out by {n}"].any() for n in "kv")


@ROWS
@CAUSAL
def test_gradients_of_the_loops_of_numba_are_those_of_autograd(
    problem: Problem, is_causal: bool
) -> None:
    """As exact in float32 as those of the fused path: steep keys cost both of them places."""
    pytest.importorskip("numba")
    wanted = gradients(problem, is_causal, "torch-stream")
    other = gradients(problem, is_causal, "torch-fused", "float32")
    for name, got in gradients(problem, is_causal, "torch-numba", "float32").items():
        want = wanted[name]
        assert got.dtype == torch.float32
        allowed = 3 * (other[name] - want).norm() + 10 * EPS["float32"] * want.norm()
        assert (got - want).norm() <= allowed, name


@CAUSAL
def test_second_derivatives_of_the_loops_of_numba_are_those_of_autograd(is_causal: bool) -> None:
    pytest.importorskip("numba")
    found = []
    for path in ("torch-numba", "torch-stream"):
        arrays, call = Problem("grouped", (2, 6, 40), (2, 3, 40)).call("torch", "float32")
        leaves = [a.requires_grad_() for a in arrays]
        out, state = rfx.linear_attention(*leaves, is_causal=is_causal, implementation=path, **call)
        loss = out.sin().sum() + state.denominator.sin().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(a.cos().sum() for a in first), leaves))
    for got, want in zip(*found, strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()


@pytest.mark.parametrize("path", ["torch-numba", "torch-fused"])
def test_saved_tensors_are_unpacked_once(path: str) -> None:
    """As a checkpoint that is not reentrant demands."""
    if path == "torch-numba":
        pytest.importorskip("numba")
    arrays, call = PROBLEMS[0].call("torch", "float32")
    leaves = [a.requires_grad_() for a in arrays]
    call |= {"return_state": False, "is_causal": True, "implementation": path}

    def attend(*leaves):
        return rfx.linear_attention(*leaves, **call)

    again = torch.utils.checkpoint.checkpoint(attend, *leaves, use_reentrant=False)
    found = torch.autograd.grad(again.sin().sum(), leaves)
    want = torch.autograd.grad(attend(*leaves).sin().sum(), leaves)
    torch.testing.assert_close(found, want)


def test_a_trained_map_and_a_frozen_input_are_heeded() -> None:
    pytest.importorskip("numba")
    (q, k, v), call = PROBLEMS[0].call("torch", "float32")
    held = call["features"].arrays()
    call["features"] = call["features"].with_arrays(
        held | {"query_weight": held["query_weight"].clone().requires_grad_()}
    )
    with pytest.raises(ValueError, match="no gradient for the arrays of a map"):
        rfx.linear_attention(q, k, v, implementation="torch-numba", **call)
    with torch.no_grad():
        rfx.linear_attention(q, k, v, implementation="torch-numba", **call)
    call["features"] = call["features"].with_arrays(held)
    v.requires_grad_()
    out, state = rfx.linear_attention(q, k, v, implementation="torch-numba", **call)
    (out.sum() + state.numerator.sum()).backward()
    assert q.grad is None
    assert k.grad is None
    assert v.grad.norm() > 0
    assert not state.log_scale.requires_grad


@CAUSAL
def test_fused_gradients_of_torch_are_those_of_finite_differences(is_causal: bool) -> None:
    problem = Problem("tiny", (4,), (3,), form="biased", state=True, m=2, chunk_size=2)
    (q, k, v), call = problem.call("torch", "float64")
    phi, first = call.pop("features"), call.pop("initial_state")
    names = ("query_weight", "query_bias", "key_weight", "key_bias", "key_quadratic")
    held = phi.arrays()

    def attend(q, k, v, numerator, denominator, *trained):
        features = phi.with_arrays(held | dict(zip(names, trained, strict=True)))
        start = dataclasses.replace(first, numerator=numerator, denominator=denominator)
        options = {"features": features, "is_causal": is_causal, "initial_state": start}
        out, state = rfx.linear_attention(q, k, v, implementation="torch-fused", **options, **call)
        unit = torch.exp(state.log_scale.detach())  # the scale is a constant, its product is not
        return out, state.numerator * unit[..., None], state.denominator * unit

    leaves = [q, k, v, first.numerator, first.denominator, *(held[n] for n in names)]
    leaves = [a.clone().requires_grad_() for a in leaves]
    assert torch.autograd.gradcheck(attend, leaves)
    assert torch.autograd.gradgradcheck(attend, leaves, fast_mode=True)
    backs = [0.5 + torch.rand_like(a) for a in attend(*leaves)]
    plain = torch.autograd.grad(attend(*leaves), leaves, backs)
    again = torch.autograd.grad(attend(*leaves), leaves, backs, create_graph=True)
    torch.testing.assert_close(again, plain)  # the check of second derivatives does not see it


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in forward mode
@CAUSAL
def test_forward_mode_of_torch_is_served_by_another_path(is_causal: bool) -> None:
    (q, k, v), call = PROBLEMS[2].call("torch", "float64")
    call |= {"is_causal": is_causal, "return_state": False}
    step = torch.randn(k.shape, generator=torch.Generator().manual_seed(5), dtype=k.dtype)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(k, step)
        why = rfx.explain(rfx.linear_attention, q, dual, v, **call)
        out = rfx.linear_attention(q, dual, v, **call)
        tangent = torch.autograd.forward_ad.unpack_dual(out).tangent
    assert why.implementation == "torch-stream"
    assert "torch-fused refused: it has no derivative in forward mode" in why.reasons
    back = torch.randn(out.shape, generator=torch.Generator().manual_seed(6), dtype=k.dtype)
    leaf = k.clone().requires_grad_()
    rfx.linear_attention(q, leaf, v, implementation="torch-fused", **call).backward(back)
    torch.testing.assert_close((back * tangent).sum(), (leaf.grad * step).sum())


@CAUSAL
@pytest.mark.parametrize("halves", [False, True])
def test_bfloat16_costs_little_more_than_rounding(
    monkeypatch: pytest.MonkeyPatch, is_causal: bool, halves: bool
) -> None:
    monkeypatch.setattr("rfx_torch.fused._in_halves", lambda *_: halves)
    rng = np.random.default_rng(7)
    low = [torch.asarray(a).bfloat16() for a in rng.standard_normal((3, 2, 512, 16))]
    phi = rfx.features.Positive(num_features=64).draw(16, seed=8, like=low[0])
    call = {"features": phi, "is_causal": is_causal}
    back = torch.asarray(rng.standard_normal((2, 512, 16))).bfloat16()
    found = []
    for precision in (torch.bfloat16, torch.float32):
        leaves = [a.to(precision).requires_grad_() for a in low]
        path = "torch-fused" if precision == torch.bfloat16 else "portable"
        out = rfx.linear_attention(*leaves, implementation=path, **call)
        assert out.dtype == precision
        slopes = torch.autograd.grad(out, leaves, back.to(precision))
        found.append((out.detach().bfloat16(), slopes))
    want = torch.asarray(reference.linear_attention(*low, **call))
    (out, slopes), (rounded, wanted) = found
    assert (out - want).norm() <= 2 * (rounded - want).norm()
    assert (out - want).abs().max() <= 2 * (rounded - want).abs().max()
    for slope, exact in zip(slopes, wanted, strict=True):
        assert slope.dtype == torch.bfloat16
        assert torch.isfinite(slope).all()
        assert (slope.float() - exact).norm() <= 0.05 * exact.norm()


TOKENS = (
    Problem("32 entries", (32, 3, 1), (32, 3, 1), state=True),
    Problem("32 entries, grouped", (32, 6, 1), (32, 3, 1), form="heads", mask="random", state=True),
    Problem("no heads", (1,), (1,), form="hyperbolic"),
    Problem("biased", (2, 6, 1), (2, 3, 1), form="biased heads", mask="random", state=True),
    Problem("masked", (2, 6, 1), (2, 3, 1), form="biased", mask="nothing", state=True),
    Problem("masked, no state", (3, 1), (3, 1), mask="nothing"),
)


@pytest.mark.parametrize("problem", TOKENS, ids=str)
@pytest.mark.parametrize(
    ("path", "dtype"),
    [
        *((path, dtype) for path in ("numpy-step", "torch-step") for dtype in FLOATS),
        *((path, "float32") for path in ("numpy-numba-step", "torch-numba-step")),
    ],
)
def test_a_decoding_step_agrees_with_the_portable_code(
    path: str, problem: Problem, dtype: str
) -> None:
    arrays, call = problem.call(path.partition("-")[0], dtype)
    out, state = rfx.linear_attention(*arrays, implementation=path, **call)
    want, wanted = rfx.linear_attention(*arrays, implementation="portable", **call)
    assert_agrees(out, to_numpy(want), scale=16.0)
    for name in ("numerator", "denominator", "log_scale"):
        assert_agrees(getattr(state, name), to_numpy(getattr(wanted, name)), scale=16.0)
        if problem.mask == "nothing" and problem.state:
            before = to_numpy(getattr(call["initial_state"], name))
            np.testing.assert_array_equal(to_numpy(getattr(state, name)), before)


@pytest.mark.parametrize(
    "path", ["numpy-step", "torch-step", "numpy-numba-step", "torch-numba-step"]
)
def test_steps_one_by_one_equal_one_causal_call(path: str) -> None:
    problem = Problem("whole", (32, 6, 20), (32, 3, 20), form="biased heads", mask="random")
    dtype = "float32" if "numba" in path else "float64"
    (q, k, v), call = problem.call(path.partition("-")[0], dtype)
    want, wanted = rfx.linear_attention(q, k, v, is_causal=True, **call)
    mask, state, rows = call.pop("mask"), None, []
    for i in range(20):
        token = (a[..., i : i + 1, :] for a in (q, k, v))
        options = {"mask": mask[..., i : i + 1], "initial_state": state, "implementation": path}
        out, state = rfx.linear_attention(*token, is_causal=True, **options, **call)
        rows.append(to_numpy(out))
    assert_agrees(np.concatenate(rows, -2), to_numpy(want), scale=16.0)
    for name in ("numerator", "denominator", "log_scale"):
        assert_agrees(getattr(state, name), to_numpy(getattr(wanted, name)), scale=16.0)
    assert int(state.length) == 20


def test_the_compiled_step_runs_only_if_named(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, call = TOKENS[0].call("torch", "float32")

    def chosen(**name: str) -> str:
        return rfx.explain(rfx.linear_attention, *arrays, **name, **call).implementation

    assert chosen() == "torch-numba-step"
    assert chosen(implementation="torch-compiled-step") == "torch-compiled-step"
    steps = ("torch-numba-step", "torch-step")
    others = tuple(path for path in dispatch.load("torch") if path.name not in steps)
    monkeypatch.setitem(dispatch._loaded, "torch", others)
    assert chosen() == "torch-fused"


def test_a_path_by_name_is_passed_over_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def marked(features, query, key, value, mask, carry, *, chunk_size):
        return query + 7.0, carry

    x = np.zeros((1, 4, 2))
    phi = rfx.features.Positive(num_features=4).draw(2, seed=0, like=x)
    path = FastPath("bidirectional", "numpy", "slow-start", marked, ("cpu",), by_name=True)
    monkeypatch.setitem(dispatch._loaded, "numpy", (path,))
    assert (rfx.linear_attention(x, x, x, features=phi) == 0.0).all()
    assert rfx.explain(rfx.linear_attention, x, x, x, features=phi).implementation == "portable"
    named = rfx.linear_attention(x, x, x, features=phi, implementation="slow-start")
    with rfx.options(implementation="slow-start"):
        also = rfx.linear_attention(x, x, x, features=phi)
    assert (named == 7.0).all()
    assert (also == 7.0).all()
