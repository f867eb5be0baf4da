"""Moments are those of NumPy, however they are gathered, and fitting reads nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rfx.features import Moments, PointMoments, named
from rfx.testing import ArrayLibrary

FITTED = ("favor++", "favor#", "aderf", "sderf", "dense")


def points(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) * np.linspace(0.5, 2.0, shape[-1]) + 1.0


def assert_moments(found: PointMoments, rows: np.ndarray) -> None:
    assert found.count == len(rows)
    assert np.allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    assert np.allclose(found.covariance, np.cov(rows.T, bias=True), rtol=1e-10, atol=1e-12)
    assert np.allclose(found.second, rows.T @ rows / len(rows), rtol=1e-10, atol=1e-12)
    assert np.array_equal(found.low, rows.min(axis=0))


def assert_equal(one: Moments, two: Moments) -> None:
    for mine, its in ((one.query, two.query), (one.key, two.key)):
        for name in ("count", "mean", "covariance", "low"):
            have, want = getattr(mine, name), getattr(its, name)
            assert have.shape == want.shape
            assert np.allclose(have, want, rtol=1e-12, atol=1e-14), name


def test_moments_are_those_of_each_head(lib: ArrayLibrary) -> None:
    """Of the pooled query heads of a group; batch axes are pooled."""
    q, k = points(2, 6, 31, 4), points(2, 3, 17, 4, seed=1)
    q_, k_ = lib.convert(q, "float32"), lib.convert(k, "float32")
    q, k = q.astype(np.float32).astype(float), k.astype(np.float32).astype(float)
    found = Moments.of(q_, k_)
    assert (found.heads, found.dim) == (3, 4)
    for head in range(3):
        one = found.head(head)
        assert_moments(one.query, q[:, 2 * head : 2 * head + 2].reshape(-1, 4))
        assert_moments(one.key, k[:, head].reshape(-1, 4))
    pooled = Moments.of(q_, k_, per_head=False)
    assert pooled.heads is None
    assert_moments(pooled.query, q.reshape(-1, 4))
    assert_moments(pooled.key, k.reshape(-1, 4))
    assert Moments.of(q_[0, 0, ...], k_[0, 0, ...]).heads is None


def test_masked_positions_are_absent_even_nan(lib: ArrayLibrary) -> None:
    q, k = points(2, 3, 20, 4), points(2, 3, 20, 4, seed=1)
    keep = np.arange(20) < np.asarray([7, 20])[:, None]
    mask = np.broadcast_to(keep[:, None], (2, 1, 20))
    bad_q, bad_k = (np.where(mask[..., None], a, np.nan) for a in (q, k))
    masks = {"mask": lib.convert(mask), "query_mask": lib.convert(mask)}
    found = Moments.of(lib.convert(bad_q), lib.convert(bad_k), **masks)
    wide = lib.convert(np.zeros(1)).dtype == lib.convert(np.zeros(1), "float64").dtype
    for head in range(3):
        rows = np.concatenate([q[0, head, :7], q[1, head]])
        assert found.query.count[head] == 27
        tolerance = 1e-12 if wide and "float64" in lib.dtypes else 1e-6
        assert np.allclose(found.query.mean[head], rows.mean(axis=0), rtol=tolerance)


def test_batches_merge_to_the_moments_of_all() -> None:
    q, k = points(3, 60, 4), points(3, 90, 4, seed=1)
    parts = [Moments.of(q[:, 20 * i : 20 * i + 20], k[:, 30 * i : 30 * i + 30]) for i in range(3)]
    whole = Moments.of(q, k)
    assert_equal(parts[0].merge(parts[1]).merge(parts[2]), whole)
    assert_equal(parts[0].merge(parts[1].merge(parts[2])), whole)
    assert_equal(parts[2].merge(parts[0]).merge(parts[1]), whole)


def test_a_moving_average_is_a_mixture() -> None:
    q, k = points(3, 60, 4), points(3, 60, 4, seed=1)
    old, new = Moments.of(q[:, :30], k[:, :30]), Moments.of(q[:, 30:] + 5.0, k[:, 30:])
    found = old.averaged(new, 0.25)
    want = 0.75 * old.query.second + 0.25 * new.query.second
    assert np.allclose(found.query.second, want, rtol=1e-12)
    assert np.allclose(found.query.mean, 0.75 * old.query.mean + 0.25 * new.query.mean, rtol=1e-12)
    assert_equal(old.averaged(new, 0.5), old.merge(new))
    assert np.allclose(old.averaged(new, 1.0).key.covariance, new.key.covariance, rtol=1e-12)


def test_saved_moments_come_back(tmp_path: Path) -> None:
    moments = Moments.of(points(3, 60, 4), points(3, 60, 4, seed=1))
    moments.save(tmp_path / "moments")
    assert_equal(Moments.load(tmp_path / "moments"), moments)
    (tmp_path / "other").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"must be moments written by Moments.save, got .*other"):
        Moments.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        Moments.load(tmp_path / "missing")


@pytest.mark.parametrize("name", FITTED)
def test_a_map_fitted_to_moments_is_the_map_fitted_to_the_points(name: str) -> None:
    q, k = points(3, 60, 4), points(3, 60, 4, seed=1)
    spec = named(name, num_features=12)
    one, two = spec.fit(q, k, seed=3), spec.fit_moments(Moments.of(q, k), seed=3, like=q)
    assert one.arrays().keys() == two.arrays().keys()
    for array, same in zip(one.arrays().values(), two.arrays().values(), strict=True):
        assert np.array_equal(array, same)


def test_pooled_moments_serve_any_number_of_heads() -> None:
    q, k = points(60, 4), points(60, 4, seed=1)
    spec, moments = named("sderf", num_features=12), Moments.of(q, k)
    assert spec.fit_moments(moments, seed=0, like=q).heads is None
    phi = spec.fit_moments(moments, seed=0, like=q, heads=3)
    assert phi.heads == 3
    rho = phi.fitted["rho"]
    assert np.array_equal(rho[0], rho[2])
    weight = phi.arrays()["query_weight"]
    assert not np.any(weight[0] == weight[2])
    by_head = Moments.of(np.stack([q, q]), np.stack([k, k]))
    with pytest.raises(ValueError, match="`heads` must be 2, the heads of the moments, got 3"):
        spec.fit_moments(by_head, seed=0, like=q, heads=3)


def test_what_cannot_be_fitted_is_refused() -> None:
    q = points(3, 20, 4)
    nan, hidden = q.copy(), np.ones((3, 20), dtype=bool)
    nan[1, 5, 2], hidden[2] = np.nan, False
    with pytest.raises(ValueError, match="`query` of head 1 holds NaN or infinity"):
        Moments.of(nan, q)
    with pytest.raises(ValueError, match=r"`key` of head 1 holds NaN or infinity .*; mask those"):
        named("dense", num_features=8).fit(q, nan, seed=0)
    with pytest.raises(ValueError, match="`key` of head 2 has no position left to fit a map to"):
        Moments.of(q, q, mask=hidden)
    with pytest.raises(ValueError, match=r"`query_mask` must have shape \(20,\) or \(3, 20\)"):
        Moments.of(q, q, query_mask=hidden[:, :7])
    with pytest.raises(ValueError, match=r"`other` must have the heads and axes \(3, 4\), got"):
        Moments.of(q, q).merge(Moments.of(q[:2], q[:2]))
    with pytest.raises(TypeError, match="`other` must be a record of Moments, got ndarray"):
        Moments.of(q, q).merge(q)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`rate` must be above 0 and at most 1, got 1\.5"):
        Moments.of(q, q).averaged(Moments.of(q, q), 1.5)
    with pytest.raises(TypeError, match="`moments` must be a record of Moments, got ndarray"):
        named("dense", num_features=8).fit_moments(q, seed=0, like=q)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Optimal is fitted to points, .*; use spec.fit\(query"):
        named("optimal", num_features=8).fit_moments(Moments.of(q, q), seed=0, like=q)
    with pytest.raises(TypeError, match=r"cannot be drawn without any; use spec.fit\(.*fit_mom"):
        named("dense", num_features=8).draw(4, seed=0, like=q)
