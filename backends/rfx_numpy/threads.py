"""Work spread over threads, with BLAS held back so that the two do not compete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController

from rfx.dispatch import current_threads

__all__ = ["available", "run"]


class _Blas:
    """BLAS's number of threads, which belongs to the process: set by the first, reset by the last.

    Calls from several threads may overlap, so entering and leaving are counted.
    """

    def __init__(self) -> None:
        self.controller = ThreadpoolController().select(user_api="blas")
        self.lock = Lock()
        self.inside = 0
        self.limiter: Any = None

    def threads(self) -> int:
        """Threads that BLAS would use, at least 1; while limited, those it had before."""
        counts = [library.num_threads for library in self.controller.lib_controllers]
        return max(counts, default=1) if self.limiter is None else self.before

    @contextmanager
    def limit(self, threads: int) -> Iterator[None]:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                self.before = self.threads()
                self.limiter = self.controller.limit(limits=threads)
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if self.inside == 0:
                    self.limiter.restore_original_limits()
                    self.limiter = None


_blas = _Blas()
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def available() -> int:
    """Threads to work with: those of ``rfx.options(threads=...)``, else those of BLAS."""
    return current_threads() or _blas.threads()


def run(work: Callable[[Iterator[Any]], None], items: Iterable[Any], count: int) -> None:
    """Call ``work`` in as many threads as are useful; each takes items from the same iterator."""
    workers = max(1, min(available(), count))
    remaining = iter(items)
    with _blas.limit(max(1, available() // workers)):
        if workers == 1:
            work(remaining)
            return
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, "rfx")
        submit = _pools[workers].submit
        for future in [submit(copy_context().run, work, remaining) for _ in range(workers)]:
            future.result()
