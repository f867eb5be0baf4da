"""What this machine has: array libraries, their devices, and the fast paths registered for them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from rfx._xp import namespace_of_library
from rfx.dispatch import FastPath, load

__all__ = ["Library", "libraries"]

_DISTRIBUTIONS = {"numpy": ("numpy",), "torch": ("torch",), "jax": ("jax",)}
_CUPY = ("cupy", "cupy-cuda12x", "cupy-cuda13x")


@dataclass(frozen=True)
class Library:
    """An array library on this machine."""

    name: str
    version: str | None
    """None if it is not installed."""
    devices: tuple[str, ...] = ()
    fast_paths: tuple[FastPath, ...] = ()
    problem: str | None = None
    """Why it cannot be used although it is installed."""


def libraries() -> tuple[Library, ...]:
    """The array libraries that rfx knows, with version, devices and fast paths.

    Installed ones are imported to be asked for their devices.

    Returns
    -------
    tuple of Library
        Those that are not installed have ``version`` None.

    Examples
    --------
    >>> import rfx
    >>> rfx.libraries()[0].name
    'numpy'
    """
    return tuple(_look(name, names) for name, names in (*_DISTRIBUTIONS.items(), ("cupy", _CUPY)))


def _look(name: str, distributions: tuple[str, ...]) -> Library:
    from importlib.metadata import PackageNotFoundError, version

    for distribution in distributions:
        try:
            found = version(distribution)
        except PackageNotFoundError:
            continue
        try:
            xp = namespace_of_library(name)
            with warnings.catch_warnings():  # torch tries each kind of device, some deprecated
                warnings.simplefilter("ignore", UserWarning)
                devices = tuple(str(d) for d in xp.__array_namespace_info__().devices() if d)
            return Library(name, found, devices, load(name))
        except Exception as error:  # a broken driver or install is what the caller wants to see
            return Library(name, found, problem=f"{type(error).__name__}: {error}")
    return Library(name, None)
