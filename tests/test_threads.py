"""The number of threads is an option, and the process gets its own numbers back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import rfx
from rfx import dispatch, reference
from rfx._xp import to_numpy
from rfx.testing import ArrayLibrary, assert_agrees, drawn

torch = pytest.importorskip("torch")
CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
HOSTS = pytest.mark.parametrize("library", ["numpy", "torch"])


def counts() -> tuple[list[int], int]:
    """Threads of each BLAS, and of torch."""
    blas = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
    return blas, torch.get_num_threads()


@pytest.fixture
def before() -> Iterator[tuple[list[int], int]]:
    """Numbers that no test here sets, so that giving back another would show."""
    torch_before = torch.get_num_threads()
    with threadpool_limits(3, user_api="blas"):
        torch.set_num_threads(3)
        yield counts()
        torch.set_num_threads(torch_before)


def problem(library: str, name: str = "favor+"):
    convert = ArrayLibrary(library, library).convert
    arrays = np.random.default_rng(60).standard_normal((3, 2, 3, 100, 5))
    q, k, v = (convert(a, "float32") for a in arrays)
    phi = drawn(rfx.features.named(name, num_features=24), 5, seed=61, like=q)
    return [q, k, v], {"features": phi, "chunk_size": 32}


@HOSTS
@CAUSAL
@pytest.mark.parametrize("name", ["favor", "favor+"])
def test_results_do_not_depend_on_the_number_of_threads(
    before, library: str, is_causal: bool, name: str
) -> None:
    arrays, call = problem(library, name)
    call["is_causal"] = is_causal
    want = reference.linear_attention(*arrays, **{n: call[n] for n in ("features", "is_causal")})
    scale = reference.conditioning(*arrays[:2], features=call["features"], is_causal=is_causal)
    scale = scale * reference.log_size(*arrays[:2], features=call["features"]) * (2 + np.abs(want))
    features = reference.features(call["features"], arrays[0], "query")
    for threads in (1, 2):
        with rfx.options(threads=threads):
            out = rfx.linear_attention(*arrays, **call)
            mapped = call["features"].query(arrays[0]).exp()
        assert_agrees(out, want, scale=scale, size=float(np.abs(to_numpy(arrays[2])).max()))
        assert_agrees(mapped, np.exp(features[0]) * features[1], scale=16.0)
    assert counts() == before


def test_threads_are_set_inside_a_block_and_given_back_after_it(before) -> None:
    arrays, call = problem("numpy")
    with rfx.options(threads=2):
        assert counts() == ([2] * len(before[0]), 2)
        with rfx.options(threads=1):
            assert counts() == ([1] * len(before[0]), 1)
            rfx.linear_attention(*arrays, **call)
        with rfx.options(implementation="portable"):
            assert counts() == ([2] * len(before[0]), 2)
        rfx.linear_attention(*arrays, **call)
        assert counts() == ([2] * len(before[0]), 2)
    assert counts() == before


def test_threads_are_given_back_after_an_exception(before) -> None:
    arrays, call = problem("numpy")
    with pytest.raises(ZeroDivisionError), rfx.options(threads=2), rfx.options(threads=1):
        raise ZeroDivisionError
    assert counts() == before
    assert dispatch.current_threads() is None
    arrays[2] = np.ma.asarray(arrays[2])
    with pytest.raises(TypeError, match="masked array"), rfx.options(threads=2):
        rfx.linear_attention(*arrays, **call)
    assert counts() == before


@CAUSAL
def test_threads_are_given_back_after_an_exception_inside_a_path(
    monkeypatch: pytest.MonkeyPatch, before, is_causal: bool
) -> None:
    from rfx_numpy.workspace import Workspace

    def broken(*_):
        raise ZeroDivisionError("inside")

    arrays, call = problem("numpy")
    monkeypatch.setattr(Workspace, "begin", broken)
    with pytest.raises(ZeroDivisionError, match="inside"):
        rfx.linear_attention(*arrays, is_causal=is_causal, **call)
    with pytest.raises(ZeroDivisionError, match="inside"), rfx.options(threads=2):
        rfx.linear_attention(*arrays, is_causal=is_causal, **call)
    assert counts() == before


def test_threads_are_refused_for_jax(before) -> None:
    pytest.importorskip("jax")
    arrays, call = problem("jax")
    with rfx.options(threads=2):
        with pytest.raises(ValueError, match="`threads` must be left out for jax arrays"):
            rfx.linear_attention(*arrays, **call)
        with pytest.raises(ValueError, match="for jax arrays"):
            call["features"].query(arrays[0])
    assert counts() == before


@pytest.mark.parametrize(
    ("threads", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_wrong_number_of_threads_is_refused(before, threads, error: type[Exception]) -> None:
    with pytest.raises(error, match="`threads` must be"), rfx.options(threads=threads):
        pass
    assert counts() == before


@CAUSAL
def test_calls_from_several_threads_may_overlap(before, is_causal: bool) -> None:
    arrays, call = problem("numpy")
    call["is_causal"] = is_causal
    want = rfx.linear_attention(*arrays, implementation="portable", **call)

    def several(_: int) -> list[np.ndarray]:
        return [rfx.linear_attention(*arrays, **call) for _ in range(8)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(several, range(4)):
            for out in found:
                assert_agrees(out, want, scale=16.0)
    assert counts() == before


def test_the_last_of_overlapping_calls_gives_threads_back(
    monkeypatch: pytest.MonkeyPatch, before
) -> None:
    """Two heads take two threads and three take three; all five meet inside the calls."""
    from rfx_numpy.workspace import Workspace

    begin, everyone = Workspace.begin, Barrier(5, timeout=20)

    def meet(self, *args):
        everyone.wait()
        begin(self, *args)

    arrays, call = problem("numpy")
    calls = [[a[0, :heads] for a in arrays] for heads in (2, 3)]
    want = [rfx.linear_attention(*a, implementation="portable", **call) for a in calls]
    monkeypatch.setattr(Workspace, "begin", meet)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda a: rfx.linear_attention(*a, **call), calls))
    for out, wanted in zip(found, want, strict=True):
        assert_agrees(out, wanted, scale=16.0)
    assert counts() == before


def test_a_call_in_a_forked_child_works() -> None:
    """In a process of its own, since JAX and threads of other tests object to forks."""
    code = """
import os, signal
import numpy as np, rfx
x = np.random.default_rng(0).standard_normal((4, 64, 4))
phi = rfx.features.Positive(num_features=8).draw(4, seed=0, like=x)
def attend():
    with rfx.options(threads=2):
        return rfx.linear_attention(x, x, x, features=phi, is_causal=True)
want = attend()
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if np.array_equal(attend(), want) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "0"


def test_limits_that_overlap_end_as_they_began() -> None:
    """In a process of its own: what holds BLAS there is rfx alone."""
    code = """
import threading, numpy as np, rfx
from threadpoolctl import threadpool_info
from rfx.threads import blas_limit
def now():
    return max(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")
before = now()
first, second = threading.Event(), threading.Event()
def other():
    with blas_limit(1):
        first.set()
        second.wait()
thread = threading.Thread(target=other)
thread.start()
first.wait()
inside = [now()]
with rfx.options(threads=3):
    inside.append(now())
    second.set()
    thread.join()
    inside.append(now())
print(before, now(), *inside)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, *inside = (int(word) for word in done.stdout.split())
    assert after == before
    assert inside == [1, 1, 3]
