"""npz archives of arrays, without pickles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read", "write"]

Record = TypeVar("Record")


def write(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to ``path`` as it is: no ending is added."""
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(
    path: str | Path, record: Callable[[dict[str, np.ndarray]], Record], wanted: str, fix: str
) -> Record:
    """What ``record`` makes of the arrays of an archive.

    Raises
    ------
    ValueError
        If it cannot: ``wanted`` says what the file should be, and ``fix`` what to do.
    OSError
        If the file cannot be opened.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return record({name: archive[name] for name in archive.files})
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes of the steps above
        raise ValueError(
            f"`path` must be {wanted}, got {str(path)!r} ({type(error).__name__}: {error}); {fix}"
        ) from error
