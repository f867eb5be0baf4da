"""Calls of the host inside JAX programs: arrays, options, errors, threads, and what JAX may do."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

from rfx_jax import host as host_module  # noqa: E402
from rfx_jax.host import HostCall, HostFunction  # noqa: E402
from rfx_jax.placing import with_derivative  # noqa: E402

seen: list[tuple] = []


def scale(call: HostCall) -> None:
    x, mask, empty, out, flags = call.arrays()
    seen.append((x.dtype, mask.dtype, empty.shape, call.options))
    out[...] = x * call.options["factor"]
    flags[...] = ~mask


def fail(call: HostCall) -> None:
    raise ValueError("`x` must be something else")


def pair(call: HostCall) -> None:
    weight, x, y, total, product = call.arrays()
    total[...], product[...] = x * weight + y, x * y


@cache
def function(name: str) -> HostFunction:
    return HostFunction(f"rfx_test_{name}", {"scale": scale, "fail": fail, "pair": pair}[name])


def test_a_call_reads_and_writes_the_memory_of_the_program() -> None:
    x = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)

    @jax.jit
    def run(x):
        empty, mask = jnp.zeros((0, 4), jnp.float32), x > 2.0
        return function("scale")([x + 1.0, mask, empty], [x, mask], factor=-0.1, name="ä")

    out, flags = run(x)
    np.testing.assert_array_equal(out, (np.asarray(x) + 1.0) * np.float32(-0.1))
    np.testing.assert_array_equal(flags, np.asarray(x) <= 2.0)
    assert seen[-1] == (np.float32, np.bool_, (0, 4), {"factor": -0.1, "name": "ä"})


def test_what_it_raises_the_program_raises() -> None:
    x = jnp.zeros(3)
    run = jax.jit(lambda x: function("fail")([x], [x]))
    for _ in range(2):
        with pytest.raises(jax.errors.JaxRuntimeError, match="ValueError: `x` must be something"):
            jax.block_until_ready(run(x))


def test_calls_from_several_threads() -> None:
    @jax.jit
    def run(x):
        return function("scale")([x, x > 0.0, x[:0]], [x, x > 0.0], factor=3.0)[0]

    def work(number: int) -> bool:
        x = jnp.full((50, 50), float(number))
        return all(bool(jnp.all(run(x) == 3.0 * number)) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be held to a core")
def test_threads_are_those_of_xla() -> None:
    code = """
import os
if {one}:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import jax
from rfx_jax.host import HostFunction
run = HostFunction("rfx_test_threads", lambda call: print(call.threads(), flush=True))
jax.block_until_ready(jax.jit(lambda x: run([x], [x]))(jax.numpy.zeros(1)))
"""
    found = []
    for one in (True, False):
        command = [sys.executable, "-c", code.format(one=one)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(int(done.stdout))
    assert found == [1, len(os.sched_getaffinity(0))]


LAST = "import atexit; atexit.register(lambda: print(float(out.sum())))"


@pytest.mark.parametrize("end", ["", "del out", "raise SystemExit(3)", LAST])
def test_a_process_ends_while_a_program_is_about_to_call(end: str) -> None:
    """JAX takes its client down with the interpreter's lock held, which the call needs."""
    code = """
import jax, jax.numpy as jnp, numpy as np
from rfx.workers import share
from rfx_jax.host import HostFunction

def double(call):
    x, out = call.arrays()
    share(lambda rows: [np.multiply(x[i], 2, out=out[i]) for i in rows], range(len(x)), 2)

run = HostFunction("rfx_test_end", double)

@jax.jit
def slow(x):
    y = jax.lax.fori_loop(0, 40, lambda i, y: jnp.tanh(y @ y.T @ y), jnp.ones((600, 600)))
    return run([x + 0.0 * y.sum()], [x])[0]

x = jnp.ones((4, 1000))
assert float(slow(x).sum()) == 8000.0
for _ in range(2):
    out = slow(x)
print(out.is_ready(), flush=True)
"""
    command = [sys.executable, "-c", code + end]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == (3 if "raise" in end else 0)
    assert done.stdout == ("False\n8000.0\n" if end == LAST else "False\n")
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="the advice is one to Linux")
def test_large_results_ask_for_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Libc:
        def madvise(self, start, length, advice) -> None:
            asked.append((start.value, length.value, advice))

    monkeypatch.setattr(host_module, "_libc", Libc)
    run = jax.jit(lambda x: function("scale")([x, x > 0.0, x[:0]], [x, x > 0.0], factor=3.0))
    jax.block_until_ready(run(jnp.zeros(1000)))
    assert not asked
    out, _ = jax.block_until_ready(run(jnp.zeros(1 << 20)))
    ((start, length, advice),) = asked
    address = np.asarray(out).ctypes.data
    assert start % 4096 == 0
    assert 0 <= start - address < 4096
    assert start + length == address + out.nbytes
    assert advice == 14


def other(weight, x, y):
    return {"sum": x * weight + y, "product": x * y}


def on_host(weight, x, y):
    out = function("pair")([jnp.broadcast_to(weight, x.shape), x, y], [x, x])
    return dict(zip(("sum", "product"), out, strict=True))


def same(found, want) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, want)


@pytest.mark.parametrize("axes", [(None, 0, 0), (None, 1, None), (0, 0, None), (0, None, None)])
def test_vmap_and_derivatives_of_what_is_called(axes) -> None:
    run = with_derivative(on_host, other)
    x, y = (jnp.asarray(a, jnp.float32) for a in np.random.default_rng(0).random((2, 4, 4)))
    weight = jnp.arange(4.0) if axes[0] == 0 else jnp.asarray(2.0)
    x, y = (a[0] if axis is None else a for a, axis in zip((x, y), axes[1:], strict=True))
    args = (weight, x, y)
    for change in (lambda f: f, jax.jit):
        same(change(jax.vmap(run, axes))(*args), jax.vmap(other, axes)(*args))

    def loss(f):
        def total(*args):
            out = jax.vmap(f, axes)(*args)
            return jnp.sum(jnp.sin(out["sum"]) * out["product"])

        return total

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        same(derivative(loss(run), 1)(*args), derivative(loss(other), 1)(*args))
