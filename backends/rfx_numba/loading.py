"""The compiled kernels, loaded when they are needed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from rfx.threads import blas_threads, find_blas_again

__all__ = ["NO_MASK", "is_installed", "kernels", "problem"]

NO_MASK = np.empty(0, np.bool_)
"""What the kernels take for no mask."""


@cache
def is_installed() -> bool:
    """Whether there are numba, and SciPy, from which it takes its matrix products."""
    return all(find_spec(name) is not None for name in ("numba", "scipy"))


@cache
def problem() -> str | None:
    """Why numba, though installed, cannot be used; imports it."""
    try:
        import numba
        import scipy.linalg.cython_blas  # noqa: F401
    except Exception as error:  # versions that do not fit raise errors of many kinds
        return f"numba cannot be used: {type(error).__name__}: {error}"
    if getattr(numba.config, "DISABLE_JIT", False):
        return "numba compiles nothing while NUMBA_DISABLE_JIT is set"
    return None


@cache
def kernels() -> Any:
    """The module `rfx_numba.kernels`; the first time compiles it, or reads it from disk."""
    blas_threads()
    if problem() is not None:
        raise RuntimeError(f"{problem()}; name another implementation, or mend it")
    import rfx_numba.kernels

    find_blas_again()  # SciPy brings a BLAS of its own
    return rfx_numba.kernels
