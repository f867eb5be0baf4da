"""Frequencies have the law that their projection claims.

Closed forms of their covariances are in test_couplings.py, structured ones in test_structured.py.
"""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from rfx import projections
from rfx.projections import (
    IID,
    Hadamard,
    MomentMatched,
    NormCoupled,
    Orthogonal,
    Projection,
    Simplex,
    chi,
    moment_matched,
)
from rfx.testing import EPS, z_score

VARIANTS = [
    IID(norms="fixed"),
    Orthogonal(norms="fixed"),
    Hadamard(norms="fixed"),
    Hadamard(blocks=2),
    Simplex(optimized=True),
]
EVERY: list[Projection] = [
    *(getattr(projections, name)() for name in projections.__all__ if name != "Projection"),
    *VARIANTS,
]
GAUSSIAN = [projection for projection in EVERY if projection.gaussian_rows]
EACH = pytest.mark.parametrize("projection", EVERY, ids=repr)
EACH_GAUSSIAN = pytest.mark.parametrize("projection", GAUSSIAN, ids=repr)
SHAPES = pytest.mark.parametrize(("num", "dim"), [(20, 8), (5, 8), (7, 3), (63, 63), (100, 64)])

SMALLEST_P_VALUE = 1e-5
"""Of some hundreds of tests with literal seeds; defects give 1e-20 and less."""


@functools.cache
def many(projection: Projection, num: int, dim: int, draws: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(11)
    return np.stack([projection.sample(rng, num, dim) for _ in range(draws)])


def enough(projection: Projection, num: int, dim: int) -> int:
    """``num``, or what matching moments needs."""
    return max(num, dim + 1) if isinstance(projection, MomentMatched) else num


def p_value(samples: np.ndarray, law: Any) -> float:
    return float(stats.kstest(samples, law.cdf).pvalue)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def along(dim: int) -> dict[str, np.ndarray]:
    """The axes and the diagonal are where a decomposition without a sign fix is not Haar."""
    random = np.random.default_rng(1).standard_normal(dim)
    axes = np.eye(dim)
    return {"e_1": axes[0], "e_d": axes[-1], "ones": unit(np.ones(dim)), "random": unit(random)}


@EACH
@SHAPES
def test_sample_is_a_matrix_of_float64(projection: Projection, num: int, dim: int) -> None:
    num = enough(projection, num, dim)
    rows = projection.sample(np.random.default_rng(0), num, dim)
    assert rows.shape == (num, dim)
    assert rows.dtype == np.float64
    assert np.all(np.isfinite(rows))


@EACH
@pytest.mark.parametrize(("num", "dim"), [(1, 1), (1, 5), (3, 1), (2, 2)])
def test_the_smallest_samples(projection: Projection, num: int, dim: int) -> None:
    num = enough(projection, num, dim)
    rows = projection.sample(np.random.default_rng(0), num, dim)
    assert rows.shape == (num, dim)
    assert np.all(np.isfinite(rows))


@EACH
def test_the_generator_decides_the_rows(projection: Projection) -> None:
    first, second = (projection.sample(np.random.default_rng(5), 9, 4) for _ in range(2))
    assert np.array_equal(first, second)
    rng = np.random.default_rng(5)
    assert np.array_equal(projection.sample(rng, 9, 4), first)
    assert not np.array_equal(projection.sample(rng, 9, 4), first)


@EACH_GAUSSIAN
@pytest.mark.parametrize(("num", "dim"), [(12, 8), (5, 3), (2, 1)])
def test_each_row_is_standard_normal_in_every_direction(
    projection: Projection, num: int, dim: int
) -> None:
    """Three dimensions are padded to four by Hadamard matrices."""
    draws = many(projection, num, dim)
    for row in {0, num // 2, num - 1}:
        for name, direction in along(dim).items():
            p = p_value(draws[:, row] @ direction, stats.norm)
            assert p > SMALLEST_P_VALUE, f"row {row} along {name}: {p:.1e}"


@EACH_GAUSSIAN
@pytest.mark.parametrize(("num", "dim"), [(12, 8), (5, 3), (2, 1)])
def test_squared_norms_are_chi_squared_with_dim_degrees_of_freedom(
    projection: Projection, num: int, dim: int
) -> None:
    draws = many(projection, num, dim)
    for row in {0, num // 2, num - 1}:
        squares = np.sum(draws[:, row] ** 2, axis=-1)
        assert p_value(squares, stats.chi2(dim)) > SMALLEST_P_VALUE


@EACH_GAUSSIAN
def test_norms_are_right_in_many_dimensions(projection: Projection) -> None:
    rows = projection.sample(np.random.default_rng(2), 512, 64)
    error = np.mean(np.sum(rows**2, axis=-1)) / 64.0 - 1.0
    assert abs(error) < 5 * (2.0 / (64 * 512)) ** 0.5


@pytest.mark.parametrize("projection", [p for p in EVERY if not p.gaussian_rows], ids=repr)
def test_rows_that_are_not_claimed_to_be_gaussian_are_not(projection: Projection) -> None:
    draws = many(projection, 5, 3)
    smallest = min(p_value((draws @ v).ravel(), stats.norm) for v in along(3).values())
    assert smallest < 1e-8


@pytest.mark.parametrize("projection", [IID(norms="fixed"), Orthogonal(norms="fixed")], ids=repr)
def test_fixed_norms_are_fixed_and_directions_uniform(projection: Projection) -> None:
    draws = many(projection, 12, 8)
    np.testing.assert_allclose(np.sum(draws**2, axis=-1), 8.0, rtol=1e-12)
    for direction in along(8).values():
        squares = (unit(draws[:, 9]) @ direction) ** 2
        assert p_value(squares, stats.beta(0.5, 3.5)) > SMALLEST_P_VALUE


@EACH
def test_rows_are_coupled_where_that_is_claimed(projection: Projection) -> None:
    """The squared cosine of two independent uniform directions is Beta(1/2, (d-1)/2).

    The cosine has the mean 0 then, and so has the product of two coordinates on one axis.
    """
    draws = unit(many(projection, 12, 8))
    cosine = np.sum(draws[:, 0] * draws[:, 1], axis=-1)
    means = (
        z_score(product, np.zeros(())) for product in (cosine, draws[:, 0, 0] * draws[:, 1, 0])
    )
    largest = max(abs(z) for z in means)
    p = p_value(cosine**2, stats.beta(0.5, 3.5))
    if projection.coupled:
        assert p < 1e-8 or largest > 6.0
    else:
        assert p > SMALLEST_P_VALUE
        assert largest < 5.0


BLOCKS = (Orthogonal(), Orthogonal(norms="fixed"), NormCoupled(), Simplex(), Simplex(True))


@pytest.mark.parametrize("projection", BLOCKS, ids=repr)
def test_rows_of_two_blocks_are_independent(projection: Projection) -> None:
    draws = unit(many(projection, 12, 8))
    for first, second in ((0, 8), (0, 11), (7, 8), (3, 11)):
        squares = np.sum(draws[:, first] * draws[:, second], axis=-1) ** 2
        assert p_value(squares, stats.beta(0.5, 3.5)) > SMALLEST_P_VALUE


@pytest.mark.parametrize("projection", [p for p in EVERY if p.independent_norms], ids=repr)
def test_norms_of_two_rows_are_independent(projection: Projection) -> None:
    if getattr(projection, "norms", "chi") == "fixed":
        return  # as constants are
    for first, second in ((0, 1), (2, 3), (0, 9)):
        assert max(dependence_of_norms(projection, first, second)) < 5


def dependence_of_norms(projection: Projection, first: int, second: int) -> tuple[float, float]:
    """z-scores of the products of a squared norm with another's, and with the cosine of both."""
    draws = many(projection, 12, 8)[:, [first, second]]
    norms = np.sum(draws**2, axis=-1) - 8.0
    cosine = np.prod(unit(draws), axis=1).sum(axis=-1)
    others = (norms[:, 1], cosine - np.mean(cosine))
    norm_score, cosine_score = (z_score(norms[:, 0] * other, np.zeros(())) for other in others)
    return abs(float(norm_score)), abs(float(cosine_score))


def test_dependent_norms_are_seen() -> None:
    assert dependence_of_norms(NormCoupled(), 0, 1)[0] > 8
    assert dependence_of_norms(Simplex(optimized=True), 0, 1)[1] > 8


def test_norms_are_coupled_in_pairs() -> None:
    """Rows (0, 1), (2, 3), ... of each block have opposite ranks, and other norms nothing."""
    norms = np.linalg.norm(many(NormCoupled(), 13, 5), axis=-1)
    below = stats.chi(5).cdf(norms)
    for first, second in ((0, 1), (2, 3), (5, 6), (7, 8), (10, 11)):
        np.testing.assert_allclose(below[:, first] + below[:, second], 1.0, atol=1e-10)
    for first, second in ((1, 2), (0, 4), (4, 5), (9, 10), (11, 12), (0, 5)):
        assert abs(stats.spearmanr(norms[:, first], norms[:, second]).statistic) < 5 / 2000**0.5


@pytest.mark.parametrize("projection", [Orthogonal(), Orthogonal("fixed"), NormCoupled()], ids=repr)
@SHAPES
def test_rows_of_a_block_are_orthogonal(projection: Projection, num: int, dim: int) -> None:
    rows = unit(projection.sample(np.random.default_rng(4), num, dim))
    cosines = np.abs(rows @ rows.T - np.eye(num))
    block = np.arange(num) // dim
    same = block[:, None] == block[None, :]
    assert np.max(cosines[same]) < 4 * dim * EPS["float64"]
    assert np.all(cosines[~same] > 4 * dim * EPS["float64"])


@SHAPES
def test_rows_of_a_block_are_corners_of_a_simplex(num: int, dim: int) -> None:
    rows = unit(Simplex().sample(np.random.default_rng(4), num, dim))
    block = np.arange(num) // dim
    same = (block[:, None] == block[None, :]) & ~np.eye(num, dtype=bool)
    np.testing.assert_allclose((rows @ rows.T)[same], -1.0 / (dim - 1), atol=1e-12)


@pytest.mark.parametrize(("num", "dim"), [(4, 4), (3, 4), (7, 5), (3, 3)])
def test_an_optimized_simplex_points_each_row_against_the_others(num: int, dim: int) -> None:
    """In a block of two or more rows the sweeps bring Σ ω_i nearer to 0, and converge."""
    sums = {}
    for projection in (Simplex(), Simplex(optimized=True)):
        draws = many(projection, num, dim, 400)[:, : min(num, dim)]
        total = np.sum(draws, axis=1, keepdims=True)
        sums[projection] = np.mean(np.linalg.norm(total, axis=-1))
        cosine = np.sum(unit(draws) * unit(total - draws), axis=-1)
    assert sums[Simplex(True)] < 0.8 * sums[Simplex()]
    assert np.median(cosine) < -0.99


@pytest.mark.parametrize(("num", "dim"), [(9, 8), (100, 8), (1024, 64), (3, 2), (2, 1)])
def test_moments_are_matched_exactly(num: int, dim: int) -> None:
    rows = MomentMatched().sample(np.random.default_rng(4), num, dim)
    np.testing.assert_allclose(np.mean(rows, axis=0), 0.0, atol=1e-13)
    np.testing.assert_allclose(rows.T @ rows / num, np.eye(dim), atol=1e-13)


def test_moments_are_matched_where_columns_are_nearly_the_same() -> None:
    rows = np.random.default_rng(6).standard_normal((40, 4))
    rows[:, 1] = rows[:, 0] + 1e-5 * rows[:, 1]
    factor = moment_matched.orthonormal(rows)
    np.testing.assert_allclose(factor.T @ factor, np.eye(4), atol=1e-13)


@pytest.mark.parametrize("num", [12, 20])
def test_directions_of_matched_rows_are_uniform(num: int) -> None:
    """ω_i·z is (n − 1)^(1/2) times a coordinate of a uniform direction in n − 1 dimensions."""
    draws = many(MomentMatched(), num, 8)
    for row in (0, num - 1):
        for direction in along(8).values():
            squares = (draws[:, row] @ direction) ** 2 / (num - 1)
            assert p_value(squares, stats.beta(0.5, num / 2 - 1.0)) > SMALLEST_P_VALUE
            positive = np.mean(draws[:, row] @ direction > 0.0)
            assert abs(positive - 0.5) < 5 * 0.5 / 2000**0.5


def test_too_few_rows_for_matched_moments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got num=8 for dim=8; ask for at least 9, or take Orth"):
        MomentMatched().sample(np.random.default_rng(0), 8, 8)


@pytest.mark.parametrize("name", ["Sobol", "Halton"])
@pytest.mark.parametrize("num", [1, 6, 8, 100])
def test_points_fill_the_cube_evenly(name: str, num: int) -> None:
    """Each half of an axis has half of the points; SciPy's warnings would be errors here."""
    rows = getattr(projections, name)().sample(np.random.default_rng(3), num, 2)
    if num % 2 == 0:
        share = np.mean(rows[:, 0] > 0.0)
        assert share == 0.5 or (name == "Sobol" and num == 6)
    uniform = special.ndtr(rows)
    error = np.abs(np.sort(uniform, axis=0) - (np.arange(num)[:, None] + 0.5) / num)
    assert np.max(error) < 3.0 / num


def test_points_in_the_corner_of_the_cube_are_finite() -> None:
    class Corner(projections.Sobol):  # type: ignore[misc]
        def points(self, qmc: Any, rng: Any, num: int, dim: int) -> np.ndarray:
            return np.broadcast_to(np.asarray([[0.0], [1.0]]), (2, dim))

    rows = Corner().sample(np.random.default_rng(0), 2, 3)
    assert np.all(np.isfinite(rows))
    assert np.all(rows[0] < -8.0)
    assert np.all(rows[1] > 8.0)


@pytest.mark.parametrize("name", ["Sobol", "Halton"])
def test_a_missing_scipy_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("scipy.stats.qmc", "scipy.special"):
        monkeypatch.setitem(sys.modules, module, None)
    said = name + r" frequencies need SciPy.*install it with pip install -e \"\.\[qmc\]\""
    with pytest.raises(ImportError, match=said):
        getattr(projections, name)().sample(np.random.default_rng(0), 4, 2)


def test_scipy_is_not_imported_with_rfx() -> None:
    code = (
        "import sys, numpy, rfx; "
        "[getattr(rfx.projections, n)().sample(numpy.random.default_rng(0), 9, 4) "
        "for n in rfx.projections.__all__ if n not in ('Projection', 'Sobol', 'Halton')]; "
        "assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 63, 64, 1000])
def test_norms_are_quantiles_of_the_chi_law(dim: int) -> None:
    normals = np.concatenate([np.linspace(-8.0, 8.0, 999), [-30.0, 30.0, -37.0, 37.0]])
    below, above = special.ndtr(normals), special.ndtr(-normals)
    lower = special.gammaincinv(dim / 2, below[normals < 0])
    upper = special.gammainccinv(dim / 2, above[normals >= 0])
    found = chi.norms_of(normals, dim)
    known = lower > 0.0  # not in SciPy for the last two, in one dimension
    assert np.sum(~known) <= (2 if dim == 1 else 0)
    np.testing.assert_allclose(found[normals < 0][known], np.sqrt(2.0 * lower[known]), rtol=1e-11)
    np.testing.assert_allclose(found[normals >= 0], np.sqrt(2.0 * upper), rtol=1e-11)
    assert chi.norms_of(np.asarray([50.0]), dim) == pytest.approx(found[-1])


@EACH
def test_only_structured_frequencies_have_factors(projection: Projection) -> None:
    rng = np.random.default_rng(5)
    if projection.structured:
        assert projection.factors(rng, 9, 4).shape == (4, 9)
        return
    with pytest.raises(TypeError, match="has no factors; draw its frequencies with sample"):
        projection.factors(rng, 9, 4)


@EACH
def test_projections_are_records(projection: Projection) -> None:
    same = dataclasses.replace(projection)  # type: ignore[type-var]
    assert same == projection
    assert hash(same) == hash(projection)
    assert eval(repr(projection), vars(projections)) == projection
    assert sum(other == projection for other in EVERY) == 1


@pytest.mark.parametrize("kind", [IID, Orthogonal, Hadamard])
def test_unknown_norms_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="`norms` must be 'chi' or 'fixed', got 'unit'; take"):
        kind(norms="unit")


@pytest.mark.parametrize(("blocks", "error"), [(0, ValueError), (2.5, TypeError)])
def test_wrong_numbers_of_blocks_are_refused(blocks: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="`blocks` must be"):
        Hadamard(blocks=blocks)
