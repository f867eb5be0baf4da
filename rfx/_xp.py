"""Which library an array belongs to, and that library's namespace of standard calls.

The only importer of array_api_compat. A framework is never imported here on its own account: an
array can only be a torch tensor if its holder has imported torch, so ``sys.modules`` is asked.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
DType: TypeAlias = Any
Namespace: TypeAlias = Any

# NumPy and JAX speak the standard themselves; importing array_api_compat.numpy costs 100 ms.
_MODULES = {
    "numpy": "numpy",
    "jax": "jax.numpy",
    "torch": "array_api_compat.torch",
    "cupy": "array_api_compat.cupy",
}
_namespaces: dict[str, Namespace] = {"numpy": np}
_NOTHING = nullcontext()
_libraries: dict[type, str] = {np.ndarray: "numpy"}
"""The common types of arrays, for a quick answer."""


def library(array: object) -> str | None:
    """Name of the library that ``array`` belongs to, or None if it is no array."""
    return _libraries.get(type(array)) or _find_library(array)


def _find_library(array: object) -> str | None:
    if isinstance(array, np.ndarray):
        return "numpy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        _libraries.setdefault(torch.Tensor, "torch")
        return "torch"
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(array, jax.Array):
        return "jax"
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return "cupy"
    if hasattr(array, "__array_namespace__"):
        return str(array.__array_namespace__().__name__).partition(".")[0]
    return None


def namespace(array: Array) -> Namespace:
    """The namespace of standard calls for ``array``."""
    name = library(array)
    if name in _namespaces:
        return _namespaces[name]
    if name in _MODULES:
        found = importlib.import_module(_MODULES[name])
    else:
        found = array.__array_namespace__()
    _namespaces[str(name)] = found
    return found


def namespace_of_library(name: str) -> Namespace:
    """The namespace of an installed library, imported if it was not yet."""
    if name not in _namespaces:
        _namespaces[name] = importlib.import_module(_MODULES.get(name, name))
    return _namespaces[name]


def device(array: Array) -> Any:
    """The device of ``array`` in its library's own terms; None where a tracer has none."""
    if library(array) == "jax":
        jax = sys.modules["jax"]
        if isinstance(array, jax.core.Tracer) or len(array.devices()) != 1:
            return None
        return next(iter(array.devices()))
    return array.device


def device_kind(array: Array) -> str | None:
    """``"cpu"``, ``"cuda"``, ... as fast paths name devices; None where it is not known."""
    name = library(array)
    if name == "numpy":
        return "cpu"
    if name == "cupy":
        return "cuda"
    where = device(array)
    if name == "torch":
        return str(where.type)
    if name == "jax":
        return None if where is None else {"gpu": "cuda"}.get(where.platform, where.platform)
    return str(where).lower()


def same_device(a: Array, b: Array) -> bool:
    """Whether two arrays of one library may meet; an unknown device may meet any."""
    first, second = device(a), device(b)
    return first is None or second is None or bool(first == second)


def working_dtype(array: Array) -> DType:
    """float64 for float64, else float32: what projections, logs and states are computed in."""
    xp = namespace(array)
    return xp.float64 if array.dtype == xp.float64 else xp.float32


def has_float64(xp: Namespace) -> bool:
    """Whether a library computes in float64; JAX does if told to when it started."""
    return "float64" in xp.__array_namespace_info__().dtypes(kind="real floating")


def is_real_floating(array: Array) -> bool:
    """Whether ``array`` holds real floating numbers of any width."""
    if library(array) == "torch":
        return bool(array.dtype.is_floating_point)
    return bool(namespace(array).isdtype(array.dtype, "real floating"))


def full(like: Array, shape: tuple[int, ...], value: float, dtype: DType) -> Array:
    """An array of one number, beside ``like``."""
    xp = namespace(like)
    if library(like) == "jax":
        return xp.full(shape, value, dtype=dtype)
    return xp.full(shape, value, dtype=dtype, device=like.device)


def from_numpy(array: np.ndarray, like: Array, dtype: DType) -> Array:
    """Copy a host array to the library and device of ``like``."""
    xp = namespace(like)
    where = device(like)
    placed = {} if where is None else {"device": where}
    if library(like) == "torch":
        return xp.asarray(array.copy(), dtype=dtype, **placed)
    return xp.asarray(array, dtype=dtype, copy=True, **placed)


def to_numpy(array: Array) -> np.ndarray:
    """Copy an array of any library to the host; half precisions NumPy lacks become float32."""
    name = library(array)
    if name == "torch":
        torch = sys.modules["torch"]
        host = array.detach().cpu()
        return np.array((host.float() if host.dtype == torch.bfloat16 else host).numpy())
    if name == "cupy":
        return np.array(array.get())
    if name == "jax" and str(array.dtype) == "bfloat16":
        return np.array(array.astype("float32"))
    return np.array(array)


def constant(array: Array) -> Array:
    """``array`` with no gradient flowing through it, where the library has gradients."""
    name = library(array)
    if name == "torch":
        return array.detach()
    if name == "jax":
        return sys.modules["jax"].lax.stop_gradient(array)
    return array


def full_precision(array: Array) -> Any:
    """A context in which matrix products keep the precision of their dtype.

    Without it torch.autocast would make them half precision, and JAX may use TF32 on a GPU.
    """
    name = library(array)
    if name == "torch":
        torch, kind = sys.modules["torch"], array.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else _NOTHING
    if name == "jax":
        return sys.modules["jax"].default_matmul_precision("highest")
    return _NOTHING


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Hold torch to a number of threads, if it is imported."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        if torch is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def check_threads(array: Array) -> None:
    """Refuse an array of a library whose threads cannot be set."""
    name = library(array)
    if name not in ("numpy", "torch"):
        raise ValueError(
            f"`threads` must be left out for {name} arrays, since rfx cannot set the threads of "
            f"{name}; leave rfx.options(threads=...) and set them as {name} documents"
        )


def truth(flag: Array) -> bool | None:
    """The value of a 0-d bool array, or None while it is being traced and has none."""
    name = library(flag)
    if name == "torch":
        if sys.modules["torch"].compiler.is_compiling():
            return None
        try:
            return bool(flag)
        except RuntimeError:  # a batched tensor under torch.func.vmap
            return None
    if name == "jax" and isinstance(flag, sys.modules["jax"].core.Tracer):
        return None
    return bool(flag)


def exp_nonpositive(array: Array) -> Array:
    """exp of numbers at most 0.

    torch's exp is an order of magnitude slower on results that underflow, so there its argument is
    clamped and the zeros are put back.
    """
    xp = namespace(array)
    if library(array) != "torch":
        return xp.exp(array)
    floor = -700.0 if array.dtype == xp.float64 else -87.0
    return xp.where(array < floor, 0.0, xp.exp(xp.clip(array, floor, None)))
