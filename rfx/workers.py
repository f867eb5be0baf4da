"""Work in the host's memory, shared by threads, with BLAS held back so that they do not compete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from rfx.threads import blas_limit

__all__ = ["share"]

_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def share(work: Callable[[Iterator[Any]], None], items: Sequence[Any], threads: int) -> None:
    """Call ``work`` in as many threads as are useful; each takes items from the same iterator.

    BLAS is held back, so that all threads together are no more than asked for.
    """
    workers = max(1, min(threads, len(items)))
    remaining = iter(items)
    with blas_limit(max(1, threads // workers)):
        if workers == 1:
            work(remaining)
            return
        if workers not in _pools:
            _pools[workers] = ThreadPoolExecutor(workers, "rfx")
        futures: list[Future[None]] = []
        with suppress(RuntimeError):  # while Python exits, it begins no threads any more
            for _ in range(workers):
                futures.append(_pools[workers].submit(copy_context().run, work, remaining))
        try:
            if not futures:
                work(remaining)
            for future in futures:
                future.result()
        finally:
            for _ in remaining:  # after an error, or an interrupt, nothing new is begun
                pass
            wait(futures)
