"""Maps of polynomials: random Maclaurin features, sketches, Taylor features, and their form."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest

import rfx
from rfx import ops, reference
from rfx._xp import to_numpy
from rfx.features import (
    Combination,
    DrawnMap,
    Maclaurin,
    Moments,
    PolynomialMap,
    PolySketch,
    ProductSketch,
    Side,
    Spec,
    Taylor,
    TensorSketch,
    load,
    save,
)
from rfx.features.products import Factors
from rfx.kernels import DotProduct, Polynomial, Softmax
from rfx.testing import ArrayLibrary, assert_agrees, z_score

SIGNS = ("rademacher", "gaussian", "complex")
NAMES = ("maclaurin", "tensorsketch", "ctr-sketch", "polysketch", "taylor")
LIKE = np.zeros(1)


def points(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def unit(x: np.ndarray, norm: float = 1.0) -> np.ndarray:
    return norm * x / np.linalg.norm(x, axis=-1, keepdims=True)


def spec_of(name: str) -> Spec:
    return rfx.features.named(name, **({} if name == "taylor" else {"num_features": 36}))


# The form


def product_map(
    widths: tuple[int, ...], count: int, *, bias: bool, is_complex: bool, real: int = 0
) -> PolynomialMap:
    """A map of any numbers, whose last features are real."""
    rng, total = np.random.default_rng(len(widths)), sum(widths)
    side = Side(rng.standard_normal((3, total)), scale=rng.standard_normal(count))
    side = side._replace(bias=rng.standard_normal(total) if bias else None)
    if is_complex:
        own = np.concatenate([np.arange(width) < count - real for width in (0, *widths)])
        phase = own * rng.standard_normal(total) if bias else None
        side = side._replace(frequency=own * rng.standard_normal((3, total)), phase=phase)
    return PolynomialMap(TensorSketch(4), side, factors=Factors.of(widths, real))


def products(phi: PolynomialMap, x: np.ndarray) -> np.ndarray:
    """The features one by one, as the docstring has them."""
    side = phi.query_side
    assert side.scale is not None
    imaginary = 0.0 if side.frequency is None else side.frequency
    forms = x @ (side.weight + 1j * imaginary)
    forms = forms + (0.0 if side.bias is None else side.bias)
    forms = forms + 1j * (0.0 if side.phase is None else side.phase)
    found = np.tile(side.scale.astype(complex), (len(x), 1))
    for first, stop in pairwise([0, *accumulate(phi.widths)]):
        for j in range(stop - first):
            found[:, j] *= forms[:, first + j]
    if side.frequency is None:
        return found.real
    return np.concatenate([found.real, found.imag[:, : found.shape[1] - phi.real]], axis=1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize(
    ("widths", "count", "real"),
    [((7, 7, 3, 3, 3, 2, 1), 9, 2), ((4, 4), 4, 1), ((), 3, 3), ((6,), 6, 0)],
    ids=str,
)
def test_features_are_products_of_linear_forms(
    widths: tuple[int, ...], count: int, real: int, is_complex: bool, bias: bool
) -> None:
    real = real if is_complex else 0
    phi = product_map(widths, count, bias=bias, is_complex=is_complex, real=real)
    x = points(5, 3)
    want = 0.5 * products(phi, x)  # the spec is one of 4 columns
    np.testing.assert_allclose(phi.query(x).exp(), want, rtol=1e-12, atol=1e-14)
    log, value = reference.features(phi, x, "query")
    np.testing.assert_allclose(value * np.exp(log), want, rtol=1e-12, atol=1e-14)
    assert phi.num_features == want.shape[1]


@pytest.mark.parametrize(
    "spec",
    [Maclaurin(36), ProductSketch(36, Polynomial(3)), ProductSketch(6, Polynomial(3, offset=0.5))],
    ids=["maclaurin", "sketch", "with offset"],
)
def test_features_of_any_norm_are_finite_and_right(lib: ArrayLibrary, spec: Spec) -> None:
    """Also where a norm to the power of the degree exceeds float32, or vanishes in it."""
    directions = unit(points(6, 4))
    for norm in (0.0, 1e-30, 1.0, 1e18):
        x = (norm * directions).astype(np.float32)
        phi = spec.draw(4, seed=3, like=lib.convert(x))
        log, value = phi.query(lib.convert(x))
        assert np.all(np.isfinite(to_numpy(log)))
        assert np.max(np.abs(to_numpy(value))) <= 1.0
        want_log, want = reference.features(phi, x, "query")
        assert_agrees(value, want, scale=np.max(np.abs(want_log)) + 64.0)
        some = np.any(want != 0.0, axis=-1, keepdims=True)
        assert_agrees(np.where(some, to_numpy(log), 0.0), np.where(some, want_log, 0.0), scale=16.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_stays_in_its_row(name: str) -> None:
    x = points(5, 4)
    x[2, 1] = np.nan
    phi = spec_of(name).draw(4, seed=3, like=x)
    found = phi.query(x).exp()
    assert np.all(np.isnan(found[2]))
    rest = [0, 1, 3, 4]
    np.testing.assert_array_equal(found[rest], phi.query(x[rest]).exp())


def test_gradients_are_those_of_finite_differences() -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(points(2, 3))
    for spec, heads in (
        (TensorSketch(4, Polynomial(3, offset=0.5)), None),
        (Maclaurin(14, signs="complex"), None),
        (Maclaurin(4, stratified=False), 2),
        (Taylor(3), None),
    ):
        phi = spec.draw(3, seed=1, like=x, heads=heads)
        named = phi.arrays()
        names = [name for name in named if name != "fingerprint"]

        def run(z: Any, *arrays: Any, phi: Any = phi, names: Any = names) -> Any:
            changed = phi.arrays() | dict(zip(names, arrays, strict=True))
            return phi.with_arrays(changed).query(z).exp()

        z = x if heads is None else torch.stack([x, 2.0 * x])
        inputs = [a.clone().requires_grad_() for a in (z, *(named[name] for name in names))]
        assert torch.autograd.gradcheck(run, inputs)
    assert len(names) >= 2


def test_the_gradient_at_the_origin_is_finite() -> None:
    torch = pytest.importorskip("torch")
    for name in NAMES:
        x = torch.zeros(2, 4, requires_grad=True)
        phi = spec_of(name).draw(4, seed=1, like=x.detach())
        phi.query(x).exp().sum().backward()
        assert torch.isfinite(x.grad).all(), name


def test_heads_are_independent_draws_of_equal_shape() -> None:
    """Degrees are random, so that the products of a head may have fewer factors than another's."""
    spec = Maclaurin(6, stratified=False)
    x = points(3, 5, 4)
    together = spec.draw(4, seed=11, like=x, heads=3)
    rng = np.random.default_rng(11)
    alone = [spec.draw(4, seed=rng, like=x) for _ in range(3)]
    assert len({phi.widths for phi in alone}) > 1
    want = np.stack([phi.query(head).exp() for phi, head in zip(alone, x, strict=True)])
    np.testing.assert_allclose(together.query(x).exp(), want, rtol=1e-12, atol=1e-14)
    both = Combination((spec, TensorSketch(3)), ((1.0, (0,)), (1.0, (1,))))
    assert both.draw(4, seed=11, like=x, heads=3).query(x).exp().shape == (3, 5, 9)


def test_maps_with_other_widths_are_saved_compiled_and_traced(tmp_path: Any) -> None:
    """Two draws of one spec may differ in what is static."""
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    spec, q = Maclaurin(8, stratified=False), points(1, 40, 4).astype(np.float32)
    attend = torch.compile(
        lambda q, phi: rfx.linear_attention(q, q, q, features=phi), backend="eager"
    )
    gram = jax.jit(lambda x, phi: rfx.gram(x, x, features=phi))
    widths = set()
    for seed in range(2):
        phi = spec.draw(4, seed=seed, like=q)
        widths.add(phi.widths)
        save(phi, tmp_path / "map")
        loaded = load(tmp_path / "map", like=q)
        np.testing.assert_array_equal(loaded.query(q).value, phi.query(q).value)
        assert loaded.statics() == phi.statics()
        tensor = torch.asarray(q)
        out = attend(tensor, phi.to_like(tensor))
        want = rfx.linear_attention(q, q, q, features=phi)
        scale = reference.conditioning(q, q, features=phi)
        assert_agrees(out, want, scale=64.0 * scale, size=float(np.max(np.abs(q))))
        array = jax.numpy.asarray(q)
        found = gram(array, phi.to_like(array))
        assert_agrees(found, reference.gram(q, q, features=phi), scale=16.0)
    assert len(widths) == 2


def test_backends_have_paths_for_the_form() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    x = points(2, 700, 4).astype(np.float32)
    for array, path in (
        (x, "numpy-rows"),
        (torch.asarray(x), "torch-rows"),
        (jax.numpy.asarray(x), "jax-compiled"),
    ):
        phi = TensorSketch(7, Polynomial(3, offset=1.0)).draw(4, seed=1, like=array)
        assert ops.features.choose(phi, array, side="query")[1][0] == path
        log, value = reference.features(phi, x, "query")
        found = phi.query(array)
        assert_agrees(found.value, value, scale=16.0)
        assert_agrees(found.log_scale, log, scale=16.0)
    heads = TensorSketch(7).draw(4, seed=1, like=torch.asarray(x), heads=2)
    assert ops.features.choose(heads, torch.asarray(x), side="query")[1][0] == "portable"
    leaf = torch.asarray(x).requires_grad_()
    phi = TensorSketch(7).draw(4, seed=1, like=leaf.detach())
    assert ops.features.choose(phi, leaf, side="query")[1][0] == "portable"


def test_half_precision_enters_in_float32() -> None:
    x = points(5, 4).astype(np.float16)
    for name in NAMES:
        phi = spec_of(name).draw(4, seed=1, like=x)
        wide = phi.query(x.astype(np.float32))
        for have, want in zip(phi.query(x), wide, strict=True):
            assert have.dtype == np.float32
            np.testing.assert_array_equal(have, want)


# Estimates


def pairs(dim: int, norm: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a norm, among them equal ones and opposite ones."""
    x, y = unit(points(2, 3, dim), norm)
    y[0], y[1] = x[0], -x[1]
    return x, y


def scores(spec: Spec, norm: float, draws: int = 1000, dim: int = 3) -> np.ndarray:
    """z-scores of the mean and of the variance over draws, by their closed forms."""
    x, y = pairs(dim, norm)
    left, right = (np.broadcast_to(a, (draws, *a.shape)) for a in (x, y))
    if spec.needs_data:
        phi: DrawnMap = spec.fit_moments(Moments.of(x, y), seed=7, like=x, heads=draws)
        variance = phi.variance(left, right)
        assert variance is not None
        variance = variance[0]
    else:
        phi = spec.draw(dim, seed=7, like=x, heads=draws)
        variance = spec.variance(x, y)
    found = rfx.gram(left, right, features=phi)
    exact = spec.kernel(x, y)
    mean = z_score(found, exact, variance=variance)
    return np.stack([mean, z_score((found - exact) ** 2, variance, floor=1e-28)])


SKETCHES: list[Spec] = [
    *(TensorSketch(m, Polynomial(3, offset=0.3, scale=1.0)) for m in (1, 2, 5, 6)),
    TensorSketch(7, Polynomial(2, scale=0.5)),
    *(ProductSketch(4, Polynomial(2, offset=0.3, scale=1.0), signs) for signs in SIGNS),
    ProductSketch(6, Polynomial(3, scale=0.7), "complex"),
]
SERIES: list[Spec] = [
    *(Maclaurin(6, DotProduct("exp", scale=1.0), s, stratified=False) for s in SIGNS),
    *(Maclaurin(12, DotProduct("exp", scale=1.0), s, radius=0.8) for s in SIGNS),
    *(Maclaurin(2, DotProduct("inv", scale=1.0), s, radius=0.6) for s in SIGNS[::2]),
    Maclaurin(4, DotProduct("logi", scale=1.0), radius=None),
    Maclaurin(10, DotProduct("sqrt", scale=1.0), "complex", radius=None),
    Maclaurin(3, DotProduct((1.0, 0.0, 0.5, 2.0, 1.0), scale=1.0)),
    Maclaurin(8, DotProduct((0.0, 1.0, 1.0), scale=1.0), "complex"),
]


@pytest.mark.parametrize("spec", SKETCHES + SERIES, ids=repr)
def test_mean_and_variance_over_draws_are_the_closed_forms(spec: Spec) -> None:
    assert np.max(np.abs(scores(spec, 0.6))) < 5.0


@pytest.mark.parametrize("columns", [1, 2, 7, 8, 33])
@pytest.mark.parametrize(("degree", "offset"), [(1, 0.0), (2, 0.5), (3, 0.0), (3, 2.0)])
def test_tensor_sketch_is_the_transform_of_count_sketches(
    columns: int, degree: int, offset: float
) -> None:
    x, y = points(2, 5, 4)
    spec = TensorSketch(columns, Polynomial(degree, offset, scale=0.7))
    rng, more = np.random.default_rng(3), int(offset > 0.0)
    buckets = rng.integers(0, columns, (degree, 4 + more))
    signs = 1.0 - 2.0 * rng.integers(0, 2, (degree, 4 + more))

    def sketch(x: np.ndarray) -> np.ndarray:
        x = np.pad(math.sqrt(0.7) * x, ((0, 0), (0, more)), constant_values=math.sqrt(offset))
        product = np.ones((len(x), columns), dtype=complex)
        for h, s in zip(buckets, signs, strict=True):
            counts = np.zeros((len(x), columns))
            for axis in range(x.shape[1]):
                counts[:, h[axis]] += s[axis] * x[:, axis]
            product *= np.fft.fft(counts)
        return np.fft.ifft(product).real

    phi = spec.draw(4, seed=3, like=x)
    assert phi.num_features == columns
    found = rfx.gram(x, y, features=phi)
    np.testing.assert_allclose(found, sketch(x) @ sketch(y).T, rtol=1e-12, atol=1e-12)


def log_coefficients(series: Any, terms: int) -> list[float]:
    """log a_n."""
    if not isinstance(series, str):
        return [math.log(a) if a else -math.inf for a in series]
    of = {
        "exp": lambda n: -math.lgamma(n + 1.0),
        "inv": lambda n: 0.0,
        "logi": lambda n: -math.log(n) if n else 0.0,
        "sqrt": lambda n: (
            math.lgamma(n - 0.5) - math.log(2.0 * math.sqrt(math.pi)) - math.lgamma(n + 1.0)
            if n
            else 0.0
        ),
    }[series]
    return [of(n) for n in range(terms)]


def series_sum(logs: list[float], base: float, first: int = 0) -> float:
    """Σ_{n >= first} exp(logs_n) base^n, one term after another."""
    terms = []
    for n in range(first, len(logs)):
        log = logs[n] + (n * math.log(abs(base)) if n else 0.0)
        terms.append(math.copysign(1.0, base) ** n * math.exp(log))
    return math.fsum(terms)


def variance_by_hand(spec: Maclaurin, x: np.ndarray, y: np.ndarray) -> float:
    """The sums over degrees, of one pair."""
    from rfx.features._strata import layout, strata

    norms, t, fourth = (x @ x) * (y @ y), x @ y, np.sum(x**2 * y**2)
    moments = {
        "rademacher": [(1.0, norms + 2 * t**2 - 2 * fourth)],
        "gaussian": [(1.0, norms + 2 * t**2)],
        "complex": [(0.5, norms + t**2 - fourth), (0.5, 2 * t**2 - fourth)],
    }[spec.signs]
    kernel, each = spec.kernel, 2 if spec.signs == "complex" else 1
    logs = log_coefficients(kernel.series, 1000)
    if not spec.stratified:
        count = spec.num_features // each
        both = [2 * log + (n + 1) * math.log(2.0) for n, log in enumerate(logs)]
        second = sum(c * series_sum(both, b) for c, b in moments)
        return (second - series_sum(logs, t) ** 2) / count
    assert spec.radius is not None
    power = spec.radius**2 * ((1 + 2 / len(x)) ** 0.5 if spec.signs == "gaussian" else 1.0)
    own = layout(kernel, each, spec.num_features)
    plan = strata(kernel, each, spec.num_features, len(x), power)
    found = 0.0
    for n, count in zip(own.degrees, plan.counts, strict=True):
        moment = sum(c * b**n for c, b in moments)
        found += math.exp(2 * logs[n]) * (moment - t ** (2 * n)) / count if count else 0.0
    if own.shared:
        # a_n² / P(n) with P(n) = a_n σ^n / weight
        weight = series_sum(logs, plan.power, own.first)
        second = sum(c * series_sum(logs, b / plan.power, own.first) for c, b in moments)
        found += (weight * second - series_sum(logs, t, own.first) ** 2) / plan.products
    return found


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("series", ["exp", "inv", "logi", "sqrt", (0.5, 0.0, 2.0, 1.0)], ids=str)
def test_variance_is_the_sum_over_degrees(series: Any, signs: Any, stratified: bool) -> None:
    """From norms where one degree counts to those where hundreds do."""
    norms = (0.05, 0.4, 0.6) if series in ("inv", "logi", "sqrt") else (0.05, 1.0, 3.0)
    for norm in norms:
        x, y = (a[:2] for a in pairs(5, norm))
        for m in (2, 34):
            spec = Maclaurin(m, DotProduct(series, scale=1.0), signs, stratified, radius=0.9)
            found = spec.variance(x, y)
            want = [[variance_by_hand(spec, a, b) for b in y] for a in x]
            np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-12 * np.max(want))


@pytest.mark.parametrize("series", ["exp", "inv", "logi", "sqrt", (0.5, 0.0, 2.0, 1.0)], ids=str)
def test_series_are_the_sums_of_their_terms(series: Any) -> None:
    """Relative to the sum at |u|, beside which that at u < 0 stands in a variance."""
    from rfx.features._series import argument
    from rfx.features._series import squares as squared
    from rfx.features._series import tail as ending

    kernel = DotProduct(series, scale=1.0)
    sizes = np.asarray([1e-3, 0.3, 0.6, 0.72, 0.8, 0.97])
    if kernel.radius == math.inf:
        sizes = np.asarray([1e-3, 0.5, 3.0, 40.0, 60.0, 600.0])
    u = np.concatenate([sizes, -sizes])
    logs = log_coefficients(series, 3000)
    doubled = [2.0 * log + math.log(2.0) for log in logs]
    for first in (0, 1, 2, 5):
        if first >= len(logs):
            continue
        found = ending(kernel, first)(argument(np.zeros_like(u), u))
        want = np.asarray([series_sum(logs, value, first) for value in u])
        scale = np.tile(want[: len(sizes)], 2)
        have = np.exp(found.log) * found.factor
        np.testing.assert_allclose(have / scale, want / scale, atol=1e-9)
    found = squared(kernel)(argument(np.zeros_like(u), u))
    want = np.asarray([series_sum(doubled, value) for value in u])
    scale = np.tile(want[: len(sizes)], 2)
    np.testing.assert_allclose(np.exp(found.log) * found.factor / scale, want / scale, atol=1e-9)


def test_variance_is_infinite_where_the_series_of_moments_diverges() -> None:
    """|x|²|y|² beyond 1/2 without strata, and beyond σ, here 0.81, with them; along an axis."""
    kernel = DotProduct("inv", scale=1.0)
    plain = Maclaurin(64, kernel, stratified=False)
    ours = Maclaurin(64, kernel, radius=0.9)
    for size, infinite in ((0.70, False), (0.72, True)):
        x = np.asarray([[size**0.5, 0.0, 0.0]])
        assert np.isinf(plain.variance(x, x)) == infinite
        assert np.isfinite(ours.variance(x, x))
    for size, infinite in ((0.89, False), (0.91, True)):
        x = np.asarray([[size**0.5, 0.0, 0.0]])
        assert np.isinf(ours.variance(x, x)) == infinite
        phi = ours.draw(3, seed=0, like=x)
        assert np.isinf(phi.log_relative_variance(x, x)) == infinite
    entire = Maclaurin(64, DotProduct("exp", scale=1.0)).variance(5.0 * x, 5.0 * x)
    assert np.isfinite(entire)


# Maclaurin


def test_points_outside_the_domain_are_refused() -> None:
    inside, outside = np.asarray([[0.6, 0.7]]), np.asarray([[0.8, 0.6]])
    for series in ("inv", "logi"):
        phi = Maclaurin(8, DotProduct(series, scale=1.0)).draw(2, seed=0, like=inside)
        phi.query(inside)
        with pytest.raises(ValueError, match=r"`x` must have points with scale \|x\|² below 1 for"):
            phi.query(outside)
        with pytest.raises(ValueError, match=r"`y` must .*, got 1; shrink the points, or take"):
            phi.key(outside)
    phi = Maclaurin(8, DotProduct("sqrt", scale=1.0)).draw(2, seed=0, like=inside)
    phi.query(outside)
    with pytest.raises(ValueError, match=r"at most 1 for DotProduct\(series='sqrt'.*got 1\.44"):
        phi.query(1.2 * outside)
    Maclaurin(8).draw(2, seed=0, like=inside).query(100.0 * outside)


def test_low_degrees_are_exact_where_the_columns_are_enough() -> None:
    x, y = pairs(3, 0.7)
    for series, m, signs in (
        ((2.0,), 1, "rademacher"),
        ((2.0,), 6, "complex"),
        ((2.0, 3.0), 4, "rademacher"),
        ((2.0, 3.0), 4, "complex"),
        ((0.0, 3.0), 4, "complex"),
        ((0.0, 3.0), 7, "gaussian"),
    ):
        spec = Maclaurin(m, DotProduct(series, scale=0.5), signs)  # type: ignore[arg-type]
        np.testing.assert_array_less(spec.variance(x, y), 1e-30)
        phi = spec.draw(3, seed=0, like=x)
        assert phi.num_features == m
        np.testing.assert_allclose(rfx.gram(x, y, features=phi), spec.kernel(x, y), rtol=1e-12)


def test_columns_are_shared_out_for_the_least_variance() -> None:
    """As a search over all ways to share them out finds it."""
    from rfx.features._strata import _allotted

    for sizes, total in (((3.0, 1.0, 0.5), 11), ((1.0, 0.9, 0.8), 10), ((5.0, 0.1, 0.01, 2.0), 12)):
        costs = [
            sum(size**2 / count for size, count in zip(sizes, way, strict=True))
            for way in itertools.product(range(1, total + 1), repeat=len(sizes))
            if sum(way) == total
        ]
        found = _allotted(sizes, total)
        assert sum(found) == total
        cost = sum(size**2 / count for size, count in zip(sizes, found, strict=True))
        assert cost == pytest.approx(min(costs))


def test_a_long_series_keeps_its_highest_degree() -> None:
    x = np.asarray([[1.0]])  # one axis, where a product of signs is exact
    for low in (1.0, 0.0):
        kernel = DotProduct((low, *[0.0] * 69, 2.0), scale=1.0)
        phi = Maclaurin(4, kernel).draw(1, seed=0, like=x)
        np.testing.assert_allclose(rfx.gram(x, x, features=phi), [[low + 2.0]], rtol=1e-12)


def test_strata_vary_less_than_degrees_drawn_at_random() -> None:
    x, y = pairs(8, 1.0)
    for signs in SIGNS:
        for m in (16, 256):
            plain = Maclaurin(m, DotProduct("exp", 1.0), signs, stratified=False).variance(x, y)
            ours = Maclaurin(m, DotProduct("exp", 1.0), signs).variance(x, y)
            assert np.all(ours < (1.0 if m == 16 else 0.25) * plain)


def test_columns_follow_the_data() -> None:
    """A plan for the norms that the points have is better than one for norms far from them."""
    x, y = points(2, 50, 4)
    far = Maclaurin(64, DotProduct("exp", 1.0), radius=0.2)
    fitted = replace(far, radius=None).fit(x, y, seed=0)
    log, log_far = (
        phi.log_relative_variance(x, y) for phi in (fitted, far.draw(4, seed=0, like=x))
    )
    assert np.mean(log - log_far) < -1.0
    heads = replace(far, radius=None).fit(*(np.stack([a, 0.1 * a]) for a in (x, y)), seed=0)
    both = heads.log_relative_variance(*(np.stack([a, a]) for a in (x, y)))
    np.testing.assert_allclose(both[0], log, rtol=1e-9)
    assert np.mean(both[1] - both[0]) > 1.0


# Taylor


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_taylor_features_are_all_monomials(order: int) -> None:
    x, y = points(2, 6, 3)
    phi = Taylor(order, scale=0.8).draw(3, seed=0, like=x)
    assert phi.num_features == math.comb(3 + order, order)
    t = 0.8 * x @ y.T
    want = sum(t**n / math.factorial(n) for n in range(order + 1))
    np.testing.assert_allclose(rfx.gram(x, y, features=phi), want, rtol=1e-12)
    assert not phi.variance(x, y).any()


@pytest.mark.parametrize("is_causal", [False, True])
def test_taylor_attention_is_that_of_its_kernel(is_causal: bool) -> None:
    q, k, v = 2.0 * points(3, 2, 100, 6)
    phi = Taylor().draw(6, seed=0, like=q)
    found = rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal)
    want = rfx.kernel_attention(q, k, v, kernel=phi.kernel, is_causal=is_causal)
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-10)


def test_taylor_may_be_compared_with_softmax() -> None:
    spec = Taylor(kernel=Softmax())
    assert not spec.unbiased
    assert spec.positive
    assert spec.draw(3, seed=0, like=LIKE).kernel == Softmax()
    assert Taylor(3).unbiased
    assert not Taylor(3).positive


# PolySketch


@pytest.mark.parametrize("sketch", ["tensor", *SIGNS])
def test_poly_sketch_is_the_square_of_a_sketch(sketch: Any) -> None:
    """Its mean is too large by the variance of the sketch."""
    spec = PolySketch(16, degree=4, offset=0.2, scale=1.0, sketch=sketch)
    x, y = pairs(3, 0.7)
    draws = 4000
    phi = spec.draw(3, seed=2, like=x, heads=draws)
    found = rfx.gram(*(np.broadcast_to(a, (draws, *a.shape)) for a in (x, y)), features=phi)
    assert np.min(found) >= 0.0
    (inner,) = spec.maps
    want = spec.kernel(x, y) + inner.variance(x, y)
    assert np.max(np.abs(z_score(found, want))) < 5.0
    np.testing.assert_allclose(inner.kernel(x, y) ** 2, spec.kernel(x, y), rtol=1e-12)


def test_poly_sketch_needs_a_square() -> None:
    with pytest.raises(ValueError, match=r"a square, .*, got 60; use 49 or 64"):
        PolySketch(60)
    with pytest.raises(ValueError, match=r"the square of an even number, .*, got 49; use 36 or 64"):
        PolySketch(49, sketch="complex")
    with pytest.raises(ValueError, match="got 1; use 4"):
        PolySketch(1, sketch="complex")
    with pytest.raises(ValueError, match=r"`degree` must be a multiple of 2 .*, got 3; use 4"):
        PolySketch(64, degree=3)
    with pytest.raises(ValueError, match="`sketch` must be one of tensor, rademacher"):
        PolySketch(64, sketch="none")  # type: ignore[arg-type]
    assert PolySketch(49).replace(kernel=Polynomial(2, 1.0)).kernel == Polynomial(2, 1.0)


def test_wrong_arguments_are_refused() -> None:
    kinds: Any
    for kinds in (Maclaurin, ProductSketch, TensorSketch):
        with pytest.raises(TypeError, match=r"`kernel` must be rfx\.kernels"):
            kinds(8, kernel=Softmax())
        with pytest.raises(ValueError, match="`num_features` must be at least 1, got 0"):
            kinds(0, **({} if kinds is not ProductSketch else {"signs": "rademacher"}))
    for kinds in (Maclaurin, ProductSketch):
        with pytest.raises(ValueError, match="`signs` must be one of rademacher, gaussian, compl"):
            kinds(8, signs="signs")
        with pytest.raises(ValueError, match=r"a multiple of 2 .*a real and an imaginary part"):
            kinds(7, signs="complex")
    with pytest.raises(ValueError, match="`radius` must be positive"):
        Maclaurin(8, radius=0.0)
    with pytest.raises(TypeError, match="`stratified` must be True or False"):
        Maclaurin(8, stratified=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`order` must be at least 1"):
        Taylor(0)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        Taylor(scale=-1.0)
    with pytest.raises(TypeError, match=r"`kernel` must be a record of rfx\.kernels"):
        Taylor(kernel="exp")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="num_features"):
        rfx.features.named("taylor", num_features=8)
    with pytest.raises(TypeError, match="is fitted to data"):
        Maclaurin(8, radius=None).draw(4, seed=0, like=LIKE)
