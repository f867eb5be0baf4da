"""Kernels that are power series or polynomials of the inner product."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.kernels import DotProduct, Kernel, Normalized, Polynomial, SignedKernel, Softmax
from rfx.kernels.dot_product import SERIES
from rfx.testing import ArrayLibrary, assert_agrees, dtype_name

EACH_SERIES = pytest.mark.parametrize("series", SERIES)
CUBIC = (0.5, 0.0, 0.0, 2.0)
KERNELS: tuple[DotProduct | Polynomial, ...] = (
    *(DotProduct(series) for series in SERIES),
    DotProduct("logi", 0.2),
    DotProduct(CUBIC),
    DotProduct((0.0, 1.5)),
    Polynomial(),
    Polynomial(3, 0.7, 0.4),
    Polynomial(1),
)
EACH_KERNEL = pytest.mark.parametrize("kernel", KERNELS, ids=repr)


def points(*batch: int, dim: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Of norm at most 0.99 sqrt(scale), so that every series converges."""
    rng = np.random.default_rng(23)
    x, y = rng.standard_normal((*batch, 17, dim)), rng.standard_normal((*batch, 9, dim))
    largest = max(float(np.max(np.linalg.norm(a, axis=-1))) for a in (x, y))
    shrink = math.sqrt(0.99) * dim**0.25 / largest
    return shrink * x, shrink * y


def expected(kernel: Kernel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    assert isinstance(kernel, DotProduct | Polynomial)
    scale = x.shape[-1] ** -0.5 if kernel.scale is None else kernel.scale
    t = scale * (x @ np.swapaxes(y, -1, -2))
    if isinstance(kernel, Polynomial):
        return (t + kernel.offset) ** kernel.degree
    match kernel.series:
        case "exp":
            return np.exp(t)
        case "trigh":
            return np.sinh(t) + np.cosh(t)
        case "inv":
            return 1.0 / (1.0 - t)
        case "logi":
            return 1.0 - np.log(1.0 - t)
        case "sqrt":
            return 2.0 - np.sqrt(1.0 - t)
    return np.polynomial.polynomial.polyval(t, np.asarray(kernel.series))


@EACH_KERNEL
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_kernels_are_their_formulas(kernel: Kernel, batch: tuple[int, ...]) -> None:
    x, y = points(*batch)
    want = expected(kernel, x, y)
    assert_agrees(kernel(x, y), want)
    assert_agrees(np.exp(kernel.log(x, y)), np.abs(want))
    log, factor = kernel.log_and_factor(x, y)
    assert factor is not None
    assert_agrees(factor * np.exp(log), want)


def test_every_library_and_dtype_gives_the_same_kernel(lib: ArrayLibrary) -> None:
    slow = lib.library == "jax"  # to compile
    for kernel in KERNELS[3:4] + KERNELS[6:9] if slow else KERNELS:
        for dtype in lib.dtypes[: 1 if slow else 4]:
            x, y = (lib.convert(0.9 * a, dtype) for a in points(2))
            want = expected(kernel, *(to_numpy(a).astype(float) for a in (x, y)))
            matrix, log = kernel(x, y), kernel.log(x, y)
            assert type(matrix) is type(x)
            assert matrix.dtype == x.dtype
            assert dtype_name(log.dtype) == ("float64" if dtype == "float64" else "float32")
            assert_agrees(matrix, want)
            assert_agrees(np.exp(to_numpy(log)), np.abs(want))


@EACH_SERIES
def test_coefficients_sum_to_the_function(series: str) -> None:
    kernel, t = DotProduct(series, 1.0), 0.3
    a = kernel.coefficients(60)
    assert a.shape == (60,)
    assert np.all(a >= 0.0)
    want = expected(kernel, np.asarray([[t]]), np.asarray([[1.0]]))
    assert_agrees(np.asarray([[np.sum(a * t ** np.arange(60))]]), want)
    assert np.array_equal(kernel.coefficients(1), a[:1])
    assert np.array_equal(kernel.coefficients(2), a[:2])


def test_coefficients_are_those_of_the_table() -> None:
    first = {
        "exp": [1, 1, 1 / 2, 1 / 6, 1 / 24],
        "trigh": [1, 1, 1 / 2, 1 / 6, 1 / 24],
        "inv": [1, 1, 1, 1, 1],
        "logi": [1, 1, 1 / 2, 1 / 3, 1 / 4],
        "sqrt": [1, 1 / 2, 1 / 8, 3 / 48, 15 / 384],
    }
    assert set(first) == set(SERIES)
    for name, want in first.items():
        assert_agrees(DotProduct(name).coefficients(5), want)
    assert_agrees(DotProduct(CUBIC).coefficients(6), [*CUBIC, 0.0, 0.0])
    assert_agrees(DotProduct(CUBIC).coefficients(2), CUBIC[:2])
    assert np.all(np.isfinite(DotProduct("exp").coefficients(400)))


def test_radius_and_unit_are_those_of_series_and_scale() -> None:
    radii = {series: DotProduct(series).radius for series in SERIES}
    inf = math.inf
    assert radii == {"exp": inf, "inv": 1.0, "logi": 1.0, "sqrt": 1.0, "trigh": inf}
    assert DotProduct(CUBIC).radius == inf
    for make in (DotProduct, Polynomial):
        assert make().unit(16) == 0.5
        assert make(scale=9.0).unit(16) == 3.0


def test_exp_is_the_softmax_kernel() -> None:
    x, y = points()
    for scale in (None, 0.3):
        assert_agrees(DotProduct("exp", scale).log(40 * x, y), Softmax(scale).log(40 * x, y))


def test_scikit_learns_polynomial_kernel_is_this() -> None:
    """polynomial_kernel with gamma = 1 / dim by default, and coef0."""
    x, y = points()
    assert_agrees(Polynomial(3, 1.0, 1 / 5)(x, y), (x @ y.T / 5 + 1.0) ** 3)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_series_keep_their_digits_near_the_edge_of_the_domain(dtype: str) -> None:
    eps = float(np.finfo(dtype).eps)
    for gap in (0.5 * eps, 64 * eps, 1e-3):
        x, y = np.ones((1, 1), dtype), np.asarray([[1.0 - gap]], dtype)
        gap = 1.0 - float(y[0, 0])
        for series, want in (
            ("inv", 1.0 / gap),
            ("logi", 1.0 - math.log(gap)),
            ("sqrt", 2.0 - math.sqrt(gap)),
        ):
            kernel = DotProduct(series, 1.0)
            assert_agrees(kernel(x, y), [[want]], scale=4)
            assert_agrees(kernel.log(x, y), [[math.log(want)]])
    one = np.ones((1, 1), dtype)
    kernel = DotProduct("sqrt", 1.0)
    for above in (one, one * (1 + 8 * eps)):
        assert_agrees(kernel(one, above), [[2.0]])
    assert_agrees(kernel(one, -one), [[2.0 - math.sqrt(2.0)]])


OUTSIDE = {
    "inv": r"\|scale x·y\| below 1 for DotProduct\(series='inv', scale=1\.0\), got 2; shrink the "
    r"points, for example by rfx\.kernels\.Normalized, or take a smaller `scale`",
    "logi": r"\|scale x·y\| below 1 for DotProduct\(series='logi', scale=1\.0\), got 2; shrink",
    "sqrt": r"\|scale x·y\| at most 1 for DotProduct\(series='sqrt', scale=1\.0\), got 2; shrink",
}


@pytest.mark.parametrize("series", OUTSIDE)
def test_points_outside_the_domain_are_refused(series: str, lib: ArrayLibrary) -> None:
    kernel = DotProduct(series, 1.0)
    x, y = (lib.convert(np.asarray(a)) for a in ([[0.1, 0.0]], [[1.0, 3.0], [-20.0, 1.0]]))
    for call in (kernel, kernel.log, kernel.log_and_factor):
        with pytest.raises(ValueError, match="`x` and `y` must have " + OUTSIDE[series]):
            call(x, y)
    x, y = (lib.convert(np.asarray([[a]])) for a in (1.0, -1.0))
    if series != "sqrt":
        for other in (x, y):
            with pytest.raises(ValueError, match="below 1 for"):
                kernel(x, other)


@pytest.mark.parametrize("series", OUTSIDE)
def test_points_outside_the_domain_give_nan_while_traced(series: str) -> None:
    jax = pytest.importorskip("jax")
    edge = 1.5 if series == "sqrt" else 1.0
    kernel, y = DotProduct(series, 1.0), jax.numpy.asarray([[0.5], [edge], [-2.0]])

    def some(y: object) -> tuple[object, object]:
        gram = kernel(jax.numpy.ones((1, 1)), y)
        return gram[0, 0], gram

    gradient, gram = jax.jit(jax.grad(some, has_aux=True))(y)
    assert np.array_equal(np.isnan(gram), [[False, True, True]])
    slope = {"inv": 4.0, "logi": 2.0, "sqrt": 0.5**0.5}[series]
    assert_agrees(gradient, [[slope], [0.0], [0.0]])


@EACH_KERNEL
def test_gram_matrices_are_positive_semidefinite(kernel: Kernel) -> None:
    x = 0.9 * points()[0]
    values = np.linalg.eigvalsh(kernel(x, x))
    assert values[0] > -1e-13 * values[-1]


@pytest.mark.parametrize("norm", [1e-25, 1e10, 1e25])
def test_log_of_polynomials_is_finite_where_powers_are_not(norm: float, lib: ArrayLibrary) -> None:
    if lib.library == "jax" and norm != 1e25:
        return  # seconds to compile, and the same code
    x, y = (lib.convert(norm * np.asarray(a), "float32") for a in ([[3.0, 0.0]], [[-2.0, 1.0]]))
    t = -6.0 * norm**2 * 2**-0.5
    zero = lib.convert(np.zeros((1, 2)), "float32")
    for kernel in (Polynomial(5), DotProduct((0.0, 0.0, 0.0, 0.0, 0.0, 2.0))):
        want = 5 * math.log(-t) + (math.log(2.0) if isinstance(kernel, DotProduct) else 0.0)
        if norm > 1.0:
            factor = kernel.log_and_factor(x, y)[1]
            assert np.sign(to_numpy(factor)) == -1.0
            assert_agrees(kernel.log(x, y), [[want]])
            with np.errstate(over="ignore"):
                assert to_numpy(kernel(x, y)) == -np.inf
        assert to_numpy(kernel(x, zero)) == 0.0
        assert to_numpy(kernel.log(x, zero)) == -np.inf
    want = t**3 * 2.0 + 0.5
    if norm > 1.0:
        assert_agrees(DotProduct(CUBIC).log(x, y), [[math.log(-want)]])
    else:
        assert_agrees(DotProduct(CUBIC)(x, y), [[0.5]])
        assert_agrees(Polynomial(4, 0.5)(x, y), [[0.5**4]])


def test_polynomials_of_even_powers_are_positive_and_take_zeros_at_the_end() -> None:
    kernel = DotProduct((1.0, 0.0, 3.0, 0.0, 0.0), scale=1.0)
    x = np.asarray([[2e25]], dtype=np.float32)
    one = np.ones((1, 1), np.float32)
    assert_agrees(kernel(2 * one, -3 * one), [[1.0 + 3.0 * 36.0]])
    assert_agrees(kernel.log(x, -x), [[math.log(3.0) + 4.0 * math.log(2e25)]])
    factor = kernel.log_and_factor(x, -x)[1]
    assert factor is not None
    assert factor > 0.0


@EACH_KERNEL
def test_gradients_are_those_of_finite_differences(kernel: Kernel) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.asarray(a[:3, :2]).requires_grad_() for a in points())
    assert torch.autograd.gradcheck(kernel, (x, y))
    x, y = (30.0 * a[:3] for a in points())
    if getattr(kernel, "radius", math.inf) == math.inf:
        far = torch.asarray(x).requires_grad_()
        assert torch.autograd.gradcheck(lambda a: kernel.log(a, torch.asarray(y)), (far,))


@pytest.mark.parametrize("kernel", [Polynomial(1), DotProduct((0.0, 1.0))], ids=repr)
@pytest.mark.parametrize("size", [0.5, 40.0])
def test_gradients_at_orthogonal_points_are_those_of_the_inner_product(
    kernel: Kernel, size: float
) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([[size, 0.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0.0, size]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(kernel(x, y).sum(), x)
    assert_agrees(gradient, np.asarray([[0.0, size * 2**-0.5]]))


def test_gradient_of_sqrt_is_finite_at_the_edge() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones((2, 1), requires_grad=True)
    (gradient,) = torch.autograd.grad(DotProduct("sqrt", 1.0)(x, x.detach()).sum(), x)
    assert torch.isfinite(gradient).all()


@EACH_KERNEL
def test_nan_stays_in_its_row_and_column(kernel: Kernel) -> None:
    x, y = points()
    x[3, 1] = y[4, 0] = np.nan
    lost = np.isnan(kernel(x, y))
    wanted = np.zeros_like(lost)
    wanted[3], wanted[:, 4] = True, True
    assert np.array_equal(lost, wanted)


@pytest.mark.parametrize("kernel", [Polynomial(3), DotProduct("logi"), DotProduct(CUBIC)], ids=repr)
def test_exact_attention_is_that_of_the_oracle(kernel: Kernel) -> None:
    x, y = points(2)
    out = rfx.kernel_attention(x, y, y, kernel=kernel)
    want = expected(kernel, x, y)
    assert_agrees(out, want @ y / np.sum(want, axis=-1, keepdims=True), scale=1e3)
    assert_agrees(out, reference.kernel_attention(x, y, y, kernel=kernel), scale=1e3)


def test_kernels_are_records() -> None:
    assert len({*KERNELS, *(dataclasses.replace(k) for k in KERNELS)}) == len(KERNELS)
    for kernel in KERNELS:
        assert isinstance(kernel, SignedKernel)
        assert kernel(np.zeros((0, 3)), np.ones((2, 3))).shape == (0, 2)
    assert DotProduct([1, np.float32(0.5)]) == DotProduct((1.0, 0.5))  # type: ignore[arg-type]
    assert DotProduct(np.asarray([1.0, 0.5])) == DotProduct((1.0, 0.5))  # type: ignore[arg-type]
    assert Polynomial(np.int64(2), 1) == Polynomial(2, 1.0)  # type: ignore[arg-type]
    assert Normalized(DotProduct("inv"))(np.full((1, 2), 9.0), np.ones((1, 2))) > 3.4


WRONG = {
    "name": (ValueError, {"series": "cosh"}, "one of exp, inv, logi, sqrt, trigh, or the coeff"),
    "kind": (TypeError, {"series": 2.0}, r"a name or a tuple of coefficients, got 2\.0; names are"),
    "nested": (TypeError, {"series": ((1.0,),)}, "a name or a tuple of coefficients"),
    "negative": (ValueError, {"series": (1.0, -1.0)}, r"`series\[1\]` must be at least 0 and fin"),
    "infinite": (ValueError, {"series": (math.inf,)}, r"`series\[0\]` must be at least 0 and fin"),
    "text": (TypeError, {"series": ("1",)}, r"`series\[0\]` must be a number, got '1'; pass a fl"),
    "zero": (ValueError, {"series": (0.0, 0.0)}, r"must have a positive coefficient, got \(0\.0"),
    "empty": (ValueError, {"series": ()}, r"must have a positive coefficient, got \(\)"),
    "scale": (ValueError, {"scale": -1.0}, "`scale` must be positive and finite, got -1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_parameters_of_series_are_checked(name: str) -> None:
    error, given, message = WRONG[name]
    with pytest.raises(error, match=message):
        DotProduct(**given)  # type: ignore[arg-type]


def test_parameters_of_polynomials_are_checked() -> None:
    with pytest.raises(ValueError, match="`degree` must be at least 1, got 0"):
        Polynomial(0)
    with pytest.raises(TypeError, match=r"`degree` must be an int, got 2\.0"):
        Polynomial(2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`offset` must be at least 0 and finite, got -0\.1"):
        Polynomial(2, -0.1)
    with pytest.raises(ValueError, match="`scale` must be positive and finite, got 0"):
        Polynomial(scale=0)
    with pytest.raises(ValueError, match="`count` must be at least 1, got 0"):
        DotProduct().coefficients(0)
