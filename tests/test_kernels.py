"""Exact kernels: values, limits and refusals, on every library."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from rfx._xp import to_numpy
from rfx.kernels import ExponentialKernel, Gaussian, Kernel, Softmax
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
