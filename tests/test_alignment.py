"""Alignment leaves the kernel as it is, and its parameters are the best of their family."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

import rfx
from rfx import reference
from rfx.features import GERF, OPRF, SDERF, Aligned, DrawnMap, Moments, Positive, Spec, named
from rfx.kernels import Gaussian, Softmax
from rfx.projections import IID, Orthogonal
from rfx.testing import ArrayLibrary, assert_agrees

KERNELS = pytest.mark.parametrize("kernel", [Softmax(), Softmax(0.7), Gaussian(1.7)], ids=repr)
ALIGNMENTS = [("mean", None), ("low", None), ("mean", "diagonal"), ("mean", "full")]
ALIGNMENTS += [(None, "diagonal"), (None, "full")]


def two_sets(dim: int = 6, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys with means, and with different spreads along axes of their own."""
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, n, dim))
    turn = np.linalg.qr(rng.standard_normal((2, dim, dim)))[0]
    q = q * np.geomspace(0.3, 2.0, dim) @ turn[0] + 0.5
    k = k * np.geomspace(1.5, 0.2, dim) @ turn[1] - rng.random(dim)
    return q, k


def core_logs(phi: DrawnMap, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Log of the kernel as its parts: u² z·z' of placed points, and the terms of either side."""
    unit = phi.kernel.unit(q.shape[-1])  # type: ignore[attr-defined]
    parts = []
    for name, x in (("query", q), ("key", k)):
        side = phi.side(name)
        z = side.place(x)
        row = side._replace(quadratic=None).row_term(z)
        if side.linear is None and name == "key":  # it is a part of the weights
            row = row + _common_to_all_weights(phi, z)
        parts.append((z, row))
    (zq, query_row), (zk, key_row) = parts
    return unit**2 * zq @ zk.T + query_row + key_row.T


def _common_to_all_weights(phi: DrawnMap, z: np.ndarray) -> np.ndarray:
    difference = phi.side("key").weight - phi.side("query").weight
    assert np.allclose(difference, difference[:, :1], atol=1e-12)
    return z @ difference[:, :1]


@KERNELS
@pytest.mark.parametrize(("center", "transform"), ALIGNMENTS)
@pytest.mark.parametrize("base", [Positive(8), OPRF(8), SDERF(8), GERF(8, A=-0.1j)], ids=repr)
def test_the_terms_of_an_aligned_map_add_up_to_the_kernel(
    base: Spec, center: str, transform: str, kernel: rfx.kernels.Kernel
) -> None:
    q, k = two_sets()
    spec = Aligned(base.replace(kernel=kernel), center, transform)  # type: ignore[arg-type]
    phi = spec.fit(q, k, seed=0)
    want = reference.log_kernel(q, k, kernel=kernel)
    if isinstance(base, GERF):
        assert phi.side("key").linear is not None or isinstance(kernel, Gaussian) or not center
    assert np.allclose(core_logs(phi, q, k), want, rtol=1e-9, atol=1e-9 * np.abs(want).max())


def mean_log_moment(
    change: np.ndarray, q: np.ndarray, k: np.ndarray, rho: np.ndarray, axes: np.ndarray
) -> float:
    """The objective, pair by pair: mean of log(E f² / k²) over pairs of P q and P⁻ᵀ k."""
    zq, zk = q @ change.T, k @ np.linalg.inv(change)
    total = (zq[:, None] + zk[None]) @ axes
    constant = np.sum(np.log((1 + rho) / 2) - np.log(rho) / 2)
    return float(constant + np.mean(np.sum(rho * total**2, axis=-1)))


def parameters(spec: Spec, q: np.ndarray, k: np.ndarray) -> DrawnMap:
    return spec.replace(kernel=Softmax(1.0), projection=IID()).fit(q, k, seed=0)


def test_the_spread_of_oprf_is_the_best() -> None:
    q, k = two_sets()
    rho = parameters(OPRF(8), q, k).fitted["rho"]

    def objective(log_rho: float) -> float:
        return mean_log_moment(np.eye(6), q, k, np.full(6, np.exp(log_rho)), np.eye(6))

    best = optimize.minimize_scalar(
        objective, bounds=(-8, 0), method="bounded", options={"xatol": 1e-9}
    )
    assert np.allclose(rho, np.exp(best.x), rtol=1e-5)
    assert objective(float(np.log(rho[0]))) <= best.fun + 1e-12


@pytest.mark.parametrize(
    ("spec", "free"),
    [
        (SDERF(8), "spread and axes"),
        (Aligned(OPRF(8), None, "diagonal"), "one spread and scales"),
        (Aligned(OPRF(8), None, "full"), "one spread and any change"),
        (Aligned(OPRF(8), "mean", None), "one spread"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_parameters_of_each_family_are_the_best(spec: Spec, free: str) -> None:
    """No start of a numerical search ends below the closed form by more than 1e-5."""
    dim = 3
    q, k = two_sets(dim, 40)
    phi = parameters(spec, q, k)
    if "mean" in repr(spec):
        q, k = q - q.mean(axis=0), k - k.mean(axis=0)
    search = _searches(dim, q, k)[free]
    rng = np.random.default_rng(2)
    size = {"spread and axes": 6, "one spread and scales": 4, "one spread": 1}.get(free, 10)
    found = [
        optimize.minimize(search, 0.1 * rng.standard_normal(size), tol=1e-12) for _ in range(4)
    ]
    best = min(float(result.fun) for result in found)
    ours = _ours(phi, dim, q, k)
    assert abs(ours - best) < 1e-5 * max(1.0, abs(best))


def _ours(phi: DrawnMap, dim: int, q: np.ndarray, k: np.ndarray) -> float:
    """The objective at placed points, whose axes are those of ρ."""
    zq, zk = (
        side._replace(shift=None).place(x)
        for side, x in ((phi.side("query"), q), (phi.side("key"), k))
    )
    rho = np.broadcast_to(phi.fitted["rho"], (dim,))
    return mean_log_moment(np.eye(dim), zq, zk, rho, np.eye(dim))


def _searches(dim: int, q: np.ndarray, k: np.ndarray) -> dict[str, Callable[..., float]]:
    def spread(log_rho: np.ndarray) -> np.ndarray:
        return np.exp(-np.abs(np.broadcast_to(log_rho, (dim,))))

    def turned(angles: np.ndarray) -> np.ndarray:
        skew = np.zeros((dim, dim))
        skew[np.triu_indices(dim, 1)] = angles
        skew = skew - skew.T
        return np.linalg.solve(np.eye(dim) + skew, np.eye(dim) - skew)

    eye = np.eye(dim)
    return {
        "spread and axes": lambda p: mean_log_moment(eye, q, k, spread(p[:3]), turned(p[3:])),
        "one spread": lambda p: mean_log_moment(eye, q, k, spread(p), eye),
        "one spread and scales": lambda p: mean_log_moment(
            np.diag(np.exp(p[1:])), q, k, spread(p[:1]), eye
        ),
        "one spread and any change": lambda p: mean_log_moment(
            eye + p[1:].reshape(dim, dim), q, k, spread(p[:1]), eye
        ),
    }


def test_each_step_lowers_the_variance() -> None:
    """On data with means and different axes, in the order in which the families contain another."""
    q, k = two_sets()
    names = ("favor++", "favor#", "aderf", "dense")
    logs = []
    for name in names:
        spec = named(name, num_features=8, projection=IID())
        logs.append(float(np.mean(spec.fit(q, k, seed=0).log_relative_variance(q, k))))
    assert logs == sorted(logs, reverse=True)
    assert logs[0] - logs[-1] > 1.0


def test_equal_points_on_both_sides_need_no_change_of_axes() -> None:
    q, _ = two_sets()
    change = Aligned(OPRF(8), None, "diagonal").fit(q, q, seed=0).side("query").transform
    assert np.allclose(change, 1.0, rtol=1e-12)


DEGENERATE = {
    "one-hot columns": np.eye(6)[np.random.default_rng(0).integers(0, 6, 40)],
    "a constant coordinate": np.concatenate(
        [np.random.default_rng(0).standard_normal((40, 5)), np.full((40, 1), 3.0)], axis=-1
    ),
    "a single token": np.random.default_rng(0).standard_normal((1, 6)),
    "zeros": np.zeros((40, 6)),
    "rank one": np.random.default_rng(0).standard_normal((40, 1)) * np.arange(1.0, 7.0),
    "one point many times": np.ones((40, 6)) * np.arange(6.0),
}


@pytest.mark.parametrize("name", ["favor++", "favor#", "aderf", "sderf", "dense", "optimal"])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("shape", DEGENERATE)
def test_degenerate_moments_give_a_finite_map(name: str, shape: str, size: float) -> None:
    """Attention on the very points, in float32, at norms from 1e-4 to 1e3."""
    x = (size * DEGENERATE[shape]).astype(np.float32)
    other = np.random.default_rng(3).standard_normal(x.shape).astype(np.float32)
    for q, k in ((x, x), (x, other), (other, x)):
        phi = named(name, num_features=16).fit(q, k, seed=0)
        for array in phi.arrays().values():
            assert np.all(np.isfinite(array))
        out = rfx.linear_attention(q, k, k, features=phi)
        want = reference.linear_attention(q, k, k, features=phi)
        scale = reference.log_size(q, k, features=phi) * (1 + _size_of_terms(phi, q, k))
        assert np.all(np.isfinite(out))
        assert_agrees(out, want, scale=scale, size=float(np.abs(k).max()))


def _size_of_terms(phi: DrawnMap, q: np.ndarray, k: np.ndarray) -> float:
    """Logs are sums of terms that may cancel; rounding is relative to the terms."""
    largest = 0.0
    for name, x in (("query", q), ("key", k)):
        side = phi.side(name)
        z = np.abs(side.place(x))
        largest = max(largest, float((z @ np.abs(side.weight)).max()), float((z * z).sum(-1).max()))
    return largest


@pytest.mark.parametrize("norm", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("name", ["favor#", "dense"])
def test_fitted_maps_are_stable_at_norms_from_small_to_large(
    lib: ArrayLibrary, name: str, norm: float
) -> None:
    rng = np.random.default_rng(4)
    q, k, v = (norm * rng.standard_normal((3, 2, 63, 8)) + 0.3 * norm).astype(np.float32)
    q_, k_, v_ = (lib.convert(a) for a in (q, k, v))
    phi = named(name, num_features=32).fit(q_, k_, seed=5)
    for is_causal in (False, True):
        out = rfx.linear_attention(q_, k_, v_, features=phi, is_causal=is_causal, chunk_size=16)
        want = reference.linear_attention(q, k, v, features=phi, is_causal=is_causal)
        scale = reference.log_size(q, k, features=phi)
        assert_agrees(out, want, scale=scale, size=float(np.abs(v).max()))


def test_grouped_queries_and_masks_pass_through_the_alignment(lib: ArrayLibrary) -> None:
    """Parameters belong to key heads; masked keys hold NaN, which moves nothing."""
    rng = np.random.default_rng(6)
    q = rng.standard_normal((2, 6, 40, 8)).astype(np.float32) + 1.0
    k, v = rng.standard_normal((2, 2, 3, 40, 8)).astype(np.float32) - 1.0
    mask = np.arange(40) < np.asarray([[[25]], [[40]]])
    k[~np.broadcast_to(mask, k.shape[:-1])] = np.nan
    q_, k_, v_, mask_ = (lib.convert(a) for a in (q, k, v, mask))
    phi = named("dense", num_features=32).fit(q_, k_, seed=7, mask=mask_)
    assert phi.heads == 3
    for is_causal in (False, True):
        options = {"features": phi, "is_causal": is_causal, "mask": mask_}
        out = rfx.linear_attention(q_, k_, v_, **options)
        want = reference.linear_attention(q, k, v, features=phi, is_causal=is_causal, mask=mask)
        scale = reference.log_size(q, np.nan_to_num(k), features=phi)
        assert_agrees(out, want, scale=scale, size=float(np.abs(v).max()))


def test_gradients_of_an_aligned_map_are_those_of_differences() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    q, k, v = rng.standard_normal((3, 2, 6, 3))
    phi = named("dense", num_features=4).fit(q, k, seed=9)
    host = {name: array for name, array in phi.arrays().items() if name != "fingerprint"}
    mask = torch.arange(6) < 5
    names = [name for name in host if not name.startswith("fitted")]

    def attend(q, k, v, *arrays):
        given = dict(zip(names, arrays, strict=True))
        whole = {n: torch.asarray(a) for n, a in phi.arrays().items()} | given
        moved = phi.to_like(torch.zeros(1, dtype=torch.float64)).with_arrays(whole)
        return rfx.linear_attention(q, k, v, features=moved, is_causal=True, mask=mask)

    leaves = [torch.asarray(a).requires_grad_() for a in (q, k, v, *(host[n] for n in names))]
    assert torch.autograd.gradcheck(attend, leaves)


def test_masked_nan_leaves_the_gradients_of_an_alignment_alone() -> None:
    torch = pytest.importorskip("torch")
    q, k = torch.randn(2, 2, 9, 4, generator=torch.Generator().manual_seed(0))
    phi = named("dense", num_features=8).fit(q, k, seed=9)
    k = k.clone()
    k[:, 7:] = float("nan")
    leaves = {n: a.clone().requires_grad_() for n, a in phi.arrays().items()}
    mask = torch.arange(9) < 7
    out = rfx.linear_attention(q, k, q, features=phi.with_arrays(leaves), mask=mask)
    out.sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is None or torch.all(torch.isfinite(leaf.grad)), name


def test_alignment_refuses_what_it_cannot_do() -> None:
    with pytest.raises(TypeError, match="`base` must be a spec that is not aligned itself"):
        Aligned(named("dense", num_features=8))
    with pytest.raises(TypeError, match="`base` must be a spec that is not aligned itself, got 3"):
        Aligned(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`center` must be one of .*'low'.*, got 'median'"):
        Aligned(OPRF(8), "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`transform` must be one of .*, got 'affine'"):
        Aligned(OPRF(8), "mean", "affine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="both None, which changes nothing; use the base"):
        Aligned(OPRF(8), None, None)
    with pytest.raises(ValueError, match="must be None with center='low', got 'full'"):
        Aligned(OPRF(8), "low", "full")


def test_replace_reaches_the_base() -> None:
    spec = named("dense", num_features=8)
    assert spec.replace(num_features=16) == named("dense", num_features=16)
    assert spec.replace(projection=IID(), center=None).base.projection == IID()
    assert spec.replace(center=None).center is None
    assert named("dense", num_features=8, projection=Orthogonal()) == spec


def test_moments_of_a_calibration_text_serve_a_causal_model(activations) -> None:
    """A map fitted to the first half is used on the second, whose future it has not seen."""
    with np.load(activations / "smollm2_n512_causal.npz") as data:
        q, k, v = (data[f"{n}0"].astype(np.float32) for n in "qkv")
    exact = rfx.kernel_attention(q, k, v, is_causal=True)[:, 256:]
    moments = Moments.of(q[:, :256], k[:, :256])
    errors = {}
    for name in ("favor+", "dense"):
        spec = named(name, num_features=256)
        phi = spec.fit_moments(moments, seed=0, like=q)
        out = rfx.linear_attention(q, k, v, features=phi, is_causal=True)[:, 256:]
        errors[name] = float(rfx.diagnostics.relative_error(out, exact).mean())
    assert errors["dense"] < 0.75 * errors["favor+"]
