"""Measurements for the page, each a call of a benchmark's method, in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Absent", "Found", "Job", "run"]

ROOT = Path(__file__).parents[2]
LIMIT = 900.0
"""Seconds after which a process is given up."""


@dataclass(frozen=True)
class Job:
    """``module.case().method(*params)`` after ``setup(*params)``, with a module of asv_bench."""

    module: str
    case: str
    method: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Absent:
    """Why a job has no result."""

    reason: str
    failed: bool
    """Whether something broke; otherwise the library or its device is not here."""


class Found:
    """Results by job: a number, or several by name."""

    def __init__(self) -> None:
        self.results: dict[Job, Any] = {}

    def number(self, job: Job, name: str | None = None) -> float | None:
        """The result, or the one of that name; None if it is absent."""
        result = self.results.get(job)
        if isinstance(result, dict):
            result = result.get(name)
        return float(result) if isinstance(result, int | float) else None

    def ratio(self, job: Job, over: str, under: str) -> float | None:
        """One number over another of the same job, which were measured in turn."""
        top, bottom = self.number(job, over), self.number(job, under)
        return None if top is None or bottom is None else top / bottom

    def reason(self, job: Job, *, failed: bool) -> str | None:
        """Why there is no result, if that is because something failed, or because it did not."""
        result = self.results.get(job)
        return result.reason if isinstance(result, Absent) and result.failed == failed else None

    @property
    def failed(self) -> bool:
        """Whether anything did."""
        return any(self.reason(job, failed=True) is not None for job in self.results)


def run(what: str, batches: Iterable[Sequence[Job]], found: Found, *, quick: bool) -> None:
    """Run each batch in a process of its own, one after the other, and keep the results."""
    for batch in batches:
        begin = time.perf_counter()
        for job, result in zip(batch, _process(batch, quick), strict=True):
            found.results[job] = result
        done = f"{what}, from {batch[0].params}: {time.perf_counter() - begin:.1f} s"
        print(done, file=sys.stderr, flush=True)


def _process(batch: Sequence[Job], quick: bool) -> list[Any]:
    command = [sys.executable, "-m", "asv_bench.report.worker"]
    environment = {**os.environ, "RFX_BENCH_QUICK": "1" if quick else "0"}
    text = json.dumps([asdict(job) for job in batch])
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, cwd=ROOT, env=environment,
            timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Absent(f"took longer than {LIMIT:.0f} s", True)] * len(batch)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    results = [_result(json.loads(line)) for line in lines[: len(batch)]]
    lines = done.stderr.strip().splitlines()
    why = lines[-1] if lines and done.returncode > 0 else f"exit status {done.returncode}"
    return results + [Absent(why, True)] * (len(batch) - len(results))


def _result(answer: dict[str, Any]) -> Any:
    return Absent(answer["skipped"], False) if "skipped" in answer else answer["result"]
