"""Queries, keys and values from an npz archive: found by layer, checked, cut to some heads."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from rfx import _check
from rfx.cli.errors import UserError

__all__ = ["Inputs", "read"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What attention is computed on.

    query : shape (..., Hq, t, d), float32 or float64
    key, value : shapes (..., H, s, d) and (..., H, s, e), of the dtype of ``query``
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    source: str
    layer: int | None
    layers: tuple[int, ...]
    """All layers in the file; empty if its arrays carry no numbers."""
    stored: tuple[str, ...]
    """The dtypes in the file."""
    heads: tuple[int, ...] | None
    """The query heads chosen, or None for all."""

    @property
    def dim(self) -> int:
        """Axes of queries and keys, d."""
        return int(self.query.shape[-1])

    def logit_size(self) -> tuple[float, float]:
        """Median over all rows of |q|²/√d and of |k|²/√d."""
        sizes = [np.median((a**2.0).sum(axis=-1)) / self.dim**0.5 for a in (self.query, self.key)]
        return float(sizes[0]), float(sizes[1])


def read(path: Path | None, layer: int | None, heads: Sequence[int] | None) -> Inputs:
    """Read ``q``, ``k``, ``v`` or one layer's ``q{l}``, ``k{l}``, ``v{l}``; the sample for None.

    Half precision becomes float32. If heads are chosen, each query head gets its own copy of the
    key head that it attends to.
    """
    if path is None:
        with resources.as_file(resources.files("rfx") / "data" / "sample.npz") as sample:
            return _read(sample, "the sample that comes with rfx", layer, heads)
    return _read(path, str(path), layer, heads)


def _read(path: Path, source: str, layer: int | None, heads: Sequence[int] | None) -> Inputs:
    arrays, layer, layers = _load(path, source, layer)
    for name, array in arrays.items():
        _check_array(name, array, source)
    stored = tuple(dict.fromkeys(str(a.dtype) for a in arrays.values()))
    dtype = np.result_type(np.float32, *arrays.values())
    query, key, value = (a.astype(dtype) for a in arrays.values())
    try:
        _check.attention(query, key, value)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    if heads is not None:
        query, key, value = _choose(query, key, value, heads)
    return Inputs(
        query, key, value, source, layer, layers, stored, None if heads is None else tuple(heads)
    )


def _load(
    path: Path, source: str, layer: int | None
) -> tuple[dict[str, np.ndarray], int | None, tuple[int, ...]]:
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(
                    f"{source} is not an npz archive; "
                    "write one with numpy.savez(path, q=q, k=k, v=v)"
                )
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                names, chosen, layers = _select(archive.files, source, layer)
                return {name: _item(archive, name, source) for name in names}, chosen, layers
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{source} is a damaged npz archive ({error}); write it again") from error


def _item(archive: np.lib.npyio.NpzFile, name: str, source: str) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except ValueError as error:
        raise UserError(
            f"array {name} in {source} cannot be read ({error}); pickled objects are refused, "
            "save plain floating arrays"
        ) from error


def _select(
    found: Sequence[str], source: str, layer: int | None
) -> tuple[list[str], int | None, tuple[int, ...]]:
    """The names of the three arrays, the layer, and all layers of which there are queries."""
    matches = (re.fullmatch(r"q(0|[1-9][0-9]*)", name) for name in found)
    layers = tuple(sorted(int(match[1]) for match in matches if match))
    if layer is None and "q" not in found and layers:
        layer = layers[0]
    if layer is not None and layer not in layers:
        have = f"layers {', '.join(map(str, layers))}" if layers else "no numbered layers"
        raise UserError(f"there is no layer {layer} in {source}, which has {have}")
    names = [f"{letter}{'' if layer is None else layer}" for letter in "qkv"]
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"{source} has no array {' and no array '.join(missing)} (found: "
            f"{', '.join(found) or 'nothing'}); it must hold q, k, v, or q0, k0, v0 and so on"
        )
    return names, layer, layers


def _check_array(name: str, array: np.ndarray, source: str) -> None:
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise UserError(
            f"array {name} in {source} must be float16, float32 or float64, got {array.dtype}; "
            "convert it with astype(float32)"
        )
    if array.ndim not in (3, 4):
        raise UserError(
            f"array {name} in {source} must have shape (heads, length, dim) or "
            f"(batch, heads, length, dim), got {array.shape}; add or join axes"
        )
    if array.size == 0:
        raise UserError(f"array {name} in {source} is empty, it has shape {array.shape}")
    if not np.isfinite(array).all():
        raise UserError(
            f"array {name} in {source} holds NaN or infinity, so no error could be computed; "
            "remove those rows"
        )


def _choose(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut to query heads, each with its own copy of the key head that it attends to."""
    count = query.shape[-3]
    outside = [head for head in heads if head >= count]
    if outside:
        raise UserError(f"there is no head {outside[0]}; the query heads are 0 to {count - 1}")
    index = np.asarray(heads)
    own = index // (count // key.shape[-3])
    return query[..., index, :, :], key[..., own, :, :], value[..., own, :, :]
