"""The Walsh-Hadamard transform on every library: values, gradients, and its fast paths."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy.linalg import hadamard

import rfx
from rfx import dispatch, ops
from rfx._xp import to_numpy
from rfx.ops.fwht import matrix, orders, transform
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees

LIBRARIES = array_libraries()
PATHS = {"numpy": "numpy-fwht", "torch": "torch-fwht", "jax": "jax-fwht"}
LENGTHS = [1, 2, 64, 128, 1024, 8192]
IMPLEMENTATIONS = ("portable", None)


@pytest.fixture(autouse=True)
def load_paths() -> None:
    for lib in LIBRARIES:
        dispatch.load(lib.library)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape)


def exact(x: np.ndarray) -> np.ndarray:
    """By the matrix in float64, which for long rows is that of blocks and that of their sums."""
    length = x.shape[-1]
    within = min(length, 1024)
    blocks = np.asarray(x, dtype=np.float64).reshape(*x.shape[:-1], length // within, within)
    found = hadamard(length // within) @ (blocks @ hadamard(within))
    return found.reshape(x.shape) / length**0.5


@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_product_with_the_matrix(lib: ArrayLibrary, length: int) -> None:
    for dtype in lib.dtypes:
        x = lib.convert(normal(3, length), dtype)
        for implementation in IMPLEMENTATIONS:
            found = ops.fwht(x, implementation=implementation)
            assert found.dtype == x.dtype
            assert_agrees(found, exact(to_numpy(x)))


@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 3, 5, 16), (0, 16), (2, 0, 3, 128)], ids=str)
def test_batches_of_any_shape(lib: ArrayLibrary, shape: tuple[int, ...]) -> None:
    x = lib.convert(normal(*shape), "float32")
    for implementation in IMPLEMENTATIONS:
        assert_agrees(ops.fwht(x, implementation=implementation), exact(to_numpy(x)))


@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_its_own_inverse(lib: ArrayLibrary, length: int) -> None:
    x = lib.convert(normal(63, length), "float32")
    assert_agrees(ops.fwht(ops.fwht(x)), to_numpy(x))


def test_half_precision_is_rounded_once(lib: ArrayLibrary) -> None:
    """Sums of 1024 in float16 or bfloat16 would be off by many roundings."""
    for dtype in {"float16", "bfloat16"} & set(lib.dtypes):
        x = lib.convert(normal(5, 1024), dtype)
        want = lib.convert(exact(to_numpy(x)), "float32")
        for implementation in IMPLEMENTATIONS:
            found = to_numpy(ops.fwht(x, implementation=implementation)).astype(np.float64)
            unit = 2.0**-11 if dtype == "float16" else 2.0**-8
            error = np.abs(found - to_numpy(want))
            assert (error <= unit * np.abs(to_numpy(want)) + 1e-6).all()


@pytest.mark.parametrize(
    "shape", [(4100, 1024), (7, 301, 2048), (1025, 64, 64), (33, 131072)], ids=str
)
@pytest.mark.parametrize("name", PATHS)
def test_fast_paths_agree_with_portable_code(name: str, shape: tuple[int, ...]) -> None:
    """At sizes where they are chosen, blocks that are not full at the end, and three factors."""
    if name not in {lib.name for lib in LIBRARIES}:
        pytest.skip(f"{name} is not installed")
    x = ArrayLibrary(name, name).convert(normal(*shape), "float32")
    found, want = ops.fwht(x), ops.fwht(x, implementation="portable")
    assert found.dtype == want.dtype
    assert_agrees(found, to_numpy(want).astype(np.float64))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("numpy", (300, 1024)), ("torch", (4096, 1024)), ("jax", (2, 8))],
)
def test_fast_paths_are_chosen(name: str, shape: tuple[int, ...]) -> None:
    if name not in {lib.name for lib in LIBRARIES}:
        pytest.skip(f"{name} is not installed")
    x = ArrayLibrary(name, name).convert(np.zeros(shape), "float32")
    assert transform.choose(None, x)[1][0] == PATHS[name]
    with rfx.options(implementation=PATHS[name]):
        assert transform.choose(None, x)[1][0] == PATHS[name]


def test_numpy_leaves_small_and_single_products_alone() -> None:
    for shape, why in (((4, 128), "too few for threads"), ((65536, 64), "one matrix product")):
        with pytest.raises(ValueError, match=why):
            ops.fwht(np.zeros(shape), implementation="numpy-fwht")


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("strided", [False, True])
def test_numpy_takes_any_layout_and_dtype(dtype: str, strided: bool) -> None:
    x = normal(1024, 600).astype(dtype)
    x = x.T if strided else np.ascontiguousarray(x.T)
    x.setflags(write=False)
    found = ops.fwht(x, implementation="numpy-fwht")
    assert found.dtype == x.dtype
    assert_agrees(found, exact(x))


def test_torch_takes_any_layout_and_dtype() -> None:
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float64):
        x = torch.asarray(normal(1024, 4097)).to(dtype).T
        found = ops.fwht(x, implementation="torch-fwht")
        assert found.dtype == dtype
        assert_agrees(found, exact(to_numpy(x)))


def test_torch_leaves_gradients_and_transforms_to_portable_code() -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros((4096, 1024), requires_grad=True)
    for why, call in (
        ("no gradient", lambda: ops.fwht(x, implementation="torch-fwht")),
        ("torch.func", lambda: torch.func.vmap(forced)(x.detach()[None])),
    ):
        with pytest.raises(ValueError, match=why):
            call()
    with torch.no_grad():
        assert transform.choose(None, x)[1][0] == "torch-fwht"
    refused = pytest.raises(ValueError, match="no derivative in forward mode")
    with torch.autograd.forward_ad.dual_level(), refused:
        forced(x.detach())


def forced(x: Any) -> Any:
    return ops.fwht(x, implementation="torch-fwht")


def test_the_gradient_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(normal(3, 128)).requires_grad_()
    assert torch.autograd.gradcheck(ops.fwht, x[:1])
    weight = torch.asarray(normal(3, 128) + 1.0)
    (gradient,) = torch.autograd.grad((ops.fwht(x) * weight).sum(), x)
    assert_agrees(gradient, exact(to_numpy(weight)))
    mapped = torch.func.vmap(ops.fwht)(x.detach())
    assert_agrees(mapped, exact(to_numpy(x)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_gradient_of_jax(implementation: str | None) -> None:
    jax = pytest.importorskip("jax")
    x, weight = (jax.numpy.asarray(normal(3, 128) + i, dtype="float32") for i in range(2))

    def loss(x: Any) -> Any:
        return (ops.fwht(x, implementation=implementation) * weight).sum()

    assert_agrees(jax.jit(jax.grad(loss))(x), exact(to_numpy(weight)))
    mapped = jax.vmap(lambda row: ops.fwht(row, implementation=implementation))(x)
    assert_agrees(mapped, exact(to_numpy(x)))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((3, 48), "got shape (3, 48); pad it with zeros to 64"),
        ((3, 0), "got shape (3, 0); pad it with zeros to 1"),
        ((), "got shape (); pad it with zeros to 1"),
    ],
)
def test_lengths_that_are_no_power_of_two_are_refused(
    lib: ArrayLibrary, shape: tuple[int, ...], said: str
) -> None:
    x = lib.convert(np.zeros(shape), "float32")
    with pytest.raises(ValueError, match=re.escape("length is a power of two, " + said)):
        ops.fwht(x)


def test_what_is_no_floating_array_is_refused() -> None:
    with pytest.raises(TypeError, match="`x` must hold real floating numbers"):
        ops.fwht(np.arange(4))
    with pytest.raises(TypeError, match="`x` must be an array"):
        ops.fwht([1.0, 2.0])


@pytest.mark.parametrize("bits", range(25))
def test_factors_are_few_and_small(bits: int) -> None:
    found = orders(1 << bits)
    assert np.prod(found) == 1 << bits
    assert max(found) <= 64
    assert len(found) == max(1, -(-bits // 6))
    assert max(found) <= 2 * min(found)


def test_the_matrix_is_that_of_sylvester() -> None:
    for order in (1, 2, 64):
        np.testing.assert_array_equal(matrix(order), hadamard(order) / np.sqrt(order))
