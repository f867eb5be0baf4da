"""Features of points and positions together: φ(x_i) ⊗ p(i).

The product of such features of a query and a key is φ(q_i)·φ(k_j) times p(i)·r(j), so that every
linear-time attention takes a factor of the distance that is itself a product of features: cosine
reweighting, and any sum of cosines. The features of positions are columns of the points; the
products are formed chunk by chunk where features are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rfx._xp import Array, full, namespace
from rfx.features import DrawnMap
from rfx.features._side import LogFeatures
from rfx.features.composite import _product
from rfx.ops.heads import fold_heads, unfold_heads

if TYPE_CHECKING:
    from rfx.features._spec import Spec

__all__ = ["PositionalMap", "placed_with", "positions"]


@dataclass(frozen=True, repr=False, eq=False)
class PositionalMap(DrawnMap):
    """All products of a feature of a point and one of its position.

    Points are those of ``inner``, placed already, with the ``count`` features of their position as
    further columns.
    """

    array_fields = ("inner", "fingerprint")
    description = "positional"

    spec: Spec
    inner: DrawnMap
    fingerprint: Array
    count: int

    @property
    def scale_per_feature(self) -> bool:
        return self.inner.scale_per_feature

    @property
    def like(self) -> Array:
        return self.inner.like

    @property
    def dim(self) -> int:
        return self.inner.dim + self.count

    @property
    def heads(self) -> int | None:
        return self.inner.heads

    @property
    def num_features(self) -> int:
        return self.inner.num_features * self.count

    def check_values(self, x: Array, name: str, keep: Array | None = None) -> None:
        return  # these are placed already; the points were checked before

    def log_query(self, z: Array) -> LogFeatures:
        return self._times_position(self.inner.log_query(z[..., : -self.count]), z)

    def complete(self, z: Array, side: str) -> LogFeatures:
        return self._times_position(self.inner.complete(z[..., : -self.count], side), z)

    def _times_position(self, features: LogFeatures, z: Array) -> LogFeatures:
        xp = namespace(z)
        position = xp.astype(z[..., -self.count :], self.like.dtype, copy=False)
        return _product(features, LogFeatures(xp.zeros_like(position[..., :1]), position))

    def arrays(self) -> dict[str, Array]:
        own = {f"inner_{n}": a for n, a in self.inner.arrays().items() if n != "fingerprint"}
        return own | {"fingerprint": self.fingerprint}

    def statics(self) -> dict[str, Any]:
        inner = (type(self.inner), tuple(self.inner.statics().items()))
        return {"count": self.count, "part": inner}

    @classmethod
    def of(cls, spec: Spec, arrays: Mapping[str, Array], **statics: Any) -> Self:
        form, its_statics = statics["part"]
        own = {n.removeprefix("inner_"): a for n, a in arrays.items()}
        inner = form.of(spec, own, **dict(its_statics))
        return cls(spec, inner, arrays["fingerprint"], statics["count"])


def positions(like: Array, count: int, start: Array | int) -> Array:
    """start, start + 1, ... as ``count`` rows (count, 1) in the dtype of ``like``."""
    xp = namespace(like)
    ones = full(like, (count, 1), 1.0, like.dtype)
    first = start if isinstance(start, int) else xp.astype(start, like.dtype)
    return xp.cumulative_sum(ones, axis=0) + (first - 1)


def placed_with(features: DrawnMap, x: Array, position: Array, key: Array, side: str) -> Array:
    """Placed points with the features (t, r) or (H, t, r) of their positions behind them."""
    xp = namespace(x)
    if features.moves(side):
        x = unfold_heads(features.place(fold_heads(x, key.shape[-3:-2]), side), x)
    if position.ndim == 3 and position.shape[0] != x.shape[-3]:  # grouped queries
        position = xp.repeat(position, x.shape[-3] // position.shape[0], axis=0)
    x = xp.astype(x, features.like.dtype, copy=False)
    position = xp.broadcast_to(position, (*x.shape[:-1], position.shape[-1]))
    return xp.concat([x, position], axis=-1)
