"""Universal random features: neurons as products of features, on NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import optimize, special

import rfx
from rfx._xp import to_numpy
from rfx.features import Universal
from rfx.features._spectrum import EXACT, series
from rfx.features.universal import _best_root, _growth, _planned
from rfx.kernels import Neuron
from rfx.projections import IID, Orthogonal
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees, z_score

FUNCTIONS = {
    "gaussian": lambda u: np.exp(-0.5 * u**2),
    "sech": lambda u: 1.0 / np.cosh(u),
    "cos": np.cos,
    "sin": np.sin,
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "softplus": lambda u: np.logaddexp(0.0, u),
    "gelu": lambda u: 0.5 * u * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (u + 0.044715 * u**3))),
}
SMOOTH = [name for name in FUNCTIONS if name not in EXACT]


def swish(u: Any) -> Any:
    return u / (1.0 + np.exp(-u))


def points(dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and weights of norms near 1, some along one another."""
    x, w = np.random.default_rng(5).standard_normal((2, 4, dim)) / dim**0.5
    w[0], w[1] = x[0], -x[1]
    return x, w


def waves(spec: Universal, dim: int, u: np.ndarray) -> np.ndarray:
    """The series that a map with given norms samples."""
    plan = _planned(spec, dim, *spec.norms)
    size = np.exp(plan.log_share + plan.log_weight)
    return np.cos(u[..., None] * plan.frequency + plan.phase) @ size


@pytest.mark.parametrize("name", EXACT)
def test_known_waves_are_the_function_to_rounding(name: str) -> None:
    u = np.linspace(-20.0, 20.0, 2001)
    assert_agrees(EXACT[name]()(u), FUNCTIONS[name](u), scale=4)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(("limit", "tolerance"), [(2.0, 1e-3), (4.0, 0.01), (8.0, 0.05)])
def test_a_series_is_within_its_tolerance(name: str, limit: float, tolerance: float) -> None:
    found = series(FUNCTIONS[name], limit, tolerance, lambda theta: 1.5 * theta)
    u = np.linspace(-limit, limit, 10_001)
    error = np.max(np.abs(found(u) - FUNCTIONS[name](u)))
    assert 0.5 * tolerance < error <= tolerance  # all of it is used


def test_a_dearer_series_is_of_lower_frequencies() -> None:
    cheap, dear = (series(np.tanh, 4.0, 0.01, lambda t, c=c: c * t) for c in (0.1, 2.0))
    cost = [np.sum(s.amplitude * np.exp(2.0 * s.frequency)) for s in (cheap, dear)]
    assert cost[1] < 0.8 * cost[0]


def test_the_series_of_a_map_is_its_kernel_within_the_limit() -> None:
    for function in (*SMOOTH, swish):
        spec = Universal(8, function=function, norms=(1.0, 2.0), limit=3.0, tolerance=0.02)
        u = np.linspace(-3.0, 3.0, 1001)
        kernel = np.diagonal(spec.kernel(u[:, None], np.ones((1001, 1))))
        assert np.max(np.abs(waves(spec, 8, u) - kernel)) <= 0.02
        assert not spec.unbiased


@pytest.mark.parametrize(("name", "bias"), [("gaussian", False), ("tanh", True), ("gelu", False)])
def test_mean_and_variance_over_draws_are_the_series_and_the_closed_form(
    name: str, bias: bool
) -> None:
    """With 1 feature, and with 5, each of which has a part of the law of the waves."""
    x, w = (0.35 * a for a in points())
    if bias:
        x, w = (np.concatenate([a, np.full((4, 1), b)], axis=-1) for a, b in ((x, 9.0), (w, 0.4)))
    for m in (1, 5):
        spec = Universal(m, name, norms=(0.5, 0.5), bias=bias, projection=IID())
        phi = spec.draw(x.shape[-1], seed=3, like=x, heads=4000)
        found = rfx.gram(*(np.broadcast_to(a, (4000, *a.shape)) for a in (x, w)), features=phi)
        want = waves(spec, 8, spec.kernel.preactivations(x, w))
        variance = spec.variance(x, w)
        assert np.all(np.abs(z_score(found, want, variance=variance)) < 5)
        assert np.all(np.abs(z_score((found - want) ** 2, variance)) < 5)
        assert spec.unbiased == (name in EXACT)
        assert spec.replace(projection=Orthogonal()).variance(x, w) is None


def test_the_bias_enters_exactly_and_the_last_coordinate_of_inputs_does_not() -> None:
    """So the estimates of a wave with a bias are those without, at a shifted phase."""
    x, w = points()
    plain = Universal(16, "cos", norms=(1.0, 1.0)).draw(8, seed=0, like=x)
    biased = Universal(16, "cos", norms=(1.0, 1.0), bias=True).draw(9, seed=0, like=x)
    sine = Universal(16, "sin", norms=(1.0, 1.0)).draw(8, seed=0, like=x)
    cosine, minus_sine = (
        rfx.gram(
            np.concatenate([x, np.full((4, 1), 7.0)], axis=-1),
            np.concatenate([w, np.full((4, 1), b)], axis=-1),
            features=biased,
        )
        for b in (0.0, np.pi / 2.0)
    )
    assert_agrees(cosine, rfx.gram(x, w, features=plain), scale=4)
    assert_agrees(minus_sine, -rfx.gram(x, w, features=sine), scale=4)


def test_the_parameter_of_exponential_features_has_the_least_second_moment() -> None:
    for product in (0.05, 0.7, 3.0, 20.0):
        for dim in (1, 8, 64):

            def moment(s: float, product: float = product, dim: int = dim) -> float:
                return dim * np.log((1.0 + s * s) / (2.0 * s)) + 2.0 * s * product

            best = optimize.minimize_scalar(moment, bounds=(1e-3, 1.0), method="bounded")
            at = np.asarray([product])
            assert np.isclose(_best_root(at, dim)[0], best.x, atol=1e-4)
            assert np.isclose(2.0 * _growth(at, dim, 1.0)[0], best.fun, rtol=1e-9)


def test_fitted_norms_are_roots_of_mean_squares_and_the_best_ones() -> None:
    x, w = (size * a for size, a in zip((3.0, 0.3), points(), strict=True))
    spec = Universal(1, projection=IID())
    phi = spec.fit(x, w, seed=0)
    sizes = [np.sqrt(np.mean(np.sum(a**2, axis=-1))) for a in (x, w)]
    fixed = Universal(1, norms=tuple(sizes), projection=IID())  # type: ignore[arg-type]
    assert_agrees(phi.variance(x, w), fixed.variance(x, w), scale=8)
    best = np.mean(np.log(fixed.variance(x, w)))
    for change in ((2.0, 1.0), (0.5, 1.0), (2.0, 0.5), (0.5, 2.0)):
        other = fixed.replace(norms=tuple(c * s for c, s in zip(change, sizes, strict=True)))
        assert np.mean(np.log(other.variance(x, w))) > best


def test_heads_are_fitted_apart() -> None:
    x, w = (np.stack([a, 0.2 * a]) for a in points())
    spec = Universal(8, "tanh", projection=IID())
    phi = spec.fit(x, w, seed=0)
    assert phi.heads == 2
    for head in range(2):
        own = spec.fit(x[head], w[head], seed=0)
        assert_agrees(phi.variance(x, w)[head], own.variance(x[head], w[head]), scale=8)


FEW = [found for found in array_libraries() if found.library != "jax"]


@pytest.mark.parametrize("library", FEW, ids=str)
def test_variance_is_that_of_every_library(library: ArrayLibrary) -> None:
    """But for JAX, which would take 8 seconds to compile it step by step."""
    x, w = points()
    spec = Universal(8, "tanh", norms=(1.0, 1.0), projection=IID())
    found = spec.variance(library.convert(x), library.convert(w))
    assert_agrees(found, spec.variance(x, w), scale=64)


@pytest.mark.parametrize("name", [*FUNCTIONS, "relu"])
def test_the_kernel_is_a_layer(lib: ArrayLibrary, name: str) -> None:
    x, w = points()
    function = FUNCTIONS.get(name, lambda u: np.maximum(u, 0.0))
    arrays = lib.convert(3.0 * x), lib.convert(2.0 * w)
    assert_agrees(Neuron(name)(*arrays), function(6.0 * x @ w.T), scale=8)
    biased = function(6.0 * x[:, :-1] @ w[:, :-1].T + 2.0 * w[:, -1])
    assert_agrees(Neuron(name, bias=True)(*arrays), biased, scale=8)


def test_kernels_and_features_of_large_points_are_numbers() -> None:
    x = np.full((1, 4), 1e15, dtype=np.float32)
    for name in ("gaussian", "sech"):
        assert to_numpy(Neuron(name)(x, x)) == 0.0
    weights = x.astype(np.float64) * 1e-8
    phi = Universal(8).fit(weights, weights, seed=0)
    assert np.all(np.isfinite(phi.query(weights).log_scale))


def test_what_is_refused() -> None:
    like = np.zeros(1)
    with pytest.raises(ValueError, match=r"`function` must be one of gaussian, .*, got 'softmax'"):
        Universal(8, "softmax")
    with pytest.raises(TypeError, match="`function` must be a name or a hashable callable, got 3"):
        Universal(8, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`bias` must be True or False, got 1"):
        Universal(8, bias=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`norms` must be a pair, of inputs and of weights, got 1"):
        Universal(8, norms=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`norms` must be positive and finite, got 0"):
        Universal(8, norms=(1.0, 0.0))
    with pytest.raises(ValueError, match="`tolerance` must be positive and finite, got -1"):
        Universal(8, "tanh", tolerance=-1.0)
    with pytest.raises(ValueError, match=r"`tolerance` must be above .* got 0\.001; raise it"):
        Universal(8, "relu", norms=(1.0, 1.0), tolerance=0.001).draw(4, seed=0, like=like)
    with pytest.raises(ValueError, match="`function` must be elementwise, and finite where"):
        Universal(8, np.sum, norms=(1.0, 1.0)).draw(4, seed=0, like=like)
    with pytest.raises(ValueError, match="`dim` must be at least 2 with bias=True, got 1"):
        Universal(8, norms=(1.0, 1.0), bias=True).draw(1, seed=0, like=like)
    with pytest.raises(TypeError, match="is fitted to data and cannot be drawn"):
        Universal(8).draw(4, seed=0, like=like)
