"""The array libraries as the benchmarks run them: copies, waiting, and the calls that are timed."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

import rfx

__all__ = ["LIBRARIES", "Call", "Library", "start"]

Call = Callable[[], Any]


def _attend(q: Any, k: Any, v: Any, *, features: Any, is_causal: bool) -> Any:
    return rfx.linear_attention(q, k, v, features=features, is_causal=is_causal)


def _loss(attend: Callable[..., Any], q: Any, k: Any, v: Any, g: Any, **options: Any) -> Any:
    """What is differentiated."""
    return (attend(q, k, v, **options) * g).sum()


def _step(phi: Any, q: Any, k: Any, v: Any, state: Any) -> Any:
    return rfx.linear_attention(
        q, k, v, features=phi, is_causal=True, initial_state=state, return_state=True
    )


def _features(phi: Any, x: Any) -> Any:
    return phi.query(x).exp()


class Library:
    """NumPy; the other libraries override what differs."""

    module = "numpy"

    def __init__(self, on_gpu: bool = False) -> None:
        self.library: Any = import_module(self.module)
        self.on_gpu = on_gpu

    def move(self, array: np.ndarray, dtype: str = "float32") -> Any:
        """Copy to the library and its device, in a dtype by its name."""
        if dtype == "bfloat16":
            raise NotImplementedError(f"{self.module} has no bfloat16")
        return self.library.asarray(array.astype(dtype, copy=False))

    def to_host(self, array: Any) -> np.ndarray:
        """Copy back, to float64."""
        return np.asarray(array).astype(np.float64)

    def wait(self, result: Any) -> None:
        """Return when the arrays of a result have been computed."""

    def finished(self, call: Call) -> Call:
        """The call and the wait for its result: what is timed."""

        def run() -> None:
            self.wait(call())

        return run

    def linear(self, phi: Any, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        """Return a call of `rfx.linear_attention`."""
        return lambda: _attend(q, k, v, features=phi, is_causal=is_causal)

    def exact(self, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        """Return a call of the library's own exact attention, or of rfx's if it has none."""
        return lambda: rfx.kernel_attention(q, k, v, is_causal=is_causal)

    def linear_gradient(self, phi: Any, q: Any, k: Any, v: Any, g: Any, is_causal: bool) -> Call:
        """Return a call of the output and of the gradient of sum(output * g) by q, k and v."""
        raise NotImplementedError(f"{self.module} computes no gradients")

    def exact_gradient(self, q: Any, k: Any, v: Any, g: Any, is_causal: bool) -> Call:
        """The same of `exact`."""
        raise NotImplementedError(f"{self.module} computes no gradients")

    def stepper(self, phi: Any) -> Callable[..., tuple[Any, Any]]:
        """Return a function of q, k, v and a state or None, to output and state."""
        return partial(_step, phi)

    def features(self, phi: Any, x: Any) -> Call:
        """Return a call of the plain feature matrix of x."""
        return partial(_features, phi, x)

    def copy(self, array: Any) -> Call:
        """Return a call that copies an array on its device."""
        return lambda: array.copy()

    def product(self, array: Any) -> Call:
        """Return a call that multiplies a matrix by itself."""
        return lambda: array @ array

    def device_peak(self) -> int:
        """Largest number of bytes held on the GPU so far."""
        raise NotImplementedError(f"{self.module} has no GPU")

    def device_name(self) -> str:
        """What kind of GPU it runs on."""
        raise NotImplementedError(f"{self.module} has no GPU")

    def threads(self) -> int:
        """Threads that it may use on the CPU."""
        try:
            pools = import_module("threadpoolctl").threadpool_info()
        except ImportError:
            pools = []
        return max((p["num_threads"] for p in pools), default=len(os.sched_getaffinity(0)))


class Torch(Library):
    """PyTorch, eager, as most models call it."""

    module = "torch"

    def __init__(self, on_gpu: bool = False) -> None:
        super().__init__(on_gpu)
        if on_gpu and not self.library.cuda.is_available():
            raise NotImplementedError("torch sees no CUDA device")
        attention = import_module("torch.nn.functional").scaled_dot_product_attention
        self.attention: Callable[..., Any] = attention

    def move(self, array: np.ndarray, dtype: str = "float32") -> Any:
        device, kind = "cuda" if self.on_gpu else "cpu", getattr(self.library, dtype)
        return self.library.asarray(array.copy(), device=device, dtype=kind)

    def to_host(self, array: Any) -> np.ndarray:
        return np.asarray(array.double().cpu())

    def wait(self, result: Any) -> None:
        if self.on_gpu:
            self.library.cuda.synchronize()

    def exact(self, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        return lambda: self.attention(q, k, v, is_causal=is_causal)

    def linear_gradient(self, phi: Any, q: Any, k: Any, v: Any, g: Any, is_causal: bool) -> Call:
        return self._gradient(_attend, q, k, v, g, features=phi, is_causal=is_causal)

    def exact_gradient(self, q: Any, k: Any, v: Any, g: Any, is_causal: bool) -> Call:
        return self._gradient(self.attention, q, k, v, g, is_causal=is_causal)

    def _gradient(self, attend: Any, q: Any, k: Any, v: Any, g: Any, **options: Any) -> Call:
        q, k, v = leaves = [a.detach().requires_grad_() for a in (q, k, v)]
        gradient = self.library.autograd.grad
        return lambda: gradient(_loss(attend, q, k, v, g, **options), leaves)

    def copy(self, array: Any) -> Call:
        return lambda: array.clone()

    def device_peak(self) -> int:
        return int(self.library.cuda.max_memory_allocated())

    def device_name(self) -> str:
        return str(self.library.cuda.get_device_name())

    def threads(self) -> int:
        return int(self.library.get_num_threads())


class Jax(Library):
    """JAX; every call is compiled by the caller's `jax.jit`."""

    module = "jax"

    def __init__(self, on_gpu: bool = False) -> None:
        super().__init__(on_gpu)
        try:
            self.device = self.library.devices("cuda" if on_gpu else "cpu")[0]
        except RuntimeError as error:
            raise NotImplementedError(f"jax has no such device: {error}") from error
        # Arrays are arguments: what a compiled function closes over becomes a constant of it.
        jit, gradient = self.library.jit, self.library.value_and_grad
        exact = self.library.nn.dot_product_attention
        # Partials, so that each object of this class traces anew, with the options that hold then.
        self._attend = jit(partial(_attend), static_argnames="is_causal")
        self._exact = jit(exact, static_argnames="is_causal")
        self._attend_gradient = jit(
            gradient(partial(_loss, _attend), (0, 1, 2)), static_argnames="is_causal"
        )
        self._exact_gradient = jit(
            gradient(partial(_loss, exact), (0, 1, 2)), static_argnames="is_causal"
        )
        self._step = jit(partial(_step))
        self._features = jit(partial(_features))
        self._copy = jit(self.library.numpy.copy)
        self._product = jit(self.library.numpy.matmul)

    def move(self, array: np.ndarray, dtype: str = "float32") -> Any:
        return self.library.device_put(array, self.device).astype(dtype)

    def wait(self, result: Any) -> None:
        self.library.block_until_ready(result)

    def _native(self, *arrays: Any) -> list[Any]:
        """The layout of `jax.nn.dot_product_attention`, (B, T, N, H), not to charge a copy."""
        return [self.library.block_until_ready(a.swapaxes(1, 2)) for a in arrays]

    def linear(self, phi: Any, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        return lambda: self._attend(q, k, v, features=phi, is_causal=is_causal)

    def exact(self, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        """The output has the function's own layout, (B, T, N, H)."""
        native = self._native(q, k, v)
        return lambda: self._exact(*native, is_causal=is_causal)

    def linear_gradient(self, phi: Any, q: Any, k: Any, v: Any, g: Any, is_causal: bool) -> Call:
        return lambda: self._attend_gradient(q, k, v, g, features=phi, is_causal=is_causal)

    def exact_gradient(self, q: Any, k: Any, v: Any, g: Any, is_causal: bool) -> Call:
        native = self._native(q, k, v, g)
        return lambda: self._exact_gradient(*native, is_causal=is_causal)

    def stepper(self, phi: Any) -> Callable[..., tuple[Any, Any]]:
        return lambda q, k, v, state: self._step(phi, q, k, v, state)

    def features(self, phi: Any, x: Any) -> Call:
        return lambda: self._features(phi, x)

    def copy(self, array: Any) -> Call:
        return lambda: self._copy(array)

    def product(self, array: Any) -> Call:
        return lambda: self._product(array, array)

    def device_peak(self) -> int:
        return int(self.device.memory_stats()["peak_bytes_in_use"])

    def device_name(self) -> str:
        return str(self.device.device_kind)

    def threads(self) -> int:
        return len(os.sched_getaffinity(0))


class Cupy(Library):
    """CuPy, on its current device; it has no attention of its own."""

    module = "cupy"

    def __init__(self, on_gpu: bool = True) -> None:
        super().__init__(on_gpu)
        if not self.library.is_available():
            raise NotImplementedError("cupy sees no CUDA device")

    def to_host(self, array: Any) -> np.ndarray:
        return np.asarray(array.get()).astype(np.float64)

    def wait(self, result: Any) -> None:
        self.library.cuda.get_current_stream().synchronize()

    def device_peak(self) -> int:
        return int(self.library.get_default_memory_pool().total_bytes())

    def device_name(self) -> str:
        return str(self.library.cuda.runtime.getDeviceProperties(0)["name"].decode())


LIBRARIES: dict[str, tuple[type[Library], bool]] = {
    "numpy": (Library, False),
    "torch": (Torch, False),
    "jax": (Jax, False),
    "torch-cuda": (Torch, True),
    "jax-cuda": (Jax, True),
    "cupy": (Cupy, True),
}
"""By name: the class, and whether it runs on a GPU."""


@cache
def start(name: str) -> Library:
    """Import a library on its device; NotImplementedError, asv's sign for a skip, without it."""
    kind, on_gpu = LIBRARIES[name]
    try:
        if on_gpu:  # asked first, since importing a framework to learn of no GPU takes seconds
            ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise NotImplementedError(f"there is no CUDA driver: {error}") from error
    try:
        return kind(on_gpu)
    except ImportError as error:
        raise NotImplementedError(f"{kind.module} cannot be imported: {error}") from error
