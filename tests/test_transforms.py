"""Gradients, and the transformations of torch and JAX, go through linear attention."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.testing import assert_agrees, drawn
from tests.conftest import one_name_per_form

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

FORMS = pytest.mark.parametrize("name", one_name_per_form()[:2])
CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
COMPILER = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def inputs(length: int = 21, scale: float = 0.5, seed: int = 40) -> tuple[np.ndarray, ...]:
    q, k, v = scale * np.random.default_rng(seed).standard_normal((3, 2, length, 4))
    return q, k, v


def draw(name: str, like, m: int = 16):
    return drawn(rfx.features.named(name, num_features=m), 4, seed=41, like=like, heads=2)


def steep_inputs() -> tuple[np.ndarray, ...]:
    """Keys that are long, then short: the chunk is halved."""
    q, k, v = inputs(16, 1.0)
    k[:, :8] *= 40.0
    return q, k, v


def loss(out):
    return (out * out).sum() + out[..., 0].sum()


@FORMS
@CAUSAL
@pytest.mark.parametrize("masked", [False, True])
def test_torch_gradients_are_those_of_finite_differences(
    name: str, is_causal: bool, masked: bool
) -> None:
    q, k, v = (torch.asarray(a[:, :5]).requires_grad_() for a in inputs())
    phi = draw(name, q.detach(), m=4)
    mask = torch.arange(5) != 0 if masked else None
    weight = phi.query_side.weight.clone().requires_grad_()

    def call(q, k, v, weight):
        features = phi.with_arrays(phi.arrays() | {"query_weight": weight})
        return rfx.linear_attention(
            q, k, v, features=features, is_causal=is_causal, mask=mask, chunk_size=3
        )

    assert torch.autograd.gradcheck(call, (q, k, v, weight))
    if not masked:
        assert torch.autograd.gradgradcheck(call, (q, k, v, weight), fast_mode=True)


@FORMS
@CAUSAL
def test_jax_gradients_are_those_of_torch(name: str, is_causal: bool) -> None:
    """Torch's are held to finite differences; JAX's, of every array of the map, to torch's."""
    arrays = inputs()
    with jax.enable_x64(True):
        q, k, v = (jnp.asarray(a) for a in arrays)
        phi = draw(name, q)

        def call(q, k, v, phi):
            options = {"features": phi, "is_causal": is_causal, "chunk_size": 8}
            return loss(rfx.linear_attention(q, k, v, **options))

        got = jax.grad(call, argnums=(0, 1, 2, 3))(q, k, v, phi)
    q, k, v = (torch.asarray(a).requires_grad_() for a in arrays)
    phi = draw(name, q.detach())
    leaves = {n: a.requires_grad_(n != "fingerprint") for n, a in phi.arrays().items()}
    out = rfx.linear_attention(
        q, k, v, features=phi.with_arrays(leaves), is_causal=is_causal, chunk_size=8
    )
    loss(out).backward()
    pairs = [*zip(got[:3], (q, k, v), strict=True)]
    pairs += [(got[3].arrays()[n], a) for n, a in leaves.items() if n != "fingerprint"]
    for mine, other in pairs:  # torch has none where an array does not matter, JAX has zeros
        gradient = torch.zeros_like(other) if other.grad is None else other.grad
        assert_agrees(mine, to_numpy(gradient), scale=256.0)


@CAUSAL
def test_gradients_of_masked_keys_and_values_are_zero_even_if_they_hold_nan(
    is_causal: bool,
) -> None:
    q, k, v = inputs()
    keep = np.arange(21) % 3 != 0
    k[:, ~keep], v[:, ~keep] = np.nan, np.nan
    t = [torch.asarray(a).requires_grad_() for a in (q, k, v)]
    phi = draw("favor+", t[0].detach())
    weight = phi.query_side.weight.requires_grad_()
    out = rfx.linear_attention(
        *t, features=phi, is_causal=is_causal, mask=torch.asarray(keep), chunk_size=8
    )
    loss(out).backward()
    for array in (*t, weight):
        assert torch.isfinite(array.grad).all()
    assert (t[1].grad[:, ~keep] == 0).all()
    assert (t[2].grad[:, ~keep] == 0).all()


@CAUSAL
def test_gradients_stay_finite_at_large_norms(is_causal: bool) -> None:
    options = {"is_causal": is_causal, "chunk_size": 16}
    spec = rfx.features.Positive(num_features=16)
    like = np.zeros(1, dtype=np.float32)
    on_torch, on_jax = (spec.draw(4, seed=41, like=m.asarray(like)) for m in (torch, jnp))

    # Under vmap both branches of a steep chunk are computed, and their gradients selected.
    @jax.jit
    @jax.vmap
    def gradient(q, k, v):
        def call(*arrays):
            return loss(rfx.linear_attention(*arrays, features=on_jax, **options))

        return jax.grad(call, argnums=(0, 1, 2))(q, k, v)

    for scale in (30.0, 300.0, 3000.0):
        arrays = [a.astype(np.float32) for a in inputs(32, scale)]
        leaves = [torch.asarray(a).requires_grad_() for a in arrays]
        loss(rfx.linear_attention(*leaves, features=on_torch, **options)).backward()
        assert all(torch.isfinite(a.grad).all() for a in leaves)
        assert all(jnp.isfinite(g).all() for g in gradient(*map(jnp.asarray, arrays)))


@FORMS
@CAUSAL
@pytest.mark.parametrize("steep", [False, True])
def test_torch_func_goes_through(name: str, is_causal: bool, steep: bool) -> None:
    q, k, v = (torch.asarray(a) for a in (steep_inputs() if steep else inputs()))
    phi = draw(name, q)
    shared = drawn(rfx.features.named(name, num_features=16), 4, seed=42, like=q)

    def call(q, k, v):
        return rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal, chunk_size=8)

    def one_head(q, k, v):
        return rfx.linear_attention(q, k, v, features=shared, is_causal=is_causal, chunk_size=8)

    batch = [torch.stack([a, 0.5 * a]) for a in (q, k, v)]
    want = torch.stack([call(*[a[i] for a in batch]) for i in range(2)])
    assert_agrees(torch.func.vmap(call)(*batch), to_numpy(want), scale=1e4 if steep else 256.0)
    heads = torch.func.vmap(one_head)(q, k, v)
    assert_agrees(heads, to_numpy(one_head(q, k, v)), scale=1e4 if steep else 256.0)
    leaf = q.clone().requires_grad_()
    loss(call(leaf, k, v)).backward()
    gradient = torch.func.grad(lambda q: loss(call(q, k, v)))(q)
    assert_agrees(gradient, to_numpy(leaf.grad), scale=1e4 if steep else 256.0)


@FORMS
@CAUSAL
@pytest.mark.parametrize("steep", [False, True])
def test_jax_transformations_go_through(name: str, is_causal: bool, steep: bool) -> None:
    arrays = [a.astype(np.float32) for a in (steep_inputs() if steep else inputs())]
    q, k, v = (jnp.asarray(a) for a in arrays)
    phi = draw(name, q)

    def call(q, k, v, phi):
        return rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal, chunk_size=8)

    want = rfx.linear_attention(
        *arrays, features=draw(name, arrays[0]), is_causal=is_causal, chunk_size=8
    )
    scale = reference.log_size(*arrays[:2], features=phi) * reference.conditioning(
        *arrays[:2], features=phi, is_causal=is_causal
    )
    check = {"scale": scale * (2 + np.abs(want)), "size": float(np.abs(arrays[2]).max())}
    assert_agrees(call(q, k, v, phi), want, **check)
    assert_agrees(jax.jit(call)(q, k, v, phi), want, **check)
    batched = jax.vmap(call, in_axes=(0, 0, 0, None))(q[None], k[None], v[None], phi)
    assert_agrees(batched[0], want, **check)


def test_jax_compiles_once_for_redraws_and_steps() -> None:
    q, k, v = (jnp.asarray(a, dtype=jnp.float32) for a in inputs())
    traces = 0

    @jax.jit
    def step(q, k, v, phi, state):
        nonlocal traces
        traces += 1
        options = {"features": phi, "is_causal": True, "return_state": True}
        return rfx.linear_attention(q, k, v, initial_state=state, **options)

    spec = rfx.features.Positive(num_features=16)
    for seed in (0, 1):
        phi = spec.draw(4, seed=seed, like=q)
        _, state = rfx.linear_attention(q, k, v, features=phi, return_state=True)
        for _ in range(3):
            _, state = step(q[:, :1], k[:, :1], v[:, :1], phi, state)
    assert traces == 1
    assert int(state.length) == 24


def test_jax_compiles_in_a_time_that_does_not_grow_with_the_length() -> None:
    phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=jnp.zeros(1))

    def operations(length: int) -> int:
        x = jax.ShapeDtypeStruct((1, length, 4), jnp.float32)

        def call(q, k, v):
            return rfx.linear_attention(q, k, v, features=phi, is_causal=True, chunk_size=16)

        return len(jax.jit(call).lower(x, x, x).as_text().splitlines())

    assert operations(64) == operations(4096)


def test_the_backward_pass_of_jax_keeps_no_features() -> None:
    length, m = 8192, 256
    phi = rfx.features.Positive(num_features=m).draw(16, seed=0, like=jnp.zeros(1))

    def call(q, k, v):
        return loss(rfx.linear_attention(q, k, v, features=phi, is_causal=True))

    def memory(length: int) -> int:
        x = jax.ShapeDtypeStruct((1, length, 16), jnp.float32)
        compiled = jax.jit(jax.grad(call, (0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Features of queries and keys would be 8 m bytes a position.
    assert memory(2 * length) - memory(length) < length * m * 2


@pytest.mark.parametrize(("m", "compiled"), [(256, False), (2048, False), (256, True)])
def test_the_backward_pass_of_torch_keeps_no_features(m: int, compiled: bool) -> None:
    code = f"""
import resource, torch, rfx
length = {4_000_000 // m}
x = [torch.randn(1, length, 16, requires_grad=True) for _ in range(3)]
phi = rfx.features.Positive(num_features={m}).draw(16, seed=0, like=x[0])
def call(q, k, v):
    return rfx.linear_attention(q, k, v, features=phi, is_causal=True).sum()
if {compiled}:
    call = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
short = [a[:, :2048].detach().requires_grad_() for a in x]
call(*short).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
call(*x).backward()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 / (length * {m} * 4))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Features of queries and keys, and what is computed on the way, would be several times 1.
    assert float(done.stdout) < 1.0


@COMPILER
@FORMS
def test_torch_compile_takes_it_as_one_graph(name: str) -> None:
    q, k, v = (torch.asarray(a, dtype=torch.float32) for a in inputs(40))
    phi = draw(name, q)
    mask = torch.arange(40) > 3

    def call(q, k, v, mask):
        return rfx.linear_attention(q, k, v, features=phi, is_causal=True, mask=mask, chunk_size=16)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    a = [x.clone().requires_grad_() for x in (q, k, v)]
    b = [x.clone().requires_grad_() for x in (q, k, v)]
    want, got = call(*a, mask), compiled(*b, mask)
    assert_agrees(got, to_numpy(want.detach()))
    loss(want).backward()
    loss(got).backward()
    for x, y in zip(a, b, strict=True):
        assert_agrees(y.grad, to_numpy(x.grad), scale=256.0)


@COMPILER
def test_inductor_compiles_a_module_with_a_map_and_a_state() -> None:
    from rfx_torch import FeatureModule

    class Layer(torch.nn.Module):
        def __init__(self, phi):
            super().__init__()
            self.features = FeatureModule(phi, trainable=True)

        def forward(self, q, k, v):
            call = {"features": self.features(), "is_causal": True, "return_state": True}
            out, state = rfx.linear_attention(q, k, v, **call)
            more, _ = rfx.linear_attention(q, k, v, initial_state=state, **call)
            return out + more

    q, k, v = (torch.asarray(a, dtype=torch.float32) for a in inputs(20))
    layer = Layer(draw("favor+", q))
    want = layer(q, k, v)
    loss(want).backward()
    wanted = {n: p.grad.clone() for n, p in layer.named_parameters()}
    layer.zero_grad()
    got = torch.compile(layer, fullgraph=True)(q, k, v)
    assert_agrees(got.detach(), to_numpy(want.detach()), scale=16.0)
    loss(got).backward()
    for n, p in layer.named_parameters():
        assert_agrees(p.grad, to_numpy(wanted[n]), scale=256.0)


def test_a_feature_module_moves_and_is_saved_with_its_model() -> None:
    from rfx_torch import FeatureModule

    x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    phi = draw("favor+", x)
    module = torch.nn.Sequential(FeatureModule(phi))
    other = torch.nn.Sequential(
        FeatureModule(draw("favor+", x + 1).spec.draw(4, seed=9, like=x, heads=2))
    )
    other.load_state_dict(module.state_dict())
    want = rfx.linear_attention(x, x, x, features=phi)
    got = rfx.linear_attention(x, x, x, features=other[0]())
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    half = module.half()
    assert half[0].query_weight.dtype == torch.float32
    out = rfx.linear_attention(x.half(), x.half(), x.half(), features=half[0]())
    assert out.dtype == torch.float16
    double = rfx.linear_attention(*[x.double()] * 3, features=module.double()[0]())
    assert double.dtype == torch.float64
    assert list(FeatureModule(phi, trainable=True).parameters())


def test_autocast_changes_nothing() -> None:
    q, k, v = (4 * torch.asarray(a, dtype=torch.float32) for a in inputs(40))
    phi = draw("favor+", q)
    calls = {
        "fast": lambda: rfx.linear_attention(q, k, v, features=phi, is_causal=True),
        "portable": lambda: rfx.linear_attention(q, k, v, features=phi, implementation="portable"),
        "exact": lambda: rfx.kernel_attention(q, k, v),
        "gram": lambda: rfx.gram(q, k, features=phi),
        "kernel": lambda: phi.kernel(q, k),
        "features": lambda: phi.query(q).log_scale,
    }
    for call in calls.values():
        want = call()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = call()
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@COMPILER
def test_torch_func_goes_through_inside_a_compiled_function() -> None:
    q, k, v = (torch.asarray(a, dtype=torch.float32) for a in inputs(20))
    phi = rfx.features.Positive(num_features=8).draw(4, seed=43, like=q)

    def call(q, k, v):
        return rfx.linear_attention(q, k, v, features=phi, is_causal=True, chunk_size=10)

    for function in (torch.func.vmap(call), torch.func.grad(lambda *a: loss(call(*a)))):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_agrees(compiled(q, k, v), to_numpy(function(q, k, v)), scale=256.0)


@pytest.mark.parametrize("path", ["jax-scan", "jax-numba"])
def test_gradients_of_a_vmap_some_of_whose_entries_are_steep(path: str) -> None:
    """Entries whose chunks have one scale, and one whose chunks need care, in one program."""
    if path == "jax-numba":
        pytest.importorskip("numba")
    q, k, v = (jax.numpy.asarray(a, "float32") for a in inputs(20))
    rise = np.ones((*k.shape[:-1], 1), np.float32)
    rise[0] *= np.geomspace(30.0, 0.1, k.shape[-2], dtype=np.float32)[:, None]
    k = k * rise
    phi = rfx.features.Positive(num_features=8).draw(4, seed=43, like=q)

    def call(q, k, v):
        options = {"is_causal": True, "chunk_size": 10, "implementation": path}
        return rfx.linear_attention(q, k, v, features=phi, **options)

    def of(function):
        return jax.jit(jax.grad(lambda *a: (function(*a) ** 2).sum(), argnums=(0, 1, 2)))(q, k, v)

    for whole, mapped in zip(of(call), of(jax.vmap(call)), strict=True):
        size = float(np.abs(to_numpy(whole)).max())
        assert np.isfinite(size)
        np.testing.assert_allclose(mapped, whole, rtol=1e-4, atol=1e-5 * size)


def test_shard_map_splits_heads_over_devices() -> None:
    code = """
import os
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
import jax, numpy as np, rfx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()), ("heads",))
host = np.random.default_rng(0).standard_normal((3, 4, 40, 4)).astype(np.float32)
phi = rfx.features.Positive(16).draw(4, seed=0, like=jax.numpy.zeros(1))
phi = jax.device_put(phi, NamedSharding(mesh, P()))
q, k, v = (jax.device_put(a, NamedSharding(mesh, P("heads"))) for a in host)
def attend(phi, q, k, v):
    return rfx.linear_attention(q, k, v, features=phi, is_causal=True, chunk_size=16)
places = (P(), P("heads"), P("heads"), P("heads"))
split = jax.jit(jax.shard_map(attend, mesh=mesh, in_specs=places, out_specs=P("heads")))
loss = lambda function: jax.grad(lambda k: (function(phi, q, k, v) ** 2).sum())(k)
print(float(abs(split(phi, q, k, v) - attend(phi, q, k, v)).max()))
print(float(abs(loss(split) - loss(attend)).max()))
print(len(split(phi, q, k, v).sharding.device_set))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    output, gradient, devices = (float(line) for line in done.stdout.split())
    assert output < 1e-6
    assert gradient < 1e-5
    assert devices == 2
