"""Features of the additive χ² kernel of histograms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rfx import _check
from rfx._xp import Array, namespace, working_dtype
from rfx.features._drawn import DrawnMap
from rfx.features._spec import Costs, Spec
from rfx.features.chi_squared_map import ChiSquaredMap
from rfx.kernels import Kernel
from rfx.kernels.chi_squared import AdditiveChiSquared as AdditiveChiSquaredKernel

__all__ = ["AdditiveChiSquared"]

_INTERVALS = {1: 0.8, 2: 0.5, 3: 0.4}
"""The authors' choices by the number of steps."""


@dataclass(frozen=True)
class AdditiveChiSquared(Spec):
    """φ(x) = (L x)^(1/2) [1, (2 sech(π j L))^(1/2) (cos(j L log x), sin(j L log x))], j < steps.

    So for each coordinate x of a histogram. 2xy/(x + y) is (xy)^(1/2) sech(log(x/y)/2), whose
    spectrum sech(πω) is sampled at the multiples of L. Nothing is random: the error is that of a
    sum in the place of an integral, and falls with more steps and a smaller interval. The columns
    are those of scikit-learn's AdditiveChi2Sampler, in its order: m = d (2 steps − 1).

    Parameters
    ----------
    num_steps : int
        Points of the spectrum, the one at 0 included.
    interval : float, optional
        L; by default 0.8, 0.5 and 0.4 for 1, 2 and 3 steps. It must be given for more.

    Raises
    ------
    ValueError
        If ``num_steps`` is below 1, or ``interval`` is not positive, or not given where it must be.
    TypeError
        If an argument is of another kind.

    References
    ----------
    Vedaldi and Zisserman, Efficient additive kernels via explicit feature maps, 2012.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, y = np.asarray([[0.2, 0.8]]), np.asarray([[0.3, 0.7]])
    >>> phi = rfx.features.AdditiveChiSquared(num_steps=8, interval=0.3).draw(2, seed=0, like=x)
    >>> rfx.gram(x, y, features=phi).round(3), phi.kernel(x, y).round(3)
    (array([[0.986]]), array([[0.987]]))
    """

    num_steps: int = 2
    interval: float | None = None

    paper: ClassVar[str] = "Vedaldi and Zisserman 2012"

    def __post_init__(self) -> None:
        steps = _check.positive_int("num_steps", self.num_steps)
        object.__setattr__(self, "num_steps", steps)
        if self.interval is None:
            if steps not in _INTERVALS:
                raise ValueError(
                    f"`interval` must be given for num_steps={steps}; pass for example interval=0.3"
                )
            return
        object.__setattr__(self, "interval", _check.positive_number("interval", self.interval))

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]
        return AdditiveChiSquaredKernel()

    @property
    def costs(self) -> Costs:
        return Costs(None, "0", "m")

    @property
    def positive(self) -> bool:
        return self.num_steps == 1

    @property
    def unbiased(self) -> bool:
        return False

    def absolute_variance(self, x: Array, y: Array, drawn: DrawnMap | None) -> tuple[Array, Array]:
        xp = namespace(x)
        nothing = xp.zeros_like(xp.matmul(x[..., :1], xp.matrix_transpose(y[..., :1])))
        nothing = xp.astype(nothing, working_dtype(x))
        return nothing, nothing

    def assemble(self, dim: int, rng: np.random.Generator, parameters: None) -> ChiSquaredMap:
        interval = _INTERVALS[self.num_steps] if self.interval is None else self.interval
        frequency = interval * np.arange(1, self.num_steps)
        amplitude = np.sqrt(2.0 * interval / np.cosh(math.pi * frequency))
        amplitude = np.concatenate([[math.sqrt(interval)], amplitude])
        return ChiSquaredMap(self, frequency, amplitude, np.asarray(0.0), dim)
