"""Hybrids: weights that add up to 1, the angular hybrid, complex exponentials, clusters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.features import (
    SDERF,
    Aligned,
    AngularHybrid,
    CellMap,
    Clustered,
    Combination,
    ComplexExponential,
    Deterministic,
    GaussianHybrid,
    GaussianWeight,
    Generalized,
    Hybrid,
    Moments,
    Optimal,
    Positive,
    Spec,
    Trigonometric,
    Weight,
    kmeans,
)
from rfx.features import clustered as clustered_module
from rfx.features.moments import samples
from rfx.kernels import Angular, Gaussian, Softmax
from rfx.projections import IID, Hadamard, Orthogonal
from rfx.testing import array_libraries, assert_agrees, drawn, z_score

ONE = Softmax(1.0)
LIKE = np.zeros(1)
SIGNS = Generalized(3, function="sign", projection=IID(), epsilon=0.0)
WAVES = Trigonometric(8, ONE, IID())
PAIRS = Positive(6, ONE, IID(), hyperbolic=True)
BELL = Trigonometric(4, Gaussian(1.5), IID())


def points(*shape: int, seed: int = 0, scale: float = 0.6) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(shape)


def estimates(spec: Spec, x: np.ndarray, y: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Gram matrices of independent draws, (draws, t, s)."""
    phi = spec.draw(x.shape[-1], seed=seed, like=x, heads=draws)
    left, right = (np.broadcast_to(a, (draws, *a.shape)) for a in (x, y))
    return rfx.gram(left, right, features=phi)


def assert_statistics(samples: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> None:
    assert np.max(np.abs(z_score(samples, mean, variance=variance))) < 5
    assert np.max(np.abs(z_score(np.square(samples - mean), variance, floor=1e-14))) < 5


# Hybrid

THREE = Hybrid(
    (WAVES, PAIRS, Positive(5, ONE, IID())), (Weight(0.25, 0.5, SIGNS), Weight(0.0, -0.5, BELL))
)


def test_terms_are_those_of_the_estimator_without_zeros() -> None:
    spec = Hybrid((WAVES, PAIRS), (SIGNS,))
    assert spec.maps == (WAVES, PAIRS, SIGNS)
    assert spec.terms == ((1.0, (2, 0)), (1.0, (1,)), (-1.0, (2, 1)))
    assert spec.num_features == 3 * 8 + 6 + 3 * 6
    assert Hybrid((WAVES, PAIRS), (Weight(1.0, 0.0, SIGNS),)).terms == ((1.0, (0,)),)
    assert THREE.terms == (
        (0.25, (0,)),
        (0.5, (3, 0)),
        (-0.5, (4, 1)),
        (0.75, (2,)),
        (-0.5, (3, 2)),
        (0.5, (4, 2)),
    )
    x, y = points(5, 4), points(3, 4, seed=1)
    phi = THREE.draw(4, seed=0, like=x)
    one, two, three, sign, bell = (rfx.gram(x, y, features=m) for m in phi.maps)
    first, second = 0.25 + 0.5 * sign, -0.5 * bell
    want = first * one + second * two + (1.0 - first - second) * three
    np.testing.assert_allclose(rfx.gram(x, y, features=phi), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("biased_weight", [False, True])
def test_it_is_unbiased_whatever_the_weights_are(biased_weight: bool) -> None:
    weight = Generalized(2, function="relu", epsilon=0.5) if biased_weight else THREE.weights[0]
    spec = Hybrid(THREE.bases, (weight, THREE.weights[1]))
    assert spec.kernel == ONE
    assert spec.unbiased
    assert not spec.positive
    assert not Hybrid((WAVES, Positive(4, ONE, Orthogonal(norms="fixed"))), (SIGNS,)).unbiased
    x, y = points(3, 4, scale=0.3), points(3, 4, seed=2, scale=0.3)
    samples = estimates(spec, x, y, 2000)
    variance = spec.variance(x, y)
    if biased_weight:
        assert variance is None
        assert np.max(np.abs(z_score(samples, ONE(x, y)))) < 5
    else:
        assert_statistics(samples, ONE(x, y), variance)


def test_variance_is_unknown_where_the_mean_of_a_weight_is() -> None:
    """Its own variance is known: it has none, but another mean than its kernel."""
    x = points(3, 4)
    wrong = Deterministic("identity", kernel=ONE)
    assert np.all(wrong.variance(x, x) == 0.0)
    phi = Hybrid((WAVES, PAIRS), (wrong,)).draw(4, seed=0, like=x)
    assert phi.variance(x, x) is None


def test_variance_is_the_sum_of_second_moments_of_weights_times_variances() -> None:
    x, y = points(5, 4), points(3, 4, seed=1)
    sign, bell = SIGNS.kernel(x, y), BELL.kernel(x, y)
    of_sign, of_bell = SIGNS.variance(x, y), BELL.variance(x, y)
    means = (0.25 + 0.5 * sign, -0.5 * bell, 0.75 - 0.5 * sign + 0.5 * bell)
    spreads = (0.25 * of_sign, 0.25 * of_bell, 0.25 * (of_sign + of_bell))
    want = sum(
        (mean**2 + spread) * base.variance(x, y)
        for mean, spread, base in zip(means, spreads, THREE.bases, strict=True)
    )
    np.testing.assert_allclose(THREE.variance(x, y), want, rtol=1e-11)


def test_hybrids_of_hybrids_and_of_fitted_maps() -> None:
    aligned = rfx.features.Aligned(rfx.features.OPRF(6, ONE))
    inner = AngularHybrid(16, ONE)
    spec = Hybrid((aligned, inner), (SIGNS,))
    assert spec.needs == "moments"
    x, y = points(5, 4), points(3, 4, seed=1)
    phi = spec.fit(x, y, seed=0)
    fitted, angular, _ = phi.maps
    want = (1.0 + SIGNS.variance(x, y) / SIGNS.kernel(x, y) ** 2) * SIGNS.kernel(x, y) ** 2
    want = want * fitted.variance(x, y)
    rest = (1.0 - SIGNS.kernel(x, y)) ** 2 + SIGNS.variance(x, y)
    want = want + rest * angular.variance(x, y)
    np.testing.assert_allclose(phi.variance(x, y), want, rtol=1e-10)
    assert Hybrid((Optimal(6, ONE), WAVES), (SIGNS,)).needs == "points"


def test_replace_changes_the_bases() -> None:
    spec = Hybrid((WAVES, PAIRS), (SIGNS,)).replace(kernel=Gaussian(2.0))
    assert spec.kernel == Gaussian(2.0)
    assert spec.weights == (Weight(0.0, 1.0, SIGNS),)
    assert spec.replace(weights=(BELL,)).weights[0].map == BELL
    assert eval(repr(spec), vars(rfx.features) | vars(rfx.kernels) | vars(rfx.projections)) == spec


REFUSED: list[tuple[Any, Any, type[Exception], str]] = [
    (WAVES, (SIGNS,), TypeError, "`bases` must be a tuple of specs, got Trigonometric"),
    ((WAVES, "b"), (SIGNS,), TypeError, "`bases` must hold specs, got 'b'"),
    ((), (), ValueError, "`bases` must not be empty"),
    ((WAVES,), (), ValueError, "`weights` must be as many as `bases` less one.* got 0 for 1"),
    ((WAVES, PAIRS), (), ValueError, "`weights` must be as many .* got 0 for 2; the last base"),
    ((WAVES, PAIRS), (SIGNS, SIGNS), ValueError, "`weights` must be as many .* got 2 for 2"),
    ((WAVES, PAIRS), SIGNS, TypeError, "`weights` must be a tuple of specs or Weights, got Gen"),
    ((WAVES, PAIRS), Weight(0, 1, SIGNS), TypeError, "`weights` must be a tuple of specs or W"),
    ((WAVES, PAIRS), (1.0,), TypeError, r"`weights\[0\]` must be a spec or a Weight .*, got 1.0"),
    ((WAVES, PAIRS), ((0.5, "a", SIGNS),), TypeError, r"`weights\[0\]` must be a spec or a W"),
    ((WAVES, PAIRS), ((0.5, True, SIGNS),), TypeError, r"`weights\[0\]` must be a spec or a W"),
    ((WAVES, PAIRS), ((math.inf, 1, SIGNS),), ValueError, r"`weights\[0\]` must have finite num"),
    ((WAVES, BELL), (SIGNS,), ValueError, r"`bases` must be maps of one kernel, got Softmax\(sc"),
]


@pytest.mark.parametrize(("bases", "weights", "error", "message"), REFUSED)
def test_what_hybrids_refuse(bases, weights, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Hybrid(bases, weights)


# Signs


def test_signs_estimate_the_angular_kernel_with_its_variance() -> None:
    x = np.concatenate([points(4, 5), np.zeros((1, 5))])
    y = np.concatenate([points(3, 5, seed=1), x[:1], -2.0 * x[:1], np.zeros((1, 5))])
    assert SIGNS.kernel == Angular()
    variance = SIGNS.variance(x, y)
    mean = Angular()(x, y)
    want = (1.0 - mean**2) / 3
    want[-1], want[:, -1] = 0.0, 0.0  # every estimate is 0 there
    np.testing.assert_allclose(variance, want, atol=1e-15)
    assert np.all(variance[0, 3:5] == 0.0)
    assert_statistics(estimates(SIGNS, x, y, 3000), mean, variance)
    assert SIGNS.replace(projection=Orthogonal()).variance(x, y) is None
    one = SIGNS.replace(projection=Orthogonal(), num_features=1)
    np.testing.assert_allclose(one.variance(x, y), 3 * want, atol=1e-15)
    assert not Generalized(3, function="sign").unbiased
    assert Generalized(3, function="sign").kernel == Angular()
    with pytest.raises(ValueError, match="kernel"):
        Generalized(3, function="relu", kernel=Angular())


# Angular hybrid


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kernel", [Softmax(), Gaussian(1.3)], ids=repr)
def test_angular_hybrid_is_the_estimator(shared: bool, kernel: Any) -> None:
    x, y = points(6, 5, scale=1.5), points(4, 5, seed=1)
    spec = AngularHybrid(48, kernel, num_signs=2, shared_frequencies=shared)
    phi = spec.draw(5, seed=3, like=x)
    arrays = phi.arrays()
    tau = arrays["map2_query_weight"]
    omega = [arrays[f"map{i}_query_weight"][:, :4] for i in (0, 1)]
    assert tau.shape == (5, 2)
    assert np.array_equal(*omega) == shared
    unit = kernel.unit(5)
    weight = 0.5 - np.sign(x @ tau) @ np.sign(y @ tau).T / 4
    growth = 0.0 if isinstance(kernel, Softmax) else -0.5  # of a feature of the Gaussian kernel

    def side(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        norm = unit**2 * np.sum(z**2, axis=-1, keepdims=True)
        angle, both = z @ omega[1], np.concatenate([z @ omega[0], -z @ omega[0]], axis=-1)
        waves = np.exp((0.5 + growth) * norm) * np.concatenate([np.cos(angle), np.sin(angle)], -1)
        return np.exp(both + (growth - 0.5) * norm) / 8**0.5, waves / 2

    pairs, waves = (a @ b.T for a, b in zip(side(x), side(y), strict=True))
    want = weight * pairs + (1.0 - weight) * waves
    np.testing.assert_allclose(rfx.gram(x, y, features=phi), want, rtol=1e-12, atol=1e-13)
    assert phi.num_features == spec.num_features == 4 * 4 * 3


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("num_signs", [1, 3])
def test_angular_hybrid_has_the_mean_squared_error_of_the_paper(
    shared: bool, num_signs: int
) -> None:
    x, y = points(4, 5, scale=0.35), points(3, 5, seed=1, scale=0.2)
    m, n = 2, num_signs
    spec = AngularHybrid(4 * m * (n + 1), ONE, IID(), n, shared)
    share = (1.0 - Angular()(x, y)) / 2
    pairs = Positive(2 * m, ONE, IID(), hyperbolic=True).variance(x, y)
    waves = Trigonometric(2 * m, ONE, IID()).variance(x, y)
    want = share * (share - share / n + 1 / n) * pairs
    want += (1 - share) * (1 - share + share / n) * waves
    norms = np.sum(x**2, axis=-1)[:, None] - np.sum(y**2, axis=-1)
    if shared:
        cross = share * (1 - share) * (1 - 1 / n) * ONE(x, y) ** 2
        want -= 2 / m * cross * (1 - np.cos(norms))
    variance = spec.variance(x, y)
    np.testing.assert_allclose(variance, want, rtol=1e-9)
    assert_statistics(estimates(spec, x, y, 4000), ONE(x, y), variance)


def test_shared_frequencies_matter_where_norms_differ() -> None:
    x, y = points(1, 5, scale=2.0), points(1, 5, seed=1, scale=0.5)
    apart, shared = (AngularHybrid(32, ONE, IID(), 3, s).variance(x, y) for s in (False, True))
    assert shared < 0.999 * apart
    both = AngularHybrid(32, ONE, IID(), 3, True)
    assert np.all(both.variance(x, x) <= 1e-9 * ONE(x, x))
    assert AngularHybrid(32, ONE, Orthogonal(), 3, True).variance(x, y) is None
    assert AngularHybrid(32, ONE, Orthogonal(), 3).variance(x, y) is not None


@pytest.mark.parametrize("projection", [IID(), Orthogonal()], ids=repr)
def test_angular_hybrid_is_exact_at_equal_and_at_opposite_points(projection: Any) -> None:
    """To the rounding of the trigonometric estimate, which cancels at opposite points."""
    x = points(5, 4)
    spec = AngularHybrid(32, ONE, projection, num_signs=3)
    phi = spec.draw(4, seed=0, like=x)
    for y in (x, -x):
        assert np.all(np.diagonal(spec.variance(x, y)) < 1e-25)
        want = np.diagonal(ONE(x, y))
        size = np.exp(np.max(np.sum(x**2, axis=-1)))
        assert_agrees(np.diagonal(rfx.gram(x, y, features=phi)), want, scale=4.0, size=size)


def at_angles(norm: float, number: int = 721) -> tuple[np.ndarray, np.ndarray]:
    theta = np.linspace(0.0, np.pi, number)
    x = np.asarray([[norm, 0.0, 0.0]])
    return x, norm * np.stack([np.cos(theta), np.sin(theta), 0.0 * theta], axis=-1)


def test_largest_relative_error_over_the_angle_is_that_of_the_paper() -> None:
    """sqrt(m) times the relative error at norm 1.5, m frequencies; n signs, and in the limit."""
    x, y = at_angles(1.5)
    squared = ONE(x, y) ** 2
    pairs = Positive(2, ONE, IID(), hyperbolic=True).variance(x, y) / squared
    waves = Trigonometric(2, ONE, IID()).variance(x, y) / squared
    for alone in (pairs, waves):
        assert math.sqrt(np.max(alone)) == pytest.approx(63.6, abs=0.05)
    for n, want in ((1, 19.3), (8, 10.2), (64, 8.6)):
        spec = AngularHybrid(4 * (n + 1), ONE, IID(), n)
        found = math.sqrt(np.max(spec.variance(x, y) / squared))
        assert found == pytest.approx(want, abs=0.05)
    share = np.linspace(0.0, 1.0, 721)
    limit = share**2 * pairs + (1.0 - share) ** 2 * waves
    assert math.sqrt(np.max(limit)) == pytest.approx(8.4, abs=0.05)


def test_angular_hybrid_claims_and_refusals() -> None:
    spec = AngularHybrid(64)
    assert (spec.kernel, spec.projection) == (Softmax(), Orthogonal())
    assert spec.unbiased
    assert not spec.positive
    assert spec.needs == "nothing"
    assert spec.num_frequencies == 8
    assert not AngularHybrid(64, projection=Orthogonal(norms="fixed")).unbiased
    assert AngularHybrid(64).replace(kernel=Gaussian(2.0)).kernel == Gaussian(2.0)
    message = r"`num_features` must be a multiple of 32 \(4 features of a frequency times 7 \+ 1 "
    with pytest.raises(ValueError, match=message + r"for the signs\), got 261; use 288"):
        AngularHybrid(261, num_signs=7)
    with pytest.raises(ValueError, match=r"multiple of 8 .*, got 12; use 16"):
        AngularHybrid(12)
    with pytest.raises(ValueError, match="`num_signs` must be at least 1, got 0"):
        AngularHybrid(64, num_signs=0)
    with pytest.raises(TypeError, match=r"`kernel` must be rfx.kernels.Softmax or Gaussian"):
        AngularHybrid(64, Angular())
    with pytest.raises(TypeError, match="`projection` must be a record"):
        AngularHybrid(64, projection="iid")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`shared_frequencies` must be True or False, got 1"):
        AngularHybrid(64, shared_frequencies=1)  # type: ignore[arg-type]


def test_hybrids_combine_with_other_maps() -> None:
    x = points(5, 4)
    spec = Combination((AngularHybrid(16, ONE), BELL), ((1.0, (0, 1)), (2.0, ())))
    phi = drawn(spec, 4, like=x, heads=None)
    np.testing.assert_allclose(phi.kernel(x, x), ONE(x, x) * BELL.kernel(x, x) + 2.0)
    assert phi.num_features == 16 * 4 + 1


# Complex exponentials

FIXED = (0.8 + 0.6j, 1.0, 1.2j, -0.5 + 1.0j)


def clustered(dim: int = 6, spread: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys, each around one point."""
    rng = np.random.default_rng(seed)
    means = rng.uniform(0.5, 1.5, (2, 1, dim)) * rng.choice([-1.0, 1.0], (2, 1, dim))
    q, k = means + spread * rng.standard_normal((2, 40, dim))
    return q, k


def mean_pair(q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.mean(q, axis=-2, keepdims=True), np.mean(k, axis=-2, keepdims=True)


@pytest.mark.parametrize("kernel", [Softmax(), Gaussian(1.3)], ids=repr)
@pytest.mark.parametrize("way", ["diagonal", "dense"])
def test_fitted_complex_exponentials_are_exact_at_the_means(kernel: Any, way: Any) -> None:
    q, k = clustered()
    spec = ComplexExponential(10, kernel, A=way)
    phi = spec.fit(q, k, seed=0)
    x, y = mean_pair(q, k)
    want = kernel(x, y)
    assert_agrees(rfx.gram(x, y, features=phi), want, scale=64.0)
    apart = rfx.gram(x + 0.5, y, features=phi) / kernel(x + 0.5, y)
    assert abs(apart - 1.0) > 1e-3
    known = spec.replace(projection=IID()).fit(q, k, seed=0)
    assert known.variance(x, y) < 1e-13 * want**2
    assert known.variance(x + 0.5, y) > 1e-4 * want**2
    assert phi.variance(x, y) is None  # of orthogonal frequencies it is not known
    assert phi.num_features == 10


def matrix_of(phi: Any, spec: ComplexExponential) -> np.ndarray:
    """A, (d, d), of what was fitted."""
    if not spec.needs_data:
        return np.diag(spec.A)
    a = phi.fitted["real"] + 1j * phi.fitted["imag"]
    axes = phi.query_side.transform
    return np.diag(a) @ (np.eye(len(a)) if axes is None else axes.T)


@pytest.mark.parametrize("kernel", [ONE, Gaussian(1.3)], ids=repr)
@pytest.mark.parametrize("way", ["diagonal", "dense", FIXED])
def test_complex_exponentials_are_the_formula(kernel: Any, way: Any) -> None:
    q, k = clustered(4)
    spec = ComplexExponential(12, kernel, A=way)
    phi = spec.fit(q, k, seed=0)
    matrix = matrix_of(phi, spec)
    omega = spec.frequencies(4, np.random.default_rng(0))
    left = kernel.unit(4) * q @ matrix.T
    right = kernel.unit(4) * k @ np.linalg.inv(matrix)  # (A⁻ᵀ k)ᵀ
    rows = [np.exp(z @ omega - 0.5 * np.sum(z * z, axis=-1, keepdims=True)) for z in (left, right)]
    want = (rows[0] @ rows[1].T).real / 6
    if kernel.norm_weight:
        norms = [np.sum((kernel.unit(4) * a) ** 2, axis=-1) for a in (q, k)]
        want = want * np.exp(-0.5 * norms[0])[:, None] * np.exp(-0.5 * norms[1])
    np.testing.assert_allclose(rfx.gram(q, k, features=phi), want, rtol=1e-11)


def test_fitted_matrices_take_one_mean_to_the_other() -> None:
    q, k = clustered()
    x, y = mean_pair(q, k)
    for way in ("diagonal", "dense"):
        spec = ComplexExponential(4, ONE, A=way)
        matrix = matrix_of(spec.fit(q, k, seed=0), spec)
        square = matrix.T @ matrix
        np.testing.assert_allclose(square.imag, 0.0, atol=1e-14)
        np.testing.assert_allclose(square.real, square.real.T, atol=1e-14)
        np.testing.assert_allclose(x @ square.real, -y, rtol=1e-12)
    size = np.linalg.norm(y) / np.linalg.norm(x)
    values = np.linalg.eigvalsh(square.real)
    np.testing.assert_allclose(values, size * np.asarray([-1.0] * 5 + [1.0]))


def test_means_that_are_zero_or_alike_leave_finite_maps() -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((20, 4))
    z = z - np.mean(z, axis=0)
    same = z + np.asarray([1.0, -2.0, 0.5, 3.0])
    zero_axis = same * np.asarray([1.0, 0.0, 1.0, 1.0])
    nothing = np.zeros((3, 4))
    for q, k in ((z, z), (z, same), (same, 2.0 * same), (same, -same), (zero_axis, same)):
        for a, b in ((q, k), (k, q), (q, nothing), (nothing, nothing)):
            for way in ("diagonal", "dense"):
                phi = ComplexExponential(6, ONE, IID(), A=way).fit(a, b, seed=0)
                assert all(np.all(np.isfinite(array)) for array in phi.arrays().values())
                assert np.all(np.isfinite(phi.query(same).log_scale))
    # Ratios are within a factor 4 of those of the root mean squares; with a ridge where one is 0.
    phi = ComplexExponential(6, ONE, A="diagonal").fit(z + 0.01, same, seed=0)
    squares = [np.mean(a**2, axis=0) for a in (z + 0.01, same)]
    ratio = np.abs(phi.fitted["real"] + 1j * phi.fitted["imag"]) ** 2
    np.testing.assert_allclose(ratio, 4.0 * np.sqrt(squares[1] / squares[0]), rtol=1e-5)
    phi = ComplexExponential(6, ONE, A="dense").fit(z + 0.01, same, seed=0)
    size = 4.0 * np.sqrt(np.sum(squares[1]) / np.sum(squares[0]))
    np.testing.assert_allclose(phi.fitted["imag"][1] ** 2, size, rtol=1e-12)
    phi = ComplexExponential(6, ONE, A="diagonal").fit(zero_axis, same, seed=0)
    assert 100.0 < phi.fitted["imag"][1] ** 2 < 10_000.0
    # Opposite means have nothing imaginary, and equal ones nothing real.
    real = ComplexExponential(6, ONE, A="diagonal").fit(same, -same, seed=0)
    assert np.all(real.fitted["imag"] == 0.0)
    for way in ("diagonal", "dense"):
        waves = ComplexExponential(6, ONE, A=way).fit(same, 2.0 * same, seed=0)
        np.testing.assert_allclose(waves.fitted["imag"], 2.0**0.5)
        assert np.all(waves.fitted["real"] == 0.0)


@pytest.mark.parametrize("way", ["diagonal", "dense", FIXED])
def test_variance_of_complex_exponentials(way: Any) -> None:
    q, k = clustered(4)
    spec = ComplexExponential(6, ONE, IID(), A=way)
    scale = 0.6 if spec.needs_data else 0.2
    x, y, draws = scale * q[:3], scale * k[:3], 4000
    moments = rfx.features.Moments.of(q, k)
    phi = spec.fit_moments(moments, seed=0, like=x, heads=draws)
    one = spec.fit(q, k, seed=0)
    matrix = matrix_of(one, spec)
    z = (x @ matrix.T)[:, None] + y @ np.linalg.inv(matrix)
    a, b = np.sum(z.real**2, axis=-1), np.sum(z.imag**2, axis=-1)
    c = np.sum(z.real * z.imag, axis=-1)
    want = 0.5 * (np.exp(a + b) + np.exp(a - b) * np.cos(2 * c)) - 1.0
    variance = one.variance(x, y)
    np.testing.assert_allclose(variance, want / 3 * ONE(x, y) ** 2, rtol=1e-9)
    left, right = (np.broadcast_to(p, (draws, *p.shape)) for p in (x, y))
    assert_statistics(rfx.gram(left, right, features=phi), ONE(x, y), variance)
    if not spec.needs_data:
        assert np.array_equal(spec.variance(x, y), variance)


def test_complex_exponentials_reach_the_other_maps() -> None:
    """A = I is positive features, and A = iI trigonometric ones, with the same frequencies."""
    x, y = points(5, 3), points(4, 3, seed=1)
    for number, width, other in ((1.0, 4, Positive), (1j, 8, Trigonometric)):
        spec = ComplexExponential(8, ONE, IID(), A=(number,) * 3)
        same = other(width, ONE, IID())
        grams = [rfx.gram(x, y, features=s.draw(3, seed=5, like=x)) for s in (spec, same)]
        np.testing.assert_allclose(*grams, rtol=1e-12)
        np.testing.assert_allclose(spec.variance(x, y), same.variance(x, y), rtol=1e-10)


def test_complex_exponentials_can_be_aligned() -> None:
    """They are exact at the means still, but where these come to be small beside the spread."""
    q, k = clustered()
    x, y = mean_pair(q, k)
    for way, kernel in (("diagonal", Gaussian(1.5)), ("dense", ONE)):
        base = ComplexExponential(10, kernel, A=way)  # type: ignore[arg-type]
        for center, transform in (("mean", "full"), (None, "diagonal")):
            phi = rfx.features.Aligned(base, center, transform).fit(q, k, seed=0)  # type: ignore[arg-type]
            assert abs(rfx.gram(x, y, features=phi) / kernel(x, y) - 1.0) < 1e-4
            assert abs(rfx.gram(x + 0.5, y, features=phi) / kernel(x + 0.5, y) - 1.0) > 2e-3


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "array_api_strict"])
def test_twisted_features_are_those_of_the_oracle(name: str) -> None:
    lib = next((each for each in array_libraries() if each.name == name), None)
    if lib is None:
        pytest.skip(f"{name} is not here")
    for dtype, heads in ((lib.dtypes[0], None), (lib.dtypes[-1], 2)):
        x = lib.convert(points(2, 7, 4, seed=2), dtype)
        phi = ComplexExponential(6, ONE, A=FIXED).draw(4, seed=0, like=x, heads=heads)
        for side, call in (("query", phi.query), ("key", phi.key)):
            log, value = reference.features(phi, x, side)
            assert_agrees(call(x).exp(), value * np.exp(log), scale=32.0)


COMPLEX_REFUSED: list[tuple[Any, type[Exception], str]] = [
    ("full", ValueError, "`A` must be 'diagonal', 'dense' or a tuple of numbers, got 'full'"),
    (1j, TypeError, "`A` must be 'diagonal', 'dense' or a tuple of numbers, got 1j"),
    ((1.0, "a"), TypeError, "`A` must hold numbers, got 'a'"),
    ((1.0, 0.0), ValueError, "`A` must hold finite numbers that are not 0, got 0.0"),
    ((1.0, complex("nan")), ValueError, "`A` must hold finite numbers that are not 0"),
    ((), ValueError, "`A` must not be empty"),
]


@pytest.mark.parametrize(("given", "error", "message"), COMPLEX_REFUSED)
def test_what_complex_exponentials_refuse(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ComplexExponential(8, A=given)


def test_complex_exponential_claims() -> None:
    spec = ComplexExponential(8, A=[1, 2j, np.complex128(1 + 1j)])  # type: ignore[arg-type]
    assert spec.A == (1.0, 2j, 1 + 1j)
    assert spec == ComplexExponential(8, A=(1.0, 2j, 1 + 1j))
    assert (spec.needs, ComplexExponential(8).needs) == ("nothing", "moments")
    assert spec.unbiased
    assert not spec.positive
    with pytest.raises(ValueError, match="`A` must have a number for each axis, got 3 for dim=4"):
        spec.draw(4, seed=0, like=LIKE)
    with pytest.raises(ValueError, match="must be a multiple of 2"):
        ComplexExponential(7)
    with pytest.raises(TypeError, match="fitted to data"):
        ComplexExponential(8).draw(4, seed=0, like=LIKE)


# Gaussian weights

ROWS = ((-1.0, 0.5, 0.0), (0.0, -0.8, 0.2), (0.3, 0.0, 1.0))
MATRICES = [-1.0, 0.5, (-1.0, 0.3, 2.0), ROWS]


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
def test_gaussian_weights_estimate_their_kernel_with_its_variance(matrix: Any) -> None:
    x, y = points(4, 3), points(3, 3, seed=1)
    spec = GaussianWeight(6, 1.4, matrix)
    whole = np.eye(3) * matrix if np.ndim(matrix) < 2 else np.asarray(matrix)
    apart = x[:, None] + y @ whole.T
    want = np.exp(-np.sum(apart**2, axis=-1) / (2 * 1.4**2))
    np.testing.assert_allclose(spec.kernel(x, y), want, rtol=1e-12)
    assert (spec.kernel == Gaussian(1.4)) == (matrix == -1.0)
    variance = spec.variance(x, y)
    if matrix == -1.0:
        same = Trigonometric(6, Gaussian(1.4))
        np.testing.assert_allclose(variance, same.variance(x, y), rtol=1e-11)
        grams = [rfx.gram(x, y, features=s.draw(3, seed=4, like=x)) for s in (spec, same)]
        np.testing.assert_allclose(*grams, rtol=1e-12)
    assert_statistics(estimates(spec, x, y, 3000), want, variance)
    assert spec.replace(projection=Orthogonal(norms="fixed")).variance(x, y) is None


@pytest.mark.parametrize(
    ("lib", "matrix"),
    [(x, m) for x in array_libraries() for m in (MATRICES if x.name == "numpy" else MATRICES[2:])],
    ids=str,
)
def test_gaussian_weights_are_those_of_the_oracle(lib: Any, matrix: Any) -> None:
    for projection in (IID(), Hadamard()) if lib.name == "numpy" else (IID(),):
        x, y = (lib.convert(points(2, n, 3, seed=n), "float32") for n in (5, 4))
        phi = GaussianWeight(6, 1.4, matrix, projection).draw(3, seed=0, like=x, heads=2)
        want = reference.gram(x, y, features=phi)
        assert_agrees(rfx.gram(x, y, features=phi), want, scale=8.0)
        assert type(phi.kernel(x, y)) is type(x)


def test_fitted_gaussian_weights_are_one_at_the_means() -> None:
    q, k = clustered()
    phi = GaussianWeight(6, 0.7, "means").fit(q, k, seed=0)
    x, y = mean_pair(q, k)
    np.testing.assert_allclose(rfx.gram(x, y, features=phi), 1.0, rtol=1e-12)
    np.testing.assert_allclose(phi.fitted["matrix"] * y, -x, rtol=1e-12)
    with pytest.raises(TypeError, match="this kernel depends on what was fitted"):
        phi.kernel(x, y)
    heads = GaussianWeight(6, 0.7, "means").fit_moments(
        Moments.of(q, k), seed=0, like=q, heads=3000
    )
    left, right = (np.broadcast_to(a[:3], (3000, 3, 6)) for a in (q, k))
    apart = q[:3, None] + phi.fitted["matrix"] * k[:3]
    want = np.exp(-np.sum(apart**2, axis=-1) / (2 * 0.7**2))
    variance = heads.variance(left, right)
    np.testing.assert_allclose(variance[0], phi.variance(q[:3], k[:3]))
    assert_statistics(rfx.gram(left, right, features=heads), want, variance[0])


MATRIX_REFUSED: list[tuple[Any, type[Exception], str]] = [
    ("centres", ValueError, "`matrix` must be numbers or 'means', got 'centres'"),
    (True, TypeError, "`matrix` must be numbers or 'means', got True"),
    ((1.0, None), TypeError, "`matrix` must be numbers or 'means', got None"),
    ((), ValueError, "`matrix` must be a number, a diagonal, or as many rows as columns"),
    (((1.0, 2.0),), ValueError, "`matrix` must be a number, a diagonal, or as many rows as col"),
    (((1.0,), 2.0), ValueError, "`matrix` must be a number, a diagonal, or as many rows as col"),
    (math.inf, ValueError, "`matrix` must be finite, got inf"),
]


@pytest.mark.parametrize(("matrix", "error", "message"), MATRIX_REFUSED)
def test_what_gaussian_weights_refuse(matrix: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GaussianWeight(8, 1.0, matrix)


def test_gaussian_weights_check_their_numbers() -> None:
    with pytest.raises(ValueError, match=r"`num_features` must be a multiple of 2"):
        GaussianWeight(7)
    with pytest.raises(ValueError, match="`bandwidth` must be positive"):
        GaussianWeight(8, 0.0)
    for matrix in ((1.0, 2.0), ((1.0, 2.0), (3.0, 4.0))):
        with pytest.raises(ValueError, match="a number for each axis, got 2 for dim=3"):
            GaussianWeight(8, 1.0, matrix).draw(3, seed=0, like=LIKE)


# Gaussian hybrids


def test_gaussian_hybrid_is_the_estimator() -> None:
    x, y = points(5, 4), points(3, 4, seed=1)
    spec = GaussianHybrid(56, ONE, bandwidth=1.3, num_weights=2)
    phi = spec.draw(4, seed=0, like=x)
    waves, pairs, weight = (rfx.gram(x, y, features=m) for m in phi.maps)
    want = weight * waves + (1.0 - weight) * pairs
    np.testing.assert_allclose(rfx.gram(x, y, features=phi), want, rtol=1e-11)
    assert [m.num_features for m in phi.maps] == [4, 8, 4]
    assert phi.num_features == 56
    assert phi.variance(x, x)[0, 0] < 1e-13
    assert spec.needs == "nothing"
    known = GaussianHybrid(56, ONE, IID(), 1.3, num_weights=2)
    near, far = 0.5 * x, 0.5 * y
    samples = estimates(known, near, far, 4000)
    assert_statistics(samples, ONE(near, far), known.variance(near, far))


def test_mixture_of_gaussian_hybrids_is_exact_at_each_pair_of_centres() -> None:
    """The weight of the pair itself is 1 there, and its map exact; the other one is nearly 0."""
    q, k = two_clusters(spread=1e-4)
    spec = GaussianHybrid(112, ONE, IID(), bandwidth=0.5, num_clusters=(2, 1), num_weights=1)
    assert spec.needs == "points"
    with pytest.raises(TypeError, match="fitted to points"):
        spec.fit_moments(Moments.of(q, k), seed=0, like=q)
    phi = spec.fit(q, k[:50], seed=0)
    first, second, last, *weights = phi.maps
    x, y = q[[0, 50]], k[:1]
    matrix = rfx.gram(x, y, features=phi)
    one, two = (rfx.gram(x, y, features=m) for m in weights)
    rest = (1.0 - one - two) * rfx.gram(x, y, features=last)
    want = one * rfx.gram(x, y, features=first) + two * rfx.gram(x, y, features=second) + rest
    np.testing.assert_allclose(matrix, want, rtol=1e-10)
    assert sorted(np.abs(one - 1.0)[:, 0] < 1e-3) == [False, True]
    for place, (a, b) in enumerate(zip(one[:, 0], two[:, 0], strict=True)):
        own = first if abs(a - 1.0) < abs(b - 1.0) else second
        exact = ONE(x[[place]], y)
        np.testing.assert_allclose(rfx.gram(x[[place]], y, features=own), exact, rtol=1e-2)
        other = second if own is first else first
        assert abs(rfx.gram(x[[place]], y, features=other) / exact - 1.0) > 0.05
    variance = phi.variance(x, y)
    by_hand = np.zeros((2, 1))
    means = [np.exp(w.spec.mean(x, y, w)[0]) for w in weights]
    for base, mean, weight in zip((first, second), means, weights, strict=True):
        by_hand += (mean**2 + weight.variance(x, y)) * base.variance(x, y)
    spread = sum(w.variance(x, y) for w in weights)
    by_hand += ((1.0 - sum(means)) ** 2 + spread) * last.variance(x, y)
    np.testing.assert_allclose(variance, by_hand, rtol=1e-8)


def test_gaussian_hybrid_refusals() -> None:
    message = r"`num_features` must be a multiple of 52 \(12 for each of 4 x 1 frequencies of we"
    with pytest.raises(ValueError, match=message + ".* got 256; use 260"):
        GaussianHybrid(256, num_clusters=(2, 2))
    with pytest.raises(ValueError, match="`bandwidth` must be positive"):
        GaussianHybrid(256, bandwidth=-1.0)
    with pytest.raises(ValueError, match="`num_weights` must be at least 1"):
        GaussianHybrid(256, num_weights=0)
    with pytest.raises(TypeError, match="`num_clusters` must be two numbers"):
        GaussianHybrid(256, num_clusters=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`kernel` must be"):
        GaussianHybrid(256, Angular())


# Clusters


def two_clusters(spread: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys in two clusters each, (100, 5), the first fifty in the first."""
    rng = np.random.default_rng(seed)
    centres = 0.8 * rng.standard_normal((2, 2, 1, 5))
    q, k = (centres + spread * rng.standard_normal((2, 2, 50, 5))).reshape(2, 100, 5)
    return q, k


def test_kmeans_finds_clusters_that_lie_apart() -> None:
    rng = np.random.default_rng(3)
    means = 50.0 + 3.0 * rng.standard_normal((4, 3))
    member = rng.integers(4, size=400)
    z = means[member] + 0.1 * rng.standard_normal((400, 3))
    centres = kmeans.centres_of(z, 4, np.random.default_rng(0))
    found = kmeans.nearest(z, centres)
    for i in range(4):
        (own,) = set(found[member == i])
        np.testing.assert_allclose(centres[own], np.mean(z[member == i], axis=0), rtol=1e-9)
    again = kmeans.centres_of(z, 4, np.random.default_rng(0))
    assert np.array_equal(centres, again)
    one = kmeans.centres_of(z, 1, np.random.default_rng(0))
    np.testing.assert_allclose(one[0], np.mean(z, axis=0))


def test_kmeans_with_equal_points_and_empty_clusters() -> None:
    same = np.ones((5, 2))
    centres = kmeans.centres_of(same, 3, np.random.default_rng(0))
    assert np.array_equal(centres, np.ones((3, 2)))
    assert set(kmeans.nearest(same, centres)) == {0}
    lonely = kmeans._lloyd(same, np.asarray([[1.0, 2.0], [40.0, 0.0]]))
    assert np.array_equal(lonely, [[1.0, 1.0], [40.0, 0.0]])  # without points it stays
    rows = np.asarray([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0]])
    centres = kmeans.centres_of(rows, 3, np.random.default_rng(0))
    assert np.all(np.isfinite(centres))
    assert kmeans.nearest(rows, centres)[0] != kmeans.nearest(rows, centres)[2]


@pytest.mark.parametrize("member", [None, Aligned(SDERF(1)), Positive(1), Optimal(1)], ids=repr)
def test_clustered_is_the_map_of_the_pair_of_clusters(member: Any) -> None:
    q, k = two_clusters()
    extra = {} if member is None else {"member": member}
    spec = Clustered(24, ONE, IID(), **extra)
    phi = spec.fit(q, k, seed=0)
    assert phi.num_features == 24
    *maps, a, b, c, d = phi.maps
    assert all(type(cell) is CellMap for cell in (a, b, c, d))
    grams = [rfx.gram(q, k, features=m) for m in maps]
    cells = [rfx.gram(q, k, features=m) for m in (a, b, c, d)]
    assert np.all(np.sum(cells, axis=0) == 1.0)
    assert set(np.unique(cells)) == {0.0, 1.0}
    for cell in cells:
        assert np.sum(cell) == 2500.0
        assert np.ptp(cell[:50, :50]) == np.ptp(cell[50:, :50]) == np.ptp(cell[50:, 50:]) == 0.0
    want = sum(cell * gram for cell, gram in zip(cells, grams, strict=True))
    np.testing.assert_allclose(rfx.gram(q, k, features=phi), want, rtol=1e-11)
    if member is None:
        variances = [m.variance(q, k) for m in maps]
        want = sum(cell * v for cell, v in zip(cells, variances, strict=True))
        np.testing.assert_allclose(phi.variance(q, k), want, rtol=1e-11)
        left, right = q.reshape(2, 50, 5), k.reshape(2, 50, 5)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):  # exact at the means, but near everywhere
            x, y = (np.mean(a, axis=0, keepdims=True) for a in (left[i], right[j]))
            assert_agrees(rfx.gram(x, y, features=phi), ONE(x, y), scale=512.0)
    assert spec.unbiased
    assert spec.positive == (member is not None)


def test_clustered_is_unbiased_with_its_variance() -> None:
    q, k = two_clusters(spread=0.4)
    spec = Clustered(16, ONE, IID())
    x, y = 0.5 * q[[0, 1, 60]], 0.5 * k[[0, 70, 71]]
    phi = spec._assembled(5, 0, LIKE, [samples(q, k)[0]] * 3000, by_head=True)
    left, right = (np.broadcast_to(a, (3000, *a.shape)) for a in (x, y))
    variance = phi.variance(left, right)[0]
    assert_statistics(rfx.gram(left, right, features=phi), ONE(x, y), variance)


def test_clusters_are_those_of_the_data_alone() -> None:
    q, k = two_clusters()
    first, second = (Clustered(24).fit(q, k, seed=seed).arrays() for seed in (0, 1))
    for name in ("query_weight", "key_weight", "query_bias", "key_scale"):
        assert np.array_equal(first[f"map5_{name}"], second[f"map5_{name}"])
    heads = Clustered(24).fit(np.stack([q, q[::-1]]), np.stack([k, k + 1.0]), seed=0)
    assert heads.heads == 2
    both = rfx.gram(np.stack([q, q]), np.stack([k, k + 1.0]), features=heads)
    assert np.all(np.isfinite(both))
    causal = rfx.linear_attention(
        q[None],
        k[None],
        k[None],
        features=Clustered(24).fit(q[None], k[None], seed=0),
        is_causal=True,
    )
    assert np.all(np.isfinite(causal))


def test_clusters_without_points_leave_finite_maps() -> None:
    q = np.ones((4, 5))
    k = np.concatenate([np.zeros((3, 5)), np.ones((1, 5))])
    for member in (Aligned(SDERF(1)), ComplexExponential(2)):
        phi = Clustered(24, num_clusters=(3, 2), member=member).fit(q, k, seed=0)
        assert all(np.all(np.isfinite(array)) for array in phi.arrays().values())
        assert np.all(np.isfinite(rfx.gram(q, k, features=phi)))


CLUSTERED_REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_clusters": 2}, TypeError, "`num_clusters` must be two numbers, of queries and of keys"),
    ({"num_clusters": (2, 2, 2)}, TypeError, "`num_clusters` must be two numbers"),
    ({"num_clusters": (2, 0)}, ValueError, r"`num_clusters\[1\]` must be at least 1, got 0"),
    (
        {"num_clusters": (3, 2)},
        ValueError,
        r"multiple of 12 \(3 x 2 pairs of clusters, 2 columns each\), got 16; use 24",
    ),
    (
        {"member": Aligned(SDERF(1)), "num_clusters": (3, 1)},
        ValueError,
        r"pairs of clusters\), got",
    ),
    ({"member": "dense"}, TypeError, "`member` must be a spec with num_features, got 'dense'"),
    ({"kernel": Angular()}, TypeError, "`kernel` must be rfx.kernels.Softmax"),
    ({"projection": None}, TypeError, "`projection` must be a record"),
]


@pytest.mark.parametrize(("changes", "error", "message"), CLUSTERED_REFUSED)
def test_what_clustered_refuses(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Clustered(16, **changes)


def test_more_clusters_than_points_are_refused() -> None:
    q, k = two_clusters()
    message = "`key` must have as many points as there are clusters, 3, got 2; take fewer"
    with pytest.raises(ValueError, match=message):
        Clustered(24, num_clusters=(2, 3)).fit(q, k[:2], seed=0)
    with pytest.raises(ValueError, match="`query` must have as many points as there are clusters"):
        GaussianHybrid(52, num_clusters=(4, 1)).fit(q[:3], k, seed=0)
    with pytest.raises(TypeError, match="fitted to points"):
        Clustered(24).fit_moments(Moments.of(q, k), seed=0, like=q)


@pytest.mark.parametrize("heads", [None, 2])
def test_cells_are_those_of_the_oracle(lib: Any, heads: int | None) -> None:
    """Also where all scores are equal, at which the first column counts."""
    weight = np.asarray([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    for dtype in lib.dtypes:
        x = np.asarray([[2.0, 1.0], [-2.0, 1.0], [0.0, 5.0], [1e-3, 0.0]])
        shape = (3,) if heads is None else (heads, 3)
        arrays = {
            "query_weight": np.broadcast_to(weight, (*shape[:-1], 2, 3)),
            "query_bias": np.broadcast_to(np.asarray([0.0, 0.0, 0.0]), shape),
            "query_scale": np.broadcast_to(np.asarray([0.5, -1.0, 1.0]), shape),
            "fingerprint": np.asarray(1.0),
        }
        like = lib.convert(LIKE, dtype)
        phi = CellMap.of(clustered_module.Cell(0, 0), arrays).to_like(like)
        own = lib.convert(x if heads is None else np.stack([x, -x]), dtype)
        found = to_numpy(phi.query(own).exp())
        want = np.asarray([0.5, -1.0, 0.5, 0.5])[:, None]
        assert np.array_equal(found if heads is None else found[0], want)
        log, value = reference.features(phi, own, "query")
        assert np.array_equal(found, np.exp(log) * value)
        assert phi.num_features == 1
