"""Plain features of trigonometric maps, as the backends compute them."""

from __future__ import annotations

import numpy as np
import pytest

import rfx
from rfx import ops, reference
from rfx._xp import to_numpy
from rfx.features import DrawnMap
from rfx.kernels import Gaussian, Softmax
from rfx.testing import EPS, ArrayLibrary, assert_agrees

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

PATHS = {"numpy": "numpy-blocks", "torch": "torch-blocks", "jax": "jax-cosine"}
LIBRARIES = pytest.mark.parametrize("library", PATHS)
DIM = 5


def draw(kernel, offset: bool, like) -> DrawnMap:
    spec = rfx.features.Trigonometric(num_features=14, kernel=kernel, offset=offset)
    return spec.draw(DIM, seed=70, like=like)


def points(library: str, shape: tuple[int, ...], dtype: str = "float32"):
    array = np.random.default_rng(71).standard_normal((*shape, DIM))
    return ArrayLibrary(library, library).convert(array, dtype)


def chosen(phi: DrawnMap, x) -> str:
    return ops.features.choose(phi, x, side="query")[1][0]


def roundings(phi: DrawnMap, x) -> np.ndarray:
    """eps times what a cosine's angle and an exponential's argument magnify it by: (..., t, m)."""
    arrays = {name: np.abs(to_numpy(a)).astype(np.float64) for name, a in phi.arrays().items()}
    size = np.abs(to_numpy(x)).astype(np.float64)
    angle = size @ arrays["query_weight"] + arrays.get("query_bias", 0.0)
    angle = np.concatenate([angle] * (phi.num_features // angle.shape[-1]), axis=-1)
    log, _ = reference.features(phi, x, "query")
    return EPS[str(to_numpy(phi.query_side.weight).dtype)] * (8 + 4 * angle + 8 * np.abs(log))


def assert_features(found, phi: DrawnMap, x) -> None:
    log, value = reference.features(phi, x, "query")
    assert found.shape == value.shape
    error = np.abs(to_numpy(found) - np.exp(log) * value)
    assert (error <= roundings(phi, x) * np.exp(log)).all()


@LIBRARIES
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("kernel", [Gaussian(), Softmax()], ids=["gaussian", "softmax"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("shape", [(1,), (63,), (2, 3, 177)], ids=str)
def test_fast_features_are_the_portable_ones(
    library: str, offset: bool, kernel, dtype: str, shape: tuple[int, ...]
) -> None:
    x = points(library, shape, dtype)
    phi = draw(kernel, offset, x)
    assert chosen(phi, x) == PATHS[library]
    found = phi.query(x)
    with rfx.options(implementation="portable"):
        want = phi.query(x)
    log, _ = reference.features(phi, x, "query")
    assert found.log_scale.shape == want.log_scale.shape
    error = np.abs(to_numpy(found.exp()) - to_numpy(want.exp()))
    assert (error <= 2 * roundings(phi, x) * np.exp(log)).all()
    assert_features(found.exp(), phi, x)
    assert_features(phi.key(x).exp(), phi, x)  # both sides share their arrays
    assert str(found.exp().dtype).endswith("float32")


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("offset", [False, True])
def test_fast_features_of_float64_and_of_strided_points(library: str, offset: bool) -> None:
    """More rows than a block holds, and no block full at the end."""
    x = points(library, (3, 450, 2), "float64").swapaxes(0, 1)
    phi = draw(Softmax(), offset, x)
    assert chosen(phi, x) == PATHS[library]
    assert_features(phi.query(x).exp(), phi, x)


def test_the_gradient_of_torch_goes_through_features() -> None:
    x = points("torch", (9,), "float64").requires_grad_()
    phi = draw(Softmax(), True, x.detach())
    assert chosen(phi, x) == "portable"
    assert torch.autograd.gradcheck(lambda x: phi.query(x).exp(), x)
    leaf = phi.query_side.weight.clone().requires_grad_()
    trained = phi.with_arrays(phi.arrays() | {"query_weight": leaf})
    trained.query(x.detach()).exp().sum().backward()
    assert leaf.grad.any()
    with torch.no_grad():
        assert chosen(phi, x) == "torch-blocks"


def test_the_gradient_of_jax_goes_through_features() -> None:
    x = points("jax", (9,))
    phi = draw(Softmax(), False, x)

    def loss(phi, x):
        return (phi.query(x).exp() ** 3).sum()

    found = jax.grad(loss, (0, 1))(phi, x)
    host = points("torch", (9,), "float64").requires_grad_()
    other = phi.to_like(host.detach())
    leaf = other.query_side.weight.requires_grad_()
    loss(other, host).backward()
    assert_agrees(found[0].query_side.weight, to_numpy(leaf.grad), scale=16.0)
    assert_agrees(found[1], to_numpy(host.grad), scale=16.0)


def test_torch_func_goes_through_features() -> None:
    x = points("torch", (3, 9), "float64")
    phi = draw(Gaussian(), False, x)
    mapped = torch.func.vmap(lambda x: phi.query(x).exp())(x)
    torch.testing.assert_close(mapped, phi.query(x).exp())


@pytest.mark.parametrize("offset", [False, True])
def test_the_cosine_of_jax_is_right_for_large_angles(offset: bool) -> None:
    spec = rfx.features.Trigonometric(num_features=2, kernel=Gaussian(), offset=offset)
    angle = np.concatenate([np.linspace(-1e4, 1e4, 4001), np.linspace(-8, 8, 2001)])
    angle = angle.astype(np.float32)[:, None]
    x = jax.numpy.asarray(angle)
    phi = spec.draw(1, seed=0, like=x)
    phi = phi.with_arrays({name: a * 0 + 1 for name, a in phi.arrays().items()})
    assert chosen(phi, x) == "jax-cosine"
    exact = angle.astype(np.float64) + (1.0 if offset else 0.0)
    value = np.cos(np.hstack([exact] * 2 if offset else [exact, exact - np.pi / 2]))
    found = to_numpy(phi.query(x).exp())  # the factor is sqrt(2 / 2)
    assert (np.abs(found - value) <= EPS["float32"] * (8 + 4 * np.abs(exact))).all()


def test_the_cosine_of_jax_leaves_float64_to_portable_code() -> None:
    with jax.enable_x64(True):
        x = jax.numpy.asarray(np.ones((3, DIM)))
        phi = draw(Gaussian(), False, x)
        assert chosen(phi, x) == "portable"
        assert_features(phi.query(x).exp(), phi, x)
