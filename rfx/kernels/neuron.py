"""f(x·w): what a neuron with weights w makes of an input x."""

from __future__ import annotations

from dataclasses import dataclass

from rfx._xp import Array, namespace, working_dtype
from rfx.kernels import functions
from rfx.kernels._base import SignedKernel
from rfx.kernels.functions import FunctionName

__all__ = ["Neuron"]


@dataclass(frozen=True)
class Neuron(SignedKernel):
    """f(x·w) for an input x and the weights w of a neuron: a layer of a network as a Gram matrix.

    In general it is not positive definite, nor even symmetric with ``bias``; it stands among the
    kernels as what feature maps estimate.

    Parameters
    ----------
    function : str or callable
        f: "gaussian" (exp(−u²/2)), "sech" (1/cosh u), "cos", "sin", the name of an elementwise
        function of `rfx.features.Generalized`, or a hashable callable of an array, elementwise.
    bias : bool
        The last coordinate of w is a bias, f(Σ_l<d x_l w_l + w_d), and the last coordinate of x
        does not count.

    Raises
    ------
    ValueError
        If there is no elementwise function of that name.
    TypeError
        If ``function`` is neither a name nor a hashable callable, or ``bias`` no bool.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x, weights = np.asarray([[3.0, 1.0]]), np.asarray([[0.5, -0.5], [-1.0, 2.0]])
    >>> rfx.kernels.Neuron("relu", bias=True)(x, weights)
    array([[1., 0.]])
    """

    function: FunctionName = "gaussian"
    bias: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.bias, bool):
            raise TypeError(f"`bias` must be True or False, got {self.bias!r}")
        if not isinstance(self.function, str):
            functions.known(self.function)
            return
        names = (*_WAVES, *(n for n, f in functions.FUNCTIONS.items() if f.elementwise))
        if self.function not in names:
            raise ValueError(
                f"`function` must be one of {', '.join(names)}, or a callable, got "
                f"{self.function!r}"
            )

    def activations(self, u: Array) -> Array:
        """f(u), elementwise."""
        if isinstance(self.function, str) and self.function in _WAVES:
            return _WAVES[self.function](u)
        return functions.plain(self.function, u)

    def preactivations(self, x: Array, w: Array) -> Array:
        """x·w, with the bias where there is one, in the working dtype: shape (..., t, s)."""
        xp = namespace(x)
        x, w = (xp.astype(a, working_dtype(a), copy=False) for a in (x, w))
        if not self.bias:
            return xp.matmul(x, xp.matrix_transpose(w))
        inner = xp.matmul(x[..., :-1], xp.matrix_transpose(w[..., :-1]))
        return inner + xp.matrix_transpose(w[..., -1:])

    def _log_and_factor(self, x: Array, y: Array) -> tuple[Array, Array]:
        values = self.activations(self.preactivations(x, y))
        return namespace(values).zeros_like(values), values


def _gaussian(u: Array) -> Array:
    near = namespace(u).clip(u, -40.0, 40.0)  # beyond, it is 0 in every dtype
    return namespace(u).exp(-0.5 * near * near)


def _sech(u: Array) -> Array:
    xp = namespace(u)
    small = xp.exp(-xp.abs(u))
    return 2.0 * small / (1.0 + small * small)


def _cos(u: Array) -> Array:
    return namespace(u).cos(u)


def _sin(u: Array) -> Array:
    return namespace(u).sin(u)


_WAVES = {"gaussian": _gaussian, "sech": _sech, "cos": _cos, "sin": _sin}
"""Functions with a known Fourier transform that no other kernel needs."""
