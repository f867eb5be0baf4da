"""Every map on every library: shape, dtype, device, and agreement with the oracle."""

from __future__ import annotations

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.testing import ArrayLibrary, Case, assert_agrees, cases, drawn
from tests.conftest import one_name_per_form

SPECS = pytest.mark.parametrize("name", rfx.features.NAMES)
FORMS = pytest.mark.parametrize("name", one_name_per_form()[:2])
CASES = pytest.mark.parametrize("case", cases(), ids=str)


def spec_of(name: str) -> rfx.features.Spec:
    ready = dict(zip(rfx.features.NAMES, rfx.features.ALL, strict=True))[name]
    return ready.replace(num_features=64) if hasattr(ready, "num_features") else ready


def assert_close(out, q, k, v, **call):
    """Agreement with the oracle, rounding being magnified by large logs and by cancellation.

    A relative error in weights that cancel moves the output by that of the values and its own.
    """
    want = reference.linear_attention(q, k, v, **call)
    size = float(np.abs(v).max())
    scale = reference.log_size(q, k, features=call["features"])
    scale = scale * reference.conditioning(q, k, **call) * (1.0 + np.abs(want) / size)
    assert_agrees(out, want, scale=scale, size=size)


@SPECS
def test_every_map_agrees_with_the_oracle(
    lib: ArrayLibrary, name: str, rng: np.random.Generator
) -> None:
    """Causal or not; where each is compiled, one of the two, in turn over the maps."""
    q, k, v = rng.standard_normal((3, 2, 64, 8)).astype(np.float32)
    phi = spec_of(name).fit(lib.convert(q), lib.convert(k), seed=15)
    both = [False, True]
    turn = both if lib.library != "jax" else both[list(rfx.features.NAMES).index(name) % 2 :][:1]
    for is_causal in turn:
        call = {"features": phi, "is_causal": is_causal}
        out = rfx.linear_attention(*map(lib.convert, (q, k, v)), chunk_size=32, **call)
        assert_close(out, q, k, v, **call)


@FORMS
@CASES
@pytest.mark.parametrize("is_causal", [False, True])
def test_linear_attention_agrees_with_the_oracle(
    lib: ArrayLibrary, name: str, case: Case, is_causal: bool
) -> None:
    if is_causal and not case.causal:
        pytest.skip("causal attention needs t <= s")
    q, k, v = case.arrays(seed=1)
    q, k, v = (a.astype(np.float32) for a in (q, k, v))
    q_, k_, v_ = (lib.convert(a) for a in (q, k, v))
    phi = drawn(spec_of(name), case.dim, seed=2, like=q_)
    out = rfx.linear_attention(q_, k_, v_, features=phi, is_causal=is_causal, chunk_size=24)
    call = {"features": phi, "is_causal": is_causal}
    assert out.dtype == v_.dtype
    assert type(out) is type(v_)
    assert str(out.device) == str(v_.device)
    assert_close(out, q, k, v, **call)


@FORMS
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", [(63,), (1, 1, 63), (2, 1, 63), (2, 2, 63)])
def test_masked_and_grouped_attention_agrees_with_the_oracle(
    lib: ArrayLibrary, name: str, is_causal: bool, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    q = rng.standard_normal((2, 4, 63, 8)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, 2, 63, 8)).astype(np.float32)
    mask = rng.random(shape) < 0.5
    phi = drawn(spec_of(name), 8, seed=3, like=lib.convert(q), heads=2)
    call = {"features": phi, "is_causal": is_causal}
    out = rfx.linear_attention(
        *map(lib.convert, (q, k, v)), mask=lib.convert(mask), chunk_size=16, **call
    )
    assert_close(out, q, k, v, mask=mask, **call)


@pytest.mark.parametrize("kernel", [rfx.kernels.Softmax(), rfx.kernels.Gaussian(bandwidth=2.0)])
@CASES
@pytest.mark.parametrize("is_causal", [False, True])
def test_kernel_attention_agrees_with_the_oracle(
    lib: ArrayLibrary, kernel: rfx.kernels.Kernel, case: Case, is_causal: bool
) -> None:
    if is_causal and not case.causal:
        pytest.skip("causal attention needs t <= s")
    q, k, v = (a.astype(np.float32) for a in case.arrays(seed=4))
    mask = np.random.default_rng(5).random(case.key[-2]) < 0.7
    call = {"kernel": kernel, "is_causal": is_causal}
    out = rfx.kernel_attention(*map(lib.convert, (q, k, v)), mask=lib.convert(mask), **call)
    want = reference.kernel_attention(q, k, v, mask=mask, **call)
    largest = 1.0 + float(np.abs(q).max() * np.abs(k).max() * case.dim)  # of a log
    assert_agrees(out, want, scale=largest, size=float(np.abs(v).max()))


def test_kernel_attention_over_several_blocks_agrees_with_the_oracle(lib: ArrayLibrary) -> None:
    rng = np.random.default_rng(6)
    q, k, v = rng.standard_normal((3, 1, 1100, 4)).astype(np.float32)
    for is_causal in (False, True):
        out = rfx.kernel_attention(*map(lib.convert, (q, k, v)), is_causal=is_causal)
        want = reference.kernel_attention(q, k, v, is_causal=is_causal)
        assert_agrees(out, want, scale=16.0, size=float(np.abs(v).max()))


@pytest.mark.parametrize("name", one_name_per_form())
def test_gram_agrees_with_the_oracle(lib: ArrayLibrary, name: str) -> None:
    """Every map: test_features.py."""
    x, y = np.random.default_rng(7).standard_normal((2, 3, 31, 8)).astype(np.float32)
    phi = drawn(spec_of(name), 8, seed=8, like=lib.convert(x))
    out = rfx.gram(lib.convert(x), lib.convert(y[:, :17]), features=phi)
    want = reference.gram(x, y[:, :17], features=phi)
    assert_agrees(out, want, scale=reference.log_size(x, y, features=phi))


@FORMS
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_half_precision_is_computed_in_float32_and_rounded_once(
    lib: ArrayLibrary, name: str, dtype: str, is_causal: bool
) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    rng = np.random.default_rng(9)
    q, k, v = (lib.convert(a, dtype) for a in rng.standard_normal((3, 2, 63, 8)))
    phi = drawn(spec_of(name), 8, seed=10, like=q)
    out = rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal, chunk_size=16)
    call = {"features": phi, "is_causal": is_causal}
    assert out.dtype == v.dtype
    assert_close(out, *(to_numpy(a).astype(np.float64) for a in (q, k, v)), **call)


@FORMS
def test_float64_is_computed_in_float64(lib: ArrayLibrary, name: str) -> None:
    if "float64" not in lib.dtypes:
        pytest.skip(f"{lib} holds no float64 by default")
    q, k, v = np.random.default_rng(11).standard_normal((3, 2, 63, 8))
    phi = drawn(spec_of(name), 8, seed=12, like=lib.convert(q))
    for is_causal in (False, True):
        call = {"features": phi, "is_causal": is_causal}
        out = rfx.linear_attention(*map(lib.convert, (q, k, v)), chunk_size=16, **call)
        assert_close(out, q, k, v, **call)


def test_the_value_may_be_of_another_dtype_which_the_output_takes(lib: ArrayLibrary) -> None:
    q, k, v = np.random.default_rng(13).standard_normal((3, 2, 9, 4)).astype(np.float32)
    narrow = lib.dtypes[-1]
    phi = spec_of("favor+").draw(4, seed=0, like=lib.convert(q))
    value = lib.convert(v, narrow)
    out = rfx.linear_attention(lib.convert(q), lib.convert(k), value, features=phi)
    assert out.dtype == value.dtype
    want = reference.linear_attention(q, k, value, features=phi)
    assert_agrees(out, want, scale=8.0, size=float(np.abs(v).max()))


@FORMS
@pytest.mark.parametrize("is_causal", [False, True])
def test_real_activations_agree_with_the_oracle(
    activations, lib: ArrayLibrary, name: str, is_causal: bool
) -> None:
    with np.load(activations / "smollm2_n512_causal.npz") as data:
        q, k, v = (data[f"{n}12"][:, :200] for n in "qkv")
    q_, k_, v_ = (lib.convert(a.astype(np.float32)) for a in (q, k, v))
    phi = drawn(spec_of(name), 64, seed=14, like=q_, heads=3)
    call = {"features": phi, "is_causal": is_causal}
    out = rfx.linear_attention(q_, k_, v_, **call)
    assert_close(out, q, k, v, **call)
