"""Pointwise features: generalised attention, arc-cosine kernels, maps without randomness."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.features import DrawnMap, load, save
from rfx.features.forms import PointwiseMap
from rfx.features.pointwise import Deterministic, Generalized
from rfx.kernels import ArcCosine, Expectation, Gaussian, Pointwise, Softmax
from rfx.kernels.functions import FUNCTIONS
from rfx.projections import IID, Orthogonal
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees, dtype_name, probes, z_score


def name_of(record: object) -> str:
    """The record without addresses, which differ between the workers of a run."""
    return re.sub(r" at 0x\w+", "", repr(record))


LIBRARIES = array_libraries()
EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=str)
ON_FEW = pytest.mark.parametrize(
    "library", [found for found in LIBRARIES if found.library != "jax"], ids=str
)
"""JAX takes seconds to compile each of these, and tests/test_matrix.py has every map on it."""
EACH_FUNCTION = pytest.mark.parametrize("function", FUNCTIONS)
ELEMENTWISE = [name for name, found in FUNCTIONS.items() if found.elementwise]
ORDERED = {"step": 0, "relu": 1, "squared-relu": 2}

Spec = Generalized | Deterministic


def some_dtypes(library: ArrayLibrary) -> tuple[str, ...]:
    """The widest two; of JAX, which takes seconds to compile each, one."""
    return library.dtypes[: 1 if library.library == "jax" else 2]


def points(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def cubic(u: Any) -> Any:
    """A function of a user's: signed, elementwise, in any library."""
    return u * u * u


def rounding(phi: DrawnMap, x: object) -> float:
    """What the roundings grow with: the log, and the projection as a sum that cancels."""
    host = to_numpy(x).astype(float)
    weight = to_numpy(phi.arrays()["query_weight"])
    size = np.max(np.linalg.norm(host, axis=-1)) * np.max(np.linalg.norm(weight, axis=-2))
    return reference.log_size(x, x, features=phi) + float(size)


@ON_FEW
@EACH_FUNCTION
def test_features_are_those_of_the_oracle(library: ArrayLibrary, function: str) -> None:
    specs: list[Spec] = [Deterministic(function)]
    if FUNCTIONS[function].elementwise:
        specs += [Generalized(13, function=function, epsilon=e) for e in (0.0, 0.25)]
    for spec in specs:
        for dtype in some_dtypes(library):
            x = library.convert(points(2, 3, 9, 8), dtype)
            phi = spec.draw(8, seed=1, like=x, heads=3)
            assert isinstance(phi, PointwiseMap)
            log, value = reference.features(phi, x, "key")
            for found in (phi.query(x), phi.key(x)):
                scale = rounding(phi, x)
                if function == "step":  # of a projection near 0
                    scale = 0.0
                assert type(found.log_scale) is type(x)
                assert dtype_name(found.value.dtype) == dtype_name(phi.like.dtype)
                assert_agrees(found.log_scale, log, scale=scale + 4)
                assert_agrees(found.value, value, scale=scale + 4)
                assert_agrees(found.exp(), value * np.exp(log), scale=scale + 4)
                assert float(np.max(np.abs(to_numpy(found.value)))) <= 1.0


@EACH_FUNCTION
def test_features_are_the_function_of_the_projections(function: str) -> None:
    """Against values by hand, so that the oracle is held too."""
    u = np.asarray([[-2.0, -0.5, 0.0, 1.0, 3.0]])
    want = {
        "step": [0, 0, 0, 1, 1],
        "relu": [0, 0, 0, 1, 3],
        "squared-relu": [0, 0, 0, 1, 9],
        "sign": [-1, -1, 0, 1, 1],
        "abs": [2, 0.5, 0, 1, 3],
        "identity": u[0],
        "tanh": [-0.9640275801, -0.4621171573, 0, 0.7615941560, 0.9950547537],
        "gelu": [-0.0454023059, -0.1542859902, 0, 0.8411919906, 2.9963626079],
        "elu+1": [0.1353352832, 0.6065306597, 1, 2, 4],
        "sigmoid": [0.1192029220, 0.3775406688, 0.5, 0.7310585786, 0.9525741268],
        "softplus": [0.1269280110, 0.4740769842, 0.6931471806, 1.3132616875, 3.0485873516],
        "softmax": np.exp(u[0]) / np.sum(np.exp(u[0])),
        "softmax-pair": np.concatenate([np.exp(s * u[0]) / np.sum(np.exp(s * u)) for s in (1, -1)]),
        "exp-pair": np.exp(np.concatenate([u[0], -u[0]])),
    }[function]
    phi = Deterministic(function).draw(5, seed=0, like=u)
    assert np.allclose(phi.query(u).exp(), [want], rtol=1e-9, atol=1e-9)
    if function in ELEMENTWISE:
        spec = Generalized(5, function=function, epsilon=0.125)
        phi = spec.draw(5, seed=0, like=u)
        phi = phi.with_arrays(phi.arrays() | {"query_weight": np.eye(5)})
        c = 2 if function in ORDERED else 1
        want = np.sqrt(c / 5) * (np.asarray([want]) + 0.125)
        assert np.allclose(phi.query(u).exp(), want, rtol=1e-9, atol=1e-9)


def draws(spec: Spec, x: np.ndarray, y: np.ndarray, number: int) -> np.ndarray:
    """Estimates of k(x_i, y_i); a head is an independent draw."""
    phi = spec.draw(x.shape[-1], seed=3, like=x, heads=number)
    xs, ys = (np.broadcast_to(a, (number, *a.shape)) for a in (x, y))
    return np.diagonal(rfx.gram(xs, ys, features=phi), axis1=-2, axis2=-1)


def pairs(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """The probes, and pairs at many angles, nearly parallel and nearly opposite ones included."""
    found = probes(spec, 8)
    x, y = np.stack([p.x for p in found]), np.stack([p.y for p in found])
    one, two = np.linalg.qr(points(8, 8))[0][:2]
    angles = np.asarray([0.01, 0.5, 1.5, 2.5, 3.1])[:, None]
    turned = 0.7 * (np.cos(angles) * one + np.sin(angles) * two)
    return np.concatenate([x, np.tile(one, (5, 1))]), np.concatenate([y, turned])


@pytest.mark.parametrize("projection", [IID(), Orthogonal()], ids=name_of)
@pytest.mark.parametrize("function", ELEMENTWISE)
def test_mean_over_draws_is_the_kernel(
    function: str, projection: rfx.projections.Projection
) -> None:
    spec = Generalized(256, projection=projection, function=function, epsilon=0.0)
    assert spec.unbiased
    x, y = pairs(spec)
    want = np.diagonal(spec.kernel(x, y))
    z = z_score(draws(spec, x, y, 400), want)
    exact = want == 0.0
    assert np.all(np.abs(z[~exact]) < 5)
    assert np.all(np.abs(draws(spec, x, y, 5)[:, exact]) < 1e-12)


@pytest.mark.parametrize("function", ORDERED)
def test_variance_over_draws_is_the_closed_form(function: str) -> None:
    spec = Generalized(10, projection=IID(), function=function, epsilon=0.0)
    x, y = pairs(spec)
    want = spec.variance(x, y)
    assert want is not None
    mean = np.exp(np.diagonal(reference.log_kernel(x, y, kernel=spec.kernel)))
    samples = np.square(draws(spec, x, y, 10_000) - mean)
    z = z_score(samples, np.diagonal(want), floor=1e-26)
    assert np.all(np.abs(z) < 5)


@EACH_LIBRARY
def test_variance_is_that_of_an_integral_over_the_plane(library: ArrayLibrary) -> None:
    """E[f(u)² f(v)²] in polar coordinates, over the angles where u and v are positive."""
    x, y = 2.0 * points(3, 4), points(4, 4, seed=6)
    y[2], y[3] = -x[1], 0.0
    for function, n in ORDERED.items():
        spec = Generalized(7, projection=IID(), function=function, epsilon=0.0)
        radial = 2.0 ** (2 * n) * np.prod(np.arange(1, 2 * n + 1))  # ∫ R^(4n + 1) exp(−R²/2)
        want = np.zeros((3, 4))
        for i, a in enumerate(x):
            for j, b in enumerate(y[:3]):
                sizes = np.linalg.norm(a) * np.linalg.norm(b)
                theta = np.arccos(np.clip(a @ b / sizes, -1, 1))

                def both(phi: float, power: int, theta: float = theta) -> float:
                    return (np.cos(phi) * np.cos(phi - theta)) ** power

                half = np.pi / 2
                second, first = (
                    integrate.quad(partial(both, power=p), theta - half, half)[0] / (2 * np.pi)
                    for p in (2 * n, n)
                )
                radial_first = 2.0**n * np.prod(np.arange(1, n + 1))
                mean = 2 * first * radial_first * sizes**n
                want[i, j] = (4 * second * radial * sizes ** (2 * n) - mean**2) / 7
        for dtype in some_dtypes(library):
            arrays = (library.convert(a, dtype) for a in (x, y))
            tolerance = {"float64": 1e-7, "float32": 1e-4}.get(dtype, 0.2)
            found = to_numpy(spec.variance(*arrays))
            assert np.allclose(found, want, rtol=tolerance, atol=tolerance * np.max(want))
            assert np.all(found[:, 3] == 0)
            assert found[1, 2] == 0


def test_claims() -> None:
    plain = Generalized(8, projection=IID(), epsilon=0.0)
    assert plain.kernel == ArcCosine(1)
    assert plain.unbiased
    assert plain.positive
    x = points(3, 4)
    for changes in (
        {"epsilon": 1e-3},
        {"kernel": Softmax()},
        {"projection": Orthogonal()},
        {"function": "abs", "kernel": None},
    ):
        spec = dataclasses.replace(plain, **changes)
        assert spec.variance(x, x) is None
        assert spec.unbiased == (spec.epsilon == 0.0 and spec.kernel != Softmax())
    assert not dataclasses.replace(plain, projection=IID(norms="fixed")).unbiased
    gelu = Generalized(8, function="gelu")
    assert gelu.kernel == Expectation("gelu")
    assert not gelu.positive
    for function, found in FUNCTIONS.items():
        spec = Deterministic(function)
        assert (spec.kernel, spec.unbiased) == (Pointwise(function), True)
        assert spec.positive == found.positive
        assert spec.needs == "nothing"
        assert hash(spec) == hash(dataclasses.replace(spec))
    assert not Deterministic(kernel=Softmax()).unbiased
    assert Generalized(8).epsilon == 1e-3


def test_epsilon_biases_relu_features_as_documented() -> None:
    spec = Generalized(4096, projection=IID(), epsilon=0.3)
    x, y = pairs(spec)
    norms = np.linalg.norm(x, axis=-1) + np.linalg.norm(y, axis=-1)
    bias = 2 * 0.3 * norms / np.sqrt(2 * np.pi) + 2 * 0.3**2
    samples = draws(spec, x, y, 100)
    assert np.all(np.abs(z_score(samples, np.diagonal(spec.kernel(x, y)) + bias)) < 5)


@ON_FEW
@EACH_FUNCTION
def test_a_deterministic_map_is_its_kernel(library: ArrayLibrary, function: str) -> None:
    spec = Deterministic(function)
    for dtype in some_dtypes(library):
        x, y = (library.convert(points(2, n, 5, seed=n), dtype) for n in (9, 7))
        phi = spec.draw(5, seed=0, like=x)
        want = reference.gram(x, y, features=phi)
        log = reference.log_kernel(x, y, kernel=spec.kernel)
        assert_agrees(np.abs(want), np.exp(log))
        assert_agrees(rfx.gram(x, y, features=phi), want, scale=4)
        matrix = spec.kernel(x, y)
        assert matrix.dtype == x.dtype
        assert_agrees(matrix, want, scale=4)
        assert to_numpy(spec.variance(x, y)).tolist() == np.zeros((2, 9, 7)).tolist()
        assert np.all(to_numpy(phi.log_relative_variance(x, y)) == -np.inf)


def test_width_of_a_deterministic_map_is_that_of_the_points() -> None:
    phi = Deterministic("relu").draw(6, seed=0, like=np.zeros(1), heads=2)
    assert phi.num_features == 6
    assert np.array_equal(phi.arrays()["query_weight"], np.broadcast_to(np.eye(6), (2, 6, 6)))
    with pytest.raises(TypeError, match="unexpected keyword argument 'num_features'"):
        partial(Deterministic, "relu")(num_features=8)  # as rfx.features.named calls it


ATTENTION: list[Spec] = [
    Generalized(16),
    Generalized(16, function="squared-relu", epsilon=0.0),
    Generalized(16, function="gelu"),
    Deterministic("elu+1"),
    Deterministic("identity"),
    Deterministic("softmax"),
    Deterministic(cubic),
]


@ON_FEW
@pytest.mark.parametrize("spec", ATTENTION, ids=name_of)
@pytest.mark.parametrize("is_causal", [False, True])
def test_linear_attention_is_that_of_the_oracle(
    library: ArrayLibrary, spec: Spec, is_causal: bool
) -> None:
    """Grouped queries, a mask over NaN, rows of zeros, and rows far below zero."""
    q, k, v = points(2, 4, 21, 8), points(2, 2, 21, 8, seed=6), points(2, 2, 21, 3, seed=7)
    q[..., 2, :], k[..., 4, :], k[..., 9, :], q[..., 5, :] = 0.0, 0.0, -20.0, -30.0
    mask = np.arange(21) % 5 != 3
    k[..., ~mask, :] = np.nan
    for dtype in some_dtypes(library):
        arrays = [library.convert(a, dtype) for a in (q, k, v)]
        phi = spec.draw(8, seed=3, like=arrays[0], heads=2)
        call = {"features": phi, "is_causal": is_causal, "mask": library.convert(mask, "bool")}
        out = rfx.linear_attention(*arrays, chunk_size=8, **call)
        want = reference.linear_attention(*arrays, **call)
        scale = rounding(phi, arrays[0]) * 4
        scale = scale * reference.conditioning(*arrays[:2], **call) * (1 + np.abs(want))
        assert_agrees(out, want, scale=scale, size=float(np.nanmax(np.abs(v))))


@ON_FEW
@pytest.mark.parametrize("is_causal", [False, True])
def test_a_deterministic_map_gives_the_attention_of_its_kernel(
    library: ArrayLibrary, is_causal: bool
) -> None:
    """Of a kernel with both signs too."""
    q, k, v = points(2, 4, 21, 8), points(2, 2, 21, 8, seed=6), points(2, 2, 21, 3, seed=7)
    mask = library.convert(np.arange(21) % 5 != 3, "bool")
    arrays = [library.convert(a) for a in (q, k, v)]
    for function in ("identity", "elu+1"):
        kernel = Pointwise(function)
        phi = Deterministic(function).draw(8, seed=0, like=arrays[0])
        call = {"is_causal": is_causal, "mask": mask}
        exact = rfx.kernel_attention(*arrays, kernel=kernel, **call)
        want = reference.kernel_attention(*arrays, kernel=kernel, **call)
        cancels = reference.conditioning(*arrays[:2], features=phi, **call)
        scale = 8 * cancels * (1 + np.abs(want))
        assert_agrees(exact, want, scale=scale, size=float(np.max(np.abs(v))))
        assert np.allclose(reference.linear_attention(*arrays, features=phi, **call), want)


@EACH_LIBRARY
@pytest.mark.parametrize(
    ("dtype", "norm"),
    [("float32", 1e20), ("float16", 6e4), ("bfloat16", 1e18), ("float32", 1e-20)],
)
def test_large_and_small_points_keep_their_features(
    library: ArrayLibrary, dtype: str, norm: float
) -> None:
    """The squares of 1e20 and of 1e-20 are beyond float32."""
    if dtype not in library.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    q, k = (library.convert(norm * np.sign(a), dtype) for a in points(2, 2, 30, 8))
    v = library.convert(points(2, 30, 3), dtype)
    several = ["squared-relu", "identity", "gelu", "softplus"]
    for function in several[: 1 if library.library == "jax" else 4]:
        for spec in (Generalized(16, function=function, epsilon=0.0), Deterministic(function)):
            phi = spec.draw(8, seed=1, like=q)
            features = phi.query(q)
            assert np.all(np.isfinite(to_numpy(features.log_scale)))
            assert np.all(np.abs(to_numpy(features.value)) <= 1)
            out = to_numpy(rfx.linear_attention(q, k, v, features=phi))
            assert np.all(np.isfinite(out))
            if function == "squared-relu":
                host = [to_numpy(a).astype(float) / norm for a in (q, k)]
                want = reference.linear_attention(*host, v, features=phi)
                assert_agrees(out, want, dtype=dtype, scale=64, size=3.0)


@EACH_LIBRARY
def test_rows_of_zeros_have_no_features_and_get_zeros(library: ArrayLibrary) -> None:
    q, k, v = points(9, 8), points(9, 8, seed=2), points(9, 3, seed=3)
    q[4], k[:3] = 0.0, 0.0
    q, k, v = (library.convert(a, "float32") for a in (q, k, v))
    for spec in (Deterministic("squared-relu"), Generalized(16, epsilon=0.0)):
        phi = spec.draw(8, seed=0, like=q)
        assert np.all(to_numpy(phi.query(q).exp())[4] == 0)
        out = rfx.linear_attention(q, k, v, features=phi)
        assert np.all(to_numpy(out)[4] == 0)
        want = reference.linear_attention(q, k[3:, :], v[3:, :], features=phi)
        assert_agrees(out, want, scale=64)
    phi = Generalized(16, epsilon=0.01).draw(8, seed=0, like=q)
    assert_agrees(phi.query(q).exp()[4, :], np.full(16, 0.01 * np.sqrt(2 / 16)))


def test_rows_far_below_zero_keep_features_that_underflow() -> None:
    """elu + 1 of −200 is no float32, and its log is −200."""
    x = np.asarray([[-200.0, -201.0], [-300.0, -310.0]], dtype=np.float32)
    for function in ("elu+1", "sigmoid", "softplus"):
        features = Deterministic(function).draw(2, seed=0, like=x).query(x)
        assert np.array_equal(features.log_scale, [[-200.0], [-300.0]])
        assert_agrees(features.value, np.exp([[0.0, -1.0], [0.0, -10.0]]), scale=300)


def loss(out):
    return (out * out).sum() + out[..., 0].sum()


@pytest.mark.parametrize(
    "spec",
    [
        Generalized(6, function="gelu", epsilon=0.1),
        Generalized(6, function="squared-relu", epsilon=0.0),
        Deterministic("softmax"),
    ],
    ids=name_of,
)
def test_gradients_are_those_of_finite_differences_in_torch_and_the_same_in_jax(spec: Spec) -> None:
    """Of the points and of the weight, which may be trained."""
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    host = points(2, 5, 4), points(2, 5, 4, seed=2), points(2, 5, 3, seed=3)
    q, k, v = (torch.asarray(a).requires_grad_() for a in host)
    phi = spec.draw(4, seed=1, like=q.detach())
    weight = phi.query_side.weight.clone().requires_grad_()

    def features(weight):
        return phi.with_arrays(phi.arrays() | {"query_weight": weight})

    def call(x, y, weight):
        return rfx.gram(x, y, features=features(weight))

    assert torch.autograd.gradcheck(call, (q, k, weight))
    loss(rfx.linear_attention(q, k, v, features=features(weight))).backward()
    with jax.enable_x64(True):
        leaves = [jax.numpy.asarray(a) for a in host]
        its = phi.to_like(leaves[0])

        def jax_loss(q, k, v, features):
            return loss(rfx.linear_attention(q, k, v, features=features))

        got = jax.jit(jax.grad(jax_loss, (0, 1, 2, 3)))(*leaves, its)
    for mine, other in zip((*got[:3], got[3].query_side.weight), (q, k, v, weight), strict=True):
        assert_agrees(mine, to_numpy(other.grad), scale=4096.0)


@EACH_FUNCTION
def test_gradients_at_zeros_and_far_away_are_finite(function: str) -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    q, k, v = points(9, 4), points(9, 4, seed=2), points(9, 3, seed=3)
    q[0], k[1:3], q[4], k[5], k[6] = 0.0, 0.0, -500.0, -500.0, 500.0
    arrays = [torch.asarray(a).requires_grad_() for a in (q, k, v)]
    phi = Deterministic(function).draw(4, seed=0, like=arrays[0].detach())
    loss(rfx.linear_attention(*arrays, features=phi)).backward()
    assert all(torch.isfinite(a.grad).all() for a in arrays)
    if function in ("relu", "softplus"):
        leaves = [jax.numpy.asarray(a, dtype="float32") for a in (q, k, v)]
        its = phi.to_like(leaves[0])
        gradient = jax.grad(lambda *a: loss(rfx.linear_attention(*a, features=its)), (0, 1, 2))
        assert all(jax.numpy.isfinite(g).all() for g in jax.jit(gradient)(*leaves))


@pytest.mark.parametrize("function", ["identity", "elu+1"])
def test_gradients_of_exact_attention_with_a_pointwise_kernel_are_right(function: str) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(points(4, 3, seed=s)).requires_grad_() for s in (1, 2, 3))
    call = partial(rfx.kernel_attention, kernel=Pointwise(function))
    if function == "identity":  # no weights that cancel
        q, k = q.detach().abs().requires_grad_(), k.detach().abs().requires_grad_()
    assert torch.autograd.gradcheck(call, (q, k, v))


def test_callables_are_functions_too() -> None:
    x = points(5, 4)
    spec = Generalized(8, function=cubic, epsilon=0.0)
    assert spec.kernel == Expectation(cubic)
    assert not spec.positive
    phi = spec.draw(4, seed=0, like=x)
    want = (x @ phi.arrays()["query_weight"]) ** 3 / np.sqrt(8)
    assert_agrees(phi.query(x).exp(), want, scale=16)


X = np.zeros(1)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: Generalized(0), ValueError, "`num_features` must be at least 1, got 0"),
    (lambda: Generalized("8"), TypeError, "`num_features` must be an int, got '8'"),  # type: ignore[arg-type]
    (
        lambda: Generalized(8, function="swish"),
        ValueError,
        "`function` must be one of step, relu, .*, or a callable, got 'swish'",
    ),
    (
        lambda: Deterministic(3),  # type: ignore[arg-type]
        TypeError,
        "`function` must be a name or a hashable callable, got 3; names are step, relu",
    ),
    (
        lambda: Generalized(8, function="softmax"),
        ValueError,
        "`function` must be elementwise, got 'softmax', .* rfx.features.Deterministic takes it",
    ),
    (
        lambda: Generalized(8, epsilon=-1e-3),
        ValueError,
        "`epsilon` must be finite and not negative, got -0.001",
    ),
    (lambda: Generalized(8, epsilon="0"), TypeError, "`epsilon` must be a number, got '0'"),  # type: ignore[arg-type]
    (
        lambda: Generalized(8, projection=IID),  # type: ignore[arg-type]
        TypeError,
        "`projection` must be a record of rfx.projections, got",
    ),
    (
        lambda: Generalized(8, kernel="relu"),  # type: ignore[arg-type]
        TypeError,
        r"`kernel` must be a record of rfx.kernels, got 'relu'; leave it out for ArcCosine",
    ),
    (
        lambda: dataclasses.replace(Generalized(8), function="gelu"),
        ValueError,
        r"`kernel` must be Expectation\(function='gelu'\), which is what these features have, got "
        r"ArcCosine\(order=1\); leave it out",
    ),
    (
        lambda: Deterministic("relu", kernel=Pointwise("abs")),
        ValueError,
        r"`kernel` must be Pointwise\(function='relu'\)",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG)
def test_wrong_hyperparameters_are_refused(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "spec", [Generalized(8, Gaussian(2.0), function="gelu"), *ATTENTION[:6]], ids=name_of
)
def test_a_saved_map_is_loaded_to_the_bit(spec: Spec, tmp_path: Path) -> None:
    x = points(3, 9, 8)
    phi = spec.draw(8, seed=2, like=x, heads=3)
    save(phi, tmp_path / "map")
    found = load(tmp_path / "map", like=x)
    assert found.spec == spec
    assert found.statics() == phi.statics()
    assert np.array_equal(found.query(x).exp(), phi.query(x).exp())


def test_frequencies_are_those_of_the_projection() -> None:
    phi = Generalized(5000, projection=IID()).draw(3, seed=4, like=X)
    assert stats.kstest(phi.arrays()["query_weight"].ravel(), "norm").pvalue > 1e-4
    rows = Generalized(6).draw(6, seed=4, like=X).arrays()["query_weight"].T
    products = rows @ rows.T
    assert np.allclose(products, np.diag(np.diag(products)))
