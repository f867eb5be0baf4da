"""Errors, skill, and the denominators that nearly cancel."""

from __future__ import annotations

import numpy as np
import pytest

import rfx
from rfx._xp import to_numpy
from rfx.testing import ArrayLibrary, assert_agrees, drawn


@pytest.mark.parametrize("is_causal", [False, True])
def test_uniform_attention_is_the_mean_of_what_is_seen(
    lib: ArrayLibrary, is_causal: bool, rng: np.random.Generator
) -> None:
    q, k, v = rng.standard_normal((3, 2, 9, 4)).astype(np.float32)
    mask = np.arange(9) != 2
    out = rfx.diagnostics.uniform_attention(
        *map(lib.convert, (q, k, v)), is_causal=is_causal, mask=lib.convert(mask)
    )
    weight = np.broadcast_to(mask, (9, 9)).astype(float)
    weight = np.tril(weight) if is_causal else weight
    weight = weight / weight.sum(axis=-1, keepdims=True)
    assert_agrees(out, weight @ v.astype(float), size=float(np.abs(v).max()))


def test_error_and_skill_are_ratios_of_norms(lib: ArrayLibrary, rng: np.random.Generator) -> None:
    exact, estimate, uniform = rng.standard_normal((3, 2, 9, 4)).astype(np.float32)
    wide = [a.astype(float) for a in (estimate, exact, uniform)]
    errors = [np.linalg.norm(a - wide[1], axis=(1, 2)) / np.linalg.norm(wide[1], axis=(1, 2))
              for a in (wide[0], wide[2])]  # fmt: skip
    estimate, exact, uniform = map(lib.convert, (estimate, exact, uniform))
    assert_agrees(rfx.diagnostics.relative_error(estimate, exact), errors[0])
    skill = rfx.diagnostics.skill(estimate, exact, uniform)
    assert_agrees(skill, 1 - errors[0] / errors[1], scale=4.0)


def test_only_signed_maps_have_weak_denominators(lib: ArrayLibrary) -> None:
    q, k = 1.5 * np.random.default_rng(70).standard_normal((2, 2, 64, 8)).astype(np.float32)
    q, k = lib.convert(q), lib.convert(k)
    shares = {}
    for name in ("favor", "favor+"):
        phi = drawn(rfx.features.named(name, num_features=32), 8, seed=1, like=q)
        share = rfx.diagnostics.weak_denominators(q, k, features=phi, threshold=0.01)
        shares[name] = to_numpy(share)
    assert (shares["favor+"] == 0).all()
    assert (shares["favor"] > 0).all()
    assert (shares["favor"] < 1).all()
