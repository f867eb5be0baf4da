"""The cost of importing rfx, in fresh processes."""

from __future__ import annotations

import statistics
import subprocess
import sys

from ._cases import QUICK
from ._rows import Prepared, unit

__all__ = ["Import"]

ROUNDS = 1 if QUICK else 15
CODE = """
import time
begin = time.perf_counter()
import {module}
print(time.perf_counter() - begin)
"""


class Import(Prepared):
    """Time of ``import rfx`` and of ``import numpy``, which is in it; processes in turn."""

    def prepare(self) -> None:
        self.seconds_of("rfx")  # the files are in the cache of the system from here on

    @unit("ratio")
    def track_ratio_to_numpy(self) -> float:
        found = self.seconds()
        return found["rfx"] / found["numpy"]

    @unit("seconds")
    def track_beyond_numpy(self) -> float:
        found = self.seconds()
        return found["rfx"] - found["numpy"]

    def seconds(self) -> dict[str, float]:
        """Medians of both."""
        rounds = [[self.seconds_of(module) for module in ("rfx", "numpy")] for _ in range(ROUNDS)]
        rfx, numpy = (statistics.median(column) for column in zip(*rounds, strict=True))
        return {"rfx": rfx, "numpy": numpy}

    def seconds_of(self, module: str) -> float:
        """One import in a fresh process, without the start of the interpreter."""
        command = [sys.executable, "-c", CODE.format(module=module)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)
