"""What the numbers were measured on: processor, threads, versions and commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from asv_bench.benchmarks._libraries import LIBRARIES, start

from .jobs import ROOT, Found, Job

__all__ = ["Facts", "facts", "present"]

DISTRIBUTIONS = (
    "rfx-features", "numpy", "array-api-compat", "torch", "jax", "jaxlib", "cupy-cuda12x",
    "cupy-cuda13x", "numba", "scikit-learn", "scipy",
)  # fmt: skip


class Facts:
    """What a library says of itself, asked in a process of its own like a benchmark."""

    def setup(self, name: str) -> None:
        self.library = start(name)

    def facts(self, name: str) -> dict[str, str | int]:
        """Threads, and the device if it is a GPU."""
        if LIBRARIES[name][1]:
            return {"device": self.library.device_name()}
        return {"threads": self.library.threads()}


def present(name: str) -> Job:
    """The job whose result is absent if a library is not here."""
    return Job("report.machine", "Facts", "facts", (name,))


def facts(names: tuple[str, ...], found: Found) -> dict[str, str]:
    """The lines at the head of the page, by name; before anything is measured."""
    usable = len(os.sched_getaffinity(0))
    of_libraries = {name: found.results[present(name)] for name in names}
    threads = [f"{n} {f['threads']}" for n, f in of_libraries.items() if "threads" in f]
    devices = {n: str(f["device"]) for n, f in of_libraries.items() if "device" in f}
    told = ("_NUM_THREADS", "_THREAD_TIMEOUT")
    limits = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.endswith(told)]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {usable} usable",
        "threads": ", ".join(threads + limits),
        "load before the run": f"{os.getloadavg()[0]:.2f} (mean of a minute)",
        **devices,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {v}" for name, v in _versions()),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*: (.+)$", text, re.M)
    return model[1] if model else platform.processor() or "unknown processor"


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in DISTRIBUTIONS:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """The commit, and whether files differ from it, apart from the page itself."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!BENCHMARKS.md")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} **with changes that are not committed**" if changed else commit


def _git(*args: str) -> str:
    done = subprocess.run(["git", *args], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()
