"""Laws of the frequencies: one coupling a file."""

from rfx.projections._base import Projection
from rfx.projections.iid import IID
from rfx.projections.orthogonal import Orthogonal

__all__ = ["IID", "Orthogonal", "Projection"]
