"""Work spread over threads, with BLAS held back so that the two do not compete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any

from rfx.dispatch import current_threads
from rfx.threads import blas_limit, blas_threads

__all__ = ["available", "run"]

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def available() -> int:
    """Threads to work with: those of ``rfx.options(threads=...)``, else those of BLAS."""
    return current_threads() or blas_threads()


def run(work: Callable[[Iterator[Any]], None], items: Sequence[Any]) -> None:
    """Call ``work`` in as many threads as are useful; each takes items from the same iterator."""
    workers = max(1, min(available(), len(items)))
    remaining = iter(items)
    with blas_limit(max(1, available() // workers)):
        if workers == 1:
            work(remaining)
            return
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, "rfx")
        submit = _pools[workers].submit
        futures = [submit(copy_context().run, work, remaining) for _ in range(workers)]
        try:
            for future in futures:
                future.result()
        finally:
            for _ in remaining:  # after an error, or an interrupt, nothing new is begun
                pass
            wait(futures)
