"""Memory of a call of linear attention, forward and backward, causal."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

from ._cases import LENGTHS, NAMES, Problem
from ._libraries import LIBRARIES, Call
from ._rows import Prepared

__all__ = ["Backward", "Device", "Forward", "extra"]

LONG = LENGTHS[-1:]


class _Host(Prepared):
    """On the host: the peak of the whole process, and what a call needs beyond its inputs.

    asv finds no benchmarks in a class whose name starts with an underscore.
    """

    params = (LONG, NAMES)
    param_names = ("L", "library")
    unit = "sizes of q, k and v together"

    def prepare(self, L: int, name: str) -> None:
        if LIBRARIES[name][1]:
            raise NotImplementedError("memory of the host says nothing about a GPU")
        self.problem = Problem(name, L=L)
        self.call = self.of(self.problem)

    def of(self, problem: Problem) -> Call:
        """The call whose memory is measured."""
        raise NotImplementedError

    def track_extra(self, L: int, name: str) -> float:
        return extra(self.call) / self.problem.input_bytes


class Forward(_Host):
    """The output alone."""

    def of(self, problem: Problem) -> Call:
        return problem.linear()

    def peakmem_forward(self, L: int, name: str) -> None:
        self.call()


class Backward(_Host):
    """The output and its gradients."""

    def of(self, problem: Problem) -> Call:
        return problem.linear_gradient()

    def peakmem_backward(self, L: int, name: str) -> None:
        self.call()


class Device(Prepared):
    """On the GPU: the most that the library held, inputs and one call."""

    params = (LONG, NAMES)
    param_names = ("L", "library")
    unit = "bytes"

    def prepare(self, L: int, name: str) -> None:
        if not LIBRARIES[name][1]:
            raise NotImplementedError(f"{name} runs on a CPU")
        self.problem = Problem(name, L=L)
        self.call = self.problem.linear()

    def track_device_peak(self, L: int, name: str) -> int:
        self.call()
        return self.problem.library.device_peak()


def extra(call: Call) -> int:
    """Bytes by which the process grows while a call runs, its output included, on Linux.

    A call before it has compiled what there is to compile; what that left to the allocator is given
    back first, so that it is counted again.
    """
    call()
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
    except (AttributeError, OSError) as error:
        raise NotImplementedError(f"needs Linux with glibc: {error}") from error
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return 1024 * int(found[1])
