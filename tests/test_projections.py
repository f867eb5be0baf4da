"""Frequencies have the law that their projection claims, and covariances the closed form."""

from __future__ import annotations

import dataclasses
import decimal
import functools
import math
from decimal import Decimal

import numpy as np
import pytest
from scipy import special, stats

from rfx import projections
from rfx._xp import to_numpy
from rfx.projections import IID, Orthogonal, Projection
from rfx.testing import EPS, ArrayLibrary, array_libraries, z_score

EVERY: list[Projection] = [
    getattr(projections, name)() for name in projections.__all__ if name != "Projection"
]
GAUSSIAN = [projection for projection in EVERY if projection.gaussian_rows]
EACH = pytest.mark.parametrize("projection", EVERY, ids=repr)
EACH_GAUSSIAN = pytest.mark.parametrize("projection", GAUSSIAN, ids=repr)
SHAPES = pytest.mark.parametrize(("num", "dim"), [(20, 8), (5, 8), (7, 3), (63, 63), (100, 64)])

SMALLEST_P_VALUE = 1e-5
"""Of some dozens of tests with literal seeds; defects give 1e-20 and less."""


def many(projection: Projection, num: int, dim: int, draws: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([projection.sample(rng, num, dim) for _ in range(draws)])


def p_value(samples: np.ndarray, law: object) -> float:
    return float(stats.kstest(samples, law.cdf).pvalue)  # type: ignore[attr-defined]


@EACH
@SHAPES
def test_sample_is_a_matrix_of_float64(projection: Projection, num: int, dim: int) -> None:
    rows = projection.sample(np.random.default_rng(0), num, dim)
    assert rows.shape == (num, dim)
    assert rows.dtype == np.float64
    assert np.all(np.isfinite(rows))


@EACH
def test_the_generator_decides_the_rows(projection: Projection) -> None:
    first, second = (projection.sample(np.random.default_rng(5), 9, 4) for _ in range(2))
    assert np.array_equal(first, second)
    rng = np.random.default_rng(5)
    assert np.array_equal(projection.sample(rng, 9, 4), first)
    assert not np.any(projection.sample(rng, 9, 4) == first)


@EACH_GAUSSIAN
@pytest.mark.parametrize(("num", "dim"), [(12, 8), (3, 8), (2, 1)])
def test_each_row_is_standard_normal_in_every_direction(
    projection: Projection, num: int, dim: int
) -> None:
    """The axes and the diagonal are where a decomposition without a sign fix is not Haar."""
    draws = many(projection, num, dim, 2000, seed=11)
    directions = {
        "e_1": np.eye(dim)[0],
        "e_d": np.eye(dim)[-1],
        "ones": np.full(dim, dim**-0.5),
        "random": np.random.default_rng(1).standard_normal(dim),
    }
    for row in {0, num // 2, num - 1}:
        for name, direction in directions.items():
            sides = draws[:, row] @ (direction / np.linalg.norm(direction))
            p = p_value(sides, stats.norm)
            assert p > SMALLEST_P_VALUE, f"row {row} along {name}: {p:.1e}"


@EACH_GAUSSIAN
@pytest.mark.parametrize("dim", [1, 8, 64])
def test_squared_norms_are_chi_squared_with_dim_degrees_of_freedom(
    projection: Projection, dim: int
) -> None:
    rows = projection.sample(np.random.default_rng(2), 4000, dim)
    assert p_value(np.sum(rows**2, axis=-1), stats.chi2(dim)) > SMALLEST_P_VALUE


@EACH_GAUSSIAN
def test_norms_of_two_rows_are_independent(projection: Projection) -> None:
    norms = np.sum(many(projection, 8, 8, 4000, seed=3) ** 2, axis=-1) - 8.0
    products = norms[:, 0] * norms[:, 1]
    assert abs(z_score(products, np.zeros(()), variance=16.0**2)) < 5


@SHAPES
def test_rows_of_a_block_are_orthogonal(num: int, dim: int) -> None:
    rows = Orthogonal().sample(np.random.default_rng(4), num, dim)
    unit = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    cosines = np.abs(unit @ unit.T - np.eye(num))
    block = np.arange(num) // dim
    same = block[:, None] == block[None, :]
    assert np.max(cosines[same]) < 4 * dim * EPS["float64"]
    assert np.all(cosines[~same] > 4 * dim * EPS["float64"])


def test_rows_of_two_blocks_are_independent() -> None:
    """The squared cosine of two uniform directions is Beta(1/2, (d-1)/2)."""
    draws = many(Orthogonal(), 12, 8, 2000, seed=6)
    unit = draws / np.linalg.norm(draws, axis=-1, keepdims=True)
    for first, second in ((0, 8), (0, 11), (7, 8), (3, 11)):
        squares = np.sum(unit[:, first] * unit[:, second], axis=-1) ** 2
        assert p_value(squares, stats.beta(0.5, 3.5)) > SMALLEST_P_VALUE


def test_rows_of_iid_are_independent() -> None:
    draws = many(IID(), 12, 8, 2000, seed=6)
    unit = draws / np.linalg.norm(draws, axis=-1, keepdims=True)
    squares = np.sum(unit[:, 0] * unit[:, 1], axis=-1) ** 2
    assert p_value(squares, stats.beta(0.5, 3.5)) > SMALLEST_P_VALUE


@SHAPES
def test_coupled_rows_counts_the_others_in_the_block(num: int, dim: int) -> None:
    block = [row // dim for row in range(num)]
    others = [sum(block[j] == block[i] for j in range(num)) - 1 for i in range(num)]
    assert Orthogonal().coupled_rows(num, dim) == pytest.approx(sum(others) / num, rel=1e-15)
    assert IID().coupled_rows(num, dim) == 0


SQUARED_NORMS = [1e-3, 0.03, 0.5, 1.0, 2.0, 4.0, 10.0, 30.0, 77.0, 128.0, 200.0, 500.0]
DIMS = [2, 3, 8, 63, 64]


@functools.cache
def covariance(dim: int, z: float) -> Decimal:
    """₁F₁(d; d/2; z/2) − exp(z) by its power series, in 400 digits."""
    with decimal.localcontext(prec=400):
        total, power, ratio = Decimal(0), Decimal(1), Decimal(1)
        for k in range(1600):
            total += (ratio - 1) * power
            power *= Decimal(z) / (k + 1)
            ratio *= Decimal(dim + k) / (dim + 2 * k)
        return total


@pytest.mark.parametrize("dim", DIMS)
def test_the_series_of_these_tests_is_that_of_scipy(dim: int) -> None:
    for z in (-10.0, -1.0, 0.5, 4.0, 30.0):
        want = special.hyp1f1(dim, dim / 2, z / 2) - math.exp(z)
        assert float(covariance(dim, z)) == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("library", array_libraries(), ids=str)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["positive", "trigonometric"])
def test_covariance_is_the_confluent_function(library: ArrayLibrary, dim: int, name: str) -> None:
    """To rounding of the smallest variance that it is added to, times the rows that it couples.

    That is the hyperbolic map's for the positive covariance; one-sided maps vary more.
    """
    for dtype in {"float64", "float32"} & set(library.dtypes):
        norms = library.convert(np.asarray(SQUARED_NORMS), dtype)
        got = getattr(Orthogonal(), f"{name}_covariance")(norms, dim)
        assert got.dtype == norms.dtype
        for phi, value in zip(to_numpy(norms).astype(float), to_numpy(got), strict=True):
            if name == "positive":
                want = float(covariance(dim, phi) * Decimal(-phi).exp())
                single = 0.5 * math.expm1(-phi) ** 2 * math.exp(phi)
            else:
                want = float(covariance(dim, -phi))
                single = 0.5 * math.expm1(-phi) ** 2
            error = (dim - 1) * abs(float(value) - want) / single
            allowed = 4 * dim * EPS[dtype] * (1 + min(phi, 128.0)) + (1e-6 if phi > 128 else 0.0)
            assert error < allowed, f"{dtype}, |z|² = {phi}: {error:.2e} > {allowed:.2e}"


@pytest.mark.parametrize("dim", DIMS)
def test_orthogonal_rows_never_raise_the_variance_of_positive_features(dim: int) -> None:
    norms = np.asarray([0.0, *SQUARED_NORMS])
    assert np.all(Orthogonal().positive_covariance(norms, dim) <= 0.0)


@pytest.mark.parametrize("name", ["positive", "trigonometric"])
def test_covariance_at_zero_is_zero(name: str) -> None:
    for projection in EVERY:
        assert np.all(getattr(projection, f"{name}_covariance")(np.zeros((2, 3)), 8) == 0.0)


@EACH
def test_projections_are_records(projection: Projection) -> None:
    same = dataclasses.replace(projection)  # type: ignore[type-var]
    assert same == projection
    assert hash(same) == hash(projection)
    assert IID() != Orthogonal()
