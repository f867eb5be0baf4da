"""The array libraries as `rfx compare` runs them: copies, waiting, and their exact attention."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import rfx
from rfx._xp import Array
from rfx.cli.errors import UserError
from rfx.features import DrawnMap

__all__ = ["ENGINES", "Engine", "start"]

Call = Callable[[], Array]


class Engine:
    """NumPy; the other libraries override what differs."""

    name = "numpy"
    note = ""
    """How calls are timed, where it needs saying."""

    def __init__(self) -> None:
        self.library: Any = import_module(self.name)
        self.version = str(self.library.__version__)
        self.device = "cpu"

    def move(self, array: np.ndarray) -> Array:
        """Copy to the library and its device."""
        return array

    def wait(self, array: Array) -> Array:
        """Return when the array has been computed."""
        return array

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Make the function that is called and timed, of arrays and drawn maps."""
        return function

    def linear(self, is_causal: bool) -> Callable[..., Array]:
        """Return linear attention as a function of a drawn map, q, k and v."""

        def attend(phi: DrawnMap, q: Array, k: Array, v: Array) -> Array:
            return rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal)

        return self.compiled(attend)

    def exact(self, q: Array, k: Array, v: Array, is_causal: bool) -> tuple[str, Call]:
        """Return the name of the library's exact attention, and a call of it."""

        function = self.compiled(partial(rfx.kernel_attention, is_causal=is_causal))
        return "rfx.kernel_attention", lambda: function(q, k, v)

    def seconds(self, call: Call, *, budget: float = 0.3) -> float:
        """Median time of 5 calls after a warm-up, or of 3 if they spend the budget."""
        self.wait(call())
        times: list[float] = []
        while len(times) < 3 or (len(times) < 5 and sum(times) < budget):
            start = time.perf_counter()
            self.wait(call())
            times.append(time.perf_counter() - start)
        return statistics.median(times)


class Torch(Engine):
    """PyTorch, on the GPU if there is one."""

    name = "torch"

    def __init__(self) -> None:
        super().__init__()
        self.on_gpu = bool(self.library.cuda.is_available())
        self.device = f"cuda ({self.library.cuda.get_device_name()})" if self.on_gpu else "cpu"

    def move(self, array: np.ndarray) -> Array:
        return self.library.asarray(array.copy(), device="cuda" if self.on_gpu else "cpu")

    def wait(self, array: Array) -> Array:
        if self.on_gpu:
            self.library.cuda.synchronize()
        return array

    def exact(self, q: Array, k: Array, v: Array, is_causal: bool) -> tuple[str, Call]:
        shape, (t, s) = (*q.shape[:-1], v.shape[-1]), (q.shape[-2], k.shape[-2])
        k, v = (a.repeat_interleave(q.shape[-3] // a.shape[-3], dim=-3) for a in (k, v))
        q, k, v = (a.reshape(-1, *a.shape[-3:]) for a in (q, k, v))
        mask = None
        if is_causal and t < s:  # torch would let query i see only the keys up to i
            mask = self.library.ones(t, s, dtype=self.library.bool, device=q.device).tril(s - t)
        function = import_module("torch.nn.functional").scaled_dot_product_attention

        def attend() -> Array:
            out = function(q, k, v, attn_mask=mask, is_causal=is_causal and mask is None)
            return out.reshape(shape)

        return "torch.nn.functional.scaled_dot_product_attention", attend


class Jax(Engine):
    """JAX, on its default device; functions are compiled."""

    name = "jax"
    note = "both compiled by jax.jit, compilation not counted"

    def __init__(self) -> None:
        super().__init__()
        device = self.library.devices()[0]
        kind = device.device_kind
        self.device = device.platform + ("" if kind == device.platform else f" ({kind})")

    def move(self, array: np.ndarray) -> Array:
        return self.library.numpy.asarray(array)

    def wait(self, array: Array) -> Array:
        return array.block_until_ready()

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        return self.library.jit(function)

    def exact(self, q: Array, k: Array, v: Array, is_causal: bool) -> tuple[str, Call]:
        if v.shape[-1] != q.shape[-1]:  # which dot_product_attention does not take
            return super().exact(q, k, v, is_causal)
        shape, (t, s) = q.shape, (q.shape[-2], k.shape[-2])
        batch = math.prod(shape[:-3])
        q, k, v = (a.reshape(batch, *a.shape[-3:]).swapaxes(1, 2) for a in (q, k, v))
        xp, function = self.library.numpy, self.library.nn.dot_product_attention
        mask = xp.tril(xp.ones((t, s), dtype=bool), s - t) if is_causal else None

        def attend(q: Array, k: Array, v: Array) -> Array:
            return function(q, k, v, mask=mask).swapaxes(1, 2).reshape(shape)

        compiled = self.compiled(attend)
        return "jax.nn.dot_product_attention", lambda: compiled(q, k, v)


class Cupy(Engine):
    """CuPy, on its current device."""

    name = "cupy"

    def __init__(self) -> None:
        super().__init__()
        runtime = self.library.cuda.runtime
        properties = runtime.getDeviceProperties(runtime.getDevice())
        self.device = f"cuda ({properties['name'].decode()})"

    def move(self, array: np.ndarray) -> Array:
        return self.library.asarray(array)

    def wait(self, array: Array) -> Array:
        self.library.cuda.get_current_stream().synchronize()
        return array


ENGINES: dict[str, type[Engine]] = {e.name: e for e in (Engine, Torch, Jax, Cupy)}


def start(name: str) -> Engine:
    """Import a library, and find its device."""
    try:
        return ENGINES[name]()
    except ImportError as error:
        raise UserError(
            f"the library {name} cannot be imported ({error}); "
            f'install it with: pip install -e ".[{name}]"'
        ) from error
    except Exception as error:  # a driver that is missing or broken: each library has its own kind
        raise UserError(
            f"the library {name} is installed but cannot be used here: {error}"
        ) from error
