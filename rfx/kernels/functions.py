"""Functions of one number that make features of projections, and what is known of each.

A feature map needs f(u) without overflow, as a bounded value and a log for the row; a kernel needs
f(u) itself. So a function is kept as what is cheap and safe to compute: as log f where f is
positive and may underflow, else as an inner function, which grows no faster than u, and a power.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from rfx._xp import Array, constant, exp_nonpositive, namespace

__all__ = ["FUNCTIONS", "Function", "FunctionName", "known", "plain", "scaled"]

FunctionName: TypeAlias = str | Callable[[Any], Any]
"""A key of `FUNCTIONS`, or a function of arrays, elementwise and in calls of their library."""


class Function(NamedTuple):
    """f(u) = exp(inner(u)) if ``is_log``, else inner(u) ** power.

    positive : whether f is never negative.
    order : of the arc-cosine kernel that f gives with Gaussian frequencies, if it gives one.
    elementwise : False where f looks at the whole row, or gives more numbers than it takes.
    columns : values for each number.
    """

    inner: Callable[[Array], Array]
    power: int = 1
    is_log: bool = False
    positive: bool = False
    order: int | None = None
    elementwise: bool = True
    columns: int = 1


def known(function: FunctionName) -> Function:
    """The record of a function; a callable counts as signed.

    Raises
    ------
    ValueError
        If there is no function of that name.
    TypeError
        If it is neither a name nor a hashable callable.
    """
    if isinstance(function, str):
        if function not in FUNCTIONS:
            raise ValueError(
                f"`function` must be one of {', '.join(FUNCTIONS)}, or a callable, got {function!r}"
            )
        return FUNCTIONS[function]
    try:
        hash(function)
    except TypeError:
        hashable = False
    else:
        hashable = True
    if not callable(function) or not hashable:
        raise TypeError(
            f"`function` must be a name or a hashable callable, got {function!r}; "
            f"names are {', '.join(FUNCTIONS)}"
        )
    return Function(function)


def plain(function: FunctionName, u: Array) -> Array:
    """f(u), which may overflow."""
    found = known(function)
    inner = found.inner(u)
    return namespace(u).exp(inner) if found.is_log else _power(inner, found.power)


def scaled(function: FunctionName, u: Array, epsilon: float = 0.0) -> tuple[Array, Array]:
    """f(u) + epsilon as a log (..., 1) that a row shares, and a value of size at most 1.

    The log is that of the largest |f| in the row, plus epsilon; a row of zeros has the log of a
    very small number, and the value 0. To autograd it is a constant, so that all of the gradient is
    in the value.
    """
    xp, found = namespace(u), known(function)
    inner = found.inner(u)
    if found.is_log:
        log = constant(xp.max(inner, axis=-1, keepdims=True))
        value = exp_nonpositive(inner - log)
    else:
        tiny = float(xp.finfo(u.dtype).smallest_normal)
        top = constant(xp.clip(xp.max(xp.abs(inner), axis=-1, keepdims=True), tiny, None))
        value, log = _power(inner / top, found.power), found.power * xp.log(top)
    if epsilon == 0.0:
        return log, value
    least = xp.full_like(log, math.log(epsilon))
    both = xp.maximum(log, least)
    kept, added = exp_nonpositive(log - both), exp_nonpositive(least - both)
    return both + xp.log(kept + added), (value * kept + added) / (kept + added)


def _power(array: Array, power: int) -> Array:
    return array * array if power == 2 else array


def _step(u: Array) -> Array:
    one = namespace(u).ones_like(u)
    return namespace(u).where(u > 0.0, one, u * 0.0)  # NaN stays NaN


def _sign(u: Array) -> Array:
    xp = namespace(u)
    one = xp.ones_like(u)
    return xp.where(u > 0.0, one, xp.where(u < 0.0, -one, u * 0.0))  # NaN stays NaN


def _relu(u: Array) -> Array:
    return namespace(u).where(u <= 0.0, namespace(u).zeros_like(u), u)


def _identity(u: Array) -> Array:
    return u


def _abs(u: Array) -> Array:
    return namespace(u).abs(u)


def _tanh(u: Array) -> Array:
    return namespace(u).tanh(u)


def _gelu(u: Array) -> Array:
    near = namespace(u).clip(u, -10.0, 10.0)  # beyond, tanh is ±1 in every dtype
    cubic = math.sqrt(2.0 / math.pi) * (near + 0.044715 * near * near * near)
    return 0.5 * u * (1.0 + namespace(u).tanh(cubic))


def _log_elu_plus_one(u: Array) -> Array:
    xp = namespace(u)
    return xp.where(u <= 0.0, u, xp.log1p(_relu(u)))


def _log_sigmoid(u: Array) -> Array:
    xp = namespace(u)
    return xp.minimum(u, xp.zeros_like(u)) - xp.log1p(xp.exp(-xp.abs(u)))


def _log_softplus(u: Array) -> Array:
    """log(log(1 + e)) = log e − e/2 + O(e²) for e = exp(u), which is needed where e is small."""
    xp = namespace(u)
    low = u < -20.0
    small = xp.exp(xp.where(low, u, xp.zeros_like(u)))
    u_high = xp.where(low, xp.zeros_like(u), u)
    softplus = _relu(u_high) + xp.log1p(xp.exp(-xp.abs(u_high)))
    return xp.where(low, u - 0.5 * small, xp.log(softplus))


def _log_softmax(u: Array) -> Array:
    xp = namespace(u)
    near = u - constant(xp.max(u, axis=-1, keepdims=True))
    return near - xp.log(xp.sum(xp.exp(near), axis=-1, keepdims=True))


def _pair(u: Array) -> Array:
    return namespace(u).concat([u, -u], axis=-1)


def _log_softmax_pair(u: Array) -> Array:
    return namespace(u).concat([_log_softmax(u), _log_softmax(-u)], axis=-1)


FUNCTIONS: dict[str, Function] = {
    "step": Function(_step, positive=True, order=0),
    "relu": Function(_relu, positive=True, order=1),
    "squared-relu": Function(_relu, power=2, positive=True, order=2),
    "sign": Function(_sign),
    "abs": Function(_abs, positive=True),
    "identity": Function(_identity),
    "tanh": Function(_tanh),
    "gelu": Function(_gelu),
    "elu+1": Function(_log_elu_plus_one, is_log=True, positive=True),
    "sigmoid": Function(_log_sigmoid, is_log=True, positive=True),
    "softplus": Function(_log_softplus, is_log=True, positive=True),
    "softmax": Function(_log_softmax, is_log=True, positive=True, elementwise=False),
    "softmax-pair": Function(
        _log_softmax_pair, is_log=True, positive=True, elementwise=False, columns=2
    ),
    "exp-pair": Function(_pair, is_log=True, positive=True, elementwise=False, columns=2),
}
"""By name. step is 1 where u > 0 and else 0, and sign 0 at 0; gelu is the form with tanh; softmax
is over a row; pairs are of u and −u."""
