"""The compiled kernels, loaded when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from rfx.threads import blas_threads, find_blas_again

__all__ = ["NO_MASK", "is_installed", "kernel", "problem"]

NO_MASK = np.empty(0, np.bool_)
"""What the kernels take for no mask."""


@cache
def is_installed() -> bool:
    """Whether there are numba, and SciPy, from which it takes its matrix products."""
    return all(find_spec(name) is not None for name in ("numba", "scipy"))


@cache
def problem() -> str | None:
    """Why numba, though installed, cannot be used; imports it, and SciPy's BLAS."""
    blas_threads()  # NumPy's BLAS is found first, and SciPy's then gets its number
    try:
        import numba
        import scipy.linalg.cython_blas  # noqa: F401
    except Exception as error:  # versions that do not fit raise errors of many kinds
        return f"numba cannot be used: {type(error).__name__}: {error}"
    find_blas_again()
    if getattr(numba.config, "DISABLE_JIT", False):
        return "numba compiles nothing while NUMBA_DISABLE_JIT is set"
    return None


@cache
def kernel(name: str) -> Callable[..., Any]:
    """A function of `rfx_numba.kernels`; the first time compiles it, or reads it from disk."""
    if problem() is not None:
        raise RuntimeError(f"{problem()}; name another implementation, or mend it")
    from rfx_numba.kernels import compiled

    return compiled(name)
