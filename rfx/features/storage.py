"""Saving a drawn map as an npz archive of arrays and JSON, and loading it: no pickles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from rfx import _check, kernels, projections
from rfx._xp import Array, to_numpy
from rfx.features._base import DrawnMap, Side

__all__ = ["load", "save"]

_FORMAT = 1


def save(features: DrawnMap, path: str | Path) -> None:
    """Write a drawn map to ``path``, an npz archive of its arrays and of its spec as JSON.

    Parameters
    ----------
    features : DrawnMap
    path : str or Path
        Written as it is: no ending is added.

    Examples
    --------
    >>> import numpy as np, rfx, tempfile, os
    >>> like = np.zeros(1)
    >>> phi = rfx.features.Positive(num_features=4).draw(2, seed=0, like=like)
    >>> path = os.path.join(tempfile.mkdtemp(), "map.npz")
    >>> rfx.features.save(phi, path)
    >>> bool((rfx.features.load(path, like=like).arrays()["query_weight"]
    ...       == phi.arrays()["query_weight"]).all())
    True
    """
    header = {
        "format": _FORMAT,
        "form": type(features).__name__,
        "spec": _encode(features.spec),
        "statics": features.statics(),
    }
    arrays = {name: to_numpy(array) for name, array in features.arrays().items()}
    with open(path, "wb") as file:
        np.savez(file, header=np.asarray(json.dumps(header)), **arrays)


def load(path: str | Path, *, like: Array) -> DrawnMap:
    """Read a drawn map that `save` wrote.

    Parameters
    ----------
    path : str or Path
    like : Array
        The map is made for the library, device and working dtype of this array.

    Returns
    -------
    DrawnMap

    Raises
    ------
    ValueError
        If the file was not written by `save`.
    """
    from rfx import features  # the registry of the classes that may be loaded

    _check.array("like", like)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    try:
        header = json.loads(str(arrays.pop("header")))
        if header["format"] != _FORMAT:
            raise ValueError
        form = getattr(features, header["form"])
        places = (features, kernels, projections)
        spec = _decode(header["spec"], places)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"`path` must be a map written by rfx.features.save, got {str(path)!r}; save it again"
        ) from error
    placeholder = Side(arrays["query_weight"])
    statics = header["statics"]
    drawn: DrawnMap = form(spec, placeholder, None, arrays["fingerprint"], **statics)
    return dataclasses.replace(drawn, **_sides(arrays)).to_like(like)


def _sides(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    sides: dict[str, Any] = {}
    for prefix in ("query", "key"):
        given = {field: arrays.get(f"{prefix}_{field}") for field in Side._fields}
        sides[f"{prefix}_side"] = None if given["weight"] is None else Side(**given)  # type: ignore[arg-type]
    return sides


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        inner = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": inner}
    return value


def _decode(value: Any, places: tuple[Any, ...]) -> Any:
    if not isinstance(value, dict):
        return value
    name = value["class"]
    found = [getattr(place, name) for place in places if name in place.__all__]
    if not found:
        raise ValueError(f"no record named {name!r}")
    return found[0](**{key: _decode(inner, places) for key, inner in value["fields"].items()})


