"""Kernels made of kernels: on the sphere, of angles, and sums of products."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.kernels import (
    AdditiveChiSquared,
    Angular,
    ArcCosine,
    Combination,
    DotProduct,
    Gaussian,
    Kernel,
    Laplace,
    Normalized,
    Pointwise,
    Polynomial,
    SignedKernel,
    SkewedChiSquared,
    Softmax,
)
from rfx.testing import ArrayLibrary, assert_agrees, dtype_name, z_score

SUM = Combination((Gaussian(2.0), Polynomial(3)), ((0.5, (0, 1)), (-0.25, (1, 1)), (2.0, ())))
KERNELS: tuple[Kernel, ...] = (
    Normalized(Gaussian(0.8)),
    Normalized(Polynomial(3)),
    Normalized(Laplace()),
    Angular(),
    SUM,
)
EACH_KERNEL = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def points(*batch: int, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(41)
    return rng.standard_normal((*batch, 17, dim)), rng.standard_normal((*batch, 9, dim))


def expected(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = x[..., :, None, :], y[..., None, :, :]
    p, q = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    if kernel == SUM:
        near = np.exp(-np.sum((a - b) ** 2, axis=-1) / 8.0)
        cubic = (np.sum(a * b, axis=-1) / math.sqrt(x.shape[-1])) ** 3
        return 0.5 * near * cubic - 0.25 * cubic**2 + 2.0
    if kernel == Angular():
        return 1.0 - 2.0 / math.pi * np.arccos(np.sum(p * q, axis=-1))
    assert isinstance(kernel, Normalized)
    match kernel.kernel:
        case Gaussian(bandwidth):
            return np.exp(-np.sum((p - q) ** 2, axis=-1) / (2.0 * bandwidth**2))
        case Laplace():
            return np.exp(-np.sum(np.abs(p - q), axis=-1))
    return (np.sum(p * q, axis=-1) / math.sqrt(x.shape[-1])) ** 3


def rounding(kernel: Kernel) -> float:
    """arccos, of the tests' own, loses digits near 1."""
    return 16.0 if kernel == Angular() else 2.0


@EACH_KERNEL
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_kernels_are_their_formulas(kernel: Kernel, batch: tuple[int, ...]) -> None:
    x, y = points(*batch)
    want, scale = expected(kernel, x, y), rounding(kernel)
    assert_agrees(kernel(x, y), want, scale=scale)
    assert_agrees(np.exp(kernel.log(x, y)), np.abs(want), scale=scale)
    log, factor = kernel.log_and_factor(x, y)
    assert factor is not None
    assert np.all(np.isfinite(log))
    assert_agrees(factor * np.exp(log), want, scale=scale)


def test_every_library_and_dtype_gives_the_same_kernel(lib: ArrayLibrary) -> None:
    slow = lib.library == "jax"  # to compile
    for kernel in KERNELS[1:2] if slow else KERNELS:
        for dtype in lib.dtypes[: 1 if slow else 4]:
            x, y = (lib.convert(a, dtype) for a in points(2))
            want = expected(kernel, *(to_numpy(a).astype(float) for a in (x, y)))
            matrix, log = kernel(x, y), kernel.log(x, y)
            assert type(matrix) is type(x)
            assert matrix.dtype == x.dtype
            assert dtype_name(log.dtype) == ("float64" if dtype == "float64" else "float32")
            assert_agrees(matrix, want, scale=rounding(kernel))
            assert_agrees(np.exp(to_numpy(log)), np.abs(want), scale=rounding(kernel))


@EACH_KERNEL
def test_gradients_are_those_of_finite_differences(kernel: Kernel) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.asarray(a[:3, :2]).requires_grad_() for a in points())
    assert torch.autograd.gradcheck(kernel, (x, y))
    assert torch.autograd.gradcheck(kernel.log, (x, y))
    hard = torch.asarray(np.concatenate([points()[0][:3], np.eye(5)])).requires_grad_()
    both = torch.cat([hard.detach(), -3.0 * hard.detach()])
    (gradient,) = torch.autograd.grad(kernel(hard, both).sum(), hard)
    assert torch.isfinite(gradient).all()


@EACH_KERNEL
def test_nan_stays_in_its_row_and_column(kernel: Kernel) -> None:
    x, y = points()
    x[3, 1] = y[4, 0] = np.nan
    lost = np.isnan(kernel(x, y))
    wanted = np.zeros_like(lost)
    wanted[3], wanted[:, 4] = True, True
    assert np.array_equal(lost, wanted)


@pytest.mark.parametrize("kernel", KERNELS[:4], ids=repr)
def test_gram_matrices_are_positive_semidefinite(kernel: Kernel) -> None:
    x = points()[0]
    assert np.min(np.linalg.eigvalsh(kernel(x, x))) > -1e-14


@EACH_KERNEL
def test_exact_attention_is_that_of_the_oracle(kernel: Kernel) -> None:
    x, y = points(2)
    out = rfx.kernel_attention(x, y, y, kernel=kernel)
    want = expected(kernel, x, y)
    assert_agrees(out, want @ y / np.sum(want, axis=-1, keepdims=True), scale=1e4)
    assert_agrees(out, reference.kernel_attention(x, y, y, kernel=kernel), scale=1e4)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_normalized_takes_norms_at_the_ends_of_the_dtype(dtype: str) -> None:
    info, (x, y) = np.finfo(dtype), points()
    x, y = (a / np.max(np.abs(a)) for a in (x, y))
    kernel = Normalized(Gaussian())
    want = expected(kernel, x, y)
    for size in (float(info.max), 64.0 * float(info.tiny)):
        large, other = (size * x).astype(dtype), y.astype(dtype)
        tolerance = 128.0 * float(info.eps)  # the points are rounded, below tiny to fewer digits
        assert np.max(np.abs(kernel(large, other).astype(float) - want)) < tolerance
        own = kernel(large, large).astype(float)
        assert np.max(np.abs(own - expected(kernel, x, x))) < tolerance


def test_points_at_zero_have_no_direction(lib: ArrayLibrary) -> None:
    x = lib.convert(np.asarray([[1.0, 2.0], [0.0, 0.0]]))
    y = lib.convert(np.asarray([[1.0, 2.0]]))
    kernel = Normalized(Softmax())
    message = "must have no point that is 0, which has no direction; leave it out, or add a const"
    for call in (kernel, kernel.log, kernel.log_and_factor):
        with pytest.raises(ValueError, match="`x` " + message):
            call(x, y)
        with pytest.raises(ValueError, match="`y` " + message):
            call(y, x)


def test_points_at_zero_stay_there_while_traced() -> None:
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray([[3.0, 4.0], [0.0, 0.0]])
    gram = jax.jit(Normalized(Softmax(1.0)))(x, x)
    assert_agrees(gram, [[math.e, 1.0], [1.0, 1.0]])


def test_normalized_passes_directions_on_to_the_check_of_its_kernel() -> None:
    x = np.asarray([[1.0, -9.0]])
    with pytest.raises(ValueError, match="`x` must have no negative coordinates for Additive"):
        Normalized(AdditiveChiSquared())(x, x)
    wide = Normalized(SkewedChiSquared(2.0))
    assert_agrees(wide(x, x), [[1.0]])
    with pytest.raises(ValueError, match="must have coordinates above -2"):
        SkewedChiSquared(2.0)(x, x)


def test_angular_is_the_mean_product_of_signs() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((3, 3))
    y[0] = 0.0
    omega = rng.standard_normal((200_000, 3))
    signs = [np.sign(omega @ a.T) for a in (x, y)]
    products = signs[0][:, :, None] * signs[1][:, None, :]
    k = Angular()(x, y)
    assert np.all(k[:, 0] == 0.0)
    assert np.max(np.abs(z_score(products, k, variance=np.where(k == 0, 0, 1 - k**2)))) < 4.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_angular_keeps_its_digits_and_is_zero_at_zero(dtype: str) -> None:
    x = points()[0].astype(dtype)
    matrix = Angular()(np.concatenate([x, 0.0 * x[:1]]), np.concatenate([3 * x, -x, 0 * x[:1]]))
    assert np.all(np.diagonal(matrix)[:17] == 1.0)
    assert np.all(np.diagonal(matrix[:, 17:])[:17] == -1.0)
    assert np.all(matrix[-1] == 0.0)
    assert np.all(matrix[:, -1] == 0.0)
    near = np.asarray([[1.0, 1e-3]], dtype)
    want = 2.0 / math.pi * math.atan(float(near[0, 1]))
    less = 1.0 - Angular()(near, np.asarray([[1.0, 0.0]], dtype))
    assert abs(less.item() - want) < float(np.finfo(dtype).eps)
    assert_agrees(Angular()(x, -2 * x), 1.0 - 2.0 * np.exp(ArcCosine(0).log(x, 2 * x)), scale=4)


def test_angular_is_finite_at_every_norm() -> None:
    x, y = (a.astype(np.float32) for a in points())
    for size in (1e-30, 1e30):
        assert_agrees(Angular()(np.float32(size) * x, y), expected(Angular(), x, y), scale=16)


def test_combination_is_a_sum_of_products() -> None:
    x, y = points()
    parts = (Gaussian(), Laplace(), Pointwise("identity"))
    a, b, c = (kernel(x, y) for kernel in parts)
    for terms, want in (
        (((2.0, (0,)),), 2 * a),
        (((1.0, (0,)), (1.0, (1,))), a + b),
        (((0.5, (0, 1, 2)), (3.0, (2, 2)), (1.0, ())), 0.5 * a * b * c + 3 * c**2 + 1),
        (((-1.0, (2,)), (0.0, (0,))), -c),
        (((4.0, ()),), 4.0 + 0 * a),
    ):
        assert_agrees(Combination(parts, terms)(x, y), want, scale=4)


def test_terms_of_a_combination_do_not_overflow_one_another(lib: ArrayLibrary) -> None:
    """exp(200)³ exp(−600) = 1 in float32, and what is small beside a term that is 0."""
    if lib.library == "jax":
        return  # seconds to compile, and the same code
    far, near = (lib.convert(np.asarray([[a]]), "float32") for a in (20.0, -10.0))
    zero = lib.convert(np.zeros((1, 1)), "float32")
    kernels = (Softmax(1.0), Softmax(2.0), Polynomial(9), Gaussian())
    kernel = Combination(kernels, ((3.0, (0, 0, 1)), (2.0, (1, 1))))
    want = math.log(3.0) + 4 * 200.0 + math.log1p(2.0 / 3.0)
    negative = -200.0
    assert_agrees(kernel.log(far, lib.convert(np.asarray([[10.0]]), "float32")), [[want]])
    assert_agrees(kernel.log(far, near), [[math.log(5.0) + 4 * negative]])
    beside = Combination(kernels, ((1e30, (2,)), (1e-30, (3,))))
    assert_agrees(beside(zero, zero), [[1e-30]])
    assert_agrees(beside.log(zero, far), [[math.log(1e-30) - 200.0]])
    nothing = Combination((ArcCosine(1), Angular()), ((1.0, (0,)), (2.0, (0, 1))))
    assert to_numpy(nothing(zero, far)) == 0.0
    assert to_numpy(nothing.log(zero, far)) == -np.inf
    last = lib.convert(np.asarray([[3e38]]), "float32")
    assert_agrees(Combination((Angular(),), ((2.0, (0,)), (1.0, ())))(last, last), [[3.0]])
    huge = Combination((Gaussian(),), ((1e200, (0,)), (-1e200, (0,)), (1e300, (0,))))
    assert_agrees(huge.log(zero, zero), [[math.log(1e300)]])


def test_gradient_of_a_combination_is_right_where_a_term_is_zero() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([[0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    kernel = Combination((Polynomial(1, scale=1.0), Gaussian()), ((1.0, (0,)), (1.0, (1,))))
    (gradient,) = torch.autograd.grad(kernel(x, y).sum(), x)
    k = math.exp(-4.0)
    assert_agrees(gradient, np.asarray([[2.0 + 2.0 * k, -2.0 * k]]))


def test_combination_passes_points_on_to_every_check() -> None:
    x = np.asarray([[1.0, -9.0]])
    kernel = Combination((Gaussian(), AdditiveChiSquared()), ((1.0, (0,)),))
    with pytest.raises(ValueError, match="`x` must have no negative coordinates for Additive"):
        kernel(x, x)
    outer = Combination((kernel,), ((1.0, (0,)),))
    with pytest.raises(ValueError, match="`y` must have no negative coordinates for Additive"):
        outer.log(np.abs(x), x)
    with pytest.raises(ValueError, match="below 1 for DotProduct"):
        Combination((DotProduct("inv"),), ((1.0, (0,)),))(x, x)


def test_combination_is_compiled() -> None:
    jax = pytest.importorskip("jax")
    x, y = (a.astype(np.float32) for a in points())
    compiled = jax.jit(jax.value_and_grad(lambda a, b: SUM(a, b).sum()))
    value, gradient = compiled(*(jax.numpy.asarray(a) for a in (x, y)))
    want = np.sum(expected(SUM, x.astype(float), y.astype(float)))
    assert float(value) == pytest.approx(want, rel=1e-5)
    assert np.all(np.isfinite(gradient))


def test_kernels_are_records() -> None:
    assert len({*KERNELS, *(dataclasses.replace(k) for k in KERNELS)}) == 5  # type: ignore[type-var]
    for kernel in KERNELS:
        assert isinstance(kernel, SignedKernel)
        assert kernel(np.ones((0, 3)), np.ones((2, 3))).shape == (0, 2)
    listed = Combination([Gaussian()], [[1, [np.int64(0)]]])  # type: ignore[arg-type]
    assert listed == Combination((Gaussian(),), ((1.0, (0,)),))
    assert isinstance(listed.terms[0][0], float)


WRONG = {
    "no tuple": (TypeError, Gaussian(), ((1.0, ()),), "`kernels` must be a tuple of records"),
    "no kernel": (TypeError, (1,), ((1.0, ()),), r"`kernels\[0\]` must be a record of rfx.kern"),
    "no terms": (ValueError, (), (), r"`terms` must not be empty; pass for example \(\(1\.0"),
    "no pair": (TypeError, (), (1.0,), r"`terms\[0\]` must be a tuple \(coefficient, indices\)"),
    "one item": (TypeError, (), ((1.0,),), r"`terms\[0\]` must be a pair \(coefficient, ind"),
    "text": (TypeError, (), (("a", ()),), r"`terms\[0\]` must be a pair \(coefficient, ind"),
    "inf": (ValueError, (), ((math.inf, ()),), r"`terms\[0\]` must have a finite coefficient"),
    "index": (TypeError, (), ((1.0, 0),), r"`terms\[0\]\[1\]` must be a tuple of indices"),
    "float": (TypeError, (Gaussian(),), ((1.0, (0.0,)),), "whole numbers as indices, got 0.0"),
    "range": (ValueError, (Gaussian(),), ((1.0, (1,)),), "indices from 0 to 0, of `kernels`, go"),
    "below": (ValueError, (Gaussian(),), ((1.0, (-1,)),), "indices from 0 to 0, of `kernels`, go"),
}


@pytest.mark.parametrize("name", WRONG)
def test_parameters_of_combinations_are_checked(name: str) -> None:
    error, kernels, terms, message = WRONG[name]
    with pytest.raises(error, match=message):
        Combination(kernels, terms)  # type: ignore[arg-type]


def test_normalized_takes_a_kernel() -> None:
    with pytest.raises(TypeError, match=r"`kernel` must be a record of rfx\.kernels, got 'a'"):
        Normalized("a")  # type: ignore[arg-type]


def test_importing_rfx_loads_none_of_the_files_of_other_kernels() -> None:
    code = """
import sys, rfx
found = {name.rpartition('.')[2] for name in sys.modules if name.startswith('rfx.kernels.')}
late = {'chi_squared', 'combination', 'dot_product', 'normalized', 'pointwise', 'stationary'}
assert not found & late, found
assert dir(rfx.kernels) == sorted(rfx.kernels.__all__)
for name in rfx.kernels.__all__:
    assert getattr(rfx.kernels, name).__name__ == name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
