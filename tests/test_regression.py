"""Regression: against solutions written out, scikit-learn's conventions, and in parts."""

from __future__ import annotations

import dataclasses
import tracemalloc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import rfx
from rfx._xp import to_numpy
from rfx.regression import NormalEquations, merge, normal_equations, solve
from rfx.regression._rows import chunk_rows
from rfx.testing import ArrayLibrary, assert_agrees, dtype_name

KERNEL = rfx.kernels.Gaussian(bandwidth=2.0)
SPEC = rfx.features.Trigonometric(32, kernel=KERNEL)
LIKE = np.zeros(1)


def problem(*batch: int, n: int = 70, k: int = 2, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Points, targets with a large mean, and weights, some of which are 0."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((*batch, n, 3))
    y = 5.0 + np.sin(x @ rng.standard_normal((3, k)))
    weights = rng.exponential(size=(*batch, n)) * (rng.random((*batch, n)) < 0.8)
    return x, y, weights


def tolerance(dtype: str) -> float:
    """Some hundred roundings: sums are of positive terms, and the ridge keeps solutions tame."""
    eps = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    return (512.0 if dtype in ("float64", "float32") else 8.0) * eps[dtype]


def by_hand(phi, x, y, weights, ridge, fit_intercept=True):
    """θ and intercept by the normal equations of a matrix with a column of ones."""
    design = phi.query(x).exp()
    unit = np.eye(design.shape[-1] + fit_intercept)
    if fit_intercept:
        design = np.concatenate([design, np.ones((*design.shape[:-1], 1))], axis=-1)
        unit[-1, -1] = 0.0
    left = np.swapaxes(design * weights[..., None], -1, -2)
    theta = np.linalg.solve(left @ design + ridge * unit, left @ y)
    if not fit_intercept:
        return theta, np.zeros_like(theta[..., :1, :])
    return theta[..., :-1, :], theta[..., -1:, :]


@pytest.mark.parametrize(("batch", "fit_intercept"), [((), True), ((2,), False)])
def test_it_solves_the_normal_equations_on_every_library(
    lib: ArrayLibrary, batch: tuple[int, ...], fit_intercept: bool
) -> None:
    arrays = problem(*batch)
    host = SPEC.draw(3, seed=1, like=arrays[0])
    theta, intercept = by_hand(host, *arrays, 0.5, fit_intercept)
    want = host.query(arrays[0]).exp() @ theta + intercept
    for dtype in (lib.dtypes[0], lib.dtypes[-1]):
        x, y, weights = (lib.convert(a, dtype) for a in arrays)
        phi = SPEC.draw(3, seed=1, like=x)
        options = {"features": phi, "weights": weights, "fit_intercept": fit_intercept}
        model = rfx.ridge_regression(x, y, ridge=0.5, chunk_size=32, **options)
        rtol = tolerance(dtype)
        found = model.predict(x, chunk_size=32)
        np.testing.assert_allclose(to_numpy(found), want, rtol=rtol)
        assert found.dtype == x.dtype


def test_one_target_needs_no_axis_and_chunks_change_roundings_only() -> None:
    x, y, weights = problem(2)
    options = {"features": SPEC.draw(3, seed=1, like=x), "weights": weights, "ridge": 0.5}
    both = rfx.ridge_regression(x, y, **options)
    one = rfx.ridge_regression(x, y[..., 0], chunk_size=9, **options)
    assert one.predict(x).shape == (2, 70)
    for size in (1, 9, 70):
        found = one.predict(x, chunk_size=size)
        np.testing.assert_allclose(found, both.predict(x)[..., 0], rtol=1e-10)
    assert one.predict(x[:, :0]).shape == (2, 0)
    assert both.predict(x[:, :0]).shape == (2, 0, 2)


def test_a_path_of_ridges_is_each_of_them() -> None:
    x, y, weights = problem(2)
    phi = SPEC.draw(3, seed=1, like=x)
    ridges = (1e-3, 1.0, 100.0)
    path = rfx.ridge_regression(x, y, features=phi, ridge=ridges, weights=weights)
    assert path.coefficients.shape == (3, 2, 32, 2)
    found = path.predict(x)
    for i, ridge in enumerate(ridges):
        one = rfx.ridge_regression(x, y, features=phi, ridge=ridge, weights=weights)
        np.testing.assert_allclose(found[i], one.predict(x), rtol=1e-8)
        np.testing.assert_allclose(path.intercept[i], one.intercept, rtol=1e-8)
    alone = rfx.ridge_regression(x, y[..., 1], features=phi, ridge=np.asarray(ridges))
    both = rfx.ridge_regression(x, y, features=phi, ridge=list(ridges))
    np.testing.assert_allclose(alone.predict(x), both.predict(x)[..., 1], rtol=1e-8)


def test_parts_give_what_the_whole_gives() -> None:
    x, y, weights = problem(n=100)
    phi = SPEC.draw(3, seed=1, like=x)
    whole = normal_equations(x, y, features=phi, weights=weights)
    parts = [slice(0, 30), slice(30, 31), slice(31, 31), slice(31, 100)]
    apart = [normal_equations(x[s], y[s], features=phi, weights=weights[s]) for s in parts]
    tree = merge(merge(apart[3], apart[1]), merge(apart[0], apart[2]))
    running: NormalEquations | None = None
    for s in parts:
        call = {"features": phi, "weights": weights[s], "initial": running}
        running = normal_equations(x[s], y[s], **call, chunk_size=7)
    for found in (tree, running):
        assert found is not None
        for name in ("weight", "mean", "target", "gram", "cross"):
            want = getattr(whole, name)
            np.testing.assert_allclose(getattr(found, name), want, rtol=1e-9, atol=1e-11)


def test_rows_without_weight_add_nothing(lib: ArrayLibrary) -> None:
    """Neither a chunk of them nor no rows at all."""
    x, y, weights = (lib.convert(a, lib.dtypes[-1]) for a in problem(n=12))
    phi = SPEC.draw(3, seed=1, like=x)
    here = lib.convert(np.asarray([0.0] * 4 + [1.0] * 8), lib.dtypes[-1])
    options = {"features": phi, "ridge": 0.5}
    found = rfx.ridge_regression(x, y, weights=here, chunk_size=4, **options).predict(x)
    want = rfx.ridge_regression(x[4:, :], y[4:, :], **options).predict(x)
    np.testing.assert_allclose(to_numpy(found), to_numpy(want), rtol=tolerance(lib.dtypes[-1]))
    none = normal_equations(x[:0, :], y[:0, :], features=phi)
    some = normal_equations(x, y, features=phi, weights=weights)
    for both in (merge(merge(none, none), some), merge(some, none)):
        for name in ("weight", "mean", "target", "gram", "cross"):
            want = to_numpy(getattr(some, name))
            assert np.array_equal(to_numpy(getattr(both, name)), want)


def test_regressors_are_features_of_queries() -> None:
    x, y, _ = problem()
    phi = rfx.features.named("gerf", num_features=32).draw(3, seed=1, like=x)
    other = phi.with_arrays(phi.arrays() | {"key_weight": 0.0 * phi.arrays()["key_weight"]})
    found, want = (rfx.ridge_regression(x, y, features=f, ridge=0.5) for f in (other, phi))
    assert np.array_equal(found.predict(x), want.predict(x))


def test_sums_over_chunks_are_in_float64_where_there_is_one() -> None:
    for x in (np.zeros((1, 1), np.float32), torch.zeros(1, 1)):
        found = normal_equations(x, x[:, 0], features=SPEC.draw(1, seed=1, like=x))
        names = ("weight", "mean", "target", "gram", "cross")
        assert {dtype_name(getattr(found, name).dtype) for name in names} == {"float64"}


def test_eigenvalues_that_roundings_brought_below_0_count_as_0() -> None:
    x, y, _ = problem()
    found = normal_equations(x, y, features=SPEC.draw(3, seed=1, like=x))
    below = dataclasses.replace(found, gram=-0.1 * np.eye(32))
    path = solve(below, ridge=[0.2, 1.0])
    np.testing.assert_allclose(path.coefficients[0], found.cross / 0.2, rtol=1e-12)


def test_weights_of_rows_are_shared_by_the_batch() -> None:
    x, y, weights = problem(2)
    options = {"features": SPEC.draw(3, seed=1, like=x), "ridge": 0.5}
    found = rfx.ridge_regression(x, y, weights=weights[0], **options).predict(x)
    same = np.stack([weights[0], weights[0]])
    want = rfx.ridge_regression(x, y, weights=same, **options).predict(x)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_batch_axes_of_points_broadcast_with_those_of_the_fit(lib: ArrayLibrary) -> None:
    """Also for a path of as many ridges as there are batch entries."""
    arrays = problem(2)
    x, y, _ = (lib.convert(a, lib.dtypes[-1]) for a in arrays)
    phi = SPEC.draw(3, seed=1, like=x)
    rtol = tolerance(lib.dtypes[-1])
    for ridge in (0.5, (0.5, 2.0)):
        plain = rfx.ridge_regression(x[0, ...], y[0, ...], features=phi, ridge=ridge)
        found = to_numpy(plain.predict(x))
        for i in range(2):
            want = to_numpy(plain.predict(x[i, ...]))
            np.testing.assert_allclose(found[..., i, :, :], want, rtol=rtol)
        each = rfx.ridge_regression(x, y, features=phi, ridge=ridge)
        found = to_numpy(each.predict(x[0, ...]))
        want = to_numpy(each.predict(x))
        np.testing.assert_allclose(found[..., 0, :, :], want[..., 0, :, :], rtol=rtol)
        assert found.shape == want.shape
        assert each.predict(x[0, :0, :]).shape == (*want.shape[:-2], 0, 2)
        empty = rfx.ridge_regression(x[:0, ...], y[:0, ...], features=phi, ridge=ridge)
        assert empty.predict(x[:0, ...]).shape == (*want.shape[:-3], 0, 70, 2)


def test_a_ridge_may_be_any_real_number_and_the_model_keeps_it() -> None:
    x, y, _ = problem()
    options = {"features": SPEC.draw(3, seed=1, like=x)}
    want = rfx.ridge_regression(x, y, ridge=2.0, **options).predict(x)
    for ridge in (2, np.int64(2), np.float32(2.0), np.asarray(2.0), torch.tensor(2.0)):
        model = rfx.ridge_regression(x, y, ridge=ridge, **options)
        assert np.array_equal(model.predict(x), want)
        assert np.array_equal(model.ridge, 2.0)
    path = rfx.ridge_regression(x, y, ridge=torch.tensor([2.0, 3.0]), **options)
    assert np.array_equal(path.ridge, [2.0, 3.0])


def test_chunks_are_of_bounded_size() -> None:
    for m in (1, 1000, 2**20):
        rows = chunk_rows(SimpleNamespace(num_features=m), None)
        assert rows == 256 or m * rows <= 2**23 < m * (rows + 1)
        assert rows >= 256


def test_means_that_are_large_beside_deviations_cost_no_digits() -> None:
    """Features of a wide kernel are nearly constant; sums of raw products would lose them."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4000, 3)).astype(np.float32)
    y = (1e4 + x[:, 0]).astype(np.float64)
    spec = rfx.features.Positive(64, kernel=rfx.kernels.Gaussian(bandwidth=30.0))
    phi = spec.draw(3, seed=1, like=x)
    model = rfx.ridge_regression(x, y, features=phi, ridge=1e-5, chunk_size=500)
    residual = to_numpy(model.predict(x.astype(np.float32))) - y
    assert np.std(residual) < 0.05


def test_conventions_are_those_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y, weights = problem()
    phi = SPEC.draw(3, seed=1, like=x)
    for fit_intercept in (True, False):
        other = linear_model.Ridge(alpha=0.3, fit_intercept=fit_intercept)
        other.fit(phi.query(x).exp(), y, sample_weight=weights)
        mine = rfx.ridge_regression(
            x, y, features=phi, ridge=0.3, weights=weights, fit_intercept=fit_intercept
        )
        np.testing.assert_allclose(mine.coefficients.T, other.coef_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(mine.intercept[0], other.intercept_, rtol=1e-7, atol=1e-9)


def test_many_features_come_close_to_kernel_ridge_regression() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((200, 3))
    y, ridge = np.sin(2.0 * x[:, 0]) + x[:, 1] ** 2, 0.1
    dual = np.linalg.solve(KERNEL(x, x) + ridge * np.eye(200), y)
    fresh = rng.standard_normal((50, 3))
    exact = KERNEL(fresh, x) @ dual
    errors = []
    for m in (64, 512, 4096):
        phi = rfx.features.Trigonometric(m, kernel=KERNEL).draw(3, seed=2, like=x)
        model = rfx.ridge_regression(x, y, features=phi, ridge=ridge, fit_intercept=False)
        errors.append(np.std(model.predict(fresh) - exact) / np.std(exact))
    assert errors[2] < 0.6 * errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.05


def test_memory_does_not_grow_with_the_rows() -> None:
    peaks = []
    phi = SPEC.draw(3, seed=1, like=np.zeros(1, np.float32))
    for n in (4_000, 32_000):
        x = np.zeros((n, 3), np.float32)
        y = np.zeros(n, np.float32)
        tracemalloc.start()
        model = rfx.ridge_regression(x, y, features=phi, ridge=1.0, chunk_size=500)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        tracemalloc.start()
        model.predict(x, chunk_size=500)
        peaks.append(tracemalloc.get_traced_memory()[1] - 2 * y.nbytes)  # the result, joined
        tracemalloc.stop()
    assert peaks[2] < 1.25 * peaks[0]  # eight times the rows
    assert peaks[3] < 1.5 * peaks[1]


def test_gradients_are_those_of_finite_differences() -> None:
    arrays = problem(n=9, k=1)
    phi = rfx.features.Trigonometric(6, kernel=KERNEL).draw(3, seed=1, like=torch.zeros(1).double())

    def call(x, y, weights, frequencies, ridge=0.5):
        own = phi.with_arrays(phi.arrays() | {"query_weight": frequencies})
        model = rfx.ridge_regression(x, y, features=own, ridge=ridge, weights=weights, chunk_size=4)
        return model.predict(x, chunk_size=4)

    leaves = [torch.asarray(a) for a in arrays]
    leaves[2] = leaves[2] + 0.1
    leaves = [a.requires_grad_() for a in (*leaves, phi.query_side.weight.clone())]
    assert torch.autograd.gradcheck(call, leaves)
    loss = (call(*leaves) ** 2).sum()
    loss.backward()
    with jax.enable_x64(True):
        mine = [jnp.asarray(a.detach().numpy()) for a in leaves]
        theirs = rfx.features.Trigonometric(6, kernel=KERNEL).draw(3, seed=1, like=mine[0])

        def same(x, y, weights, frequencies):
            own = theirs.with_arrays(theirs.arrays() | {"query_weight": frequencies})
            options = {"features": own, "weights": weights, "chunk_size": 4}
            model = rfx.ridge_regression(x, y, ridge=0.5, **options)
            return (model.predict(x, chunk_size=4) ** 2).sum()

        for got, leaf in zip(jax.jit(jax.grad(same, (0, 1, 2, 3)))(*mine), leaves, strict=True):
            assert_agrees(got, to_numpy(leaf.grad), scale=2.0**20)


def test_jax_takes_models_through_jit() -> None:
    x, y, _ = (jnp.asarray(a, jnp.float32) for a in problem())
    phi = SPEC.draw(3, seed=1, like=x)
    fit = jax.jit(lambda x, y, phi: rfx.ridge_regression(x, y, features=phi, ridge=0.5))
    model = fit(x, y, phi)
    want = rfx.ridge_regression(x, y, features=phi, ridge=0.5).predict(x)
    np.testing.assert_allclose(model.predict(x), want, rtol=1e-4)
    jax.tree.map(lambda a: a, jax.jit(lambda *a: normal_equations(*a, features=phi))(x, y))
    with pytest.raises(TypeError, match="while a compiler traces; make it a static argument"):
        jax.jit(lambda r: rfx.ridge_regression(x, y, features=phi, ridge=r).intercept)(0.5)


def test_models_that_jax_fitted_by_vmap_predict_outside_of_it() -> None:
    x, y, _ = (jnp.asarray(a, jnp.float32) for a in problem())
    phi = SPEC.draw(3, seed=1, like=x)
    several = jnp.stack([y, -y])

    def fit(y):
        model = rfx.ridge_regression(x, y, features=phi, ridge=0.5)
        return dataclasses.replace(model, features=None)

    models = jax.vmap(fit)(several)
    found = dataclasses.replace(models, features=phi).predict(jnp.stack([x, x]))
    want = rfx.ridge_regression(x, y, features=phi, ridge=0.5).predict(x)
    np.testing.assert_allclose(found, jnp.stack([want, -want]), rtol=1e-3, atol=1e-4)


# Kernel regression


def nadaraya_watson(kernel, x, points, targets, weights):
    matrix = kernel(x, points) * weights[..., None, :]
    return matrix @ targets / matrix.sum(axis=-1, keepdims=True)


def test_exact_kernel_regression_is_the_quotient(lib: ArrayLibrary) -> None:
    points, y, weights = problem(2)
    x = problem(2, n=5, seed=1)[0]
    ones = np.ones_like(weights)
    for dtype in (lib.dtypes[0], lib.dtypes[-1]):
        rtol = tolerance(dtype)
        a, b, c, w = (lib.convert(each, dtype) for each in (x, points, y, weights))
        out = rfx.kernel_regression(a, b, c, kernel=KERNEL)
        np.testing.assert_allclose(
            to_numpy(out), nadaraya_watson(KERNEL, x, points, y, ones), rtol=rtol
        )
        out = rfx.kernel_regression(a, b, c[..., 0], kernel=KERNEL, weights=w)
        want = nadaraya_watson(KERNEL, x, points, y, weights)[..., 0]
        np.testing.assert_allclose(to_numpy(out), want, rtol=rtol)
        assert out.dtype == c.dtype


def test_kernel_regression_with_features_is_that_of_their_gram(lib: ArrayLibrary) -> None:
    points, y, weights = problem()
    x = problem(n=5, seed=1)[0]
    spec = rfx.features.Positive(64, kernel=KERNEL)
    host = spec.draw(3, seed=1, like=x)

    def estimate(a, b):
        return rfx.gram(a, b, features=host)

    a, b, c, w = (lib.convert(each, lib.dtypes[-1]) for each in (x, points, y, weights))
    phi = spec.draw(3, seed=1, like=a)
    out = rfx.kernel_regression(a, b, c, features=phi, weights=w)
    want = nadaraya_watson(estimate, x, points, y, weights)
    np.testing.assert_allclose(to_numpy(out), want, rtol=tolerance(lib.dtypes[-1]))


@pytest.mark.parametrize("weighted", [False, True])
def test_kernel_regression_goes_on_from_a_state(weighted: bool) -> None:
    points, y, weights = problem(n=40)
    x = problem(n=5, seed=1)[0]
    phi = rfx.features.Positive(64, kernel=KERNEL).draw(3, seed=1, like=x)

    def call(x, s, **options):
        if weighted:
            options["weights"] = weights[s]
        return rfx.kernel_regression(x, points[s], y[s], features=phi, **options)

    want = call(x, slice(None))
    none, first = call(x[:0], slice(0, 11), return_state=True)
    assert none.shape == (0, 2)
    np.testing.assert_allclose(call(x, slice(11, None), initial_state=first), want, rtol=1e-10)
    second = call(x[:0], slice(11, None), return_state=True)[1]
    both = rfx.merge(first, second)
    np.testing.assert_allclose(call(x, slice(0, 0), initial_state=both), want, rtol=1e-10)


def test_points_without_weight_give_zeros() -> None:
    points, y, _ = problem(n=4)
    zero = np.zeros(4)
    out = rfx.kernel_regression(points, points, y, kernel=KERNEL, weights=zero)
    assert np.array_equal(out, np.zeros((4, 2)))


@pytest.mark.parametrize("exact", [True, False])
def test_a_point_of_weight_0_is_absent(lib: ArrayLibrary, exact: bool) -> None:
    """Even where it alone is near, so that all others are nothing beside it, and if it is NaN."""
    points = 40.0 * np.arange(6.0)[:, None] * np.ones(3)
    weights = np.asarray([0.0, 1.0, 2.0, 1.0, 1.0, 1.0])
    y = np.arange(6.0)
    broken = points.copy()
    broken[0] = np.nan
    a, b, c, d, w = (
        lib.convert(each, lib.dtypes[-1]) for each in (points[:1], points, broken, y, weights)
    )
    spec = rfx.features.Positive(64, kernel=KERNEL)
    how = {"kernel": KERNEL} if exact else {"features": spec.draw(3, seed=1, like=a)}
    want = to_numpy(rfx.kernel_regression(a, b[1:, :], d[1:], weights=w[1:], **how))
    for given in (b, c):
        found = to_numpy(rfx.kernel_regression(a, given, d, weights=w, **how))
        np.testing.assert_allclose(found, want, rtol=tolerance(lib.dtypes[-1]))
    if exact:
        assert want == pytest.approx(1.0)


def test_explain_takes_what_the_functions_take() -> None:
    x, y, weights = problem()
    phi = SPEC.draw(3, seed=1, like=x)
    found = rfx.explain(rfx.ridge_regression, x, y, features=phi, ridge=1.0, weights=weights)
    assert (found.op, found.implementation) == ("normal", "portable")
    exact = rfx.explain(rfx.kernel_regression, x, x, y, kernel=KERNEL, weights=weights)
    assert exact.op is None
    estimate = rfx.explain(rfx.kernel_regression, x, x, y, features=phi)
    assert estimate.op == "bidirectional"


# Refusals

X, Y, W = problem(n=6)
PHI = SPEC.draw(3, seed=0, like=LIKE)
OTHER = SPEC.draw(3, seed=1, like=LIKE)
NARROW = rfx.features.Maclaurin(8, rfx.kernels.DotProduct("inv")).draw(3, seed=0, like=LIKE)
STEEP = rfx.features.TensorSketch(32).draw(3, seed=0, like=LIKE)
HEADS = SPEC.draw(3, seed=0, like=LIKE, heads=2)
SEEN = normal_equations(X, Y, features=PHI)
X32, Y32 = X.astype(np.float32), Y.astype(np.float32)
THERE = torch.asarray(X), torch.asarray(Y)
ELSEWHERE = normal_equations(*THERE, features=PHI.to_like(THERE[0]))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge=0.0), ValueError, "positive"),
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge=[1.0, -1.0]), ValueError, "posit"),
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge=[]), ValueError, "got none"),
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge="1"), TypeError, "number"),
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge=1e-16), ValueError, "roundings"),
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge=[1e-16, 1.0]), ValueError, "roun"),
        (
            lambda: rfx.ridge_regression(X32, Y32, features=PHI.to_like(X32), ridge=1e-9),
            ValueError,
            "roundings",
        ),
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge=None), TypeError, "got None"),
        (lambda: rfx.ridge_regression(X, Y, features=PHI, ridge={1.0}), TypeError, "a sequence"),
        (lambda: rfx.ridge_regression(X * np.nan, Y, features=PHI, ridge=0), ValueError, "positi"),
        (lambda: rfx.ridge_regression(X, Y, features=HEADS, ridge=1.0), ValueError, "2 heads"),
        (lambda: rfx.ridge_regression(X, Y, features=SPEC, ridge=1.0), TypeError, "drawn map"),
        (lambda: rfx.ridge_regression(X, Y[:-1], features=PHI, ridge=1.0), ValueError, "(6, k)"),
        (lambda: normal_equations(X, Y, features=PHI, weights=-W), ValueError, "at least 0"),
        (lambda: normal_equations(X, Y, features=PHI, weights=W[:5]), ValueError, "each row"),
        (lambda: normal_equations(X, Y, features=OTHER, initial=SEEN), ValueError, "map"),
        (lambda: normal_equations(X, Y[:, 0], features=PHI, initial=SEEN), ValueError, "targets"),
        (lambda: normal_equations(X, Y[:, :1], features=PHI, initial=SEEN), ValueError, "of 1 tar"),
        (lambda: normal_equations(X, Y[:, 0], features=PHI, initial=SEEN), ValueError, "`y` with"),
        (lambda: normal_equations(X, Y, features=PHI, initial=ELSEWHERE), TypeError, "of torch"),
        (
            lambda: normal_equations(X, THERE[1], features=PHI),
            TypeError,
            "`y` is an array of torch",
        ),
        (
            lambda: normal_equations(X, Y, features=PHI, weights=THERE[1][:, 0]),
            TypeError,
            "`weights` is an array of torch",
        ),
        (lambda: normal_equations(X, Y, features=PHI, weights=W + np.inf), ValueError, "finite"),
        (lambda: normal_equations(X * np.nan, Y, features=PHI), ValueError, "`x` must be finite"),
        (lambda: normal_equations(X, Y, features=PHI, initial=1), TypeError, "NormalEquations"),
        (lambda: normal_equations(X, Y * np.nan, features=PHI), ValueError, "finite"),
        (lambda: normal_equations(100 * X, Y, features=NARROW), ValueError, "shrink the points"),
        (lambda: normal_equations(1e200 * X, Y, features=STEEP), ValueError, "beyond the range"),
        (lambda: merge(SEEN, 1), TypeError, "NormalEquations"),
        (lambda: merge(SEEN, normal_equations(X, Y, features=OTHER)), ValueError, "map"),
        (lambda: merge(SEEN, normal_equations(X, Y[:, :1], features=PHI)), ValueError, "(32, 1)"),
        (
            lambda: merge(SEEN, normal_equations(X, Y[:, 0], features=PHI)),
            ValueError,
            "`first` has targets with an axis for several, but `second` without",
        ),
        (lambda: merge(SEEN, ELSEWHERE), TypeError, "`second` is an array of torch"),
        (
            lambda: solve(
                normal_equations(np.stack([X, X]), np.stack([Y, Y]), features=PHI), ridge=1.0
            ).predict(np.stack([X, X, X])),
            ValueError,
            "broadcast with those of the fit, (2,), got (3,)",
        ),
        (lambda: solve(normal_equations(X[:0], Y[:0], features=PHI), ridge=1.0), ValueError, "row"),
        (lambda: solve(PHI, ridge=1.0), TypeError, "NormalEquations"),
        (lambda: rfx.kernel_regression(X, X, Y), TypeError, "either"),
        (
            lambda: rfx.kernel_regression(X, X, Y, kernel=KERNEL, features=PHI),
            TypeError,
            "either",
        ),
        (lambda: rfx.kernel_regression(X, X, Y, kernel=KERNEL, return_state=True), TypeError, "st"),
        (lambda: rfx.kernel_regression(X, X, Y[:2], kernel=KERNEL), ValueError, "`points`"),
        (
            lambda: rfx.kernel_regression(X, X, Y, kernel=KERNEL, weights=-W),
            ValueError,
            "at least 0",
        ),
    ],
)
def test_refusals_say_what_was_wanted(call, error, words) -> None:
    with pytest.raises(error) as caught, np.errstate(all="ignore"):
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
