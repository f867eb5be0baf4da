"""Exact kernels: values, limits and refusals, on every library."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.kernels import (
    ArcCosine,
    Expectation,
    ExponentialKernel,
    Gaussian,
    Kernel,
    Pointwise,
    Softmax,
)
from rfx.kernels.functions import FUNCTIONS, plain
from rfx.reference import log_kernel
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees, dtype_name

LIBRARIES = array_libraries()
KERNELS: tuple[ExponentialKernel, ...] = (Softmax(), Softmax(0.3), Gaussian(), Gaussian(2.5))
EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=str)
EACH_KERNEL = pytest.mark.parametrize("kernel", KERNELS, ids=repr)
BATCHES = pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)


def points(batch: tuple[int, ...], dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.standard_normal((*batch, 63, dim)), rng.standard_normal((*batch, 10, dim))


def log_size(x: np.ndarray, y: np.ndarray, kernel: ExponentialKernel) -> float:
    """1 + the size of the terms that the log is a sum of."""
    unit = kernel.unit(x.shape[-1])
    return float(1 + np.max(np.sum((unit * x) ** 2, -1)) + np.max(np.sum((unit * y) ** 2, -1)))


def test_softmax_is_the_exponential_of_the_scaled_inner_product() -> None:
    x, y = points(())
    assert_agrees(Softmax()(x, y), np.exp(x @ y.T / math.sqrt(5)), scale=log_size(x, y, Softmax()))
    assert_agrees(Softmax(0.3)(x, y), np.exp(0.3 * x @ y.T), scale=log_size(x, y, Softmax(0.3)))


def test_gaussian_is_the_exponential_of_the_squared_distance() -> None:
    x, y = points(())
    want = np.exp(-cdist(x, y, "sqeuclidean") / (2 * 2.5**2))
    assert_agrees(Gaussian(2.5)(x, y), want, scale=log_size(x, y, Gaussian(2.5)))


def test_gaussian_is_scikit_learns_with_gamma_of_half_the_inverse_square() -> None:
    pair = np.asarray([[0.0, 0.0]]), np.asarray([[3.0, 4.0]])
    gamma = 1 / (2 * 5.0**2)
    assert_agrees(Gaussian(5.0)(*pair), np.asarray([[math.exp(-gamma * 25)]]))


@EACH_LIBRARY
@EACH_KERNEL
@BATCHES
def test_every_library_gives_the_same_kernel(
    library: ArrayLibrary, kernel: ExponentialKernel, batch: tuple[int, ...]
) -> None:
    for dtype in library.dtypes:
        x, y = (library.convert(a, dtype) for a in points(batch))
        log = log_kernel(x, y, kernel=kernel)
        scale = log_size(*points(batch), kernel)
        matrix = kernel(x, y)
        assert type(matrix) is type(x)
        assert matrix.dtype == x.dtype
        assert_agrees(matrix, np.exp(log), scale=scale)
        assert_agrees(kernel.log(x, y), log, scale=scale)


@EACH_LIBRARY
@EACH_KERNEL
def test_log_is_in_the_working_dtype(library: ArrayLibrary, kernel: ExponentialKernel) -> None:
    for dtype in library.dtypes:
        x = library.convert(np.ones((2, 3)), dtype)
        wanted = "float64" if dtype == "float64" else "float32"
        assert dtype_name(kernel.log(x, x).dtype) == wanted


@EACH_LIBRARY
def test_softmax_beyond_the_dtype_is_inf_and_its_log_is_not(library: ArrayLibrary) -> None:
    """NumPy warns of the overflow, as it does in its own functions."""
    for dtype, side in (("float32", 10.0), ("float16", 2.0)):
        if dtype in library.dtypes:
            x = library.convert(np.full((1, 4), side), dtype)
            with np.errstate(over="ignore"):
                assert_agrees(Softmax(1.0)(x, x), np.exp([[4 * side**2]]))
            assert_agrees(Softmax(1.0).log(x, x), np.asarray([[4 * side**2]]))


@EACH_LIBRARY
def test_gaussian_of_far_points_is_zero_and_its_log_is_finite(library: ArrayLibrary) -> None:
    x, y = (library.convert(np.full((1, 4), a), "float32") for a in (0.0, 100.0))
    assert_agrees(Gaussian()(x, y), np.asarray([[0.0]]))
    assert_agrees(Gaussian().log(x, y), np.asarray([[-20_000.0]]))


@EACH_LIBRARY
def test_gaussian_never_exceeds_one(library: ArrayLibrary) -> None:
    """Far from the origin the squared distance is a difference of large numbers."""
    near = 100.0 + 1e-4 * np.random.default_rng(3).standard_normal((100, 63))
    x = library.convert(near, "float32")
    assert float(np.max(to_numpy(Gaussian()(x, x)))) <= 1.0


@EACH_KERNEL
def test_log_is_the_quadratic_form_of_unit_and_norm_weight(kernel: ExponentialKernel) -> None:
    """log k = x·y − (ρ/2)(|x|² + |y|²) at unit temperature: what the feature maps rely on."""
    x, y = points(())
    u, rho = kernel.unit(5), kernel.norm_weight
    norms = np.sum(x * x, -1)[:, None] + np.sum(y * y, -1)[None, :]
    want = u**2 * (x @ y.T) - 0.5 * rho * u**2 * norms
    assert_agrees(kernel.log(x, y), want, scale=log_size(x, y, kernel))
    assert_agrees(kernel.scaled(x), u * x)


@EACH_KERNEL
def test_kernels_are_records(kernel: Kernel) -> None:
    same = dataclasses.replace(kernel)
    assert same == kernel
    assert hash(same) == hash(kernel)
    assert len({Softmax(), Softmax(0.3), Gaussian(), Gaussian(2.5), same}) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kernel, dataclasses.fields(kernel)[0].name, 1.0)


@EACH_KERNEL
def test_no_points_give_an_empty_matrix(kernel: Kernel) -> None:
    assert kernel(np.zeros((0, 3)), np.zeros((2, 3))).shape == (0, 2)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_parameters_must_be_positive_and_finite(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"`scale` must be positive and finite, got"):
        Softmax(wrong)
    with pytest.raises(ValueError, match=r"`bandwidth` must be positive and finite, got"):
        Gaussian(wrong)


@pytest.mark.parametrize("wrong", ["1", True, 1j, [1.0]])
def test_parameters_must_be_numbers(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"`scale` must be a number, got .*; pass a positive float"):
        Softmax(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`bandwidth` must be a number, got .*; pass a positive"):
        Gaussian(wrong)  # type: ignore[arg-type]


def test_numpy_numbers_are_parameters() -> None:
    assert Softmax(np.float32(0.5)) == Softmax(0.5)
    assert Gaussian(np.int64(2)) == Gaussian(2.0)


ORDERS = pytest.mark.parametrize("order", [0, 1, 2])
OTHERS: tuple[Kernel, ...] = (
    *(ArcCosine(order) for order in (0, 1, 2)),
    *(Pointwise(function) for function in ("elu+1", "identity", "softmax")),
    Expectation("tanh"),
)
EACH_OTHER = pytest.mark.parametrize("kernel", OTHERS, ids=repr)


@EACH_LIBRARY
@EACH_OTHER
def test_every_library_gives_the_same_values_of_other_kernels(
    library: ArrayLibrary, kernel: Kernel
) -> None:
    for dtype in library.dtypes[: 1 if library.library == "jax" else 3]:
        x, y = (library.convert(a[..., :9, :], dtype) for a in points((2,)))
        sizes = np.exp(log_kernel(x, y, kernel=kernel))
        matrix, (log, factor) = kernel(x, y), kernel.log_and_factor(x, y)
        assert type(matrix) is type(x)
        assert matrix.dtype == x.dtype
        assert dtype_name(log.dtype) == ("float64" if dtype == "float64" else "float32")
        assert_agrees(np.abs(to_numpy(matrix)), sizes, dtype=dtype, scale=16)
        assert_agrees(np.exp(to_numpy(kernel.log(x, y))), sizes, dtype=dtype, scale=16)
        assert (factor is None) == isinstance(kernel, ArcCosine)
        product = np.exp(to_numpy(log)) * (1.0 if factor is None else to_numpy(factor))
        assert_agrees(product, to_numpy(matrix), dtype=dtype, scale=16)
        signed = kernel in (Pointwise("identity"), Expectation("tanh"))
        assert bool(np.any(to_numpy(matrix) < 0)) == signed


def at_angle(angle: float, dtype: str, turn: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Points of norms 3 and 1/2 at this angle, or with ``turn`` −1 at π minus it."""
    x, y = [[0.0, 3.0, 0.0]], [[math.sin(angle) / 2, turn * math.cos(angle) / 2, 0.0]]
    return np.asarray(x, dtype=dtype), np.asarray(y, dtype=dtype)


@ORDERS
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arc_cosine_is_exact_at_parallel_opposite_and_orthogonal_points(
    order: int, dtype: str
) -> None:
    kernel, x = ArcCosine(order), points(())[0].astype(dtype)
    norms = np.linalg.norm(x.astype(float), axis=-1)
    want = (1, 1, 3)[order] * 4.0**order * norms ** (2 * order)
    assert_agrees(np.diagonal(kernel(x, 4 * x)), want, scale=4)
    assert np.all(np.diagonal(kernel(x, -4 * x)) == 0)
    assert np.all(np.diagonal(kernel.log(x, -4 * x)) == -np.inf)
    right = (0.5, 1.5 / math.pi, 1.5**2 / 2)[order]
    assert_agrees(kernel(*at_angle(math.pi / 2, dtype)), [[right]], scale=4)


@ORDERS
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("small", [1e-2, 1e-4, 1e-9])
def test_arc_cosine_keeps_its_digits_near_parallel_and_opposite_points(
    order: int, dtype: str, small: float
) -> None:
    """Near opposite ones by the power series of J_n(π − ε), where the closed form cancels."""
    kernel, size, e = ArcCosine(order), 1.5**order / math.pi, small
    sin, cos, rest = math.sin(e), math.cos(e), math.pi - e
    near = (rest, sin + rest * cos, 3 * sin * cos + rest * (1 + 2 * cos**2))[order]
    assert_agrees(kernel(*at_angle(e, dtype)), [[size * near]])
    if order == 0:  # 1 − k is the angle
        less = 1.0 - float(kernel(*at_angle(e, dtype))[0, 0])
        assert less == pytest.approx(e / math.pi, abs=8 * float(np.finfo(dtype).eps))
    far = (
        e,
        e**3 / 3 - e**5 / 30 + e**7 / 840 - e**9 / 45360,
        4 * e**5 / 15 - 16 * e**7 / 315 + 4 * e**9 / 945,
    )[order]
    log = kernel.log(*at_angle(e, dtype, -1.0))
    assert_agrees(log, [[math.log(size * far)]], scale=4)


@EACH_LIBRARY
@ORDERS
def test_arc_cosine_of_a_point_at_zero_is_zero(library: ArrayLibrary, order: int) -> None:
    x, y = points(())
    x[3], y[4] = 0.0, 0.0
    x, y = (library.convert(a, "float32") for a in (x, y))
    matrix, log = (to_numpy(f(x, y)) for f in (ArcCosine(order), ArcCosine(order).log))
    zero = np.zeros((63, 10), dtype=bool)
    zero[3], zero[:, 4] = True, True
    assert np.array_equal(matrix == 0, zero)
    assert np.array_equal(log == -np.inf, zero)


@ORDERS
@pytest.mark.parametrize("norm", [1e-30, 1e30])
def test_log_of_arc_cosine_is_finite_where_squares_are_not(order: int, norm: float) -> None:
    x, y = (a.astype(np.float32) for a in points(()))
    log = ArcCosine(order).log(np.float32(norm) * x, np.float32(norm) * y)
    want = log_kernel(x, y, kernel=ArcCosine(order)) + 2 * order * math.log(norm)
    assert_agrees(log, want, scale=16)


@ORDERS
def test_gradients_of_arc_cosine_are_right_and_finite_at_its_edges(order: int) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.asarray(a[:4]).requires_grad_() for a in points(()))
    assert torch.autograd.gradcheck(ArcCosine(order), (x, y))
    hard = torch.asarray(np.concatenate([points(())[0][:4], np.zeros((2, 5))])).requires_grad_()
    for function in (ArcCosine(order), lambda *a: torch.exp(ArcCosine(order).log(*a) - 1.0)):
        both = torch.cat([hard, -2 * hard, 3 * hard])
        (gradient,) = torch.autograd.grad(function(hard, both).sum(), hard)
        assert torch.isfinite(gradient).all()
    if order != 1:
        return
    jax = pytest.importorskip("jax")
    leaf = jax.numpy.asarray(hard.detach().numpy(), dtype="float32")
    gradient = jax.jit(jax.grad(lambda a: ArcCosine(order)(a, -2 * a).sum()))(leaf)
    assert jax.numpy.isfinite(gradient).all()


def test_expectation_has_the_closed_forms() -> None:
    x, y = points(())
    x[3], y[4], y[5], y[6] = 0.0, 0.0, -x[0], 2 * x[1]
    inner = x @ y.T
    sizes = np.linalg.norm(x, axis=-1)[:, None] * np.linalg.norm(y, axis=-1)
    cos = np.clip(inner / np.where(sizes == 0, 1, sizes), -1, 1)
    want = {
        "step": np.where(sizes == 0, 0, 0.5 - np.arccos(cos) / (2 * np.pi)),
        "relu": 0.5 * np.exp(log_kernel(x, y, kernel=ArcCosine(1))),
        "squared-relu": 0.5 * np.exp(log_kernel(x, y, kernel=ArcCosine(2))),
        "identity": inner,
        "abs": sizes * 2 / np.pi * (np.sqrt(1 - cos**2) + cos * np.arcsin(cos)),
    }
    for name, values in want.items():
        error = np.abs(Expectation(name)(x, y) - values)
        if name == "step":  # arccos loses half of the digits
            error = error[:, :5]
        assert np.max(error) < 1e-8 * np.max(np.abs(values)), name


@pytest.mark.parametrize("function", ["tanh", "gelu", "elu+1", "sigmoid", "softplus"])
def test_expectation_is_a_sum_over_a_fine_grid(function: str) -> None:
    """To rounding at small norms, and to 1e-4 sqrt(k(x, x) k(y, y)) at 8, as it says."""
    assert function in FUNCTIONS
    nodes = np.linspace(-9.0, 9.0, 3001)
    weights = np.exp(-0.5 * nodes**2) / np.sqrt(2 * np.pi) * (nodes[1] - nodes[0])

    def exact(a: float, b: float, angle: float) -> float:
        left = plain(function, a * nodes)
        other = b * (math.cos(angle) * nodes[:, None] + math.sin(angle) * nodes[::5])
        return float(weights * left @ plain(function, other) @ (5 * weights[::5]))

    for norm, bound in ((0.7, 1e-9), (8.0, 1e-4)):
        for angle in (0.05, 1.0, 2.9):
            x = np.asarray([[norm, 0.0]])
            y = np.asarray([[norm * math.cos(angle), norm * math.sin(angle)]])
            error = abs(Expectation(function)(x, y)[0, 0] - exact(norm, norm, angle))
            assert error < bound * exact(norm, norm, 0.0)


def test_expectation_at_zero_is_that_of_a_constant() -> None:
    """E[f(0) f(ω·y)], for elu + 1 with E f(s) = ½ + s (2π)^(-1/2) + e^(s²/2) Φ(−s)."""
    kernel, zero, y = Expectation("elu+1"), np.zeros((1, 2)), np.asarray([[0.6, 0.8]])
    assert kernel(zero, zero)[0, 0] == pytest.approx(1.0, rel=1e-12)
    mean = 0.5 + (2 * math.pi) ** -0.5 + math.exp(0.5) * 0.5 * math.erfc(2**-0.5)
    assert kernel(zero, y)[0, 0] == pytest.approx(mean, rel=1e-12)


@EACH_LIBRARY
def test_pointwise_kernels_beyond_the_dtype_have_a_finite_log(library: ArrayLibrary) -> None:
    x = library.convert(np.asarray([[1e25, -2e25], [0.0, 0.0]]), "float32")
    for function in ("identity", "squared-relu"):
        kernel = Pointwise(function)
        log = to_numpy(kernel.log(x, -x))
        with np.errstate(over="ignore"):
            matrix = to_numpy(kernel(x, -x))
        assert np.all(matrix.ravel()[1:] == 0)
        assert np.all(log.ravel()[1:] == -np.inf)
        if function == "identity":
            assert matrix[0, 0] == -np.inf
            assert log[0, 0] == pytest.approx(math.log(5e50), rel=1e-6)


@EACH_LIBRARY
@EACH_OTHER
def test_exact_attention_with_other_kernels_is_that_of_the_oracle(
    library: ArrayLibrary, kernel: Kernel
) -> None:
    """Of those with both signs too; masks, grouped queries, and a query at 0."""
    if library.library == "jax" and kernel != Pointwise("identity"):
        return  # seconds to compile, and the same code
    rng = np.random.default_rng(11)
    q, k, v = (rng.standard_normal((2, heads, 9, 5)) for heads in (4, 2, 2))
    q[..., 3, :] = 0.0
    dtype = library.dtypes[0]
    arrays = [library.convert(a, dtype) for a in (q, k, v)]
    call = {"kernel": kernel, "mask": library.convert(np.arange(9) % 4 != 2, "bool")}
    for is_causal in (False, True):
        out = rfx.kernel_attention(*arrays, is_causal=is_causal, **call)
        want = reference.kernel_attention(*arrays, is_causal=is_causal, **call)
        eps = np.finfo("float64" if dtype == "float64" else "float32").eps
        assert np.allclose(to_numpy(out), want, rtol=1e5 * eps, atol=1e4 * eps)


def test_other_kernels_are_records() -> None:
    assert len({*OTHERS, *(dataclasses.replace(k) for k in OTHERS)}) == len(OTHERS)  # type: ignore[type-var]
    assert ArcCosine(np.int64(2)) == ArcCosine(2)  # type: ignore[arg-type]
    for kernel in OTHERS:
        assert kernel(np.zeros((0, 3)), np.ones((2, 3))).shape == (0, 2)


@pytest.mark.parametrize("wrong", [3, -1, 1.5, True, "1", None])
def test_orders_of_arc_cosine_are_checked(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"`order` must be 0, 1 or 2, got .*; 1 is for ReLU"):
        ArcCosine(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Expectation, Pointwise])
def test_functions_of_kernels_are_checked(make: type[Expectation] | type[Pointwise]) -> None:
    with pytest.raises(ValueError, match=r"`function` must be one of step, relu, .* got 'swish'"):
        make("swish")
    with pytest.raises(TypeError, match=r"must be a name or a hashable callable, got \['relu'\]"):
        make(["relu"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`function` must be elementwise, got 'softmax'"):
        Expectation("softmax")


X = np.zeros((3, 4))
WRONG_POINTS = {
    "no array": (TypeError, [[1.0]], X, r"`x` must be an array .* got list; convert it first"),
    "integers": (
        TypeError,
        X,
        X.astype(int),
        r"`y` must hold real floating numbers, got dtype int",
    ),
    "complex": (TypeError, X + 0j, X, r"`x` must hold real floating numbers, got dtype complex128"),
    "bool": (TypeError, X > 0, X, r"`x` must hold real floating numbers, got dtype bool"),
    "masked": (TypeError, np.ma.masked_array(X), X, r"`x` is a numpy masked array"),
    "dtypes": (TypeError, X, X.astype(np.float32), r"must share a dtype, got float64 and float32"),
    "one axis": (ValueError, X[0], X, r"`x` must have shape \(\.\.\., length, dim\), got \(4,\)"),
    "dims": (ValueError, X, np.zeros((3, 5)), r"the same last axis, got d=4 and d=5"),
    "batch": (
        ValueError,
        np.zeros((2, 3, 4)),
        np.zeros((1, 3, 4)),
        r"equal batch axes, got shapes",
    ),
    "ranks": (ValueError, X, np.zeros((1, 3, 4)), r"equal batch axes, .*; broadcast them first"),
}


@pytest.mark.parametrize("name", WRONG_POINTS)
def test_points_that_do_not_fit_are_refused(name: str) -> None:
    error, x, y, message = WRONG_POINTS[name]
    for call in (Gaussian(), Softmax().log):
        with pytest.raises(error, match=message):
            call(x, y)


@pytest.mark.parametrize("library", LIBRARIES[1:], ids=str)
def test_points_of_two_libraries_are_refused(library: ArrayLibrary) -> None:
    with pytest.raises(TypeError, match=rf"`y` is an array of {library.library}, but `x` is one"):
        Softmax()(X, library.convert(X))
