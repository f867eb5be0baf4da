"""Closed forms of frequencies: covariances of coupled rows, and means of rows that are biased.

``Var(mean of n rows) = (Var of one + coupling) / n``, held against power series in 400 digits,
SciPy's special functions, and draws.
"""

from __future__ import annotations

import decimal
import functools
import math
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
from scipy import integrate, special

from rfx._xp import Array, to_numpy
from rfx.projections import (
    IID,
    Fastfood,
    Hadamard,
    Halton,
    MomentMatched,
    NormCoupled,
    Orthogonal,
    Projection,
    Simplex,
    Sobol,
)
from rfx.testing import EPS, ArrayLibrary, array_libraries, z_score

KINDS = ("exponential", "hyperbolic", "trigonometric")
FIXED = Orthogonal(norms="fixed")
BLOCKS = (Orthogonal(), FIXED, Simplex(), NormCoupled())
UNKNOWN = (Fastfood(), Hadamard(), Halton(), MomentMatched(), Simplex(optimized=True), Sobol())
SQUARED_NORMS = [1e-3, 0.03, 0.5, 1.0, 2.0, 4.0, 10.0, 30.0, 77.0, 128.0, 200.0, 500.0]
DIMS = [2, 3, 8, 63, 64]
EACH_LIBRARY = pytest.mark.parametrize("library", array_libraries(), ids=str)


def pair(projection: Projection, kind: str, squared_norm: Array, dim: int) -> Array:
    """The coupling of two rows of a block: the covariance of a pair."""
    return projection.coupling(kind, squared_norm, 2, dim)  # type: ignore[arg-type]


def single(kind: str, phi: float, projection: Projection, dim: int) -> float:
    """Var g of one row; over E[exp(ω·z)]² but for cosines."""
    if projection == FIXED:
        mean, twice = (float(fixed_moment(dim, kind, s * phi)) for s in (1.0, 4.0))
        if kind == "exponential":
            return twice / mean**2 - 1.0
        return 0.5 * (1.0 + twice) / (mean**2 if kind == "hyperbolic" else 1.0) - (
            1.0 if kind == "hyperbolic" else mean**2
        )
    if kind == "exponential":
        return math.expm1(phi)
    return 0.5 * math.expm1(-phi) ** 2 * (math.exp(phi) if kind == "hyperbolic" else 1.0)


# Power series in 400 digits: signs alternate for cosines, so no shorter arithmetic would do.


def series(first: Decimal, ratio: Callable[[int], Decimal], z: Decimal) -> Decimal:
    """Σ c_k zᵏ/k! with c_0 = first and c_(k+1) = c_k ratio(k)."""
    total, power = Decimal(0), first
    for k in range(1800):
        total += power
        power *= ratio(k) * z / (k + 1)
    return total


@functools.cache
def fixed_moment(dim: int, kind: str, phi: float) -> Decimal:
    """₀F₁(; d/2; ±d φ/4), the mean of a row of norm sqrt(d)."""
    with decimal.localcontext(prec=400):
        z = Decimal(dim) * Decimal(phi) / 4
        z = -z if kind == "trigonometric" else z
        return series(Decimal(1), lambda k: 1 / (Decimal(dim) / 2 + k), z)


@functools.cache
def orthogonal_covariance(fixed: bool, dim: int, kind: str, phi: float) -> float:
    """₁F₁(d; d/2; ±φ/2) − exp(±φ), or what fixed norms make of it."""
    with decimal.localcontext(prec=400):
        if fixed:
            square = fixed_moment(dim, kind, phi) ** 2
            covariance = fixed_moment(dim, kind, 2.0 * phi) - square
            return float(covariance if kind == "trigonometric" else covariance / square)
        half, z = Decimal(dim) / 2, Decimal(-phi if kind == "trigonometric" else phi)
        found = series(Decimal(1), lambda k: (dim + k) / (half + k), z / 2) - z.exp()
        return float(found if kind == "trigonometric" else found * (-z).exp())


@pytest.mark.parametrize("dim", DIMS)
def test_the_series_of_these_tests_are_those_of_scipy(dim: int) -> None:
    for z in (-10.0, -1.0, 0.5, 4.0, 30.0):
        kind = "trigonometric" if z < 0 else "exponential"
        want = special.hyp1f1(dim, dim / 2, z / 2) - math.exp(z)
        scale = math.exp(z) if z > 0 else 1.0
        found = orthogonal_covariance(False, dim, kind, abs(z)) * scale
        assert found == pytest.approx(want, rel=1e-9, abs=1e-12)
        want = special.hyp0f1(dim / 2, dim * z / 4)
        assert float(fixed_moment(dim, kind, abs(z))) == pytest.approx(want, rel=1e-9, abs=1e-12)


@EACH_LIBRARY
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projection", [Orthogonal(), FIXED], ids=repr)
def test_orthogonal_rows(
    library: ArrayLibrary, projection: Orthogonal, dim: int, kind: str
) -> None:
    """To rounding of the smallest variance that it is added to, times the rows that it couples."""
    for dtype in {"float64", "float32"} & set(library.dtypes):
        norms = library.convert(np.asarray(SQUARED_NORMS), dtype)
        got = pair(projection, kind, norms, dim)
        assert got.dtype == norms.dtype
        for phi, value in zip(to_numpy(norms).astype(float), to_numpy(got), strict=True):
            want = orthogonal_covariance(projection == FIXED, dim, kind, phi)
            error = (dim - 1) * abs(float(value) - want) / single(kind, phi, projection, dim)
            allowed = 4 * dim * EPS[dtype] * (1 + min(phi, 128.0))
            if projection == FIXED:  # an asymptotic series, and a cut where fixed norms matter most
                allowed = 8 * allowed + 1e-9 * dim + (1e-3 if phi > 128 else 0.0)
            elif phi > 128:
                allowed += 1e-6
            assert error < allowed, f"{dtype}, |z|² = {phi}: {error:.2e} > {allowed:.2e}"


# By quadrature of SciPy's functions, where nothing is known to 400 digits.


def simplex_covariance(kind: str, phi: float, dim: int) -> float:
    """With |ω + ω'|² = s (1 ∓ sin α/(d − 1)) the mean over s ~ χ²_2d is ₁F₁(d; d/2; ·)."""

    def mean(sign: float) -> float:
        def integrand(angle: float) -> float:
            q = 1.0 + sign * math.sin(angle) / (dim - 1)
            z = 0.5 * phi * q
            value = special.hyp1f1(-dim / 2, dim / 2, z) * math.exp(-z)  # Kummer
            if kind != "trigonometric":
                value = special.hyp1f1(dim, dim / 2, z) * math.exp(-phi)
            return value * math.sin(angle) ** (dim - 1)

        total = integrate.quad(integrand, 0.0, math.pi, epsabs=0, epsrel=1e-12, limit=200)[0]
        return total / (math.pi**0.5 * math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)))

    if kind == "exponential":
        return mean(-1.0) - 1.0
    return 0.5 * (mean(-1.0) + mean(1.0)) - (1.0 if kind == "hyperbolic" else math.exp(-phi))


def norm_coupled_covariance(kind: str, phi: float, dim: int) -> float:
    """The mean over the rank u = Φ(y) of the first norm, by the trapezoidal rule."""
    y = np.linspace(-12.0, 12.0, 4001)
    below = special.ndtr(y)
    squares = special.gammaincinv(dim / 2, below[y <= 0])
    squares = 2.0 * np.concatenate([squares, special.gammainccinv(dim / 2, below[::-1][y > 0])])
    both = squares + squares[::-1]
    weight = np.exp(-0.5 * y**2)
    sign = -1.0 if kind == "trigonometric" else 1.0
    mean = np.sum(weight * special.hyp0f1(dim / 2, sign * both * phi / 4)) / np.sum(weight)
    return mean - math.exp(-phi) if sign < 0 else mean * math.exp(-phi) - 1.0


ORACLES = {Simplex(): simplex_covariance, NormCoupled(): norm_coupled_covariance}


@EACH_LIBRARY
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projection", ORACLES, ids=repr)
def test_simplex_and_norm_coupled_rows(
    library: ArrayLibrary, projection: Projection, dim: int, kind: str
) -> None:
    """To rounding of the variance: of ours, and near 0 of SciPy's."""
    phis = [0.05, 0.5, 2.0, 10.0]
    wanted = [oracle(projection, kind, phi, dim) for phi in phis]
    for dtype in {"float64", "float32"} & set(library.dtypes):
        got = pair(projection, kind, library.convert(np.asarray(phis), dtype), dim)
        for phi, value, want in zip(phis, to_numpy(got), wanted, strict=True):
            error = abs(float(value) - want) / single(kind, phi, projection, dim)
            allowed = 4 * dim * EPS[dtype] * (1 + phi) + 1e-10
            assert error < allowed, f"{dtype}, |z|² = {phi}: {error:.2e} > {allowed:.2e}"


@functools.cache
def oracle(projection: Projection, kind: str, phi: float, dim: int) -> float:
    return ORACLES[projection](kind, phi, dim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "num"), [(4, 4), (4, 3), (5, 5), (8, 2)])
@pytest.mark.parametrize("projection", [IID(), IID(norms="fixed"), *BLOCKS], ids=repr)
def test_variance_over_draws(projection: Projection, dim: int, num: int, kind: str) -> None:
    """Blocks of one draw are independent, so that each is a draw of ``num`` rows, cut or not."""
    phi, blocks = 0.8, 20_000
    norms = getattr(projection, "norms", "chi")
    rows = projection.sample(np.random.default_rng(13), blocks * dim, dim)
    z = phi**0.5 * np.random.default_rng(1).standard_normal(dim)
    z *= phi**0.5 / np.linalg.norm(z)
    side = rows.reshape(blocks, dim, dim)[:, :num] @ z
    g = {"exponential": np.exp, "hyperbolic": np.cosh, "trigonometric": np.cos}[kind](side)
    law = FIXED if norms == "fixed" else Orthogonal()
    mean = (
        float(fixed_moment(dim, kind, phi))
        if norms == "fixed"
        else math.exp(-0.5 * phi if kind == "trigonometric" else 0.5 * phi)
    )
    scale = 1.0 if kind == "trigonometric" else mean
    means = np.mean(g, axis=1)
    assert abs(z_score(means, np.asarray(mean))) < 5
    coupling = projection.coupling(kind, np.asarray(phi), num, dim)  # type: ignore[arg-type]
    want = scale**2 * (single(kind, phi, law, dim) + float(coupling)) / num
    assert abs(z_score((means - mean) ** 2, np.asarray(want))) < 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num", "dim"), [(20, 8), (5, 8), (7, 3), (63, 63), (9, 2), (5, 1)])
@pytest.mark.parametrize("projection", BLOCKS, ids=repr)
def test_couplings_are_summed_over_blocks(
    projection: Projection, num: int, dim: int, kind: str
) -> None:
    """A row is coupled to the others of its block, and the last block is cut."""
    norms = np.asarray([0.3, 2.0])
    blocks = [min(dim, num - start) for start in range(0, num, dim)]
    each = [rows * projection.coupling(kind, norms, rows, dim) for rows in blocks]  # type: ignore[arg-type, operator]
    found = projection.coupling(kind, norms, num, dim)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, sum(each) / num, rtol=1e-13)


def test_a_block_has_as_many_pairs_as_it_has() -> None:
    """Of d rows each is coupled to d − 1 others; of 5 rows with coupled norms 4 have a partner."""
    norms = np.asarray([0.3, 2.0])
    for projection in (Orthogonal(), FIXED, Simplex()):
        for kind in KINDS:
            block = projection.coupling(kind, norms, 5, 5)  # type: ignore[arg-type]
            np.testing.assert_allclose(block, 4 * pair(projection, kind, norms, 5), rtol=1e-14)
    for kind in KINDS:
        block = NormCoupled().coupling(kind, norms, 5, 5)  # type: ignore[arg-type]
        partners, others = (pair(p, kind, norms, 5) for p in (NormCoupled(), Orthogonal()))
        np.testing.assert_allclose(block, (4 * partners + 16 * others) / 5, rtol=1e-13)


@EACH_LIBRARY
@pytest.mark.parametrize("kind", KINDS)
def test_a_coupling_at_zero_is_zero(library: ArrayLibrary, kind: str) -> None:
    zeros = library.convert(np.zeros((2, 3)), "float32")
    for projection in (IID(), *BLOCKS):
        found = projection.coupling(kind, zeros, 8, 8)  # type: ignore[arg-type]
        assert found.shape == zeros.shape
        assert np.all(to_numpy(found) == 0.0)


@pytest.mark.parametrize("dim", [1, *DIMS])
def test_better_couplings_are_better(dim: int) -> None:
    norms = np.asarray([0.0, *SQUARED_NORMS])
    orthogonal = Orthogonal().coupling("exponential", norms, dim, dim)
    for better in (Simplex(), NormCoupled()):
        assert np.all(better.coupling("exponential", norms, dim, dim) <= orthogonal)
    assert np.all(orthogonal <= 0.0)
    assert np.all(FIXED.coupling("exponential", norms, dim, dim) <= 0.0)


@pytest.mark.parametrize("projection", UNKNOWN, ids=repr)
def test_what_has_no_closed_form_has_none(projection: Projection) -> None:
    for kind in KINDS:
        assert projection.coupling(kind, np.ones(3), 16, 4) is None  # type: ignore[arg-type]


def test_published_variances_of_positive_features() -> None:
    """Reid et al. 2023: d = 4 rows at |x + y|² = 0.99, where independent ones have 0.375."""
    phi = np.asarray(0.99)
    factor = 0.375 / (math.expm1(0.99) / 4)
    for projection, want in ((Orthogonal(), 0.333), (Simplex(), 0.189)):
        variance = (math.expm1(0.99) + projection.coupling("exponential", phi, 4, 4)) / 4
        assert factor * variance == pytest.approx(want, abs=1.5e-3)
    rows = Simplex(optimized=True).sample(np.random.default_rng(5), 4 * 100_000, 4)
    means = np.mean(np.exp(rows.reshape(-1, 4, 4) @ np.full(4, 0.99**0.5 / 2)), axis=1)
    variance = np.mean((means * math.exp(-0.495) - 1.0) ** 2)
    assert factor * variance == pytest.approx(0.176, abs=0.01)


def test_published_variances_of_trigonometric_features() -> None:
    """Reid et al. 2025: m = 2 rows in d = 4, where independent ones have 0.1252."""
    phi = -math.log(1.0 - (4 * 0.1252) ** 0.5)
    for projection, want in ((IID(), 0.1252), (Orthogonal(), 0.1), (NormCoupled(), 0.076)):
        coupling = projection.coupling("trigonometric", np.asarray(phi), 2, 4)
        variance = (single("trigonometric", phi, projection, 4) + float(coupling)) / 2
        assert variance == pytest.approx(want, abs=3e-4)


@EACH_LIBRARY
@pytest.mark.parametrize("dim", [1, 2, 3, 8, 63, 64, 512])
def test_means_of_rows_with_fixed_norms(library: ArrayLibrary, dim: int) -> None:
    """To 1e-9 of the kernel, and never above it: the bias is known."""
    for dtype in {"float64", "float32"} & set(library.dtypes):
        phis = library.convert(np.asarray([0.0, *SQUARED_NORMS]), dtype)
        exponential = to_numpy(FIXED.exponential_mean(phis, dim)).astype(float)
        trigonometric = to_numpy(FIXED.trigonometric_mean(phis, dim)).astype(float)
        assert np.all((exponential >= 0.0) & (exponential <= 1.0))
        for i, phi in enumerate(to_numpy(phis).astype(float)):
            want = float(fixed_moment(dim, "exponential", phi) * Decimal(-phi / 2).exp())
            slack = 4 * EPS[dtype] * (1.0 + (dim * phi) ** 0.5 + phi)
            assert abs(exponential[i] - want) < 1e-9 + slack, f"{dtype}, {phi}"
            want = float(fixed_moment(dim, "trigonometric", phi))
            assert abs(trigonometric[i] - want) < 1e-13 * dim + slack, f"{dtype}, {phi}"


def test_fixed_norms_of_many_dimensions_at_far_points() -> None:
    """The ratio of the mean to the kernel, whose logs are near −φ²/(4 dim)."""
    for dim, phi in ((1024, 200.0), (4096, 600.0)):
        want = float((fixed_moment(dim, "exponential", phi)).ln()) - phi / 2
        found = math.log(float(FIXED.exponential_mean(np.asarray(phi), dim)))
        assert found == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("dim", [1, 4, 64])
def test_means_of_gaussian_rows(dim: int) -> None:
    phi = np.asarray([0.0, 0.3, 400.0], dtype=np.float32)
    for projection in (IID(), Orthogonal(), Simplex(), NormCoupled(), Fastfood(), Sobol()):
        exponential = projection.exponential_mean(phi, dim)
        assert np.array_equal(exponential, np.ones(3, dtype=np.float32))
        trigonometric = projection.trigonometric_mean(phi, dim)
        np.testing.assert_allclose(trigonometric, np.exp(-phi / 2), rtol=1e-6)
    for projection in (Hadamard(), Hadamard(norms="fixed"), MomentMatched()):
        assert projection.exponential_mean(phi, dim) is None
        assert projection.trigonometric_mean(phi, dim) is None


def test_matched_rows_have_the_mean_of_fixed_norms_in_one_dimension_less_than_rows() -> None:
    rng, z = np.random.default_rng(8), np.asarray([0.9, -0.5, 0.1])
    draws = np.stack([MomentMatched().sample(rng, 6, 3) for _ in range(20_000)]) @ z
    phi = np.asarray(float(z @ z))
    want = FIXED.exponential_mean(phi, 5) * np.exp(0.5 * phi)
    assert abs(z_score(np.mean(np.exp(draws), axis=1), want)) < 5
    assert abs(z_score(np.mean(np.cos(draws), axis=1), FIXED.trigonometric_mean(phi, 5))) < 5
