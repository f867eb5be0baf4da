"""Laws of the frequencies: one coupling a file."""

from typing import TYPE_CHECKING

from rfx._lazy import on_demand
from rfx.projections._base import Projection
from rfx.projections.iid import IID
from rfx.projections.orthogonal import Orthogonal

if TYPE_CHECKING:
    from rfx.projections.fastfood import Fastfood
    from rfx.projections.hadamard import Hadamard
    from rfx.projections.halton import Halton
    from rfx.projections.moment_matched import MomentMatched
    from rfx.projections.norm_coupled import NormCoupled
    from rfx.projections.simplex import Simplex
    from rfx.projections.sobol import Sobol

__all__ = [
    "IID",
    "Fastfood",
    "Hadamard",
    "Halton",
    "MomentMatched",
    "NormCoupled",
    "Orthogonal",
    "Projection",
    "Simplex",
    "Sobol",
]

__getattr__ = on_demand(
    __name__,
    {
        "Fastfood": "fastfood",
        "Hadamard": "hadamard",
        "Halton": "halton",
        "MomentMatched": "moment_matched",
        "NormCoupled": "norm_coupled",
        "Simplex": "simplex",
        "Sobol": "sobol",
    },
)


def __dir__() -> list[str]:
    return __all__
