"""The number of threads of NumPy's BLAS: one setting of the process, with one owner here.

Calls from several threads, and ``rfx.options(threads=...)`` around or beside them, may overlap.
Each asks for a limit; the lowest holds, and the last to leave gives back what was there before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

__all__ = ["blas_architectures", "blas_limit", "blas_threads", "find_blas_again"]


class _Blas:
    """The limits that are asked for now, and each library's own number from before them."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.limits: list[int] = []
        self.own: dict[str, int] = {}
        self.controllers: list[Any] | None = None

    def find(self) -> list[Any]:
        """The BLAS libraries that are loaded; looked for once, and again when told so."""
        if self.controllers is None:
            from threadpoolctl import ThreadpoolController  # 10 ms, so not at import

            self.controllers = ThreadpoolController().select(user_api="blas").lib_controllers
        return self.controllers

    def get(self) -> int:
        """BLAS's own number, whatever limits hold; at least 1."""
        own = self.own if self.limits else self.read()
        return max(own.values(), default=1)

    def read(self) -> dict[str, int]:
        """The numbers that the libraries have now."""
        return {library.filepath: library.num_threads for library in self.find()}

    def apply(self) -> None:
        """Set what the limits, or their end, demand."""
        for library in self.find():
            number = min(self.limits, default=self.own[library.filepath])
            # Seen in threadpoolctl 3.8.0: only the thread that set a number first may set another.
            release = getattr(library, "clear_controlling_thread", lambda force: None)
            release(force=True)
            library.set_num_threads(number)
            release(force=True)

    def find_again(self) -> None:
        """Look for libraries that were loaded since; they get the number of those from before."""
        with self.lock:
            number = self.get()
            known = self.own if self.limits else self.read()
            self.controllers = None
            self.own = {name: known.get(name, number) for name in self.read()}
            self.apply()

    def enter(self, threads: int) -> None:
        with self.lock:
            if not self.limits:
                self.own = self.read()
            self.limits.append(threads)
            self.apply()

    def leave(self, threads: int) -> None:
        with self.lock:
            self.limits.remove(threads)
            self.apply()

    def after_fork(self) -> None:
        """Threads that asked for limits do not survive a fork."""
        self.lock = Lock()
        if self.limits:
            self.limits.clear()
            self.apply()


_blas = _Blas()
os.register_at_fork(after_in_child=_blas.after_fork)


def blas_threads() -> int:
    """Threads that BLAS uses when no limit of rfx holds."""
    return _blas.get()


def blas_architectures() -> set[str]:
    """The kinds of processor that the BLAS libraries compute for, as OpenBLAS names them."""
    return {getattr(library, "architecture", "") for library in _blas.find()}


def find_blas_again() -> None:
    """To be called after a library was loaded that brings a BLAS of its own.

    `blas_threads`, or a limit, must have come before it.
    """
    _blas.find_again()


@contextmanager
def blas_limit(threads: int) -> Iterator[None]:
    """Hold BLAS to a number of threads, in the whole process."""
    _blas.enter(threads)
    try:
        yield
    finally:
        _blas.leave(threads)
