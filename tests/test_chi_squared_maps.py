"""Features of the χ² kernels: the ones that are exact sums, and the skewed ones that are random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.features import AdditiveChiSquared, Trigonometric
from rfx.kernels import SkewedChiSquared
from rfx.projections import IID, Orthogonal
from rfx.testing import ArrayLibrary, assert_agrees, z_score

SKEWED = SkewedChiSquared(skewedness=0.3)


def histograms(*shape: int, seed: int = 0) -> np.ndarray:
    """Points with coordinates at least 0, some of them 0."""
    points = np.random.default_rng(seed).gamma(0.7, size=shape)
    return np.where(points < 0.05, 0.0, points)


@pytest.mark.parametrize(("steps", "interval"), [(1, None), (2, None), (3, None), (5, 0.3)])
def test_additive_features_are_those_of_the_paper(steps: int, interval: float | None) -> None:
    x = histograms(7, 3)
    phi = AdditiveChiSquared(steps, interval).draw(3, seed=0, like=x)
    length = interval or {1: 0.8, 2: 0.5, 3: 0.4}[steps]
    want = [np.sqrt(x * length)]
    for j in range(1, steps):
        size = np.sqrt(2.0 * x * length / np.cosh(np.pi * j * length))
        angle = j * length * np.log(np.where(x > 0.0, x, 1.0))
        want += [size * np.cos(angle), size * np.sin(angle)]
    assert phi.num_features == 3 * (2 * steps - 1)
    assert np.allclose(phi.query(x).exp(), np.concatenate(want, axis=-1), rtol=1e-13, atol=0.0)


def test_additive_estimates_approach_the_kernel_with_more_steps() -> None:
    x, y = histograms(40, 5, seed=1), histograms(40, 5, seed=2)
    exact = rfx.kernels.AdditiveChiSquared()(x, y)
    errors = []
    for steps, interval in ((1, 0.8), (2, 0.5), (3, 0.4), (8, 0.3), (40, 0.1)):
        phi = AdditiveChiSquared(steps, interval).draw(5, seed=0, like=x)
        errors.append(np.abs(rfx.gram(x, y, features=phi) - exact).max() / exact.max())
    assert np.all(np.diff(errors) < 0.0)
    assert errors[-1] < 1e-5
    assert np.all(phi.variance(x, y) == 0.0)


@pytest.mark.parametrize("heads", [None, 2])
def test_additive_features_agree_on_every_library(lib: ArrayLibrary, heads: int | None) -> None:
    x = histograms(2, 700, 6).astype(np.float32)
    x[0, 3] = 0.0
    phi = AdditiveChiSquared(3).draw(6, seed=0, like=lib.convert(x), heads=heads)
    out = to_numpy(phi.query(lib.convert(x)).exp())
    log, value = reference.features(phi, x, "query")
    assert_agrees(out, value * np.exp(log), scale=8.0)
    q, k, v = x[:, :40], x[:, 60:100], np.cos(np.arange(2 * 40 * 3.0)).reshape(2, 40, 3)
    v = v.astype(np.float32)
    for is_causal in (False, True):
        call = {"features": phi, "is_causal": is_causal}
        got = rfx.linear_attention(*map(lib.convert, (q, k, v)), **call)
        want = reference.linear_attention(q, k, v, **call)
        scale = 8.0 * reference.conditioning(q, k, **call)
        assert_agrees(got, want, scale=scale, size=1.0)


def test_the_blocks_of_numpy_are_the_portable_code() -> None:
    x = histograms(3, 700, 5)
    x[1, 2, 3], x[2, 5] = np.nan, 0.0
    phi = AdditiveChiSquared(2).draw(5, seed=0, like=x)
    with rfx.options(implementation="numpy-chi2"):
        fast = phi.query(x)
    with rfx.options(implementation="portable"):
        plain = phi.query(x)
    assert np.allclose(fast.exp(), plain.exp(), rtol=1e-13, atol=0.0, equal_nan=True)
    assert np.isnan(fast.exp()).all(axis=-1).sum() == 1
    assert not np.isnan(x[1, 2]).all()  # and NaN went no further than its own row


def test_additive_features_are_finite_from_the_smallest_to_the_largest_numbers() -> None:
    x = np.asarray([[1e-38, 0.0], [3e38, 1e-38], [0.0, 0.0], [1e-3, 1e30]], dtype=np.float32)
    phi = AdditiveChiSquared(3).draw(2, seed=0, like=x)
    features = phi.query(x)
    assert np.abs(features.value).max() <= 1.0
    assert_agrees(features.exp(), np.exp(reference.features(phi, x, "query")[0])
                  * reference.features(phi, x, "query")[1], scale=90.0)  # fmt: skip


def test_gradients_of_additive_features_are_those_of_finite_differences() -> None:
    torch = pytest.importorskip("torch")
    x = torch.asarray(0.1 + histograms(2, 3)).requires_grad_()
    phi = AdditiveChiSquared(2).draw(3, seed=0, like=x.detach())
    arrays = {n: a.clone().requires_grad_(n != "fingerprint") for n, a in phi.arrays().items()}

    def features(x, frequency, amplitude):
        own = arrays | {"frequency": frequency, "amplitude": amplitude}
        return phi.with_arrays(own).query(x).exp()

    assert torch.autograd.gradcheck(features, (x, arrays["frequency"], arrays["amplitude"]))
    at_zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    phi.query(at_zero).exp().sum().backward()
    assert torch.all(at_zero.grad == 0.0)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("projection", [IID(), Orthogonal()], ids=repr)
def test_skewed_estimates_have_the_kernels_mean_and_the_variance(offset, projection) -> None:
    spec = Trigonometric(64, kernel=SKEWED, projection=projection, offset=offset)
    x, y = histograms(4, 6, seed=3), histograms(4, 6, seed=4)
    draws = 4000
    wide = [np.broadcast_to(a, (draws, *a.shape)) for a in (x, y)]
    found = rfx.gram(*wide, features=spec.draw(6, seed=5, like=x, heads=draws))
    exact = SKEWED(x, y)
    assert np.abs(z_score(found, exact)).max() < 5.0
    want = spec.variance(x, y)
    if projection == IID():
        assert np.abs(z_score(np.square(found - exact), want)).max() < 5.0
    else:
        assert want is None


def test_skewed_features_are_exact_at_equal_points(lib: ArrayLibrary) -> None:
    x = lib.convert(histograms(5, 6).astype(np.float32))
    phi = Trigonometric(64, kernel=SKEWED).draw(6, seed=0, like=x)
    diagonal = np.diagonal(to_numpy(rfx.gram(x, x, features=phi)))
    assert np.abs(diagonal - 1.0).max() < 1e-6


@pytest.mark.parametrize("spec", [AdditiveChiSquared(2), Trigonometric(8, kernel=SKEWED)], ids=repr)
def test_histograms_must_be_in_the_domain(spec: rfx.features.Spec) -> None:
    x = histograms(4, 3)
    phi = spec.draw(3, seed=0, like=x)
    bad = x - 2.0
    for call in (
        lambda: phi.query(bad),
        lambda: rfx.gram(x, bad, features=phi),
        lambda: rfx.linear_attention(x, bad, x, features=phi),
        lambda: phi.variance(bad, x),
    ):
        with pytest.raises(ValueError, match=r"`(x|y|key)` must have"):
            call()
    mask = np.asarray([True, True, False, True])
    bad = np.where(mask[:, None], x, -5.0)
    kept = rfx.linear_attention(x, bad, x, features=phi, mask=mask)
    assert np.array_equal(kept, rfx.linear_attention(x, x, x, features=phi, mask=mask))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "`num_steps` must be at least 1, got 0"),
        ((2.5,), TypeError, "`num_steps` must be an int, got 2.5"),
        ((4,), ValueError, "`interval` must be given for num_steps=4"),
        ((2, -1.0), ValueError, "`interval` must be positive and finite, got -1.0"),
    ],
)
def test_additive_hyperparameters_are_checked(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        AdditiveChiSquared(*arguments)


def test_chi_squared_maps_are_saved_and_loaded(tmp_path: Path) -> None:
    x = histograms(4, 3)
    for spec in (AdditiveChiSquared(3), Trigonometric(8, kernel=SKEWED)):
        phi = spec.draw(3, seed=0, like=x, heads=2)
        rfx.features.save(phi, tmp_path / "map.npz")
        other = rfx.features.load(tmp_path / "map.npz", like=x)
        assert other.spec == spec
        x2 = np.stack([x, x])
        assert np.array_equal(other.query(x2).exp(), phi.query(x2).exp())
