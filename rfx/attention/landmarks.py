"""Landmarks: the few points through which every query meets every key, and rules to choose them.

A rule chooses landmarks for each head and batch entry on its own. What is masked has no rank: a
token's rank counts the visible tokens before it, so padding changes nothing. Randomness is drawn by
NumPy on the host and depends on seed and rank alone.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rfx import _check
from rfx._xp import Array, constant, device, from_numpy, library, namespace
from rfx.kernels import Gaussian, Kernel, squared_distance
from rfx.ops.inverse import INVERSES, Inverse, solve

__all__ = ["KMeans", "Landmarks", "Leverage", "Rule", "SegmentMeans", "Uniform"]


class Landmarks(NamedTuple):
    """Landmarks, and which of them there are.

    points : shape (..., num, d)
    present : bool of shape (..., num), or None for all; fewer where fewer tokens are visible
    """

    points: Array
    present: Array | None


@dataclass(frozen=True)
class Rule(ABC):
    """How landmarks are chosen among tokens.

    Parameters
    ----------
    num : int
        Number of landmarks.

    Raises
    ------
    TypeError, ValueError
        If ``num`` is no positive int.
    """

    num: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "num", _check.positive_int("num", self.num))

    @abstractmethod
    def choose(self, points: Array, mask: Array | None = None) -> Landmarks:
        """Choose landmarks of each head and batch entry.

        Parameters
        ----------
        points : Array, shape (..., n, d)
            With n at least ``num``; float32 or float64.
        mask : Array of bool, shape (..., n), optional
            True for visible tokens; its axes before n broadcast to those of ``points``.

        Returns
        -------
        Landmarks
        """


@dataclass(frozen=True)
class Uniform(Rule):
    """Tokens drawn uniformly without replacement, the same ranks in every head.

    Parameters
    ----------
    num : int
        Number of landmarks.
    seed : int

    Raises
    ------
    TypeError, ValueError
        If ``num`` is no positive int, or ``seed`` no int of at least 0.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.arange(6.0)[:, None]
    >>> rfx.landmarks.Uniform(2, seed=0).choose(x).points
    array([[3.],
           [2.]])
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.seed(self.seed)

    def choose(self, points: Array, mask: Array | None = None) -> Landmarks:
        priority = _random(self.seed, points.shape[-2])
        if mask is None:
            xp = namespace(points)
            chosen = np.argsort(priority)[: self.num]
            return Landmarks(xp.take(points, _index(chosen, points), axis=-2), None)
        return _lowest(_by_rank(priority, mask, points), points, mask, self.num)


@dataclass(frozen=True)
class SegmentMeans(Rule):
    """Means of consecutive segments, whose lengths differ by at most 1.

    Parameters
    ----------
    num : int
        Number of segments; the longer ones come last.

    References
    ----------
    Xiong et al., Nyströmformer, 2021, section 3.2, equation 13.

    Examples
    --------
    >>> import numpy as np, rfx
    >>> x = np.arange(5.0)[:, None]
    >>> rfx.landmarks.SegmentMeans(2).choose(x).points  # of 0, 1 and of 2, 3, 4
    array([[0.5],
           [3. ]])
    """

    def choose(self, points: Array, mask: Array | None = None) -> Landmarks:
        xp = namespace(points)
        n = points.shape[-2]
        if mask is not None:
            rank, count = _ranks(mask), xp.sum(_int(mask), axis=-1, keepdims=True)
            size = count // self.num
            few = self.num - count % self.num  # segments of this size; the others have one more
            edge = few * size
            late = few + (rank - edge) // (size + 1)
            early = rank // xp.where(size > 0, size, xp.ones_like(size))
            return _means(points, mask, xp.where(rank < edge, early, late), self.num)
        size, few = n // self.num, self.num - n % self.num
        means = []
        for rows, length in ((slice(0, few * size), size), (slice(few * size, n), size + 1)):
            part = points[..., rows, :]
            shape = (*part.shape[:-2], part.shape[-2] // length, length, part.shape[-1])
            means.append(xp.mean(xp.reshape(part, shape), axis=-2))
        return Landmarks(xp.concat(means, axis=-2), None)


@dataclass(frozen=True)
class KMeans(Rule):
    """Centres of clusters by Lloyd's algorithm, which starts from uniform landmarks.

    Parameters
    ----------
    num : int
        Number of clusters.
    seed : int
    iterations : int
        The gradient flows through the means of the last one; which token belongs to which cluster
        is a constant to it.

    Raises
    ------
    TypeError, ValueError
        If ``num`` or ``iterations`` is no positive int, or ``seed`` no int of at least 0.
    """

    seed: int = 0
    iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.seed(self.seed)
        object.__setattr__(self, "iterations", _check.positive_int("iterations", self.iterations))

    def choose(self, points: Array, mask: Array | None = None) -> Landmarks:
        xp = namespace(points)
        found, present = Uniform(self.num, self.seed).choose(points, mask)
        for i in range(self.iterations):
            last = i == self.iterations - 1
            distance = squared_distance(constant(points), constant(found))
            if present is not None:
                distance = xp.where(present[..., None, :], distance, xp.inf)
            nearest = xp.argmin(distance, axis=-1)
            means = _means(points if last else constant(points), mask, nearest, self.num)
            assert means.present is not None
            found = xp.where(means.present[..., None], means.points, found)
        return Landmarks(found, present)


@dataclass(frozen=True)
class Leverage(Rule):
    """Tokens drawn without replacement by their ridge leverage scores, in linear time.

    The score of a token, the diagonal of K (K + ridge I)⁻¹, is estimated with ``num`` uniform
    landmarks: what they leave unexplained of κ(x, x), divided by the ridge, and at most 1.

    Parameters
    ----------
    num : int
        Number of landmarks.
    seed : int
    ridge : float
        Positive; the smaller it is, the more do rare tokens count.
    kernel : Kernel, optional
        By default the Gaussian kernel with bandwidth d ** 0.25.

    Raises
    ------
    TypeError, ValueError
        If ``num`` is no positive int, ``seed`` no int of at least 0, ``ridge`` not positive, or
        ``kernel`` no kernel.

    References
    ----------
    Musco and Musco, Recursive sampling for the Nyström method, 2017, whose scores these are, with
    one level of recursion.
    """

    seed: int = 0
    ridge: float = 0.1
    kernel: Kernel | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.seed(self.seed)
        object.__setattr__(self, "ridge", _check.positive_number("ridge", self.ridge))
        _check_kernel(self.kernel)

    def choose(self, points: Array, mask: Array | None = None) -> Landmarks:
        xp = namespace(points)
        x = constant(points if mask is None else _visible(points, mask))
        kernel = landmark_kernel(self.kernel, x)
        pilot, present = Uniform(self.num, self.seed).choose(x, mask)
        among, towards = landmark_gram(kernel, pilot, present), kernel(pilot, x)
        if present is not None:
            towards = xp.where(present[..., None], towards, xp.zeros_like(towards))
        explained = xp.sum(towards * solve(among, towards, ridge=self.ridge), axis=-2)
        own = kernel(x[..., None, :], x[..., None, :])[..., 0, 0]
        score = xp.clip((own - explained) / self.ridge, 1e-6, 1.0)
        # The least of exponential times divided by the scores: a draw without replacement.
        times = -np.log1p(-_random(self.seed, x.shape[-2], 1))
        if mask is None:
            shape = (1,) * (x.ndim - 2) + times.shape
            priority = from_numpy(times.reshape(shape), x, x.dtype)
        else:
            priority = _by_rank(times, mask, x)
        return _lowest(priority / score, points, mask, self.num)


def landmark_kernel(kernel: Kernel | None, points: Array) -> Kernel:
    """The kernel, by default exp(−|x − y|² / (2 √d))."""
    return Gaussian(bandwidth=points.shape[-1] ** 0.25) if kernel is None else kernel


def landmark_gram(kernel: Kernel, points: Array, present: Array | None) -> Array:
    """κ of landmarks with one another; those that are absent stand alone."""
    return alone(kernel(points, points), present)


def alone(matrix: Array, present: Array | None) -> Array:
    """A matrix over landmarks, shape (..., num, num), with those of the identity for the absent."""
    if present is None:
        return matrix
    xp = namespace(matrix)
    both = xp.logical_and(present[..., :, None], present[..., None, :])
    return xp.where(both, matrix, xp.tril(xp.triu(xp.ones_like(matrix))))


def check_rule(landmarks: int | Rule, default: type[Rule]) -> Rule:
    """The rule, or the default one for a number; refuses anything else."""
    if isinstance(landmarks, Rule):
        return landmarks
    if isinstance(landmarks, bool) or not isinstance(landmarks, int | np.integer):
        raise TypeError(
            f"`landmarks` must be an int or a rule, got {landmarks!r}; "
            "pass for example rfx.landmarks.Uniform(128)"
        )
    return default(_check.positive_int("landmarks", landmarks))


def check_number(rule: Rule, tokens: int, what: str) -> None:
    """Refuse more landmarks than tokens."""
    if rule.num > tokens:
        raise ValueError(
            f"`landmarks` must be at most the number of {what}, got {rule.num} landmarks and "
            f"{tokens} {what}; pass landmarks={tokens} or fewer"
        )


def check_call(kernel: Kernel | None, ridge: float, inverse: Inverse, is_causal: bool) -> None:
    """Refuse what no attention with landmarks takes."""
    _check_kernel(kernel)
    if not isinstance(ridge, numbers.Real) or isinstance(ridge, bool):
        raise TypeError(f"`ridge` must be a number, got {ridge!r}; pass a float of at least 0")
    if not (math.isfinite(ridge) and ridge >= 0.0):
        raise ValueError(
            f"`ridge` must be finite and at least 0, got {ridge!r}; pass for example 0"
        )
    if inverse not in INVERSES:
        raise ValueError(f"`inverse` must be one of {', '.join(INVERSES)}, got {inverse!r}")
    if is_causal:
        raise ValueError(
            "causal landmarks are not possible: a landmark that one query may see lies in the "
            "future of another; use rfx.linear_attention with is_causal=True"
        )


def _random(seed: int, n: int, stream: int = 0) -> np.ndarray:
    """Numbers in [0, 1), of which the first do not depend on how many there are."""
    return np.random.default_rng([seed, stream]).random(n)


# What torch.compiler.assume_constant_result sets: NumPy's generators cannot be traced.
_random._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _check_kernel(kernel: Kernel | None) -> None:
    if not isinstance(kernel, Kernel | None):
        raise TypeError(
            f"`kernel` must be a record of rfx.kernels, got {kernel!r}; "
            "pass for example rfx.kernels.Gaussian(bandwidth=2.0)"
        )


def _int(mask: Array) -> Array:
    xp = namespace(mask)
    return xp.astype(mask, xp.int32)


def _ranks(mask: Array) -> Array:
    """Visible tokens before each token."""
    xp = namespace(mask)
    whole = _int(mask)
    return xp.astype(xp.cumulative_sum(whole, axis=-1), xp.int32) - whole


def _index(chosen: np.ndarray, like: Array) -> Array:
    return from_numpy(chosen.astype(np.int64 if library(like) != "jax" else np.int32), like, None)


def _by_rank(numbers: np.ndarray, mask: Array, like: Array) -> Array:
    """One of the numbers for each visible token, by its rank; inf for the others."""
    xp = namespace(like)
    rank = _ranks(mask)
    picked = xp.take(from_numpy(numbers, like, like.dtype), xp.reshape(rank, (-1,)), axis=0)
    return xp.where(mask, xp.reshape(picked, rank.shape), xp.inf)


def _visible(points: Array, mask: Array) -> Array:
    """Points with zeros for those that are masked, which may hold NaN."""
    xp = namespace(points)
    return xp.where(mask[..., None], points, xp.zeros_like(points))


def _lowest(priority: Array, points: Array, mask: Array | None, num: int) -> Landmarks:
    """The tokens of the lowest priorities, which are finite for the visible ones."""
    xp = namespace(points)
    priority = xp.broadcast_to(priority, points.shape[:-1])
    chosen = xp.argsort(priority, axis=-1)[..., :num]
    if mask is None:
        present = None
    else:
        points = _visible(points, mask)
        present = xp.isfinite(xp.take_along_axis(priority, chosen, axis=-1))
    index = xp.broadcast_to(chosen[..., None], (*chosen.shape, points.shape[-1]))
    return Landmarks(xp.take_along_axis(points, index, axis=-2), present)


def _means(points: Array, mask: Array | None, place: Array, num: int) -> Landmarks:
    """Means of the visible points by their place, an int of shape (..., n)."""
    xp = namespace(points)
    where = device(points)
    places = xp.arange(num, dtype=place.dtype, **({} if where is None else {"device": where}))
    belongs = place[..., None] == places
    if mask is not None:
        belongs = xp.logical_and(belongs, mask[..., None])
        points = _visible(points, mask)
    weight = xp.astype(belongs, points.dtype)
    count = xp.sum(weight, axis=-2)
    present = count > 0.0
    weight = weight / xp.where(present, count, xp.ones_like(count))[..., None, :]
    weight = xp.broadcast_to(weight, (*points.shape[:-1], num))
    means = xp.matmul(xp.matrix_transpose(weight), points)
    return Landmarks(means, xp.broadcast_to(present, means.shape[:-1]))
