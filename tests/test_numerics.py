"""The numbers stay right where published code overflows, underflows or spreads NaN."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.testing import ArrayLibrary, assert_agrees, drawn
from tests.conftest import one_name_per_form

NAMES = pytest.mark.parametrize("name", one_name_per_form()[:2])
CAUSAL = pytest.mark.parametrize("is_causal", [False, True])


def draw(name: str, dim: int, like, heads=None, m: int = 32):
    return drawn(rfx.features.named(name, num_features=m), dim, seed=2, like=like, heads=heads)


def unit_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@NAMES
@CAUSAL
@pytest.mark.parametrize("norm", [10.0, 100.0, 1e3, 1e4])
def test_large_norms_in_float32_stay_finite_and_agree(
    lib: ArrayLibrary, name: str, is_causal: bool, norm: float, rng: np.random.Generator
) -> None:
    q, k = (norm * unit_rows(rng, 2, 63, 8)).astype(np.float32), None
    k = (norm * unit_rows(rng, 2, 63, 8)).astype(np.float32)
    v = rng.standard_normal((2, 63, 3)).astype(np.float32)
    phi = draw(name, 8, lib.convert(q))
    call = {"features": phi, "is_causal": is_causal}
    out = to_numpy(rfx.linear_attention(*map(lib.convert, (q, k, v)), chunk_size=16, **call))
    assert np.isfinite(out).all()
    if phi.spec.positive:
        assert out.max() <= v.max() * (1 + 1e-5)
        assert out.min() >= v.min() * (1 + 1e-5)
    # The oracle reads float32 frequencies in float64: the logs differ by their rounding, no more.
    rounding = 16 * 2.0**-23 * reference.log_size(q, k, features=phi)
    if rounding < 0.1 and phi.spec.positive:
        want = reference.linear_attention(q, k, v, **call)
        assert_agrees(out, want, scale=rounding / (16 * 2.0**-23), size=float(np.abs(v).max()))


@CAUSAL
@pytest.mark.parametrize(("dtype", "norm"), [("float32", 60.0), ("float64", 600.0)])
def test_opposite_queries_and_keys_agree(
    lib: ArrayLibrary, is_causal: bool, dtype: str, norm: float, rng: np.random.Generator
) -> None:
    """One shift for all features underflows here: the error would be of the size of the values."""
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} holds no {dtype} by default")
    k = (norm * unit_rows(rng, 2, 63, 8)).astype(dtype)
    q, v = -k[:, ::-1], rng.standard_normal((2, 63, 3)).astype(dtype)
    phi = draw("favor+", 8, lib.convert(q))
    call = {"features": phi, "is_causal": is_causal}
    out = rfx.linear_attention(*map(lib.convert, (q, k, v)), chunk_size=16, **call)
    want = reference.linear_attention(q, k, v, **call)
    scale = reference.log_size(q, k, features=phi)
    assert_agrees(out, want, scale=scale, size=float(np.abs(v).max()))


@NAMES
@CAUSAL
@pytest.mark.parametrize(("dtype", "norm"), [("float16", 65504.0), ("bfloat16", 1e18)])
def test_the_largest_half_precision_inputs_stay_finite(
    lib: ArrayLibrary, name: str, is_causal: bool, dtype: str, norm: float
) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} has no {dtype}")
    rng = np.random.default_rng(3)
    signs = rng.choice([-1.0, 1.0], (2, 2, 40, 16))
    q, k = (lib.convert(norm * a, dtype) for a in signs)
    v = lib.convert(rng.standard_normal((2, 40, 4)), dtype)
    phi = draw(name, 16, q)
    out = to_numpy(rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal, chunk_size=16))
    assert np.isfinite(out).all()
    if phi.spec.positive:
        host = to_numpy(v)
        assert out.max() <= host.max()
        assert out.min() >= host.min()


def steep(order: str, norm: float, rng: np.random.Generator) -> np.ndarray:
    """Keys whose norm changes in the middle of a chunk of 32."""
    k = unit_rows(rng, 2, 64, 8)
    first, second = (norm, 1.0) if order == "long, then short" else (1.0, norm)
    k[:, 32:48] *= first
    k[:, 48:] *= second
    return k


@NAMES
@pytest.mark.parametrize("order", ["long, then short", "short, then long"])
@pytest.mark.parametrize(("dtype", "norm"), [("float64", 1e3), ("float32", 1e3), ("float32", 40.0)])
@pytest.mark.parametrize("groups", [1, 2])
def test_logs_that_change_steeply_in_a_chunk_hide_nothing(
    lib: ArrayLibrary, name: str, order: str, dtype: str, norm: float, groups: int
) -> None:
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib} holds no {dtype} by default")
    rng = np.random.default_rng(4)
    k = steep(order, norm, rng).astype(dtype)
    q = unit_rows(rng, 2 * groups, 64, 8).astype(dtype)
    v = rng.standard_normal((2, 64, 3)).astype(dtype)
    phi = draw(name, 8, lib.convert(q))
    call = {"features": phi, "is_causal": True}
    out = rfx.linear_attention(*map(lib.convert, (q, k, v)), chunk_size=32, **call)
    want = reference.linear_attention(q, k, v, **call)
    size = float(np.abs(v).max())
    spread = reference.conditioning(q, k, **call) * (1.0 + np.abs(want) / size)
    assert_agrees(out, want, scale=reference.log_size(q, k, features=phi) * spread, size=size)
    # Whatever the tolerance of large logs allows: the past of row 40 is not erased by the future.
    changed = k.copy()
    changed[:, 48:] = 0.5
    again = rfx.linear_attention(*map(lib.convert, (q, changed, v)), chunk_size=32, **call)
    mine, other = (to_numpy(a)[:, :48] for a in (out, again))
    scale = reference.log_size(q[:, :48], k[:, :48], features=phi) * spread[:, :48]
    assert_agrees(mine, other, scale=scale, size=size)


@NAMES
def test_steep_logs_with_masks_and_a_state_hide_nothing(lib: ArrayLibrary, name: str) -> None:
    """Queries before the first visible key of a chunk see only the state, at its own scale."""
    rng = np.random.default_rng(5)
    k = (40.0 * unit_rows(rng, 1, 96, 8)).astype(np.float32)
    k[:, 50:] /= 40.0
    q = unit_rows(rng, 1, 96, 8).astype(np.float32)
    v = rng.standard_normal((1, 96, 3)).astype(np.float32)
    mask = np.ones(96, dtype=bool)
    mask[32:50] = False
    phi = draw(name, 8, lib.convert(q))
    call = {"features": phi, "is_causal": True}
    out = rfx.linear_attention(
        *map(lib.convert, (q, k, v)), mask=lib.convert(mask), chunk_size=32, **call
    )
    want = reference.linear_attention(q, k, v, mask=mask, **call)
    size = float(np.abs(v).max())
    spread = reference.conditioning(q, k, mask=mask, **call) * (1.0 + np.abs(want) / size)
    assert_agrees(out, want, scale=reference.log_size(q, k, features=phi) * spread, size=size)


@pytest.mark.parametrize("name", ["favor+"])
@CAUSAL
def test_logits_below_minus_600_are_averaged_right(
    lib: ArrayLibrary, name: str, is_causal: bool
) -> None:
    if "float64" not in lib.dtypes:
        pytest.skip(f"{lib} holds no float64 by default")
    rng = np.random.default_rng(6)
    k = 50.0 + rng.standard_normal((1, 40, 8))
    q, v = -50.0 + rng.standard_normal((1, 40, 8)), rng.standard_normal((1, 40, 2))
    assert rfx.kernels.Softmax().log(q, k).max() < -600
    phi = draw(name, 8, lib.convert(q))
    call = {"features": phi, "is_causal": is_causal}
    out = rfx.linear_attention(*map(lib.convert, (q, k, v)), chunk_size=16, **call)
    want = reference.linear_attention(q, k, v, **call)
    scale = reference.log_size(q, k, features=phi)
    assert_agrees(out, want, scale=scale, size=float(np.abs(v).max()))
    exact = rfx.kernel_attention(*map(lib.convert, (q, k, v)), is_causal=is_causal)
    want = reference.kernel_attention(q, k, v, is_causal=is_causal)
    assert_agrees(exact, want, scale=2e4, size=float(np.abs(v).max()))


@NAMES
@pytest.mark.parametrize("first", [5, 16, 40])
def test_an_empty_masked_prefix_gives_zeros_then_the_answer(
    lib: ArrayLibrary, name: str, first: int, rng: np.random.Generator
) -> None:
    q, k, v = rng.standard_normal((3, 2, 63, 8)).astype(np.float32)
    k[:, :first], v[:, :first] = np.nan, np.nan
    mask = np.arange(63) >= first
    phi = draw(name, 8, lib.convert(q))
    call = {"features": phi, "is_causal": True}
    out = to_numpy(
        rfx.linear_attention(
            *map(lib.convert, (q, k, v)), mask=lib.convert(mask), chunk_size=16, **call
        )
    )
    assert (out[:, :first] == 0).all()
    tail = (a[:, first:] for a in (q, k, v))
    q, k, v = tail
    want = reference.linear_attention(q, k, v, **call)
    size = float(np.abs(v).max())
    spread = reference.conditioning(q, k, **call) * (1.0 + np.abs(want) / size)
    scale = reference.log_size(q, k, features=phi) * spread
    assert_agrees(out[:, first:], want, scale=scale, size=size)


@NAMES
@CAUSAL
def test_nan_in_a_query_touches_its_own_row(
    lib: ArrayLibrary, name: str, is_causal: bool, rng: np.random.Generator
) -> None:
    q, k, v = rng.standard_normal((3, 2, 48, 8)).astype(np.float32)
    q[1, 20, 3] = np.nan
    phi = draw(name, 8, lib.convert(q))
    call = {"features": phi, "is_causal": is_causal, "chunk_size": 16}
    out = to_numpy(rfx.linear_attention(*map(lib.convert, (q, k, v)), **call))
    bad = np.isnan(out).any(axis=-1)
    assert bad[1, 20]
    assert bad.sum() == 1


@NAMES
@CAUSAL
@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan_in_a_key_or_value_touches_what_may_see_it(
    lib: ArrayLibrary, name: str, is_causal: bool, where: str, rng: np.random.Generator
) -> None:
    q, k, v = rng.standard_normal((3, 2, 2, 48, 8)).astype(np.float32)
    {"key": k, "value": v}[where][1, 0, 20, 3] = np.nan
    phi = draw(name, 8, lib.convert(q))
    call = {"features": phi, "is_causal": is_causal, "chunk_size": 16}
    out = to_numpy(rfx.linear_attention(*map(lib.convert, (q, k, v)), **call))
    bad = np.isnan(out).any(axis=-1)
    assert bad[1, 0, 20:].all()
    allowed = np.zeros_like(bad)
    allowed[1, 0, 16 if is_causal else 0 :] = True
    assert not bad[~allowed].any()


@NAMES
@CAUSAL
def test_a_masked_key_or_value_touches_nothing(
    lib: ArrayLibrary, name: str, is_causal: bool, rng: np.random.Generator
) -> None:
    q, k, v = rng.standard_normal((3, 2, 48, 8)).astype(np.float32)
    mask = rng.random(48) < 0.5
    phi = draw(name, 8, lib.convert(q))
    outs = []
    for fill in (0.0, np.nan, np.inf, 1e30):
        k_, v_ = (np.where(mask[:, None], a, np.float32(fill)) for a in (k, v))
        args = (*map(lib.convert, (q, k_, v_)),)
        call = {"features": phi, "is_causal": is_causal, "mask": lib.convert(mask)}
        outs.append(to_numpy(rfx.linear_attention(*args, chunk_size=16, **call)))
    for other in outs[1:]:
        np.testing.assert_array_equal(other, outs[0])


def test_kernel_attention_keeps_masked_nan_out(lib: ArrayLibrary, rng) -> None:
    q, k, v = rng.standard_normal((3, 2, 20, 4)).astype(np.float32)
    mask = np.arange(20) < 9
    k[:, 9:], v[:, 9:] = np.nan, np.nan
    out = rfx.kernel_attention(*map(lib.convert, (q, k, v)), mask=lib.convert(mask))
    want = reference.kernel_attention(q, k[:, :9], v[:, :9])
    assert_agrees(out, want, scale=8.0, size=float(np.abs(v[:, :9]).max()))


@NAMES
def test_queries_with_nothing_to_see_give_zeros(lib: ArrayLibrary, name: str, rng) -> None:
    q, k, v = (lib.convert(a) for a in rng.standard_normal((3, 2, 20, 4)).astype(np.float32))
    phi = draw(name, 4, q)
    nothing = lib.convert(np.zeros(20, dtype=bool))
    for is_causal in (False, True):
        call = {"features": phi, "is_causal": is_causal, "mask": nothing, "return_state": True}
        out, state = rfx.linear_attention(q, k, v, **call)
        assert (to_numpy(out) == 0).all()
        assert (to_numpy(state.log_scale) == -np.inf).all()
        exact = rfx.kernel_attention(q, k, v, is_causal=is_causal, mask=nothing)
        assert (to_numpy(exact) == 0).all()
    none = rfx.linear_attention(q, k[:, :0, :], v[:, :0, :], features=phi)
    assert (to_numpy(none) == 0).all()
    assert tuple(rfx.linear_attention(q[:, :0, :], k, v, features=phi).shape) == (2, 0, 4)


@CAUSAL
@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 5, 4), (0, 2, 5, 4), (3, 5, 0)])
def test_axes_of_size_zero_give_empty_outputs(
    lib: ArrayLibrary, is_causal: bool, shape: tuple[int, ...]
) -> None:
    points = lib.convert(np.zeros((*shape[:-1], 4), dtype=np.float32))
    value = lib.convert(np.zeros(shape, dtype=np.float32))
    phi = draw("favor+", 4, points)
    out = rfx.linear_attention(points, points, value, features=phi, is_causal=is_causal)
    assert tuple(out.shape) == shape


def peak_memory(call) -> int:
    """Bytes that NumPy allocates at most while ``call`` runs."""
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@NAMES
@CAUSAL
def test_features_of_the_whole_sequence_are_never_held(name: str, is_causal: bool) -> None:
    length, m = 16_384, 256
    x = np.random.default_rng(80).standard_normal((1, length, 8)).astype(np.float32)
    phi = draw(name, 8, x, m=m)
    options = {"features": phi, "is_causal": is_causal}
    peak = peak_memory(lambda: rfx.linear_attention(x, x, x, **options))
    assert peak < 0.3 * length * m * 4


def test_kernel_attention_never_holds_all_pairs() -> None:
    length = 4096
    x = np.random.default_rng(81).standard_normal((1, length, 8)).astype(np.float32)
    assert peak_memory(lambda: rfx.kernel_attention(x, x, x)) < 0.3 * length**2 * 4
