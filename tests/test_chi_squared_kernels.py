"""The χ² kernels of histograms: values, frequencies, domains."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import rfx
from rfx._xp import to_numpy
from rfx.kernels import AdditiveChiSquared, Kernel, SkewedChiSquared, Stationary
from rfx.testing import ArrayLibrary, assert_agrees, dtype_name, z_score

KERNELS: tuple[Kernel, ...] = (AdditiveChiSquared(), SkewedChiSquared(), SkewedChiSquared(0.03))
EACH_KERNEL = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def histograms(*batch: int, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """With bins that are empty in one or in both."""
    rng = np.random.default_rng(11)
    x, y = rng.exponential(size=(*batch, 17, dim)), rng.exponential(size=(*batch, 9, dim))
    x[..., :4, 1], y[..., :3, 1], x[..., 5, :] = 0.0, 0.0, 0.0
    return x, y


def expected(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = x[..., :, None, :], y[..., None, :, :]
    if isinstance(kernel, AdditiveChiSquared):
        return np.sum(2.0 * a * b / np.where(a + b == 0.0, 1.0, a + b), axis=-1)
    assert isinstance(kernel, SkewedChiSquared)
    c = kernel.skewedness
    return np.prod(2.0 * np.sqrt(a + c) * np.sqrt(b + c) / (a + b + 2.0 * c), axis=-1)


@EACH_KERNEL
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_kernels_are_their_formulas(kernel: Kernel, batch: tuple[int, ...]) -> None:
    x, y = histograms(*batch)
    want = expected(kernel, x, y)
    assert_agrees(kernel(x, y), want)
    with np.errstate(divide="ignore"):
        assert_agrees(kernel.log(x, y), np.log(want))


def test_additive_kernel_gives_the_distance_that_scikit_learn_calls_its_kernel() -> None:
    """additive_chi2_kernel, −Σ (x − y)² / (x + y)."""
    x, y = histograms()
    a, b = x[:, None, :], y[None, :, :]
    distance = np.sum((a - b) ** 2 / np.where(a + b == 0.0, 1.0, a + b), axis=-1)
    kernel = AdditiveChiSquared()
    own = np.sum(x, axis=-1)[:, None] + np.sum(y, axis=-1)
    assert_agrees(np.diagonal(kernel(x, x)), np.sum(x, axis=-1))
    assert_agrees(2.0 * kernel(x, y) - own, -distance, size=float(np.max(own)))


def test_every_library_and_dtype_gives_the_same_kernel(lib: ArrayLibrary) -> None:
    for kernel in KERNELS[:2]:
        for dtype in lib.dtypes[: 1 if lib.library == "jax" else 4]:
            x, y = (lib.convert(a, dtype) for a in histograms(2))
            want = expected(kernel, *(to_numpy(a).astype(float) for a in (x, y)))
            matrix, log = kernel(x, y), kernel.log(x, y)
            assert type(matrix) is type(x)
            assert matrix.dtype == x.dtype
            assert dtype_name(log.dtype) == ("float64" if dtype == "float64" else "float32")
            assert_agrees(matrix, want)
            assert_agrees(np.exp(to_numpy(log)), want)


def test_skewed_frequencies_have_the_kernel_as_mean_cosine_of_the_logs() -> None:
    """E cos(ω t) = sech(t/2) for ω = log|g/h| / π."""
    rng = np.random.default_rng(31_415)
    kernel = SkewedChiSquared(0.5)
    assert isinstance(kernel, Stationary)
    rows = rng.standard_normal((200_000, 2))
    omega = kernel.frequencies(rows, rng)
    x, y = np.asarray([[0.2, 0.4], [0.0, 3.0], [9.0, -0.4]]), np.asarray([[0.1, 0.9]])
    u, v = kernel.coordinates(x), kernel.coordinates(y)
    assert_agrees(u - v, np.log(x + 0.5) - np.log(y + 0.5))
    k, k2 = (np.exp(kernel.log_at(x, y, times))[:, 0] for times in (1.0, 2.0))
    assert_agrees(k, expected(kernel, x, y)[:, 0])
    assert_agrees(k2, np.prod(1.0 / np.cosh(u - v), axis=-1))
    cosines, variance = np.cos(omega @ (u - v).T), 0.5 * (1.0 + k2) - k**2
    assert np.max(np.abs(z_score(cosines, k, variance=variance))) < 4.0
    assert np.max(np.abs(z_score((cosines - k) ** 2, variance))) < 4.0


def test_skewed_frequencies_of_a_row_with_zeros_are_finite() -> None:
    """Quasi-Monte-Carlo rows may have them."""
    omega = SkewedChiSquared().frequencies(np.zeros((3, 2)), np.random.default_rng(0))
    assert np.all(np.isfinite(omega))


@EACH_KERNEL
def test_gram_matrices_are_positive_definite(kernel: Kernel) -> None:
    x = histograms()[0][6:]
    assert np.min(np.linalg.eigvalsh(kernel(x, x))) > 0.0


def test_additive_kernel_keeps_its_digits_where_bins_differ_in_size() -> None:
    """2xy / (x + y) with a sum or a product beyond the dtype, and a log beyond it."""
    for dtype, large, small in ((np.float32, 3e38, 1e-30), (np.float64, 1e308, 1e-290)):
        x, y = np.asarray([[large, 0.0, small]], dtype), np.asarray([[small, large, small]], dtype)
        kernel = AdditiveChiSquared()
        assert_agrees(kernel(x, y) / small, [[3.0]])
        assert_agrees(kernel.log(x, y), [[math.log(3.0) + math.log(float(y[0, 0]))]])
        most = np.full((1, 4), large, dtype)
        assert_agrees(kernel.log(most, most), [[math.log(4.0) + math.log(large)]])


@EACH_KERNEL
def test_gradients_are_those_of_finite_differences(kernel: Kernel) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.asarray(a[6:9, :2]).requires_grad_() for a in histograms())
    for call in (kernel, kernel.log):
        assert torch.autograd.gradcheck(call, (x, y))
    hard = torch.asarray(histograms()[0]).requires_grad_()
    for function in (kernel, lambda *a: torch.exp(kernel.log(*a) - 1.0)):
        (gradient,) = torch.autograd.grad(function(hard, 1.0 * hard.detach()).sum(), hard)
        assert torch.isfinite(gradient).all()
    twice = torch.sum(torch.diagonal(kernel(hard, hard)))
    (gradient,) = torch.autograd.grad(twice, hard)  # of Σ x, and of 1
    want = (hard > 0.0).double() if isinstance(kernel, AdditiveChiSquared) else 0.0 * hard
    assert torch.allclose(gradient, want)


@EACH_KERNEL
def test_nan_stays_in_its_row_and_column(kernel: Kernel) -> None:
    x, y = histograms()
    x[3, 1] = y[4, 0] = np.nan
    lost = np.isnan(kernel(x, y))
    wanted = np.zeros_like(lost)
    wanted[3], wanted[:, 4] = True, True
    assert np.array_equal(lost, wanted)


def test_points_outside_the_domain_are_refused(lib: ArrayLibrary) -> None:
    x = lib.convert(np.asarray([[0.0, 1.0], [2.0, 3.0]]))
    below = lib.convert(np.asarray([[0.0, 1.0], [2.0, -0.5]]))
    kernel = AdditiveChiSquared()
    message = (
        r"`{}` must have no negative coordinates for AdditiveChiSquared\(\); shift the points or "
        r"clip them at 0"
    )
    for call in (kernel, kernel.log, kernel.log_and_factor):
        with pytest.raises(ValueError, match=message.format("x")):
            call(below, x)
        with pytest.raises(ValueError, match=message.format("y")):
            call(x, below)
    skewed = SkewedChiSquared(0.5)
    message = (
        r"`y` must have coordinates above -0\.5 for SkewedChiSquared\(skewedness=0\.5\); shift the "
        r"points or take a larger skewedness"
    )
    for call in (skewed, skewed.log, skewed.log_and_factor, lambda a, b: skewed.log_at(a, b, 2.0)):
        with pytest.raises(ValueError, match=message):
            call(x, below)
    assert np.all(to_numpy(SkewedChiSquared(0.6)(x, below)) > 0.0)


@EACH_KERNEL
def test_points_outside_the_domain_give_nan_while_traced(kernel: Kernel) -> None:
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray([[0.5, 0.0], [2.0, -1.0], [2.0, -3.0]])

    def total(x: object) -> tuple[object, object]:
        gram = kernel(x, x)
        return gram.sum(), gram

    compiled = jax.jit(jax.grad(total, has_aux=True))
    inside = np.asarray([True, False, False])
    assert np.array_equal(np.isnan(compiled(x)[1]), ~np.outer(inside, inside))
    assert np.all(np.isfinite(compiled(jax.numpy.abs(x))[0]))


def test_exact_attention_refuses_points_outside_the_domain() -> None:
    x, y = histograms()
    out = rfx.kernel_attention(x, y, y, kernel=AdditiveChiSquared())
    weights = expected(AdditiveChiSquared(), x, y)
    norm = np.sum(weights, axis=-1, keepdims=True)
    assert_agrees(out, weights @ y / np.where(norm == 0.0, 1.0, norm), scale=4)
    with pytest.raises(ValueError, match="`key` must have no negative coordinates"):
        rfx.kernel_attention(x, -y, y, kernel=AdditiveChiSquared())


def test_kernels_are_records() -> None:
    assert len({*KERNELS, *(dataclasses.replace(k) for k in KERNELS)}) == 3  # type: ignore[type-var]
    for kernel in KERNELS:
        assert kernel(np.zeros((0, 3)), np.ones((2, 3))).shape == (0, 2)
    with pytest.raises(ValueError, match="`skewedness` must be positive and finite, got 0"):
        SkewedChiSquared(0)
