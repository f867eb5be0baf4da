"""Random monomials with Poisson and geometric exponents: mean, variance, fits, special points."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special, stats

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.features import DrawnMap, Moments, load, save
from rfx.features._bessel import log_i0
from rfx.features.geometric import Geometric
from rfx.features.poisson import Poisson
from rfx.kernels import ArcCosine, Gaussian, Softmax
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees, dtype_name, probes, z_score

LIBRARIES = array_libraries()
EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=str)
ON_FEW = pytest.mark.parametrize(
    "library", [found for found in LIBRARIES if found.library != "jax"], ids=str
)
"""JAX takes seconds to compile each of these, and tests/test_matrix.py has every map on it."""
MAPS = [
    Poisson(22),
    Poisson(22, Gaussian(1.7), rate=0.4),
    Geometric(22, Gaussian(1.7)),
    Geometric(22, Softmax(0.3), p=0.6),
]
EACH_MAP = pytest.mark.parametrize("spec", MAPS, ids=repr)
GIVEN = pytest.mark.parametrize("spec", MAPS[1::2], ids=repr)
CAUSAL = pytest.mark.parametrize("is_causal", [False, True])

Spec = Poisson | Geometric


def some_dtypes(library: ArrayLibrary) -> tuple[str, ...]:
    """The widest two; of JAX, which takes seconds to compile each, one."""
    return library.dtypes[: 1 if library.library == "jax" else 2]


def points(*shape: int, seed: int = 5, scale: float = 0.8) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(shape)


def fitted(spec: Spec, like: object, heads: int | None = None, seed: int = 1) -> DrawnMap:
    """A map for 8 axes; one that needs data is fitted to points whose heads differ in size."""
    q, k = points(heads or 1, 40, 8), points(heads or 1, 40, 8, seed=6)
    size = np.linspace(0.5, 1.0, heads or 1)[:, None, None]
    arrays = (q * size, k) if heads else (q[0], k[0])
    return spec.fit(*arrays, seed=seed).to_like(like)


def rounding(phi: DrawnMap, *arrays: object) -> float:
    """What the roundings of the features grow with: the sizes of the terms in their logs."""
    omega, bias = (np.abs(to_numpy(phi.arrays()[f"query_{n}"])) for n in ("weight", "bias"))
    found = 0.0
    for array in arrays:
        x = np.abs(to_numpy(array).astype(float))
        terms = np.abs(np.log(np.where(x == 0.0, 1.0, x))) @ omega + bias[..., None, :]
        found += 1.0 + float(np.max(terms)) + float(np.max(np.sum(x**2, axis=-1)))
    return found


@ON_FEW
@pytest.mark.parametrize(("spec", "heads"), [*zip(MAPS, [None, 3, 3, None], strict=True)], ids=repr)
def test_features_are_those_of_the_oracle(
    library: ArrayLibrary, spec: Spec, heads: int | None
) -> None:
    """Zeros among the coordinates included."""
    host = points(2, heads or 1, 13, 8)
    host[0, :, 3, ::2] = 0.0
    host[1, :, 5] = 0.0
    for dtype in some_dtypes(library):
        x = library.convert(host, dtype)
        phi = fitted(spec, x, heads)
        scale = rounding(phi, x)
        for side, call in (("query", phi.query), ("key", phi.key)):
            log, value = reference.features(phi, x, side)
            found = call(x)
            assert dtype_name(found.log_scale.dtype) == dtype_name(phi.like.dtype)
            assert_agrees(found.log_scale, log, scale=scale)
            assert np.array_equal(to_numpy(found.value), value)
            assert_agrees(found.exp(), value * np.exp(log), scale=scale)
        want = reference.gram(x, x, features=phi)
        assert_agrees(rfx.gram(x, x, features=phi), want, scale=2 * scale)


@GIVEN
def test_features_are_monomials(spec: Spec) -> None:
    """Written out, with 0⁰ = 1, at unit temperature."""
    x = points(9, 8)
    x[2, 3:6] = 0.0
    phi = dataclasses.replace(spec, kernel=Gaussian(2.0)).draw(8, seed=3, like=x)
    omega = phi.arrays()["query_weight"]
    assert omega.shape == (8, 22)
    assert np.array_equal(omega, np.round(omega))
    assert np.min(omega) == 0.0
    half = x[:, :, None] / 2.0
    if isinstance(spec, Poisson):
        each = np.exp(0.4 / 2) * half**omega * 0.4 ** (-omega / 2)
    else:
        each = half**omega / np.sqrt(0.6 * 0.4**omega * special.factorial(omega))
    norms = np.exp(-np.sum(x**2, axis=-1, keepdims=True) / 8)
    want = np.prod(each, axis=1) * norms / np.sqrt(22)
    assert_agrees(phi.query(x).exp(), want, scale=rounding(phi, x))
    assert np.any(want[2] == 0.0)
    assert np.any(want[2] != 0.0)


@GIVEN
def test_exponents_have_their_law_and_are_independent(spec: Spec) -> None:
    spec = dataclasses.replace(spec, num_features=40_000)
    omega = spec.draw(3, seed=8, like=np.zeros(1)).arrays()["query_weight"].astype(int)
    law = stats.poisson(0.4) if isinstance(spec, Poisson) else stats.geom(0.6, loc=-1)
    for row in omega:
        seen = np.bincount(np.minimum(row, 3), minlength=4)
        want = 40_000 * np.append(law.pmf([0, 1, 2]), law.sf(2))
        assert stats.chisquare(seen, want).pvalue > 1e-4
    between = np.corrcoef(np.concatenate([omega[:, :-1], omega[:, 1:]]))
    assert np.max(np.abs(between - np.eye(6))) < 5 / np.sqrt(40_000)


def stacked(spec: Spec, limit: float) -> tuple[np.ndarray, np.ndarray]:
    pairs = probes(spec, 8, limit=limit)
    return np.stack([p.x for p in pairs]), np.stack([p.y for p in pairs])


def estimates(spec: Spec, x: np.ndarray, y: np.ndarray, draws: int) -> tuple[np.ndarray, DrawnMap]:
    """Estimates of k(x_i, y_i), a head being an independent draw; the same data fit each."""
    unit = spec.kernel.unit(8)  # type: ignore[attr-defined]
    data = (np.broadcast_to(points(30, 8, seed=s) / unit, (draws, 30, 8)) for s in (1, 2))
    phi = spec.fit(*data, seed=7)
    xs, ys = (np.broadcast_to(a, (draws, *a.shape)) for a in (x, y))
    return np.diagonal(rfx.gram(xs, ys, features=phi), axis1=-2, axis2=-1), phi


def variance(phi: DrawnMap, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of the estimates above; that of the first head is that of all."""
    assert phi.heads is not None
    every = (np.broadcast_to(a, (phi.heads, *a.shape)) for a in (x, y))
    return np.diagonal(phi.variance(*every)[0])


@EACH_MAP
def test_mean_over_draws_is_the_kernel(spec: Spec) -> None:
    spec = dataclasses.replace(spec, num_features=512)
    assert spec.unbiased
    x, y = stacked(spec, 4.0)
    samples, phi = estimates(spec, x, y, 400)
    want = np.exp(np.diagonal(reference.log_kernel(x, y, kernel=spec.kernel)))
    assert np.all(np.abs(z_score(samples, want, variance=variance(phi, x, y))) < 5)


@GIVEN
def test_variance_over_draws_is_the_closed_form(spec: Spec) -> None:
    spec = dataclasses.replace(spec, num_features=100)
    x, y = stacked(spec, 0.5)
    samples, phi = estimates(spec, x, y, 1000)
    mean = np.exp(np.diagonal(reference.log_kernel(x, y, kernel=spec.kernel)))
    floor = (16 * np.finfo(float).eps * mean) ** 2
    z = z_score(np.square(samples - mean), variance(phi, x, y), floor=floor)
    assert np.all(np.abs(z) < 5)


def variance_by_hand(spec: Spec, parameter: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """E (f(x) f(y))² as a product over axes of sums over exponents, less the squared kernel."""
    k = np.arange(120)
    law = stats.poisson(parameter) if isinstance(spec, Poisson) else stats.geom(parameter, loc=-1)
    log_factor = -law.logpmf(k) - special.gammaln(k + 1.0)  # of (x_l y_l)^k in f(x) f(y)
    unit = spec.kernel.unit(x.shape[-1])  # type: ignore[attr-defined]
    found = np.empty((len(x), len(y)))
    for i, a in enumerate(unit * x):
        for j, b in enumerate(unit * y):
            products = np.abs(a * b)[:, None]
            logs = law.logpmf(k) + 2 * log_factor + 2 * k * np.log(products)
            second = np.prod(np.sum(np.exp(logs), axis=-1))
            softmax = np.exp(a @ b)
            gaussian = isinstance(spec.kernel, Gaussian)
            shrink = np.exp(-(a @ a + b @ b)) if gaussian else 1.0
            found[i, j] = shrink * (second - softmax**2) / spec.num_features
    return found


@EACH_LIBRARY
@EACH_MAP
def test_variance_is_that_of_the_sums_over_exponents(library: ArrayLibrary, spec: Spec) -> None:
    if library.library == "jax" and spec != MAPS[2]:
        return  # seconds to compile, and nearly the same code
    for dtype in some_dtypes(library):
        x, y = (library.convert(points(2, n, 8, seed=n), dtype) for n in (7, 5))
        phi = fitted(spec, x, 2)
        found = phi.variance(x, y)
        assert dtype_name(found.dtype) == ("float64" if dtype == "float64" else "float32")
        if not spec.needs_data:
            assert np.array_equal(to_numpy(spec.variance(x, y)), to_numpy(found))
        for head in range(2):
            given = spec.rate if isinstance(spec, Poisson) else spec.p
            if given is None:
                given = float(to_numpy(next(iter(phi.fitted.values())))[head, 0])
            left, right = (to_numpy(a).astype(float)[head] for a in (x, y))
            want = variance_by_hand(spec, given, left, right)
            assert_agrees(found[head, ...], want, scale=1 + np.max(np.abs(np.log(want))))


def test_poisson_estimate_is_exact_where_all_products_are_the_rate() -> None:
    x = np.asarray([[0.5, -2.0, 1.0, 4.0, 0.1]])
    spec = Poisson(3, Softmax(1.0), rate=0.7)
    phi = spec.draw(5, seed=2, like=x)
    scale = rounding(phi, x, 0.7 / x)
    assert_agrees(rfx.gram(x, 0.7 / x, features=phi), np.exp([[3.5]]), scale=scale)
    assert_agrees(spec.variance(x, 0.7 / x), np.zeros((1, 1)), scale=scale, size=np.exp(7.0))


def test_variance_is_never_negative_or_nan_however_large_the_points() -> None:
    for scale in (1e-20, 1e-3, 1.0, 30.0, 1e3):
        x = points(20, 8, scale=scale).astype(np.float32)
        for spec in (Poisson(8), Geometric(8)):
            phi = spec.fit(x, x, seed=0)
            with np.errstate(over="ignore"):
                assert np.all(phi.variance(x, x) >= 0)
            assert not np.any(np.isnan(phi.log_relative_variance(x, x)))


def mean_of_log(spec: Spec, q: np.ndarray, k: np.ndarray) -> float:
    """Mean over all pairs of log(1 + relative variance), written out."""
    unit = q.shape[-1] ** -0.25
    products = unit**2 * q[:, None] * k[None]
    if isinstance(spec, Poisson):
        assert spec.rate is not None
        return float(np.mean(np.sum((products - spec.rate) ** 2, axis=-1) / spec.rate))
    assert spec.p is not None
    t = 2 * np.abs(products) / np.sqrt(1 - spec.p)
    each = np.log(special.i0e(t)) + t - np.log(spec.p) - 2 * products
    return float(np.mean(np.sum(each, axis=-1)))


def test_fitted_rate_minimises_the_mean_log_of_the_second_moment() -> None:
    q, k = points(40, 6, scale=1.3) + 0.3, points(30, 6, seed=2) * np.linspace(0.2, 2, 6)
    found = float(Poisson(8).fit(q, k, seed=0).fitted["rate"][0])
    best = optimize.minimize_scalar(
        lambda rate: mean_of_log(Poisson(8, rate=rate), q, k), bounds=(1e-3, 10), method="bounded"
    )
    assert found == pytest.approx(best.x, rel=1e-4)
    given = Poisson(8, rate=found).draw(6, seed=0, like=q)
    second = np.log1p(given.variance(q, k) * 8 / given.kernel(q, k) ** 2)
    assert np.mean(second) == pytest.approx(mean_of_log(Poisson(8, rate=found), q, k))


def test_fitted_p_minimises_a_bound_that_is_attained_by_constant_squares() -> None:
    q, k = points(40, 6, scale=1.3) + 0.3, points(30, 6, seed=2) * np.linspace(0.2, 2, 6)
    found = float(Geometric(8).fit(q, k, seed=0).fitted["p"][0])
    roots = np.sqrt(np.mean(q**2, axis=0) * np.mean(k**2, axis=0) / 6)
    inner = np.mean(q, axis=0) @ np.mean(k, axis=0) / np.sqrt(6)

    def bound(p: float) -> float:
        t = 2 * roots / np.sqrt(1 - p)
        return float(np.sum(np.log(special.i0e(t)) + t) - 6 * np.log(p) - 2 * inner)

    best = optimize.minimize_scalar(bound, bounds=(1e-3, 0.999), method="bounded")
    assert found == pytest.approx(best.x, abs=1e-4)
    for p in (0.1, found, 0.9):
        assert mean_of_log(Geometric(8, p=p), q, k) < bound(p)
    signs = np.sign(q)
    roots, inner = np.full(6, 6**-0.5), np.mean(signs, axis=0) @ np.ones(6) / np.sqrt(6)
    assert mean_of_log(Geometric(8, p=0.3), signs, np.ones((3, 6))) == pytest.approx(bound(0.3))


@EACH_MAP
def test_each_head_is_fitted_to_its_own_points(spec: Spec) -> None:
    if not spec.needs_data:
        assert spec.fit(points(3, 9, 8), points(3, 9, 8), seed=0).fitted == {}
        return
    name = "rate" if isinstance(spec, Poisson) else "p"
    q, k = points(2, 3, 40, 8), points(2, 3, 40, 8, seed=4)
    q[:, 1] *= 2.0
    found = spec.fit(q, k, seed=0).fitted[name]
    assert found.shape == (3, 1)
    for head in range(3):
        alone = spec.fit(q[:, head].reshape(-1, 8), k[:, head].reshape(-1, 8), seed=0)
        assert found[head] == pytest.approx(alone.fitted[name])
    moments = spec.fit_moments(Moments.of(q, k), seed=0, like=q)
    assert np.array_equal(moments.fitted[name], found)


@EACH_MAP
@pytest.mark.parametrize("where", ["all", "queries", "some axes"])
def test_degenerate_data_give_a_map_that_is_exact_where_they_are_zero(
    spec: Spec, where: str
) -> None:
    q, k = points(20, 8), points(20, 8, seed=4)
    if where == "some axes":
        q[:, :7], k[:, :7] = 0.0, 0.0
    else:
        q = np.zeros_like(q)
        k = k if where == "queries" else np.zeros_like(k)
    phi = spec.fit(q, k, seed=0)
    for name, array in phi.arrays().items():
        assert np.all(np.isfinite(array)), name
    estimate = rfx.gram(q, k, features=phi)
    assert np.all(np.isfinite(estimate))
    assert np.all(np.isfinite(phi.variance(q, k)))
    if spec.needs_data and where != "some axes":
        want = phi.kernel(q, k)
        assert np.max(np.abs(estimate - want)) < 1e-5  # 1e-6 for each of 8 axes
        assert np.max(phi.variance(q, k)) < 1e-5


@EACH_LIBRARY
def test_log_of_the_bessel_function_is_scipys(library: ArrayLibrary) -> None:
    host = np.concatenate([[0.0, 17.999, 18.0, 18.001], np.logspace(-6, 6, 300)])
    for dtype in {"float64", "float32"} & set(library.dtypes):
        t = library.convert(host, dtype)
        exact = to_numpy(t).astype(np.float64)
        terms = [(exact / 2) ** (2 * k) / special.factorial(k) ** 2 for k in range(1, 20)]
        small = np.log1p(np.sum(terms[::-1], axis=0))
        want = np.where(exact < 2, small, np.log(special.i0e(exact)) + exact)
        error = np.abs(to_numpy(log_i0(t)).astype(np.float64) - want)
        assert np.all(error <= 8 * np.finfo(dtype).eps * want)


@CAUSAL
@ON_FEW
@EACH_MAP
def test_linear_attention_is_that_of_the_oracle(
    library: ArrayLibrary, spec: Spec, is_causal: bool
) -> None:
    """Grouped queries, a mask over NaN, and zeros among the coordinates."""
    q, k, v = points(2, 4, 21, 8), points(2, 2, 21, 8, seed=6), points(2, 2, 21, 3, seed=7)
    q[..., 2, 3:], k[..., 0, ::2], k[..., 7, :] = 0.0, 0.0, 0.0
    mask = np.arange(21) % 5 != 3
    k[..., ~mask, :] = np.nan
    for dtype in some_dtypes(library):
        arrays = [library.convert(a, dtype) for a in (q, k, v)]
        phi = fitted(spec, arrays[0], 2)
        call = {"features": phi, "is_causal": is_causal, "mask": library.convert(mask, "bool")}
        out = rfx.linear_attention(*arrays, chunk_size=8, **call)
        want = reference.linear_attention(*arrays, **call)
        keys = library.convert(np.nan_to_num(k), dtype)
        scale = rounding(phi, keys) + reference.log_size(arrays[0], keys, features=phi)
        scale = scale * reference.conditioning(*arrays[:2], **call) * (1 + np.abs(want))
        assert_agrees(out, want, scale=scale, size=float(np.nanmax(np.abs(v))))


@EACH_LIBRARY
@pytest.mark.parametrize(
    ("dtype", "norm"), [("float32", 1e4), ("float16", 6e4), ("bfloat16", 1e18)]
)
def test_large_points_stay_finite(library: ArrayLibrary, dtype: str, norm: float) -> None:
    if dtype not in library.dtypes:
        pytest.skip(f"{library} has no {dtype}")
    signs = np.sign(points(2, 2, 30, 8))
    q, k = (library.convert(norm * a, dtype) for a in signs)
    v = library.convert(points(2, 30, 3), dtype)
    for spec in (Poisson(16), Geometric(16))[: 1 if library.library == "jax" else 2]:
        phi = spec.fit(q, k, seed=0)
        assert np.all(np.isfinite(to_numpy(phi.query(q).log_scale)))
        for is_causal in {False, library.library == "numpy"}:  # others take seconds
            out = rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal, chunk_size=8)
            assert np.all(np.isfinite(to_numpy(out)))


def test_a_query_without_features_gives_zeros() -> None:
    """A point at 0 has the features of exponents 0 alone, here none."""
    spec = Poisson(6, rate=50.0)
    phi = spec.draw(4, seed=0, like=np.zeros(1))
    assert np.all(phi.query(np.zeros((1, 4))).exp() == 0)
    k, v = points(2, 9, 4)
    assert np.all(rfx.linear_attention(np.zeros((9, 4)), k, v, features=phi) == 0)


def loss(out):
    return (out * out).sum() + out[..., 0].sum()


def test_gradients_are_those_of_finite_differences_in_torch_and_the_same_in_jax() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    host = points(2, 5, 8), points(2, 5, 8, seed=2), points(2, 5, 3, seed=3)
    arrays = [torch.asarray(a).requires_grad_() for a in host]
    phi = fitted(dataclasses.replace(MAPS[1], num_features=5), arrays[0].detach())
    assert torch.autograd.gradcheck(lambda x, y: rfx.gram(x, y, features=phi), arrays[:2])
    loss(rfx.linear_attention(*arrays, features=phi)).backward()
    with jax.enable_x64(True):
        leaves = [jax.numpy.asarray(a) for a in host]
        its = phi.to_like(leaves[0])
        gradient = jax.grad(lambda *a: loss(rfx.linear_attention(*a, features=its)), (0, 1, 2))
        for mine, other in zip(jax.jit(gradient)(*leaves), arrays, strict=True):
            assert_agrees(mine, to_numpy(other.grad), scale=256.0)


def test_gradients_at_zeros_are_finite() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    q, k, v = points(9, 8), points(9, 8, seed=2), points(9, 3, seed=3)
    q[:3], q[4, ::2], k[0], k[5, 1:] = 0.0, 0.0, 0.0, 0.0
    arrays = [torch.asarray(a).requires_grad_() for a in (q, k, v)]
    phi = fitted(MAPS[2], arrays[0].detach())
    loss(rfx.linear_attention(*arrays, features=phi)).backward()
    loss(rfx.gram(arrays[0], arrays[1], features=phi)).backward()
    assert all(torch.isfinite(a.grad).all() for a in arrays)
    assert (arrays[0].grad[:3] == 0).all()
    with jax.enable_x64(True):
        leaves = [jax.numpy.asarray(a) for a in (q, k, v)]
        its = phi.to_like(leaves[0])
        grads = jax.jit(
            jax.grad(lambda *a: loss(rfx.linear_attention(*a, features=its)), (0, 1, 2))
        )(*leaves)
        assert all(jax.numpy.isfinite(g).all() for g in grads)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Poisson(0), ValueError, "`num_features` must be at least 1, got 0"),
        (lambda: Geometric(2.0), TypeError, "`num_features` must be an int, got 2.0"),
        (lambda: Poisson(8, rate=0.0), ValueError, "`rate` must be positive and finite, got 0.0"),
        (lambda: Poisson(8, rate=-1), ValueError, "`rate` must be positive and finite, got -1"),
        (lambda: Poisson(8, rate=1e16), ValueError, r"`rate` must be at most 1e\+15, got 1e\+16"),
        (lambda: Poisson(8, rate="1"), TypeError, "`rate` must be a number, got '1'"),
        (lambda: Geometric(8, p=0.0), ValueError, "`p` must be positive and finite, got 0.0"),
        (
            lambda: Geometric(8, p=1.0),
            ValueError,
            "`p` must be at least 1e-15 and below 1, got 1; leave it out to have it fitted",
        ),
        (lambda: Geometric(8, p=1e-16), ValueError, "`p` must be at least 1e-15 and below 1"),
        (lambda: Geometric(8, p=True), TypeError, "`p` must be a number, got True"),
        (
            lambda: Poisson(8, ArcCosine()),
            TypeError,
            "`kernel` must be rfx.kernels.Softmax or Gaussian for Poisson, got ArcCosine",
        ),
    ],
)
def test_wrong_hyperparameters_are_refused(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_claims() -> None:
    for spec in MAPS:
        assert (spec.needs, spec.unbiased, spec.positive) == (
            "nothing" if spec in MAPS[1::2] else "moments",
            True,
            False,
        )
        assert hash(spec) == hash(dataclasses.replace(spec))
    with pytest.raises(TypeError, match="Poisson is fitted to data and cannot be drawn without"):
        Poisson(8).draw(4, seed=0, like=np.zeros(1))
    assert Geometric(8, p=np.float32(0.5)) == Geometric(8, p=0.5)  # type: ignore[arg-type]


@EACH_MAP
def test_a_saved_map_is_loaded_to_the_bit(spec: Spec, tmp_path: Path) -> None:
    x = points(3, 9, 8)
    phi = fitted(dataclasses.replace(spec, kernel=Gaussian(2.5)), x, 3)
    save(phi, tmp_path / "map")
    found = load(tmp_path / "map", like=x)
    assert found.spec == phi.spec
    assert np.array_equal(found.query(x).exp(), phi.query(x).exp())
    assert np.array_equal(found.variance(x, x), phi.variance(x, x))
