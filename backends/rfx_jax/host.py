"""Python functions as calls inside compiled JAX programs, on XLA's own memory.

``jax.pure_callback`` would copy what goes in and what comes out. XLA's foreign function interface
calls a C function with a record that says where its buffers lie. Here ctypes makes that C function
of a Python one, and reads the record, which XLA's header ``c_api.h`` lays out.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import math
import mmap
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_void_p,
)
from functools import cache
from typing import Any

import jax
import numpy as np

__all__ = ["HostCall", "HostFunction"]

Array = np.ndarray[Any, Any]

_VERSION = (0, 1)
"""Of the interface; what is used here has been in it since."""
_METADATA = 1
"""The kind of extension that asks for the version."""
_INTERNAL = 13
"""The kind of error."""
_HUGE_PAGES, _LARGE = getattr(mmap, "MADV_HUGEPAGE", 14), 1 << 22
"""The advice to Linux, and the bytes from which on NumPy gives it too."""

_HEAD: list[Any] = [("struct_size", c_size_t), ("extension", c_void_p)]
"""With which a record begins."""


class _Version(Structure):
    _fields_ = [*_HEAD, ("major", c_int), ("minor", c_int)]


class _Metadata(Structure):
    _fields_ = [("struct_size", c_size_t), ("version", _Version)]


class _Extension(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int),
        ("next", c_void_p),
        ("metadata", POINTER(_Metadata)),
    ]


class _Error(Structure):
    _fields_ = [*_HEAD, ("message", c_char_p), ("code", c_int)]


class _ThreadCount(Structure):
    _fields_ = [*_HEAD, ("context", c_void_p), ("number", POINTER(c_int64))]


class _Api(Structure):
    _fields_ = [
        *_HEAD,
        ("version", _Version),
        ("internal", c_void_p),
        ("create_error", CFUNCTYPE(c_void_p, POINTER(_Error))),
        ("others", c_void_p * 11),
        ("count_threads", CFUNCTYPE(c_void_p, POINTER(_ThreadCount))),
    ]


class _Buffer(Structure):
    _fields_ = [*_HEAD, ("dtype", c_int), ("address", c_void_p)]


class _Text(Structure):
    _fields_ = [("address", c_void_p), ("length", c_size_t)]


class _Buffers(Structure):
    _fields_ = [*_HEAD, ("count", c_int64), ("kinds", c_void_p), ("each", c_void_p)]


class _Attributes(Structure):
    _fields_ = [
        *_HEAD,
        ("count", c_int64),
        ("kinds", c_void_p),
        ("names", c_void_p),
        ("each", POINTER(POINTER(_Text))),
    ]


class _Record(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("extension", POINTER(_Extension)),
        ("api", POINTER(_Api)),
        ("context", c_void_p),
        ("stage", c_int),
        ("inputs", _Buffers),
        ("outputs", _Buffers),
        ("attributes", _Attributes),
    ]


_threads: list[int] = []
_address = c_void_p.from_address
_OFFSET = _Buffer.address.offset


class _Plan:
    """What a call was traced with."""

    def __init__(self, text: bytes) -> None:
        self.options, layout = json.loads(text)
        self.shapes = [tuple(shape) for shape, _ in layout]
        self.dtypes = [np.dtype(name) for _, name in layout]
        pairs = zip(self.shapes, self.dtypes, strict=True)
        self.bytes = [math.prod(shape) * dtype.itemsize for shape, dtype in pairs]


class HostCall:
    """One call, of which only what is asked for is read.

    options : what the call was traced with
    shapes : of the inputs, and of the outputs after them
    addresses : where they lie
    """

    def __init__(self, record: _Record, plan: _Plan) -> None:
        self._record, self._dtypes = record, plan.dtypes
        self.options, self.shapes = plan.options, plan.shapes
        self.addresses = [
            _address(buffer + _OFFSET).value or 0
            for group in (record.inputs, record.outputs)
            for buffer in (c_void_p * group.count).from_address(group.each)
        ]
        for number in range(record.inputs.count, len(plan.shapes)):
            if plan.bytes[number] >= _LARGE:
                _ask_for_huge_pages(self.addresses[number], plan.bytes[number])

    def arrays(self) -> list[Array]:
        """The inputs and the outputs as arrays that share their memory."""
        return list(map(_array, self.addresses, self.shapes, self._dtypes))

    def threads(self) -> int:
        """The number of XLA's own threads, which is fixed when JAX starts."""
        if not _threads:
            number = c_int64(1)
            size, at = ctypes.sizeof(_ThreadCount), ctypes.pointer(number)
            args = _ThreadCount(size, None, self._record.context, at)
            if self._record.api.contents.count_threads(args):
                raise RuntimeError("XLA does not say how many threads it has")
            _threads.append(max(1, number.value))
        return _threads[0]


class HostFunction:
    """A Python function of a `HostCall` that programs on a CPU may call.

    It reads the inputs and writes the outputs; what it raises, the program raises.
    """

    def __init__(self, name: str, function: Callable[[HostCall], None]) -> None:
        self.name, self.function = name, function
        self._plans: dict[bytes, _Plan] = {}
        _watch_the_exit()
        self._pointer = CFUNCTYPE(c_void_p, c_void_p)(self._called)  # kept, since XLA calls it
        capsule = jax.ffi.pycapsule(ctypes.cast(self._pointer, c_void_p).value)
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")

    def __call__(
        self,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        in_place: dict[int, int] | None = None,
        **options: Any,
    ) -> Any:
        """The results in a program that is traced; ``outputs`` have their shapes and dtypes.

        ``in_place`` says by number which input's memory an output takes; where that input is needed
        elsewhere, XLA copies it first.
        """
        results = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in outputs]
        layout = [(a.shape, str(a.dtype)) for a in (*inputs, *results)]
        call = jax.ffi.ffi_call(self.name, results, input_output_aliases=in_place)
        return call(*inputs, plan=json.dumps([options, layout]))

    def _called(self, address: int) -> int | None:
        record = _Record.from_address(address)
        if record.extension and record.extension.contents.kind == _METADATA:
            version = record.extension.contents.metadata.contents.version
            version.major, version.minor = _VERSION
            return None
        try:
            self.function(HostCall(record, self._plan(record)))
        except BaseException as error:  # to be raised by the program
            message = f"{type(error).__name__}: {error}".encode()
            size = ctypes.sizeof(_Error)
            created = record.api.contents.create_error(_Error(size, None, message, _INTERNAL))
            return int(created)
        return None

    def _plan(self, record: _Record) -> _Plan:
        text = record.attributes.each[0].contents
        written = ctypes.string_at(text.address, text.length)
        if written not in self._plans:
            self._plans[written] = _Plan(written)
        return self._plans[written]


@cache
def _watch_the_exit() -> None:
    atexit.register(_finish_programs)


def _finish_programs() -> None:
    """Wait for programs that may call the host yet, before JAX takes its client down at exit.

    JAX holds the interpreter's lock then, for which such a program would wait for ever. A thread's
    programs run one after another, so the last one is waited for, and what other threads hold.
    """
    last = jax.device_put(0.0, jax.devices("cpu")[0]) + 1.0
    for array in (last, *jax.live_arrays("cpu")):
        with suppress(Exception):  # a program that failed has ended too
            jax.block_until_ready(array)


def _array(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    memory: Any = c_char * (dtype.itemsize * math.prod(shape))
    return np.ndarray(shape, dtype, memory.from_address(address))


def _ask_for_huge_pages(address: int, size: int) -> None:
    """As NumPy does for its own arrays: first writes to small pages take as long as the work."""
    if sys.platform.startswith("linux"):
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        length = address + size - start
        _libc().madvise(c_void_p(start), c_size_t(length), _HUGE_PAGES)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
