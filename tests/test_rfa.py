"""Maps of directions: random feature attention, and what its kernel refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.features import OPRF, RFA, Combination, Generalized, Normalized, Positive, Trigonometric
from rfx.kernels import ArcCosine, Gaussian, SkewedChiSquared, Softmax
from rfx.kernels import Normalized as NormalizedKernel
from rfx.projections import IID, Hadamard
from rfx.testing import ArrayLibrary, assert_agrees, z_score


def points(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("bandwidth", [0.4, 1.0, 3.0])
def test_its_kernel_gives_softmax_attention_on_unit_vectors(bandwidth: float) -> None:
    """Of the Gaussian kernel only exp(q·k/σ²) differs from key to key."""
    q, k, v = 3.0 * points(3, 2, 21, 8)
    kernel = RFA(8, bandwidth).kernel
    exact = rfx.kernel_attention(q, k, v, kernel=kernel)
    weights = np.exp(unit(q) @ np.swapaxes(unit(k), -1, -2) / bandwidth**2)
    assert_agrees(exact, weights @ v / np.sum(weights, axis=-1, keepdims=True), scale=8)


@pytest.mark.parametrize("bandwidth", [0.7, 2.0])
def test_attention_tends_to_softmax_attention_on_unit_vectors(bandwidth: float) -> None:
    """With σ² in place of 1/σ² the frequencies would be those of another kernel."""
    q, k, v = 3.0 * points(3, 40, 8)
    phi = RFA(2**15, bandwidth).draw(8, seed=0, like=q)
    exact = rfx.kernel_attention(unit(q), unit(k), v, kernel=Softmax(bandwidth**-2))
    swapped = rfx.kernel_attention(unit(q), unit(k), v, kernel=Softmax(bandwidth**2))
    found = rfx.linear_attention(q, k, v, features=phi)
    assert np.max(np.abs(found - exact)) < 0.06
    assert np.max(np.abs(found - swapped)) > 0.3


def test_attention_of_the_arc_cosine_kernel_is_that_of_directions() -> None:
    q, k, v = points(3, 40, 8)
    phi = rfx.features.named("rfa-arccos", num_features=2**14).draw(8, seed=0, like=q)
    found = rfx.linear_attention(q, k, v, features=phi)
    exact = rfx.kernel_attention(unit(q), unit(k), v, kernel=ArcCosine(1))
    assert np.max(np.abs(found - exact)) < 0.01
    assert_agrees(rfx.linear_attention(3.0 * q, 0.1 * k, v, features=phi), found, scale=64)


BANDWIDTHS = (0.5, 1.0, 2.0, 0.8)


def test_bandwidths_of_axes_are_those_of_the_kernel_and_of_the_variance() -> None:
    x, y = points(3, 4), points(2, 4, seed=6)
    spec = RFA(10, BANDWIDTHS, IID())
    far = (unit(x)[:, None, :] - unit(y)[None, :, :]) / np.asarray(BANDWIDTHS)
    assert_agrees(spec.kernel(x, y), np.exp(-0.5 * np.sum(far**2, axis=-1)))
    phi = spec.draw(4, seed=0, like=x, heads=4000)
    found = rfx.gram(*(np.broadcast_to(a, (4000, *a.shape)) for a in (x, y)), features=phi)
    variance = spec.variance(x, y)
    kernel = np.exp(-0.5 * np.sum(far**2, axis=-1))
    assert_agrees(variance, (1.0 - kernel**2) ** 2 / 10.0, scale=4)
    assert np.all(np.abs(z_score(found, kernel, variance=variance)) < 5)
    assert np.all(np.abs(z_score((found - kernel) ** 2, variance)) < 5)


def test_a_map_with_trained_bandwidths_is_the_map_of_those() -> None:
    x, y = points(3, 4), points(2, 4, seed=6)
    plain, other = (RFA(10, b).draw(4, seed=0, like=x) for b in (1.0, BANDWIDTHS))
    trained = plain.with_arrays(plain.arrays() | {"query_transform": 1.0 / np.asarray(BANDWIDTHS)})
    assert_agrees(rfx.gram(x, y, features=trained), rfx.gram(x, y, features=other), scale=4)
    assert_agrees(trained.variance(x, y), other.variance(x, y), scale=4)
    assert RFA.changes_kernel


def test_structured_frequencies_serve() -> None:
    x = points(5, 8)
    phi = RFA(32, 2.0, Hadamard()).draw(8, seed=0, like=x)
    again = Trigonometric(32, Gaussian(2.0), Hadamard()).draw(8, seed=0, like=x)
    want = rfx.gram(unit(x), unit(x), features=again)
    assert_agrees(rfx.gram(x, x, features=phi), want, scale=16)


def test_what_a_base_fits_is_fitted_to_directions() -> None:
    q, k = 4.0 * points(2, 100, 8) + 1.0
    wrapped = Normalized(OPRF(16)).fit(q, k, seed=0)
    base = OPRF(16).fit(unit(q), unit(k), seed=0)
    assert_agrees(wrapped.arrays()["query_weight"], base.arrays()["query_weight"], scale=4)
    assert_agrees(wrapped.variance(q, k), base.variance(unit(q), unit(k)), scale=64)
    assert_agrees(rfx.gram(q, k, features=wrapped), rfx.gram(unit(q), unit(k), features=base))
    assert Normalized(OPRF(16)).needs == "points"
    assert Normalized(Positive(16)).needs == "nothing"


NOTHING = r"`{}` must have no point that is 0, which has no direction"


def test_points_that_are_zero_are_refused_by_name(lib: ArrayLibrary) -> None:
    whole = points(6, 4)
    whole[2] = 0.0
    x, zero = lib.convert(points(6, 4, seed=6)), lib.convert(whole)
    for spec in (RFA(8), Normalized(Generalized(8, epsilon=0.0))):
        phi = spec.draw(4, seed=0, like=x)
        for name, call in (
            ("x", lambda phi=phi: phi.query(zero)),
            ("y", lambda phi=phi: phi.key(zero)),
            ("x", lambda phi=phi: rfx.gram(zero, x, features=phi)),
            ("y", lambda phi=phi: phi.variance(x, zero)),
            ("query", lambda phi=phi: rfx.linear_attention(zero, x, x, features=phi)),
            ("key", lambda phi=phi: rfx.linear_attention(x, zero, x, features=phi)),
            ("key", lambda phi=phi: rfx.kernel_attention(x, zero, x, kernel=phi.kernel)),
        ):
            with pytest.raises(ValueError, match=NOTHING.format(name)):
                call()


@pytest.mark.parametrize("is_causal", [False, True])
def test_masked_keys_may_be_anything(lib: ArrayLibrary, is_causal: bool) -> None:
    q, k, v = points(3, 2, 9, 4)
    k[:, 4], k[:, 7] = 0.0, np.nan
    kept = np.isin(np.arange(9), (4, 7), invert=True)
    q_, k_, v_ = map(lib.convert, (q, k, v))
    phi = RFA(8).draw(4, seed=0, like=q_)
    for mask in (kept, kept[None, :]):
        call = {"mask": lib.convert(mask, "bool"), "is_causal": is_causal}
        found = rfx.linear_attention(q_, k_, v_, features=phi, **call)
        want = reference.linear_attention(q_, k_, v_, features=phi, mask=mask, is_causal=is_causal)
        cancels = reference.conditioning(q_, k_, features=phi, mask=mask, is_causal=is_causal)
        assert_agrees(found, want, scale=16 * cancels * (1.0 + np.abs(want)), size=4.0)
        exact = rfx.kernel_attention(q_, k_, v_, kernel=phi.kernel, **call)
        weights = (
            np.exp(unit(q) @ np.swapaxes(unit(np.where(kept[:, None], k, 1.0)), -1, -2)) * kept
        )
        if is_causal:
            weights = np.tril(weights)
        assert_agrees(exact, weights @ v / np.sum(weights, axis=-1, keepdims=True), scale=8)


def test_points_outside_the_domain_of_another_kernel_are_refused() -> None:
    x = np.abs(points(6, 4))
    outside = x.copy()
    outside[3, 1] = -2.0
    phi = Trigonometric(16, SkewedChiSquared(1.0)).draw(4, seed=0, like=x)
    for name, call in (
        ("x", lambda: rfx.gram(outside, x, features=phi)),
        ("key", lambda: rfx.linear_attention(x, outside, x, features=phi)),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must have coordinates above -1.0"):
            call()
    mask = np.arange(6) != 3
    found = rfx.linear_attention(x, outside, x, features=phi, mask=mask)
    assert_agrees(found, rfx.linear_attention(x, x, x, features=phi, mask=mask))


def test_nothing_is_known_of_points_that_are_traced() -> None:
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(points(6, 4), dtype="float32")
    phi = RFA(8).draw(4, seed=0, like=x)
    traced = jax.jit(lambda x: rfx.linear_attention(x, x, x, features=phi))(x.at[2].set(0.0))
    assert np.all(np.isfinite(to_numpy(traced)))


def test_what_is_refused() -> None:
    plain = Positive(8)
    nested = Normalized(plain)
    with pytest.raises(TypeError, match=r"`base` must be a spec .*, got Normalized"):
        Normalized(nested)
    with pytest.raises(TypeError, match="`base` must be one map, got the composite Combination"):
        Normalized(Combination((plain,), ((1.0, (0,)),)))
    skewed = Normalized(Trigonometric(8, SkewedChiSquared()))
    with pytest.raises(TypeError, match="`base` must make features of the points as they are"):
        skewed.draw(4, seed=0, like=np.zeros(1))
    with pytest.raises(ValueError, match="`bandwidth` must be positive and finite, got 0"):
        RFA(8, (1.0, 0.0))
    with pytest.raises(TypeError, match="`bandwidth` must be a number, got 'wide'"):
        RFA(8, "wide")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("one for each of dim=4 coordinates, got 3")):
        RFA(8, (1.0, 2.0, 3.0)).draw(4, seed=0, like=np.zeros(1))
    with pytest.raises(ValueError, match="`num_features` must be a multiple of 2"):
        RFA(7)


def test_rescaled_kernels_refuse_other_dimensions() -> None:
    kernel = RFA(8, BANDWIDTHS).kernel
    assert isinstance(kernel, NormalizedKernel)
    with pytest.raises(ValueError, match="`x` must have 4 coordinates, one for each factor"):
        kernel(points(2, 3), points(2, 3))
    with pytest.raises(TypeError, match="`factors` must be a tuple of numbers"):
        rfx.kernels.Rescaled(Gaussian(), 2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`kernel` must be a record"):
        rfx.kernels.Rescaled("gaussian", (2.0,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`factors` must be positive and finite, got -1"):
        rfx.kernels.Rescaled(Gaussian(), (2.0, -1))
