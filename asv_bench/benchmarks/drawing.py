"""Drawing a map: frequencies for each of 32 heads."""

from __future__ import annotations

import rfx

from ._cases import NAMES, QUICK, axis, normal
from ._clock import medians
from ._libraries import start
from ._rows import Timed

__all__ = ["Draw"]

DIM, COLUMNS, HEADS = (64, 64, 2) if QUICK else (64, 1024, 32)
PROJECTIONS = {"Orthogonal": rfx.projections.Orthogonal, "IID": rfx.projections.IID}


class Draw(Timed):
    """Time to draw 1,024 features of dimension 64 for 32 heads, on the library's device."""

    params = (axis(*PROJECTIONS), NAMES)
    param_names = ("projection", "library")

    def prepare(self, projection: str, name: str) -> None:
        library = start(name)
        like = normal(library, (1,), 0)
        spec = rfx.features.Positive(num_features=COLUMNS, projection=PROJECTIONS[projection]())

        def draw() -> object:
            return spec.draw(DIM, seed=0, like=like, heads=HEADS).like

        self.keep(library.finished(draw))

    def time_draw(self, projection: str, name: str) -> None:
        self.run()

    def seconds(self, projection: str, name: str) -> dict[str, float]:
        """The median, for the page."""
        return medians({"draw": self.run})
