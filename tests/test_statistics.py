"""Estimates are unbiased, and vary as their closed form says, on NumPy.

The other libraries evaluate the same frequencies, so they are held by agreement with the oracle.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx import projections
from rfx.features import (
    ALL,
    GERF,
    OPRF,
    SDERF,
    DrawnMap,
    Generalized,
    Geometric,
    Moments,
    Poisson,
    Positive,
    Spec,
    Trigonometric,
)
from rfx.features.moments import samples
from rfx.kernels import (
    Cauchy,
    ExponentialKernel,
    Gaussian,
    Kernel,
    Laplace,
    Matern,
    RationalQuadratic,
    Softmax,
)
from rfx.projections import IID, Orthogonal, Projection
from rfx.reference import log_kernel
from rfx.testing import Probe, probes, z_score

FREQUENCIES = 512
BATCH = 100


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small decompositions wait for the threads of BLAS longer than they work."""
    with rfx.options(threads=1):
        yield


def variants(spec: Spec, projections: list[Projection], kernels: list[Kernel]) -> list[Spec]:
    """The spec under each kernel and projection that it takes."""
    exponential = isinstance(spec.kernel, ExponentialKernel)
    chosen = [{"kernel": kernel} for kernel in kernels] if exponential else [{}]
    if not hasattr(spec, "projection"):
        return [spec.replace(**kernel) for kernel in chosen]
    return [spec.replace(**kernel, projection=p) for kernel in chosen for p in projections]


def _is_exponential(spec: Spec) -> bool:
    return isinstance(spec.kernel, ExponentialKernel)


EVERY = [getattr(projections, name)() for name in projections.__all__ if name != "Projection"]
COMMON: list[Projection] = [IID(), Orthogonal()]
RARE = [projection for projection in EVERY if projection not in COMMON]
OPTIONS: list[Spec] = [
    OPRF(256, projection=IID(), antithetic=True),
    OPRF(256, projection=Orthogonal(), antithetic=True),
    SDERF(256, projection=IID(), antithetic=True),
    GERF(256, A=-0.1),
    GERF(256, projection=IID(), A=-0.03, s=-1),
    GERF(256, projection=IID(), A=-0.02 - 0.03j, s=-1),
    GERF(256, Gaussian(1.3), IID(), A=-0.02 + 0.04j),
    Generalized(256, projection=IID(), epsilon=0.0),
    Poisson(256, rate=0.3),
    Geometric(256, p=0.7),
    Trigonometric(256, Laplace(3.0), IID()),
    Trigonometric(256, Matern(0.7, 2.0), IID()),
    Trigonometric(256, Matern(2.5, 2.0), IID(), offset=True),
    Trigonometric(256, Matern(1.5, 1.5)),
    Trigonometric(256, RationalQuadratic(0.8, 1.5), IID()),
    Trigonometric(256, Cauchy(1.5), IID()),
]
"""What names do not reach."""

OFTEN = [
    variant
    for spec in ALL
    for variant in (
        *variants(spec, COMMON, [Softmax()]),
        *(variants(spec, [Orthogonal()], [Gaussian(1.3)]) if _is_exponential(spec) else ()),
    )
]
OFTEN += OPTIONS
SELDOM = [
    variant
    for spec in ALL
    if hasattr(spec, "projection") and not hasattr(spec, "maps")  # whose maps are tested alone
    for variant in variants(spec, RARE, [Softmax()])
]


def with_frequencies(spec: Spec, num: int) -> Spec:
    """The spec with ``num`` frequencies, whatever number of columns that makes up to 2048."""
    if not hasattr(spec, "num_features"):
        return spec
    columns = getattr(getattr(spec, "base", spec), "columns", 1)
    return spec.replace(num_features=min(num, max(2048 // columns, 1)) * columns)


def real_points(dim: int) -> np.ndarray:
    """Queries and keys of three tokens of a sentence encoder, shape (2, 3, dim)."""
    with np.load(Path(rfx.__file__).parent / "data" / "sample.npz") as sample:
        rows = [np.moveaxis(sample[name], 0, 1).reshape(192, -1) for name in ("q0", "k0")]
    return np.stack([row[[10, 50, 100], :dim] for row in rows]).astype(np.float64)


def stacked(pairs: tuple[Probe, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([pair.x for pair in pairs]), np.stack([pair.y for pair in pairs])


def drawn(spec: Spec, dim: int, heads: int, seed: int) -> DrawnMap:
    """Independent draws, one a head; where data are needed, fitted to the same for each."""
    if not spec.needs_data:
        return spec.draw(dim, seed=seed, like=np.zeros(1), heads=heads)
    unit = spec.kernel.unit(dim) if isinstance(spec.kernel, ExponentialKernel) else 1.0
    query, key = np.random.default_rng(0).standard_normal((2, 200, dim)) / (unit * dim**0.5)
    data = (query + 0.1 / unit, 0.5 * key - 0.2 / unit)
    if spec.needs == "points":  # fitted once, as `fit_moments` does
        same = [samples(*data)[0]] * heads
        return spec._assembled(dim, seed, np.zeros(1), same, by_head=True)
    return spec.fit_moments(Moments.of(*data), seed=seed, like=np.zeros(1), heads=heads)


def estimates(spec: Spec, x: np.ndarray, y: np.ndarray, draws: int, batch: int) -> np.ndarray:
    """Estimates of k(x_i, y_i), shape (draws, i); a head is an independent draw."""
    if not hasattr(spec, "num_features"):  # nothing is drawn
        draws = batch = 2
    found = []
    for seed in range(draws // batch):
        left, right = (np.broadcast_to(points, (batch, *points.shape)) for points in (x, y))
        matrix = rfx.gram(left, right, features=drawn(spec, x.shape[-1], batch, seed))
        found.append(np.diagonal(matrix, axis1=-2, axis2=-1))
    return np.concatenate(found)


def exact(spec: Spec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if not _is_exponential(spec):  # it may be negative
        return np.diagonal(spec.kernel(x, y))
    return np.exp(np.diagonal(log_kernel(x, y, kernel=spec.kernel)))


def closed_form(spec: Spec, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    full = drawn(spec, x.shape[-1], 1, 0).variance(x[None], y[None])
    return None if full is None else np.diagonal(full[0])


def z_of_mean(spec: Spec, pairs: tuple[Probe, ...], draws: int = 400) -> np.ndarray:
    x, y = stacked(pairs)
    found = estimates(spec, x, y, draws, BATCH)
    return z_score(found, exact(spec, x, y), variance=closed_form(spec, x, y))


def described(pairs: tuple[Probe, ...], z: np.ndarray) -> str:
    return ", ".join(f"{pair.name}: {value:.1f}" for pair, value in zip(pairs, z, strict=True))


def lighter(spec: Spec, pairs: tuple[Probe, ...], most: float) -> tuple[Probe, ...]:
    """The pairs, shrunk until the log of one frequency's relative variance is at most this.

    `probes` see to it for maps that vary with x + y or x − y; others have tails of their own, which
    would defeat any sample. Pairs that stay heavy are left out.
    """
    if hasattr(spec, "projection"):
        spec = spec.replace(projection=IID())
    one = with_frequencies(spec, 1)
    phi = drawn(one, len(pairs[0].x), 1, 0)
    found = []
    for pair in pairs:
        for scale in (1.0, 0.7, 0.5, 0.35, 0.25, 0.1):
            x, y = scale * pair.x[None, None], scale * pair.y[None, None]
            log = phi.log_relative_variance(x, y)
            if log is None or log[0, 0, 0] <= most:
                found.append(Probe(pair.name, x[0, 0], y[0, 0]))
                break
    if not found:
        pytest.skip("the tails are too heavy at every pair")
    return tuple(found)


def check_mean(spec: Spec, dim: int) -> None:
    spec = with_frequencies(spec, FREQUENCIES)
    pairs = lighter(spec, probes(spec, dim, activations=real_points(dim)), 4.5)
    z = z_of_mean(spec, pairs)
    assert np.all(np.abs(z) < 5), described(pairs, z)


def check_variance(spec: Spec, dim: int, num: int, draws: int = 3000) -> None:
    spec = with_frequencies(spec, num)
    pairs = lighter(spec, probes(spec, dim, limit=1.0), 1.1)
    x, y = stacked(pairs)
    want = closed_form(spec, x, y)
    z = z_of_variance(estimates(spec, x, y, draws, draws), exact(spec, x, y), want)
    assert np.all(np.abs(z) < 5), described(pairs, z)


def known(specs: list[Spec]) -> list[Spec]:
    """Those that have a closed-form variance."""
    point = np.full((1, 3), 0.1)
    return [s for s in specs if closed_form(with_frequencies(s, 16), point, point) is not None]


UNBIASED = [spec for spec in OFTEN if spec.unbiased]
WIDE = [
    spec
    for spec in UNBIASED
    if getattr(spec, "projection", None) != IID() and spec.kernel != Gaussian(1.3)
]
"""Independent frequencies, and another factor for a row, are no different in many dimensions."""


@pytest.mark.parametrize(
    ("spec", "dim"), [*((s, 8) for s in UNBIASED), *((s, 64) for s in WIDE)], ids=repr
)
def test_mean_over_draws_is_the_kernel(spec: Spec, dim: int) -> None:
    check_mean(spec, dim)


BLOCKS = [(8, 12), (3, 7), (8, 5)]
"""A last block that is cut (12 = 8 + 4, 7 = 3 + 3 + 1), and less than a block."""


@pytest.mark.parametrize(
    ("spec", "dim", "num"),
    [
        (spec, *block)
        for spec in known(OFTEN)
        for block in BLOCKS[: 1 if getattr(spec, "projection", None) == IID() else None]
    ],
    ids=repr,
)
def test_variance_over_draws_is_the_closed_form(spec: Spec, dim: int, num: int) -> None:
    check_variance(spec, dim, num)


@pytest.mark.parametrize("spec", [s for s in SELDOM if s.unbiased], ids=repr)
def test_mean_is_the_kernel_for_every_map_and_projection(spec: Spec) -> None:
    check_mean(spec, 8)


@pytest.mark.parametrize("spec", known(SELDOM), ids=repr)
def test_variance_is_the_closed_form_for_every_map_and_projection(spec: Spec) -> None:
    check_variance(spec, 8, 12, draws=2000)


def z_of_variance(samples: np.ndarray, mean: np.ndarray, want: np.ndarray) -> np.ndarray:
    """The sample variance is a mean of squares, so its standard error is theirs."""
    squares = np.square(samples - mean)
    rounding = 16 * np.finfo(np.float64).eps * mean
    return z_score(squares, want, floor=np.square(rounding))


class Unsigned(Orthogonal):
    """Directions straight from a QR decomposition, which are not Haar distributed."""

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        shape = (-(-num // dim), dim, dim)
        rows = np.linalg.qr(rng.standard_normal(shape))[0].reshape(-1, dim)[:num]
        return rows * np.sqrt(rng.chisquare(dim, size=(num, 1)))


class OneDegree(Orthogonal):
    """Row norms with one degree of freedom."""

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        rows = super().sample(rng, num, dim)
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
        return rows / norms * np.sqrt(rng.chisquare(1, size=(num, 1)))


class FixedNorm(Orthogonal):
    """Row norms √d: close to Gaussian rows in many dimensions, and not in eight."""

    def sample(self, rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
        rows = super().sample(rng, num, dim)
        return rows * (dim**0.5 / np.linalg.norm(rows, axis=-1, keepdims=True))


@pytest.mark.parametrize(
    ("defect", "dim"), [(Unsigned(), 8), (Unsigned(), 64), (OneDegree(), 64), (FixedNorm(), 8)]
)
def test_a_projection_that_is_not_gaussian_is_seen(defect: Orthogonal, dim: int) -> None:
    """The z-scores would be worth nothing if known defects of other code passed them."""
    spec = Positive(FREQUENCIES, projection=defect)
    pairs = probes(spec, dim)
    z = z_of_mean(spec, pairs)
    assert np.max(np.abs(z)) > 7, described(pairs, z)


def test_directions_without_a_sign_fix_are_seen_along_ones_on_both_sides() -> None:
    spec = Positive(FREQUENCIES, projection=Unsigned())
    pairs = probes(spec, 64)
    z = dict(zip((pair.name for pair in pairs), z_of_mean(spec, pairs), strict=True))
    assert z["+ones"] < -5
    assert z["-ones"] > 5


def test_closed_form_of_independent_rows_is_refused_for_coupled_ones() -> None:
    """The variance test sees a coupling of two rows in a block, not only their number."""
    coupled = Positive(12)
    pairs = probes(coupled, 8, limit=1.0)
    x, y = stacked(pairs)
    want = closed_form(Positive(12, projection=IID()), x, y)
    z = z_of_variance(estimates(coupled, x, y, 10_000, 10_000), exact(coupled, x, y), want)
    assert np.min(z) < -5
