"""Logs of gates for `rfx.gated_attention`: constant decay, and random feature attention's gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rfx import _check
from rfx._xp import Array, library, namespace, truth, working_dtype

__all__ = ["alibi_slopes", "exponential_decay", "retention_rates", "rfa_gate"]


def exponential_decay(key: Array, rates: float | Sequence[float] | Array) -> Array:
    """log g = −rate: a key counts exp(−rate) less with each step.

    Parameters
    ----------
    key : Array, shape (..., H, t, d), or (t, d)
    rates : float, or H of them
        At least 0; inf keeps each query's own key alone. An array may be trained.

    Returns
    -------
    Array, shape (..., 1, H, t, 1), or (t, 1), in the working dtype of ``key``
        With axes of length 1 for what is shared.

    Raises
    ------
    TypeError, ValueError
        If ``key`` is no array of points, a rate is below 0, or they are not one for each head.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import decay
    >>> key = np.zeros((2, 4, 10, 16))
    >>> decay.exponential_decay(key, decay.retention_rates(4)).shape
    (1, 4, 10, 1)
    """
    _check.array("key", key)
    _check.has_length("key", key)
    xp = namespace(key)
    if library(rates) is None:
        listed: Any = rates
        placed = {} if library(key) == "jax" else {"device": key.device}
        given = xp.asarray(listed, dtype=working_dtype(key), **placed)
    else:
        _check.together("key", key, "rates", rates)
        given = xp.astype(rates, working_dtype(key), copy=False)
    heads = key.shape[-3] if key.ndim > 2 else 1
    if given.ndim > 1 or (given.ndim == 1 and given.shape[0] != heads):
        raise ValueError(
            f"`rates` must be a number or one for each of the {heads} heads of `key`, got shape "
            f"{tuple(given.shape)}"
        )
    if truth(xp.any(given < 0.0)):
        raise ValueError("`rates` must be at least 0: they are minus the log of a gate at most 1")
    shape = (heads, key.shape[-2], 1)[3 - min(key.ndim, 3) :]
    log_gate = xp.broadcast_to(-xp.reshape(given, (-1, 1, 1)[: len(shape)]), shape)
    return xp.reshape(log_gate, (*(1 for _ in key.shape[: key.ndim - len(shape)]), *shape))


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """The slopes of ALiBi, 2^(−8 i / heads) for i = 1 .. heads, as rates of decay.

    A bias −slope · (i − j) of the logit is a decay of exp(−slope) with each step. Where the number
    of heads is no power of two the slopes are those of the next smaller power of two, followed by
    every other one of the next larger.

    Raises
    ------
    TypeError, ValueError
        If ``heads`` is no positive int.

    References
    ----------
    Press et al., Train short, test long, 2022.

    Examples
    --------
    >>> from rfx.attention import decay
    >>> decay.alibi_slopes(4)
    (0.25, 0.0625, 0.015625, 0.00390625)
    """
    heads = _check.positive_int("heads", heads)
    power = 1 << (heads.bit_length() - 1)
    slopes = _slopes(power)
    return slopes + _slopes(2 * power)[::2][: heads - power]


def _slopes(heads: int) -> tuple[float, ...]:
    return tuple(2.0 ** (-8.0 * i / heads) for i in range(1, heads + 1))


def retention_rates(heads: int) -> tuple[float, ...]:
    """−log(1 − 2^(−5−i)) for i = 0 .. heads − 1: the decay of retentive networks.

    Raises
    ------
    TypeError, ValueError
        If ``heads`` is no positive int.

    References
    ----------
    Sun et al., Retentive network: a successor to transformer for large language models, 2023.

    Examples
    --------
    >>> from rfx.attention import decay
    >>> [round(rate, 5) for rate in decay.retention_rates(2)]
    [0.03175, 0.01575]
    """
    heads = _check.positive_int("heads", heads)
    return tuple(-math.log1p(-(2.0 ** (-5 - i))) for i in range(heads))


def rfa_gate(logits: Array) -> tuple[Array, Array]:
    """(log g, log(1 − g)) for g = sigmoid(logits): ``log_gate`` and ``log_weight`` of RFA-Gate.

    S_t = g_t S_{t−1} + (1 − g_t) φ(k_t) v_t.

    Parameters
    ----------
    logits : Array, shape (..., H, t, 1)
        In float16 they are of little use: 1 − g is kept to few bits.

    Raises
    ------
    TypeError
        If ``logits`` is no array of real floating numbers.

    References
    ----------
    Peng et al., Random feature attention, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from rfx.attention import decay
    >>> log_gate, log_weight = decay.rfa_gate(np.zeros((2, 10, 1)))
    >>> bool(np.allclose(np.exp(log_gate) + np.exp(log_weight), 1.0))
    True
    """
    _check.array("logits", logits)
    xp = namespace(logits)
    zero = xp.zeros_like(logits)
    return -xp.logaddexp(zero, -logits), -xp.logaddexp(zero, logits)
