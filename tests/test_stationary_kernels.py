"""Laplace, Matérn, rational quadratic and Cauchy kernels: values, frequencies, limits, refusals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special
from scipy.spatial.distance import cdist

from rfx._xp import to_numpy
from rfx.kernels import Cauchy, Gaussian, Laplace, Matern, RationalQuadratic, Stationary
from rfx.kernels._matern import log_matern
from rfx.testing import ArrayLibrary, assert_agrees, dtype_name, z_score

KERNELS: tuple[Stationary, ...] = (
    Laplace(2.0),
    Matern(0.5, 2.0),
    Matern(1.5, 2.0),
    Matern(2.5, 0.7),
    Matern(0.3, 3.0),
    Matern(3.3, 1.5),
    RationalQuadratic(0.4, 1.2),
    Cauchy(1.7),
)
EACH_KERNEL = pytest.mark.parametrize("kernel", KERNELS, ids=repr)
SOME = pytest.mark.parametrize("kernel", [Laplace(2.0), Matern(0.8, 2.0), Cauchy(1.7)], ids=repr)
"""For JAX and gradients: each of the ways to go through the pairs."""


def points(*batch: int, dim: int = 5, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*batch, 17, dim)), rng.standard_normal((*batch, 9, dim))


def expected(kernel: Stationary, x: np.ndarray, y: np.ndarray, times: float = 1.0) -> np.ndarray:
    """log k(times (x − y)) by the formula, from all differences at once."""
    difference = times * (x[..., :, None, :] - y[..., None, :, :])
    match kernel:
        case Laplace(bandwidth):
            return -np.sum(np.abs(difference), axis=-1) / bandwidth
        case RationalQuadratic(alpha, bandwidth):
            square = np.sum(difference**2, axis=-1)
            return -alpha * np.log(1.0 + square / (2.0 * alpha * bandwidth**2))
        case Cauchy(bandwidth):
            return -np.sum(np.log(1.0 + (difference / bandwidth) ** 2), axis=-1)
        case Matern(nu, bandwidth):
            r = np.linalg.norm(difference, axis=-1) / bandwidth
            return bessel(nu, np.sqrt(2.0 * nu) * r)
    raise AssertionError(kernel)


KVE = 8.0
"""scipy's kve is wrong by up to 200 roundings of float64."""


def bessel(nu: float, z: np.ndarray) -> np.ndarray:
    """log of 2^(1 − ν) z^ν K_ν(z) / Γ(ν), which is 0 at z = 0."""
    safe = np.where(z == 0.0, 1.0, z)
    log = np.log(special.kve(nu, safe)) - safe + nu * np.log(safe)
    return np.where(z == 0.0, 0.0, log + (1.0 - nu) * math.log(2.0) - math.lgamma(nu))


@EACH_KERNEL
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_kernels_are_their_formulas(kernel: Stationary, batch: tuple[int, ...]) -> None:
    x, y = points(*batch)
    log = expected(kernel, x, y)
    assert_agrees(kernel(x, y), np.exp(log), scale=KVE)
    assert_agrees(kernel.log(x, y), log, scale=KVE)
    for times in (0.5, 2.0):
        assert_agrees(kernel.log_at(x, y, times), expected(kernel, x, y, times), scale=KVE)


def test_scikit_learns_kernels_are_these() -> None:
    """laplacian_kernel with gamma, Matern and RationalQuadratic with length_scale."""
    x, y = points()
    gamma, length = 0.4, 1.3
    assert_agrees(Laplace(1.0 / gamma)(x, y), np.exp(-gamma * cdist(x, y, "cityblock")))
    r = cdist(x / length, y / length)
    five = 1.0 + math.sqrt(5) * r + 5.0 * r**2 / 3.0
    assert_agrees(Matern(2.5, length)(x, y), five * np.exp(-math.sqrt(5) * r))
    assert_agrees(RationalQuadratic(0.7, length)(x, y), (1.0 + r**2 / 1.4) ** -0.7)
    isotropic = RationalQuadratic(1.0, length / math.sqrt(2.0))
    assert_agrees(isotropic(x, y), 1.0 / (1.0 + r**2))


def test_every_library_and_dtype_gives_the_same_kernel(lib: ArrayLibrary) -> None:
    slow = lib.library == "jax"  # to compile
    for kernel in KERNELS[7:] if slow else KERNELS:
        for dtype in lib.dtypes[: 1 if slow else 4]:
            scale = KVE if dtype == "float64" else 1.0
            x, y = (lib.convert(a, dtype) for a in points(2))
            left, right = (to_numpy(a).astype(float) for a in (x, y))
            log = expected(kernel, left, right)
            matrix, found = kernel(x, y), kernel.log(x, y)
            assert type(matrix) is type(x)
            assert matrix.dtype == x.dtype
            assert dtype_name(found.dtype) == ("float64" if dtype == "float64" else "float32")
            assert_agrees(matrix, np.exp(log), scale=scale)
            assert_agrees(found, log, scale=scale)


@pytest.mark.parametrize("nu", [0.1, 0.7, 1.5, 3.3, 10.0])
def test_matern_is_bessels_function_at_every_distance(nu: float) -> None:
    z = np.geomspace(1e-6, 300.0, 200)
    want = bessel(nu, z)
    assert np.max(np.abs(log_matern(nu, z) - want) / np.maximum(1.0, np.abs(want))) < 1e-13
    assert np.max(np.abs(np.expm1(log_matern(nu, z) - want))) < 1e-12
    single = log_matern(nu, z.astype(np.float32)).astype(float)
    at = z.astype(np.float32).astype(float)
    assert np.max(np.abs(single - bessel(nu, at)) / np.maximum(1.0, -bessel(nu, at))) < 2e-6


def test_quadrature_has_the_closed_forms_and_the_limit() -> None:
    z = np.geomspace(1e-12, 1e5, 60)
    assert_agrees(log_matern(0.5, z) + z, np.zeros(60), size=1e5)
    assert_agrees(np.expm1(log_matern(1.5, z)), np.expm1(np.log1p(z) - z))
    large = np.log1p(z + z**2 / 3.0) - z
    assert np.all(np.abs(log_matern(2.5, z) - large) <= 1e-14 * np.maximum(1.0, z))
    x, y = points()
    for nu in (1e4, 1e7):
        error = np.abs(Matern(nu).log(x, y) - Gaussian().log(x, y))
        assert np.max(error) < 1e3 / nu
    r = np.asarray([0.3, 1.0, 3.0], dtype=np.float32)
    assert np.allclose(log_matern(1e7, math.sqrt(2e7) * r), -0.5 * r**2, rtol=1e-5)


def test_quadrature_of_a_very_smooth_kernel_keeps_its_digits_near_zero() -> None:
    """Where log Γ(ν) and ν log ν, of 1e8, have to cancel."""
    r = np.asarray([1e-4, 1e-3, 1e-2])
    assert np.max(np.abs(log_matern(1e7, math.sqrt(2e7) * r) + 0.5 * r**2)) < 1e-11


@pytest.mark.parametrize("nu", [0.3, 1.0, 2.0, 7.0, 300.0])
def test_quadrature_never_exceeds_one_and_takes_the_ends_of_the_dtype(nu: float) -> None:
    torch = pytest.importorskip("torch")
    for dtype, least, most in ((np.float32, 1e-45, 3e38), (np.float64, 5e-324, 1e308)):
        z = np.geomspace(np.float64(least), 1.0, 100).astype(dtype)
        log = log_matern(nu, z)
        assert np.all(log <= 0.0)
        assert log[0] == 0.0
        leaf = torch.asarray([*z[::20], most], dtype=getattr(torch, z.dtype.name)).requires_grad_()
        log = log_matern(nu, leaf)
        assert -most < log[-1] < -(most**0.7)
        (gradient,) = torch.autograd.grad(log.sum(), leaf)
        assert torch.isfinite(gradient).all()


@EACH_KERNEL
def test_frequencies_have_the_kernel_as_mean_cosine(kernel: Stationary) -> None:
    rng = np.random.default_rng(2_718)
    rows = rng.standard_normal((200_000, 3))
    omega = kernel.frequencies(rows, rng)
    assert omega.shape == rows.shape
    x = np.asarray([[0.3, -0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 2.0, -1.5], [0.4, 0.0, -3.0]])
    zero = np.zeros((1, 3))
    k, k2 = (np.exp(kernel.log_at(x, zero, times))[:, 0] for times in (1.0, 2.0))
    cosines = np.cos(omega @ x.T)
    variance = 0.5 * (1.0 + k2) - k**2
    assert np.max(np.abs(z_score(cosines, k, variance=variance))) < 4.0
    spread = z_score((cosines - k) ** 2, variance)
    assert np.max(np.abs(spread)) < 4.0


@EACH_KERNEL
def test_frequencies_take_heads_and_are_those_of_the_seed(kernel: Stationary) -> None:
    rows = np.random.default_rng(3).standard_normal((2, 7, 4))
    first, again = (kernel.frequencies(rows, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == rows.shape
    assert np.array_equal(first, again)
    assert np.all(np.isfinite(first))
    wider = dataclasses.replace(kernel, bandwidth=2.0 * kernel.bandwidth)  # type: ignore[attr-defined,type-var]
    assert_agrees(wider.frequencies(rows, np.random.default_rng(5)), 0.5 * first)


def test_frequencies_of_rough_kernels_are_finite() -> None:
    """Without a bound the chi-squared divisor would be 0 for one row in a few."""
    rng = np.random.default_rng(1)
    omega = Matern(0.001).frequencies(rng.standard_normal((500, 2)), rng)
    assert np.all(np.isfinite(omega))


@EACH_KERNEL
def test_gram_matrices_are_positive_definite(kernel: Stationary) -> None:
    x = points(dim=2)[0]
    assert np.min(np.linalg.eigvalsh(kernel(x, x))) > 0.0


@EACH_KERNEL
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_equal_points_give_exactly_one(kernel: Stationary, offset: float) -> None:
    for dtype in (np.float64, np.float32):
        x = (points()[0] + offset).astype(dtype)
        assert np.all(np.diagonal(kernel(x, x)) == 1.0)
        assert np.all(np.diagonal(kernel.log(x, x)) == 0.0)
        assert np.all(kernel.log(x, x[::2]) <= 0.0)


@EACH_KERNEL
def test_near_points_far_from_the_origin_keep_their_digits(kernel: Stationary) -> None:
    """Eighths are exact in float32 up to 2^21, and so are their differences."""
    x, y = (np.round(8.0 * a) / 8.0 for a in points())
    far = (np.asarray(a + 2.0**20, dtype=np.float32) for a in (x, y))
    assert_agrees(kernel.log(*far), expected(kernel, x, y))


@EACH_KERNEL
def test_nan_stays_in_its_row_and_column(kernel: Stationary) -> None:
    x, y = points()
    x[3, 1] = y[4, 0] = np.nan
    lost = np.isnan(kernel(x, y))
    wanted = np.zeros_like(lost)
    wanted[3], wanted[:, 4] = True, True
    assert np.array_equal(lost, wanted)


FAR: dict[str, tuple[Stationary, Callable[[float], float]]] = {
    "Laplace": (Laplace(2.0), lambda r: -r / 2.0),
    "Matern 1/2": (Matern(0.5, 2.0), lambda r: -r / 2.0),
    "Matern 5/2": (Matern(2.5), lambda r: -math.sqrt(5.0) * r),
    "Matern": (Matern(0.8), lambda r: -math.sqrt(1.6) * r),
    "RationalQuadratic": (RationalQuadratic(0.01), lambda r: -0.02 * math.log(r / 0.02**0.5)),
    "Cauchy": (Cauchy(), lambda r: -2.0 * math.log(r)),
}


@pytest.mark.parametrize("name", FAR)
def test_log_is_right_at_extreme_distances(name: str, lib: ArrayLibrary) -> None:
    """Also where the square of the distance is no float32."""
    if lib.library == "jax" and name != "Laplace":
        return  # seconds to compile, and the same code
    kernel, log = FAR[name]
    for dtype, far in (("float32", 1e10), ("float32", 1e25), ("float64", 1e150)):
        if dtype in lib.dtypes:
            x = lib.convert(np.asarray([[0.0, 0.0]]), dtype)
            y = lib.convert(np.asarray([[0.0, 0.0], [far, 0.0], [1e-25, 0.0]]), dtype)
            want = np.asarray([[0.0, log(far), 0.0]])
            assert_agrees(kernel.log(x, y), want)


@SOME
def test_gradients_are_those_of_finite_differences(kernel: Stationary) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.asarray(a[:3, :2]).requires_grad_() for a in points())
    for call in (kernel, kernel.log):
        assert torch.autograd.gradcheck(call, (x, y))
    if isinstance(kernel, Matern):
        assert torch.autograd.gradgradcheck(kernel, (x, y))


@EACH_KERNEL
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradients_are_finite_at_equal_and_far_points(kernel: Stationary, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(points()[0][:5], dtype=getattr(torch, dtype)).requires_grad_()
    y = torch.cat([x.detach(), 1e10 * x.detach(), x.detach() + 1e-6])
    for call in (kernel, kernel.log):
        (gradient,) = torch.autograd.grad(call(x, y).sum(), x)
        assert torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad(torch.sum(torch.diagonal(kernel(x, y))), x)
    assert torch.all(gradient == 0.0)


@SOME
def test_kernels_and_gradients_are_compiled(kernel: Stationary) -> None:
    jax = pytest.importorskip("jax")
    x, y = (a[:3, :2].astype(np.float32) for a in points())
    y = np.concatenate([y, x])

    def total(x: object, y: object) -> object:
        return kernel(x, y).sum()

    compiled = jax.jit(jax.value_and_grad(total))
    value, gradient = compiled(*(jax.numpy.asarray(a) for a in (x, y)))
    want = np.sum(np.exp(expected(kernel, x.astype(float), y.astype(float))))
    assert float(value) == pytest.approx(want, rel=1e-6)
    assert np.all(np.isfinite(gradient))


def test_kernels_are_records() -> None:
    assert len({*KERNELS, *(dataclasses.replace(k) for k in KERNELS)}) == len(KERNELS)  # type: ignore[type-var]
    assert Matern(np.float32(0.5), np.int64(2)) == Matern(0.5, 2.0)  # type: ignore[arg-type]
    for kernel in KERNELS:
        assert kernel(np.zeros((0, 3)), np.ones((2, 3))).shape == (0, 2)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_parameters_must_be_positive_and_finite(wrong: float) -> None:
    for make, name in (
        (Laplace, "bandwidth"),
        (Cauchy, "bandwidth"),
        (Matern, "nu"),
        (Matern, "bandwidth"),
        (RationalQuadratic, "alpha"),
        (RationalQuadratic, "bandwidth"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be positive and finite, got"):
            make(**{name: wrong})
        with pytest.raises(TypeError, match=f"`{name}` must be a number, got 'a'"):
            make(**{name: "a"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`times` must be positive and finite, got"):
        Laplace().log_at(*points(), wrong)


def test_infinite_smoothness_is_refused_with_the_gaussian_kernel() -> None:
    message = r"`nu` must be finite, got inf; .* is rfx\.kernels\.Gaussian\(bandwidth=2\.0\)"
    with pytest.raises(ValueError, match=message):
        Matern(math.inf, 2.0)


def test_points_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="the same last axis, got d=5 and d=4"):
        Laplace().log_at(points()[0], points(dim=4)[1], 2.0)
