"""Structured frequencies, by Walsh-Hadamard transforms, beside a product with their matrix."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import rfx

from ._cases import NAMES, QUICK, axis, normal
from ._clock import medians
from ._libraries import start
from ._rows import Timed, unit

__all__ = ["Project"]

ROWS = 64 if QUICK else 16_384
COLUMNS = 1024
PROJECTIONS = {"Hadamard": rfx.projections.Hadamard, "Fastfood": rfx.projections.Fastfood}


class Project(Timed):
    """Time to project 16,384 points of a dimension on 1,024 structured frequencies."""

    params = (axis(*PROJECTIONS), axis(1024, 256, 64), NAMES)
    param_names = ("projection", "dim", "library")

    def prepare(self, projection: str, dim: int, name: str) -> None:
        library = start(name)
        x = normal(library, (ROWS, dim), 0)
        spec = rfx.features.Positive(num_features=COLUMNS, projection=PROJECTIONS[projection]())
        phi = cast(rfx.features.PlainMap, spec.draw(dim, seed=0, like=x))
        weight = phi.query_side.weight
        matrix = weight.dense()
        # JAX as it is used: compiled, with arrays as arguments.
        project, product = _project, _product
        if name.startswith("jax"):
            project, product = map(library.library.jit, (project, product))
        result = project(weight, x)
        self.calls = {
            "rfx": library.finished(partial(project, weight, x)),
            "product": library.finished(partial(product, x, matrix)),
            "copy": library.finished(library.copy(result)),
        }
        self.keep(self.calls["rfx"])

    def time_project(self, projection: str, dim: int, name: str) -> None:
        self.run()

    @unit("ratio")
    def track_ratio_to_product(self, projection: str, dim: int, name: str) -> float:
        """Over multiplying with the matrix of the same frequencies."""
        return self._over("product")

    @unit("ratio")
    def track_ratio_to_copy(self, projection: str, dim: int, name: str) -> float:
        """Over copying the result."""
        return self._over("copy")

    def _over(self, other: str) -> float:
        found = self.seconds()
        return found["rfx"] / found[other]

    def seconds(self, *params: Any) -> dict[str, float]:
        """Medians of all three."""
        return medians(self.calls)


def _project(weight: Any, x: Any) -> Any:
    return weight.project(x)


def _product(x: Any, matrix: Any) -> Any:
    return x @ matrix
