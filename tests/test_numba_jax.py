"""The loops of numba inside JAX programs: when they run, and all that JAX does to them."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest

import rfx
from rfx import ops
from rfx._xp import to_numpy
from rfx.testing import EPS

pytest.importorskip("numba")
jax = pytest.importorskip("jax")
jnp = jax.numpy

CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
PATHS = list(product(("jax-numba", "jax-numba-step"), (False, True)))[:3]
BOTH = pytest.mark.parametrize(("path", "is_causal"), PATHS)
DIM, WIDTH = 4, 12


def arrays(*shape: int, seed: int = 0, count: int = 3) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(a, jnp.float32) for a in rng.standard_normal((count, *shape, DIM))]


def drawn(heads: int | None = None, seed: int = 1) -> Any:
    return rfx.features.Positive(WIDTH).draw(DIM, seed=seed, like=jnp.zeros(1), heads=heads)


def close(found: Any, want: Any, factor: float = 200.0) -> None:
    """To eps times the largest number of each array, and a factor for what adds up."""
    found, want = (jax.tree.leaves(each) for each in (found, want))
    assert len(found) == len(want)
    for a, b in zip(found, want, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= factor * EPS["float32"] * max(1.0, np.abs(b).max())


def attend(path: str | None, is_causal: bool = False) -> Any:
    """Attention as a function of a map and arrays, with the state it leaves."""

    def call(features, q, k, v, mask=None, state=None):
        options = {"features": features, "mask": mask, "initial_state": state}
        options |= {"is_causal": is_causal, "chunk_size": 8, "implementation": path}
        out, after = rfx.linear_attention(q, k, v, return_state=True, **options)
        return out, after.numerator, after.denominator

    return call


def length(path: str) -> int:
    return 1 if path.endswith("step") else 21


def loss(call: Any) -> Any:
    return lambda *args: sum(jnp.sum(jnp.sin(a + i)) for i, a in enumerate(call(*args)))


def plain(path: str) -> str:
    assert path.startswith("jax-numba")
    return "jax-scan"


def test_long_calls_and_tokens_run_compiled() -> None:
    def chosen(L: int, trace: bool = False) -> tuple[str, tuple[str, ...]]:
        found = []

        def look(q, k, v):
            why = rfx.explain(rfx.linear_attention, q, k, v, features=phi, is_causal=True)
            found.append((why.implementation, why.reasons))
            return q

        (jax.jit(look) if trace else look)(*(jnp.zeros((8, L, 64)),) * 3)
        return found[0]

    phi = rfx.features.Positive(256).draw(64, seed=0, like=jnp.zeros(1))
    for trace in (False, True):
        assert chosen(512, trace)[0] == "jax-numba"
        assert chosen(1, trace)[0] == "jax-numba-step"
        name, reasons = chosen(200, trace)
        assert name == "jax-scan"
        assert "jax-numba refused: the call is too short to load numba for" in reasons


def test_large_sums_are_left_to_xla() -> None:
    phi = rfx.features.Positive(256).draw(64, seed=0, like=jnp.zeros(1))
    for heads, path in ((16, "jax-numba-step"), (17, "jax-scan")):
        token = jnp.zeros((heads, 1, 64))
        found = rfx.explain(rfx.linear_attention, token, token, token, features=phi)
        assert found.implementation == path
    assert "the sums are large (278528 numbers)" in found.reasons[0]


def test_a_state_is_kept_unless_it_is_given_away() -> None:
    phi, (q, k, v) = drawn(), arrays(2, 3)
    _, state = rfx.linear_attention(q, k, v, features=phi, return_state=True)
    before = jax.tree.map(np.array, state)

    def step(state):
        token = (a[:, :1] for a in (q, k, v))
        options = {"features": phi, "implementation": "jax-numba-step", "return_state": True}
        return rfx.linear_attention(*token, initial_state=state, **options)

    for call in (step, jax.jit(step)):
        out, after = call(state)
        jax.tree.map(np.testing.assert_array_equal, state, before)
        assert (np.asarray(after.denominator) != before.denominator).any()
    given = jax.tree.map(jnp.copy, state)
    place = given.numerator.unsafe_buffer_pointer()
    again = jax.jit(step, donate_argnums=0)(given)
    assert given.numerator.is_deleted()
    assert again[1].numerator.unsafe_buffer_pointer() == place
    jax.tree.map(np.testing.assert_array_equal, again, (out, after))

    def several(state):
        return jax.lax.scan(lambda s, _: step(s)[::-1], state, None, length=4)[0]

    want = state
    for _ in range(4):
        _, want = step(want)
    close(several(state), want, factor=8.0)


def test_features_of_many_points_run_compiled() -> None:
    x = jnp.zeros((5000, 5))
    phi = rfx.features.Trigonometric(1024, kernel=rfx.kernels.Gaussian()).draw(5, seed=0, like=x)
    assert ops.features.choose(phi, x, side="query")[1][0] == "jax-numba"
    assert ops.features.choose(phi, x[:1000], side="query")[1][0] == "jax-cosine"


def test_programs_for_other_devices_are_left_to_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    found = []
    phi, (q, *_) = drawn(), arrays(2, 1)

    def look(q):
        found.append(rfx.explain(rfx.linear_attention, q, q, q, features=phi))
        return q

    jax.jit(look)(q)
    assert found[0].implementation == "jax-scan"
    assert "jax-numba-step refused: programs run on tpu here" in found[0].reasons[0]
    assert rfx.explain(rfx.linear_attention, q, q, q, features=phi).implementation.endswith("step")


@BOTH
@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_a_program_calls_the_host_on_a_cpu_only(path: str, is_causal: bool, platform: str) -> None:
    traced = jax.jit(partial(attend(path, is_causal), drawn())).trace(*arrays(2, length(path)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("rfx_" in text) == (platform == "cpu")
    assert ("dot_general" in text) != (platform == "cpu")


@BOTH
@pytest.mark.parametrize("kind", ["plain", "mask", "grouped", "lengths"])
def test_gradients_are_those_of_the_scan(path: str, is_causal: bool, kind: str) -> None:
    L = length(path)
    q, k, v = arrays(2, 3, L)
    phi, mask = drawn(3), None
    if kind == "mask":
        mask = np.random.default_rng(3).random((2, 1, L)) < 0.6
        k = jnp.where(mask[..., None], k, jnp.nan)
    elif kind == "grouped":
        (q,) = arrays(2, 6, L, seed=5, count=1)
    elif kind == "lengths" and L > 1:
        k, v = (a[..., :13, :] for a in (k, v))
    _, state = rfx.linear_attention(*arrays(2, 3, 5, seed=2), features=phi, return_state=True)
    args, calls = (phi, q, k, v, mask, state), [attend(n, is_causal) for n in (path, plain(path))]
    close(*(jax.jit(call)(*args) for call in calls))
    found, want = (jax.jit(jax.grad(loss(call), (1, 2, 3)))(*args) for call in calls)
    close(found, want)
    assert all(np.abs(a).max() > 0 for a in found[1:])
    if mask is not None:
        assert not np.asarray(found[1])[~np.broadcast_to(mask, found[1].shape[:-1])].any()


@CAUSAL
def test_gradients_of_the_sums_of_a_state(is_causal: bool) -> None:
    phi, (q, k, v) = drawn(), arrays(2, 21)
    _, state = rfx.linear_attention(q, k, v, features=phi, return_state=True)

    def of_sums(path):
        import dataclasses

        def call(numerator, denominator, q):
            start = dataclasses.replace(state, numerator=numerator, denominator=denominator)
            return loss(attend(path, is_causal))(phi, q, k, v, None, start)

        return jax.grad(call, (0, 1, 2))(state.numerator, state.denominator, q)

    close(of_sums("jax-numba"), of_sums("jax-scan"))


def gradient_of_arrays(call, phi, *args):
    names = [n for n in phi.arrays() if n != "fingerprint"]

    def of(trained):
        features = phi.with_arrays(phi.arrays() | trained)
        return loss(call)(features, *args)

    return jax.grad(of)({n: phi.arrays()[n] for n in names})


@BOTH
def test_other_derivatives_are_those_of_the_scan(path: str, is_causal: bool) -> None:
    phi, (q, k, v), (step,) = drawn(), arrays(2, length(path)), arrays(2, length(path), count=1)
    calls = [attend(name, is_causal) for name in (path, plain(path))]

    def each(function):
        close(*(function(call) for call in calls))

    each(lambda call: jax.jvp(lambda k: call(phi, q, k, v), (k,), (step,)))
    each(lambda call: gradient_of_arrays(call, phi, q, k, v))
    each(lambda call: jax.jvp(jax.grad(lambda k: loss(call)(phi, q, k, v)), (k,), (step,)))

    def squared(call):
        return lambda k: jnp.sum(jnp.square(jax.grad(loss(call), 1)(phi, q, k, v)))

    each(lambda call: jax.grad(squared(call))(k))
    each(lambda call: jax.grad(jax.checkpoint(lambda v: loss(call)(phi, q, k, v)))(v))


@BOTH
def test_vmap_over_entries_heads_keys_and_maps(path: str, is_causal: bool) -> None:
    L = length(path)
    q, k, v = arrays(3, 2, L)
    mask = np.random.default_rng(3).random((3, L)) < 0.7
    calls = [attend(name, is_causal) for name in (path, plain(path))]
    maps = [drawn(seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *maps)

    def each(axes, *args):
        close(*(jax.jit(jax.vmap(call, axes))(*args) for call in calls))
        close(*(jax.vmap(jax.grad(loss(call), (1, 2)), axes)(*args) for call in calls))

    each((None, 0, 0, 0), drawn(2), q, k, v)
    each((None, 1, 1, 1, 0), drawn(), *(a.swapaxes(0, 1) for a in (q, k, v)), mask)
    each((None, 0, None, None, 0), drawn(), q, k[0], v[0], mask)
    each((0, None, 0, None), stacked, q[0], k, v[0])

    def twice(call):
        return jax.vmap(jax.vmap(call, (None, 0, 0, 0)), (None, 0, 0, 0))

    close(*(twice(call)(drawn(), q, k, v) for call in calls))
    total = [lambda *a, call=call: loss(twice(call))(*a) for call in calls]
    close(*(jax.grad(f, (1, 2, 3))(drawn(), q, k, v) for f in total))


@pytest.mark.parametrize("offset", [False, True])
def test_features_through_transforms(offset: bool) -> None:
    (x,) = arrays(3, 5, count=1)
    spec = rfx.features.Trigonometric(6, kernel=rfx.kernels.Gaussian(), offset=offset)
    maps = [spec.draw(DIM, seed=seed, like=x) for seed in range(3)]

    def call(path):
        def features(phi, x):
            with rfx.options(implementation=path):
                assert ops.features.choose(phi, x, side="query")[1][0] == path
                return phi.query(x)

        return features

    def each(function):
        close(*(function(call(path)) for path in ("jax-numba", "jax-cosine")), factor=8.0)

    stacked = jax.tree.map(lambda *a: jnp.stack(a), *maps)
    each(lambda f: f(maps[0], x))
    each(lambda f: jax.jit(jax.vmap(f, (None, 1)))(maps[0], x))
    each(lambda f: jax.vmap(f, (0, None))(stacked, x))
    each(lambda f: jax.jacfwd(f, 1)(maps[0], x[0]))
    each(lambda f: jax.jacrev(f, 1)(maps[0], x[0]))
    each(lambda f: jax.hessian(f, 1)(maps[0], x[0, 0][None]))


def test_float32_stays_float32_where_jax_has_float64() -> None:
    code = """
import jax, jax.numpy as jnp, rfx
jax.config.update("jax_enable_x64", True)
x = jnp.ones((50, 5), jnp.float32)
for offset in (False, True):
    spec = rfx.features.Trigonometric(12, kernel=rfx.kernels.Gaussian(), offset=offset)
    phi = spec.draw(5, seed=0, like=x)
    for path in ("jax-numba", "jax-cosine", "portable"):
        with rfx.options(implementation=path):
            print(*{a.dtype for a in phi.query(x)})
phi = rfx.features.Positive(12).draw(5, seed=0, like=x)
for path in ("jax-numba", "jax-scan"):
    call = lambda x: rfx.linear_attention(x, x, x, features=phi, implementation=path)
    print(call(x).dtype, jax.grad(lambda x: call(x).sum())(x).dtype)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"float32"}


def test_an_older_jax_is_left_to_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    phi, (q, *_) = drawn(), arrays(2, 1)
    monkeypatch.delattr(jax.sharding, "get_abstract_mesh")
    found = rfx.explain(rfx.linear_attention, q, q, q, features=phi)
    assert found.implementation == "jax-scan"
    assert "it needs JAX 0.6 or later" in found.reasons[0]
    rfx.linear_attention(q, q, q, features=phi)


def test_lengths_that_are_symbols_are_left_to_xla() -> None:
    from jax import export

    phi, (q, *_) = drawn(), arrays(2, 3, 5)
    (batch,) = export.symbolic_shape("b")
    for L in (1, 5):
        call = jax.jit(lambda q: rfx.linear_attention(q, q, q, features=phi, is_causal=True))
        program = export.export(call)(jax.ShapeDtypeStruct((batch, 3, L, DIM), jnp.float32))
        close(jax.jit(program.call)(q[..., :L, :]), call(q[..., :L, :]))


def test_a_program_is_exported_by_the_name_of_another_path() -> None:
    from jax import export

    phi, (q, *_) = drawn(), arrays(2, 1)
    with pytest.raises(ValueError, match="custom calls"):
        export.export(jax.jit(lambda q: rfx.linear_attention(q, q, q, features=phi)))(q)
    with rfx.options(implementation="jax-scan"):
        program = export.export(jax.jit(lambda q: rfx.linear_attention(q, q, q, features=phi)))(q)
    close(program.call(q), rfx.linear_attention(q, q, q, features=phi))


def test_arrays_that_are_spread_over_devices() -> None:
    code = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, numpy as np, rfx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()), ("heads",))
host = np.random.default_rng(0).standard_normal((3, 4, 1, 4)).astype(np.float32)
phi = rfx.features.Positive(16).draw(4, seed=0, like=jax.numpy.zeros(1))
alone = rfx.linear_attention(*map(jax.numpy.asarray, host), features=phi)
phi = jax.device_put(phi, NamedSharding(mesh, P()))
q, k, v = (jax.device_put(a, NamedSharding(mesh, P("heads"))) for a in host)
def attend(phi, q, k, v):
    print(rfx.explain(rfx.linear_attention, q, k, v, features=phi))
    return rfx.linear_attention(q, k, v, features=phi)
places = (P(), P("heads"), P("heads"), P("heads"))
found = jax.jit(attend)(phi, q, k, v)
split = jax.jit(jax.shard_map(attend, mesh=mesh, in_specs=places, out_specs=P("heads")))
print(np.abs(np.asarray(found) - np.asarray(alone)).max() < 1e-6)
print(np.abs(np.asarray(split(phi, q, k, v)) - np.asarray(alone)).max() < 1e-6)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole, right, part, reason, *others, split = done.stdout.splitlines()
    assert whole.endswith("'jax-numba-step'")
    assert part.endswith("'jax-scan'")
    assert reason == ("  jax-numba-step refused: it serves no parts of arrays inside jax.shard_map")
    assert others[0].endswith("inside jax.shard_map")
    assert [right, split] == ["True", "True"]


def test_calls_from_several_threads_agree() -> None:
    from concurrent.futures import ThreadPoolExecutor

    phi, (q, k, v) = drawn(), arrays(4, 60)
    call = jax.jit(partial(attend("jax-numba", True), phi))
    want = [to_numpy(a) for a in call(q, k, v)]

    def run(_: int) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(want, call(q, k, v), strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(40)))


def test_numbers_that_are_not_finite_stay_so() -> None:
    phi, (q, k, v) = drawn(), arrays(2, 21)
    for path in ("jax-numba", "jax-scan"):
        out, *_ = attend(path, True)(phi, q, k.at[0, 10, 1].set(jnp.nan), v)
        finite = np.isfinite(np.asarray(out)).all(-1)
        assert finite[1].all()
        assert not finite[0, 16:].any()
        assert finite[0, :8].all()
