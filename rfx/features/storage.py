"""Saving a drawn map as an npz archive of arrays and JSON, and loading it: no pickles."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from rfx import _check
from rfx._xp import Array, to_numpy
from rfx.features import archive
from rfx.features._drawn import DrawnMap, check_drawn
from rfx.features._spec import Spec
from rfx.kernels import Kernel
from rfx.projections import Projection

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["load", "save"]

_FORMAT = 2


def save(features: DrawnMap, path: str | Path) -> None:
    """Write a drawn map to ``path``, an npz archive of its arrays and of its spec as JSON.

    Parameters
    ----------
    features : DrawnMap
    path : str or Path
        Written as it is: no ending is added.

    Raises
    ------
    TypeError
        If ``features`` is no drawn map, or holds a function that has no name in rfx.

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
    import json  # here and below: seldom needed, and importing rfx is to be quick

    check_drawn(features, "x")
    header = {
        "format": _FORMAT,
        "form": type(features).__name__,
        "spec": _encode(features.spec),
        "statics": {name: _encode(value) for name, value in features.statics().items()},
    }
    arrays = {name: to_numpy(array) for name, array in features.arrays().items()}
    archive.write(path, {"header": np.asarray(json.dumps(header))} | arrays)


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
    _check.array("like", like)
    wanted = "a map written by rfx.features.save"
    return archive.read(path, _assemble, wanted, "save it again").to_like(like)


def _assemble(arrays: dict[str, np.ndarray]) -> DrawnMap:
    import json

    header = json.loads(str(arrays.pop("header")))
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']}")
    spec = _decode(header["spec"])
    if not isinstance(spec, Spec):
        raise ValueError("no spec")
    statics = {name: _decode(value) for name, value in header["statics"].items()}
    return _forms()[header["form"]].of(spec, arrays, **statics)


def _forms() -> dict[str, type[DrawnMap]]:
    from rfx.features.forms import FORMS

    return {form.__name__: form for form in FORMS}


def _encode(value: Any) -> Any:
    if isinstance(value, type) and issubclass(value, DrawnMap):
        return {"form": value.__name__}
    if isinstance(value, tuple):
        return [_encode(each) for each in value]
    if dataclasses.is_dataclass(value):
        inner = {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": _name(type(value)), "fields": inner}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if callable(value):
        raise TypeError(
            f"`features` holds the function {value!r}, which a file cannot hold; "
            "use one of the functions that have a name"
        )
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(each) for each in value)
    if not isinstance(value, dict):
        return value
    if "form" in value:
        return _forms()[value["form"]]
    if "complex" in value:
        return complex(*value["complex"])
    record = _records()[value["class"]]
    return record(**{key: _decode(inner) for key, inner in value["fields"].items()})


def _name(record: type) -> str:
    """Of a class, with its package: a kernel and its features may share a name."""
    return f"{record.__module__.split('.')[1]}.{record.__name__}"


def _records() -> dict[str, type]:
    """The classes of specs and of what they hold, by name: nothing else is ever called."""
    from rfx.features.composite import Layout
    from rfx.features.preparation import Preparation
    from rfx.features.products import Factors

    for package in ("features", "kernels", "projections"):
        module = import_module(f"rfx.{package}")
        for name in module.__all__:
            getattr(module, name)  # imported on demand
    found: dict[str, type] = {}
    waiting: list[type] = [Spec, Kernel, Projection, Preparation, Layout, Factors]
    while waiting:
        record = waiting.pop()
        found[_name(record)] = record
        waiting += record.__subclasses__()
    return found
