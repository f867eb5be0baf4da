"""Estimates are unbiased, and vary as their closed form says, on NumPy.

The other libraries evaluate the same frequencies, so they are held by agreement with the oracle.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx.features import ALL, Positive, Spec
from rfx.kernels import ExponentialKernel, Gaussian, Softmax
from rfx.projections import IID, Orthogonal
from rfx.reference import log_kernel
from rfx.testing import Probe, probes, z_score

FREQUENCIES = 512
BATCH = 100


def variants(spec: Spec) -> list[Spec]:
    """The spec under each kernel and projection that it takes."""
    names = {field.name for field in dataclasses.fields(spec)}
    kernels = [Softmax(), Gaussian(1.3)]
    if not isinstance(spec.kernel, ExponentialKernel):
        kernels = [spec.kernel]
    projections = [IID(), Orthogonal()] if "projection" in names else [None]
    found = []
    for kernel in kernels:
        for projection in projections:
            changes = {"kernel": kernel} | (
                {} if projection is None else {"projection": projection}
            )
            try:
                found.append(dataclasses.replace(spec, **changes))
            except TypeError:  # a map of one kernel refuses the other
                assert kernel != spec.kernel
    return found


CLAIMED_UNBIASED = [variant for spec in ALL for variant in variants(spec) if variant.unbiased]
WITH_VARIANCE = [
    variant
    for spec in ALL
    for variant in variants(spec)
    if not spec.needs_data and variant.variance(np.zeros((1, 3)), np.zeros((1, 3))) is not None
]


def with_frequencies(spec: Spec, num: int) -> Spec:
    """The spec with ``num`` frequencies, whatever number of columns that makes."""
    columns = spec.num_features // getattr(spec, "num_frequencies", spec.num_features)
    return dataclasses.replace(spec, num_features=num * columns)


def real_points(dim: int) -> np.ndarray:
    """Queries and keys of three tokens of a sentence encoder, shape (2, 3, dim)."""
    with np.load(Path(rfx.__file__).parent / "data" / "sample.npz") as sample:
        rows = [np.moveaxis(sample[name], 0, 1).reshape(192, -1) for name in ("q0", "k0")]
    return np.stack([row[[10, 50, 100], :dim] for row in rows]).astype(np.float64)


def stacked(pairs: tuple[Probe, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([pair.x for pair in pairs]), np.stack([pair.y for pair in pairs])


def estimates(spec: Spec, x: np.ndarray, y: np.ndarray, draws: int, batch: int) -> np.ndarray:
    """Estimates of k(x_i, y_i), shape (draws, i); a head is an independent draw."""
    found = []
    for seed in range(draws // batch):
        left, right = (np.broadcast_to(points, (batch, *points.shape)) for points in (x, y))
        if spec.needs_data:
            phi = spec.fit(left, right, seed=seed)
        else:
            phi = spec.draw(x.shape[-1], seed=seed, like=x, heads=batch)
        matrix = rfx.gram(left, right, features=phi)
        found.append(np.diagonal(matrix, axis1=-2, axis2=-1))
    return np.concatenate(found)


def exact(spec: Spec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(np.diagonal(log_kernel(x, y, kernel=spec.kernel)))


def closed_form(spec: Spec, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    full = None if spec.needs_data else spec.variance(x, y)
    return None if full is None else np.diagonal(full)


def z_of_mean(spec: Spec, pairs: tuple[Probe, ...], draws: int = 400) -> np.ndarray:
    x, y = stacked(pairs)
    samples = estimates(spec, x, y, draws, BATCH)
    return z_score(samples, exact(spec, x, y), variance=closed_form(spec, x, y))


def described(pairs: tuple[Probe, ...], z: np.ndarray) -> str:
    return ", ".join(f"{pair.name}: {value:.1f}" for pair, value in zip(pairs, z, strict=True))


@pytest.mark.parametrize("dim", [8, 64])
@pytest.mark.parametrize("spec", CLAIMED_UNBIASED, ids=repr)
def test_mean_over_draws_is_the_kernel(spec: Spec, dim: int) -> None:
    spec = with_frequencies(spec, FREQUENCIES)
    pairs = probes(spec, dim, activations=real_points(dim))
    z = z_of_mean(spec, pairs)
    assert np.all(np.abs(z) < 5), described(pairs, z)


@pytest.mark.parametrize(("dim", "num"), [(3, 7), (8, 12), (8, 5)])
@pytest.mark.parametrize("spec", WITH_VARIANCE, ids=repr)
def test_variance_over_draws_is_the_closed_form(spec: Spec, dim: int, num: int) -> None:
    """At a last block that is cut (7 = 3 + 3 + 1, 12 = 8 + 4), and at less than a block."""
    spec = with_frequencies(spec, num)
    pairs = probes(spec, dim, limit=1.0)
    x, y = stacked(pairs)
    want = closed_form(spec, x, y)
    z = z_of_variance(estimates(spec, x, y, 10_000, 10_000), exact(spec, x, y), want)
    assert np.all(np.abs(z) < 5), described(pairs, z)


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
