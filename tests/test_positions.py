"""Attention with a factor or a bias of the distance that is a sum of cosines."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import rfx
from rfx._xp import to_numpy
from rfx.attention import fourier_points
from rfx.testing import ArrayLibrary, assert_agrees, drawn

M, LENGTH = 64, 40
W, A = np.asarray([0.0, 0.02, 0.05], "float32"), np.asarray([1.0, 0.4, -0.2], "float32")


def inputs(t=33, s=33, heads=(4, 2)):
    rng = np.random.default_rng(80)
    shapes = ((1, heads[0], t, 4), (1, heads[1], s, 4), (1, heads[1], s, 3))
    return [0.7 * rng.standard_normal(shape).astype("float32") for shape in shapes]


def dense(gram, v, factor, is_causal=False, mask=None):
    """Weights of all pairs, times a factor of the distance, normalised."""
    t, s = gram.shape[-2:]
    weight = gram.astype(np.float64) * factor
    if is_causal:
        weight = weight * np.tril(np.ones((t, s)), s - t)
    if mask is not None:
        weight = weight * mask
    total = weight.sum(axis=-1, keepdims=True)
    values = np.repeat(v.astype(np.float64), gram.shape[-3] // v.shape[-3], axis=-3)
    return (weight @ values) / np.where(total == 0, 1, total)


def distances(t, s, is_causal):
    return (np.arange(t) + (s - t if is_causal else 0))[:, None] - np.arange(s)


def plain_gram(q, k, phi=None):
    k = np.repeat(k, q.shape[-3] // k.shape[-3], axis=-3)
    if phi is not None:
        return rfx.gram(q, k, features=phi)
    return np.maximum(q, 0) @ np.swapaxes(np.maximum(k, 0), -1, -2)


@pytest.mark.parametrize("is_causal", [False, True])
def test_cosformer_is_its_formula(lib: ArrayLibrary, is_causal: bool) -> None:
    q, k, v = inputs(t=20)
    mask = np.arange(33) != 4
    options = {"is_causal": is_causal, "max_length": M, "mask": lib.convert(mask)}
    out = rfx.cosformer_attention(*map(lib.convert, (q, k, v)), **options)
    factor = np.cos(math.pi * distances(20, 33, is_causal) / (2 * M))
    assert_agrees(out, dense(plain_gram(q, k), v, factor, is_causal, mask), scale=64.0)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("by_head", [False, True])
def test_a_fourier_factor_is_its_formula(lib: ArrayLibrary, is_causal: bool, by_head: bool) -> None:
    q, k, v = inputs()
    w, a = (np.stack([x, 0.5 * x]) if by_head else x for x in (W, A))
    phi = drawn(rfx.features.named("favor+", num_features=16), 4, seed=1, like=lib.convert(q))
    host = drawn(rfx.features.named("favor+", num_features=16), 4, seed=1, like=q)
    out = rfx.fourier_attention(
        *map(lib.convert, (q, k, v)), features=phi, is_causal=is_causal,
        frequencies=lib.convert(w), amplitudes=lib.convert(a),
    )  # fmt: skip
    distance = distances(33, 33, is_causal)[..., None]
    factor = (a[..., None, None, :] * np.cos(w[..., None, None, :] * distance)).sum(axis=-1)
    factor = np.repeat(factor, 2, axis=0) if by_head else factor
    assert_agrees(out, dense(plain_gram(q, k, host), v, factor, is_causal), scale=256.0)


def test_positions_go_on_from_those_of_a_state() -> None:
    q, k, v = inputs()
    phi = rfx.features.named("favor+", num_features=16).draw(4, seed=1, like=q)
    waves = {"frequencies": W, "amplitudes": A, "features": phi}
    for attend, options in (
        (rfx.cosformer_attention, {"max_length": M}),
        (rfx.fourier_attention, waves),
    ):
        options = {"is_causal": True, "return_state": True} | options
        want, _ = attend(q, k, v, **options)
        parts = [[x[..., rows, :] for x in (q, k, v)] for rows in (slice(0, 20), slice(20, 33))]
        first, state = attend(*parts[0], **options)
        second, after = attend(*parts[1], initial_state=state, **options)
        assert_agrees(
            np.concatenate([first, second], axis=-2), want.astype(np.float64), scale=256.0
        )
        assert int(after.length) == 33


@pytest.mark.parametrize("is_causal", [False, True])
def test_points_with_waves_have_the_bias_exactly(is_causal: bool) -> None:
    q, k, v = (a.astype(np.float64) for a in inputs(t=20))
    w, a = W.astype(np.float64), A.astype(np.float64)
    options = {"frequencies": w, "amplitudes": a, "is_causal": is_causal}
    p, r = fourier_points(q, k, scale=0.5, **options)
    kernel = rfx.kernels.Softmax(scale=0.5)
    out = rfx.kernel_attention(p, r, v, kernel=kernel, is_causal=is_causal)
    logits = 0.5 * q @ np.swapaxes(np.repeat(k, 2, axis=1), -1, -2)
    distance = distances(20, 33, is_causal)[..., None]
    weight = np.exp(logits + (a * np.cos(w * distance)).sum(axis=-1))
    assert_agrees(out, dense(weight, v, 1.0, is_causal), scale=64.0)


def test_gradients_of_waves_are_those_of_finite_differences() -> None:
    q, k, v = (torch.asarray(a[0, :1, :7].astype(np.float64)) for a in inputs())
    phi = rfx.features.named("favor+", num_features=4).draw(4, seed=1, like=q)
    leaves = [torch.asarray(x.astype(np.float64)).requires_grad_() for x in (W, A)]

    def call(w, a):
        return rfx.fourier_attention(
            q, k, v, features=phi, frequencies=w, amplitudes=a, is_causal=True, chunk_size=4
        )

    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


def test_jax_differentiates_and_maps_over_positions() -> None:
    q, k, v = map(jnp.asarray, inputs())
    phi = rfx.features.named("favor+", num_features=4).draw(4, seed=1, like=q)

    @jax.jit
    def loss(w, a):
        out = rfx.fourier_attention(q, k, v, features=phi, frequencies=w, amplitudes=a)
        return (out * out).sum()

    found = jax.grad(loss, argnums=(0, 1))(jnp.asarray(W), jnp.asarray(A))
    assert all(bool(jnp.isfinite(g).all()) for g in found)


def test_masked_keys_may_hold_anything() -> None:
    q, k, v = inputs()
    mask = np.arange(33) < 25
    cut = rfx.cosformer_attention(q[..., :25, :], k[..., :25, :], v[..., :25, :], max_length=M)
    k, v = k.copy(), v.copy()
    k[..., 25:, :], v[..., 25:, :] = np.nan, np.nan
    out = rfx.cosformer_attention(q, k, v, max_length=M, mask=mask)
    np.testing.assert_allclose(out[..., :25, :], cut, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_map_that_moves_points_sees_no_masked_key() -> None:
    q, k, v = (torch.asarray(a) for a in inputs())
    phi = drawn(rfx.features.named("dense", num_features=8), 4, seed=1, like=q)
    assert phi.moves("key")
    leaves = {n: a.clone().requires_grad_(n != "fingerprint") for n, a in phi.arrays().items()}
    k[..., 25:, :] = torch.nan
    out = rfx.cosformer_attention(
        q, k, v, features=phi.with_arrays(leaves), max_length=M, mask=torch.arange(33) < 25
    )
    out.square().sum().backward()
    assert all(torch.isfinite(a.grad).all() for a in leaves.values() if a.grad is not None)


def test_bad_lengths_and_waves_are_refused_in_a_sentence() -> None:
    q, k, v = inputs()
    phi = rfx.features.named("favor+", num_features=4).draw(4, seed=1, like=q)
    with pytest.raises(ValueError, match=r"`max_length` must be at least .* 33.*got 20"):
        rfx.cosformer_attention(q, k, v, max_length=20)
    with pytest.raises(ValueError, match="`max_length` must be given where a state is"):
        rfx.cosformer_attention(q, k, v, return_state=True)
    options = {"is_causal": True, "return_state": True, "max_length": LENGTH}
    _, state = rfx.cosformer_attention(q, k, v, **options)
    with pytest.raises(ValueError, match=r"`max_length` must be at least .* 66.*got 40"):
        rfx.cosformer_attention(q, k, v, initial_state=state, **options)
    for w, a in ((W, A[:2]), (np.stack([W] * 3), np.stack([A] * 3)), (W[:0], A[:0])):
        with pytest.raises(ValueError, match=r"must both have shape \(R,\), or \(H, R\)"):
            rfx.fourier_attention(q, k, v, features=phi, frequencies=w, amplitudes=a)
    assert to_numpy(state.length) == 33
