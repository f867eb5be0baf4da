"""Maps and projections of an experiment, as far as this version of rfx has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rfx import features, projections
from rfx.cli.errors import UserError
from rfx.features import DrawnMap, Spec
from rfx.kernels import Kernel
from rfx.projections import Projection

__all__ = ["Method", "absent", "available", "drawn", "projection", "projection_names"]


class Method(NamedTuple):
    """A column of a table.

    title : what the column is called
    map : the name of the map, in `rfx.features.NAMES`
    law : the law of its frequencies, where it is not the experiment's
    factory : what makes the spec, where it is a variant of what the name stands for
    """

    title: str
    map: str
    law: Projection | None = None
    factory: Callable[..., Spec] | None = None

    def spec(self, num_features: int, kernel: Kernel, law: Projection | None = None) -> Spec:
        """The map's spec; the frequencies have the map's own default law for None."""
        make = features.NAMES[self.map] if self.factory is None else self.factory
        law = law if self.law is None else self.law
        given = {} if law is None else {"projection": law}
        try:
            return make(num_features=num_features, kernel=kernel, **given)
        except ValueError as error:
            raise UserError(
                f"the map {self.map} cannot be used with m = {num_features}: {error}"
            ) from error


def available(methods: Iterable[Method]) -> tuple[Method, ...]:
    """Those methods whose map this version of rfx has."""
    return tuple(method for method in methods if method.map in features.NAMES)


def absent(methods: Iterable[Method]) -> list[str]:
    """A note that names the methods left out, or nothing."""
    missing = [method.title for method in methods if method.map not in features.NAMES]
    if not missing:
        return []
    return [f"Left out, because this version of rfx has no such map: {', '.join(missing)}."]


def drawn(spec: Spec, query: Any, key: Any, seed: int, title: str) -> DrawnMap:
    """Draw or fit a map; what it refuses becomes a sentence that names it."""
    try:
        return spec.fit(query, key, seed=seed)
    except ValueError as error:
        raise UserError(f"the map {title} cannot be fitted here: {error}") from error


def projection(name: str) -> Projection | None:
    """The law of frequencies that a table calls by this name, or None if rfx lacks it."""
    if name == "simplex+":
        simplex = getattr(projections, "Simplex", None)
        return None if simplex is None else simplex(optimized=True)
    classes = {"iid": "IID", "orthogonal": "Orthogonal", "simplex": "Simplex"}
    law = getattr(projections, classes[name], None)
    return None if law is None else law()


def projection_names(wanted: Sequence[str]) -> tuple[str, ...]:
    """Those laws that this version of rfx has."""
    return tuple(name for name in wanted if projection(name) is not None)
