"""The folder of --data: its npz archives."""

from __future__ import annotations

from pathlib import Path

from rfx.cli.errors import UserError

__all__ = ["archives"]


def archives(folder: Path) -> tuple[Path, ...]:
    """The npz archives of a folder, by name."""
    try:
        files = tuple(sorted(path for path in folder.iterdir() if path.suffix == ".npz"))
    except OSError as error:
        raise UserError(f"--data cannot read {folder}: {error.strerror}") from error
    if not files:
        raise UserError(f"--data {folder} holds no npz archive; name a folder of .npz files")
    return files
