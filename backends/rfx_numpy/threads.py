"""Work of NumPy's paths, spread over threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rfx.dispatch import current_threads
from rfx.threads import blas_threads
from rfx.workers import share

__all__ = ["available", "run"]


def available() -> int:
    """Threads to work with: those of ``rfx.options(threads=...)``, else those of BLAS."""
    return current_threads() or blas_threads()


def run(work: Callable[[Iterator[Any]], None], items: Sequence[Any]) -> None:
    """`rfx.workers.share` with the threads that are available."""
    share(work, items, available())
