"""The array libraries as the benchmarks run them: copies, waiting, and their exact attention."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

import rfx

__all__ = ["LIBRARIES", "Call", "Library", "start"]

Call = Callable[[], Any]


class Library:
    """NumPy; the other libraries override what differs."""

    module = "numpy"

    def __init__(self, on_gpu: bool = False) -> None:
        self.library: Any = import_module(self.module)
        self.on_gpu = on_gpu

    def move(self, array: np.ndarray) -> Any:
        """Copy to the library and its device."""
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """Copy back."""
        return np.asarray(array)

    def wait(self, array: Any) -> None:
        """Return when the array has been computed."""

    def linear(self, phi: Any, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        """Return a call of `rfx.linear_attention`."""
        return lambda: rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal)

    def exact(self, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        """Return a call of the library's own exact attention, or of rfx's if it has none."""
        return lambda: rfx.kernel_attention(q, k, v, is_causal=is_causal)

    def device_peak(self) -> int:
        """Largest number of bytes held on the GPU so far."""
        raise NotImplementedError(f"{self.module} has no GPU")


class Torch(Library):
    """PyTorch, eager, as most models call it."""

    module = "torch"

    def __init__(self, on_gpu: bool = False) -> None:
        super().__init__(on_gpu)
        if on_gpu and not self.library.cuda.is_available():
            raise NotImplementedError("torch sees no CUDA device")

    def move(self, array: np.ndarray) -> Any:
        return self.library.asarray(array.copy(), device="cuda" if self.on_gpu else "cpu")

    def to_host(self, array: Any) -> np.ndarray:
        return np.asarray(array.cpu())

    def wait(self, array: Any) -> None:
        if self.on_gpu:
            self.library.cuda.synchronize()

    def exact(self, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        function = import_module("torch.nn.functional").scaled_dot_product_attention
        return lambda: function(q, k, v, is_causal=is_causal)

    def device_peak(self) -> int:
        return int(self.library.cuda.max_memory_allocated())


class Jax(Library):
    """JAX; both kinds of attention are compiled by `jax.jit`."""

    module = "jax"

    def __init__(self, on_gpu: bool = False) -> None:
        super().__init__(on_gpu)
        try:
            self.device = self.library.devices("cuda" if on_gpu else "cpu")[0]
        except RuntimeError as error:
            raise NotImplementedError(f"jax has no such device: {error}") from error

    def move(self, array: np.ndarray) -> Any:
        return self.library.device_put(array, self.device)

    def wait(self, array: Any) -> None:
        array.block_until_ready()

    def linear(self, phi: Any, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        @self.library.jit
        def attend(phi: Any, q: Any, k: Any, v: Any) -> Any:
            return rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal)

        return lambda: attend(phi, q, k, v)

    def exact(self, q: Any, k: Any, v: Any, is_causal: bool) -> Call:
        """The output is of shape (B, T, N, H): the function's own layout, not to charge a copy."""
        native = [self.library.block_until_ready(a.swapaxes(1, 2)) for a in (q, k, v)]
        function = self.library.nn.dot_product_attention
        compiled = self.library.jit(lambda q, k, v: function(q, k, v, is_causal=is_causal))
        return lambda: compiled(*native)

    def device_peak(self) -> int:
        return int(self.device.memory_stats()["peak_bytes_in_use"])


class Cupy(Library):
    """CuPy, on its current device; it has no attention of its own."""

    module = "cupy"

    def __init__(self, on_gpu: bool = True) -> None:
        super().__init__(on_gpu)
        if not self.library.is_available():
            raise NotImplementedError("cupy sees no CUDA device")

    def move(self, array: np.ndarray) -> Any:
        return self.library.asarray(array)

    def to_host(self, array: Any) -> np.ndarray:
        return np.asarray(array.get())

    def wait(self, array: Any) -> None:
        self.library.cuda.get_current_stream().synchronize()

    def device_peak(self) -> int:
        return int(self.library.get_default_memory_pool().total_bytes())


LIBRARIES: dict[str, tuple[type[Library], bool]] = {
    "numpy": (Library, False),
    "torch": (Torch, False),
    "jax": (Jax, False),
    "torch-cuda": (Torch, True),
    "jax-cuda": (Jax, True),
    "cupy": (Cupy, True),
}
"""By name: the class, and whether it runs on a GPU."""


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
