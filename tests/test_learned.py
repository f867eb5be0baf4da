"""Maps that are trained: gradients through all their arrays, Hedgehog, DARKFormer's metric."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx._xp import to_numpy
from rfx.features import NAMES, Dark, DrawnMap, Hedgehog, Positive, named
from rfx.kernels import Gaussian, Softmax
from rfx.projections import IID
from rfx.testing import assert_agrees, drawn, z_score


def points(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def small(name: str, like: object) -> DrawnMap:
    """A map of two heads in three dimensions."""
    ready = dict(zip(NAMES, rfx.features.ALL, strict=True))[name]
    spec = ready.replace(num_features=16) if hasattr(ready, "num_features") else ready
    return drawn(spec, 3, like=like, seed=1, heads=2)


def pair() -> tuple[np.ndarray, np.ndarray]:
    """Positive points: the exponents of monomials are whole numbers but for a sign's sake."""
    return tuple(np.abs(0.5 * points(2, n, 3, seed=n)) + 0.1 for n in (3, 2))  # type: ignore[return-value]


def trained(phi: DrawnMap) -> list[str]:
    return [name for name in phi.arrays() if name != "fingerprint"]


def first_of_each_form() -> list[str]:
    found: dict[type, str] = {}
    for name in NAMES:
        found.setdefault(type(small(name, np.zeros(1))), name)
    return list(found.values())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_every_array_are_those_of_finite_differences(name: str) -> None:
    torch = pytest.importorskip("torch")
    x, y = map(torch.asarray, pair())
    phi = small(name, x)
    names = trained(phi)

    def call(x, y, *leaves):  # type: ignore[no-untyped-def]
        features = phi.with_arrays(phi.arrays() | dict(zip(names, leaves, strict=True)))
        return rfx.gram(x, y, features=features), rfx.linear_attention(x, y, y, features=features)

    inputs = (a.clone().requires_grad_() for a in (x, y, *(phi.arrays()[n] for n in names)))
    assert torch.autograd.gradcheck(call, tuple(inputs), fast_mode=True)


@pytest.mark.parametrize("name", first_of_each_form())
def test_gradients_of_every_array_in_jax_are_those_of_torch(name: str) -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    x, y = pair()
    with jax.enable_x64(True):
        arrays = [jax.numpy.asarray(a) for a in (x, y)]
        mine = jax.jit(jax.grad(lambda phi: (rfx.gram(*arrays, features=phi) ** 2).sum()))(
            small(name, arrays[0])
        )
    phi = small(name, torch.asarray(x))
    leaves = {n: a.requires_grad_(n != "fingerprint") for n, a in phi.arrays().items()}
    features = phi.with_arrays(leaves)
    (rfx.gram(*map(torch.asarray, (x, y)), features=features) ** 2).sum().backward()
    found = {n: leaves[n].grad for n in trained(phi)}
    size = max(float(g.abs().max()) for g in found.values() if g is not None)
    for array, gradient in found.items():
        # torch has none where an array does not matter, JAX has zeros
        want = np.zeros(leaves[array].shape) if gradient is None else to_numpy(gradient)
        assert_agrees(mine.arrays()[array], want, scale=256.0, size=size)


def test_hedgehog_is_a_softmax_of_both_signs() -> None:
    x = points(5, 4)
    phi = Hedgehog().draw(4, seed=0, like=x)
    weight, bias = points(4, 4, seed=6), points(4, seed=7)
    learned = phi.with_arrays(phi.arrays() | {"query_weight": weight, "query_bias": bias})
    u = x @ weight + bias
    halves = [np.exp(s * u) / np.sum(np.exp(s * u), axis=-1, keepdims=True) for s in (1, -1)]
    for features in (learned.query(x), learned.key(x)):
        assert_agrees(features.exp(), np.concatenate(halves, axis=-1), scale=8)
    plain = Hedgehog("exp-pair").draw(4, seed=0, like=x)
    assert_agrees(plain.query(x).exp(), np.exp(np.concatenate([x, -x], axis=-1)), scale=8)
    assert phi.num_features == plain.num_features == 8
    assert_agrees(rfx.gram(x, x, features=phi), phi.kernel(x, x), scale=8)
    assert Hedgehog.changes_kernel
    with pytest.raises(ValueError, match="`function` must be 'softmax-pair' or 'exp-pair', got 'x"):
        Hedgehog("x")


def test_hedgehog_of_large_points_is_finite() -> None:
    x = np.full((2, 4), 1e4, dtype=np.float32) * np.asarray([1, -1, 1, 1], dtype=np.float32)
    for function in ("softmax-pair", "exp-pair"):
        phi = Hedgehog(function).draw(4, seed=0, like=x)
        assert np.all(np.isfinite(rfx.linear_attention(x, x, x, features=phi)))


@pytest.mark.parametrize("kernel", [Softmax(), Gaussian(1.3)], ids=repr)
def test_a_trained_metric_gives_the_kernel_of_points_in_it(kernel: Softmax | Gaussian) -> None:
    """Its mean by z-scores, and its variance is that of positive features there."""
    x, y = 0.3 * points(3, 4), 0.3 * points(2, 4, seed=6)
    metric = np.eye(4) + 0.3 * points(4, 4, seed=7)
    spec = Dark(8, kernel, IID())
    phi = spec.draw(4, seed=3, like=x, heads=4000)
    there = phi.with_arrays(
        phi.arrays() | {"query_transform": np.broadcast_to(metric, (4000, 4, 4))}
    )
    found = rfx.gram(*(np.broadcast_to(a, (4000, *a.shape)) for a in (x, y)), features=there)
    want = kernel(x @ metric, y @ metric)
    variance = Positive(8, kernel, IID()).variance(x @ metric, y @ metric)
    assert np.all(np.abs(z_score(found, want, variance=variance)) < 5)
    assert np.max(np.abs(z_score(found, kernel(x, y), variance=variance))) > 5
    one = spec.draw(4, seed=3, like=x)
    one = one.with_arrays(one.arrays() | {"query_transform": metric})
    assert_agrees(one.variance(x, y), variance, scale=8)


def test_the_metric_begins_as_that_of_positive_features() -> None:
    x, y = points(3, 4), points(2, 4, seed=6)
    phi, plain = (kind(8).draw(4, seed=0, like=x) for kind in (Dark, Positive))
    assert_agrees(rfx.gram(x, y, features=phi), rfx.gram(x, y, features=plain))
    assert_agrees(phi.variance(x, y), plain.variance(x, y))
    assert Dark.changes_kernel
    assert not Positive.changes_kernel
    assert named("dark", num_features=8) == Dark(8)


def test_either_kind_of_map_can_learn() -> None:
    """A step down the gradient of a loss lowers it."""
    torch = pytest.importorskip("torch")
    from rfx_torch import FeatureModule

    q, k, v = torch.asarray(points(3, 20, 4))
    want = rfx.kernel_attention(q, k, v)
    for spec in (Hedgehog(), Dark(32)):
        module = FeatureModule(spec.draw(4, seed=0, like=q), trainable=True)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.02)
        losses = []
        for _ in range(5):
            loss = (rfx.linear_attention(q, k, v, features=module()) - want).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]


EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str, *argv: str) -> dict[str, tuple[float, float]]:
    """What an example returns: errors before and after training, by map."""
    found: dict[str, tuple[float, float]] = runpy.run_path(str(EXAMPLES / name))["main"](argv)
    return found


@pytest.fixture
def recorded(tmp_path: Path) -> str:
    """Activations in which queries look for keys, in a file such as the examples read."""
    rng = np.random.default_rng(0)
    token = rng.standard_normal((2, 60, 8))
    q, k, v = (token @ rng.standard_normal((2, 8, 8)) / 2.0 for _ in range(3))
    np.savez(tmp_path / "minilm_n384.npz", q0=q, k0=k, v0=v)
    return str(tmp_path)


@pytest.mark.parametrize("name", ["fit_torch.py", "fit_jax.py"])
def test_examples_of_training_lower_the_error_on_other_tokens(name: str, recorded: str) -> None:
    pytest.importorskip({"fit_torch.py": "torch", "fit_jax.py": "jax"}[name])
    found = example(name, "--data", recorded, "--steps", "40")
    uniform, _ = found.pop("uniform")
    if name == "fit_jax.py":
        found.pop("favor+")  # which it only draws
    assert "hedgehog" in found
    for before, after in found.values():
        assert after < before
    assert found["hedgehog"][1] < 0.9 * min(uniform, found["hedgehog"][0])


def test_example_of_a_compressed_layer_fits_it_with_fewer_numbers() -> None:
    """The formula converges to the layer; at m < d it takes fitting to be of any use."""
    found = example("compress_layer.py", "--steps", "50")
    assert found["B fitted"] < 1.0 < found["B from the formula"]
    assert found["B from the formula, 50 m"] < 0.3 * found["B from the formula"]
