"""The form of maps of each coordinate's logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from rfx._xp import Array, constant, namespace
from rfx.features._drawn import DrawnMap
from rfx.features._side import LogFeatures

if TYPE_CHECKING:
    from rfx.features._spec import Spec

__all__ = ["ChiSquaredMap"]


@dataclass(frozen=True, eq=False)
class ChiSquaredMap(DrawnMap):
    """φ(x) = x^(1/2) [a_0, a_j cos(f_j log x), a_j sin(f_j log x)] of each coordinate x >= 0.

    Columns are all coordinates for a_0, then for the first cosine, the first sine, and so on. At 0
    all are 0, and their gradient, which is infinite, counts as 0.

    Attributes
    ----------
    frequency : Array, shape (k,) or (heads, k)
    amplitude : Array, shape (k + 1,) or (heads, k + 1)
    axes : int
        Coordinates, d.
    """

    spec: Spec
    frequency: Array
    amplitude: Array
    fingerprint: Array
    axes: int

    array_fields: ClassVar[tuple[str, ...]] = ("frequency", "amplitude", "fingerprint")
    description = "additive χ²"
    scale_per_feature = False

    @property
    def like(self) -> Array:
        return self.amplitude

    @property
    def dim(self) -> int:
        return self.axes

    @property
    def heads(self) -> int | None:
        return int(self.amplitude.shape[0]) if self.amplitude.ndim == 2 else None

    @property
    def num_features(self) -> int:
        return self.axes * (2 * int(self.amplitude.shape[-1]) - 1)

    def complete(self, z: Array, side: str) -> LogFeatures:
        xp = namespace(z)
        z = xp.astype(z, self.like.dtype, copy=False)
        tiny = float(xp.finfo(z.dtype).smallest_normal)
        top = constant(xp.clip(xp.max(z, axis=-1, keepdims=True), tiny, None))
        nothing = z == 0.0
        some = xp.where(nothing, xp.ones_like(z), z)
        root = xp.where(nothing, xp.zeros_like(z), xp.sqrt(some / top))
        log = xp.log(some)
        parts = [root * self._of("amplitude", 0)]
        for j in range(self.frequency.shape[-1]):
            angle, size = log * self._of("frequency", j), root * self._of("amplitude", j + 1)
            parts += [size * xp.cos(angle), size * xp.sin(angle)]
        return LogFeatures(0.5 * xp.log(top), xp.concat(parts, axis=-1))

    def _of(self, name: str, j: int) -> Array:
        """An entry of an array, to be multiplied with points."""
        return getattr(self, name)[..., j, None, None]

    def arrays(self) -> dict[str, Array]:
        return {name: getattr(self, name) for name in self.array_fields}

    @classmethod
    def of(cls, spec: Spec, arrays: Mapping[str, Array], **statics: Any) -> Self:
        return cls(spec, **arrays, **statics)
