"""Attention with a relative bias: by blocks and by FFT, against pairs in float64."""

from __future__ import annotations

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.ops import relative_blocks, relative_fourier
from rfx.ops.toeplitz import toeplitz
from rfx.testing import ArrayLibrary, assert_agrees, drawn
from tests.test_numerics import peak_memory

CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
METHODS = pytest.mark.parametrize("method", ["direct", "fft"])
T, S = 70, 90  # long enough for a transform


def pairs(q, k, *, features, bias, is_causal=False, mask=None):
    """Weights of all pairs divided by exp of their row's largest log, and their absolute sums."""
    log, total, size = reference._pairs(features, q, k)
    t, s = log.shape[-2:]
    bias = to_numpy(bias).astype(np.float64)
    if bias.ndim > 1 and bias.shape[-2] not in (1, *log.shape[-3:-2]):
        bias = np.repeat(bias, log.shape[-3] // bias.shape[-2], axis=-2)
    log = log + bias[..., np.arange(s) - np.arange(t)[:, None] + t - 1]
    log = np.where(reference._seen(q, k, is_causal, mask), log, -np.inf)
    top = np.max(log, axis=-1, keepdims=True)
    weight = np.exp(log - np.where(np.isfinite(top), top, 0.0))
    return weight * total, weight * size


def oracle(q, k, v, **call):
    """The output, and how much cancellation magnifies errors of a row's weights."""
    weight, size = pairs(q, k, **call)
    value = to_numpy(v).astype(np.float64)
    if value.ndim > 2 and value.shape[-3] != weight.shape[-3]:
        value = np.repeat(value, weight.shape[-3] // value.shape[-3], axis=-3)
    total = np.sum(weight, axis=-1, keepdims=True)
    nothing = np.sum(size, axis=-1, keepdims=True) == 0.0
    safe = np.where(nothing, 1.0, total)
    return weight @ value / safe, np.where(nothing, 1.0, np.sum(size, -1, keepdims=True) / safe)


def assert_close(outs, q, k, v, slack: float = 1.0, **call):
    """Agreement up to roundings of logs and biases, magnified by cancellation.

    ``slack`` is for an FFT, whose errors may be up to 256 roundings of a row's denominator.
    """
    want, spread = oracle(q, k, v, **call)
    size = float(np.abs(v).max())
    finite = to_numpy(call["bias"])
    finite = np.abs(finite[np.isfinite(finite)]).max()
    scale = (reference.log_size(q, k, features=call["features"]) + float(finite)) * slack
    scale = scale * np.abs(spread) * (1 + np.abs(want) / size)
    for out in outs if isinstance(outs, list) else [outs]:
        assert_agrees(out, want, scale=scale, size=size)


def inputs(seed: int = 0, t: int = T, s: int = S):
    """Grouped queries, keys and values, float32."""
    rng = np.random.default_rng(seed)
    shapes = (2, 4, t, 6), (2, 2, s, 6), (2, 2, s, 5)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def draw(name: str, like, heads=2, dim: int = 6, m: int = 16):
    return drawn(rfx.features.named(name, num_features=m), dim, seed=1, like=like, heads=heads)


def biases(kind: str, t: int, s: int, rng) -> np.ndarray:
    """Float32 biases for two heads, over -30 to 30."""
    offset = np.arange(t + s - 1) - (t - 1.0)
    rows = {
        "random": rng.uniform(-30.0, 30.0, (2, t + s - 1)),
        "linear": 30.0 * offset / np.abs(offset).max() * np.asarray([[1.0], [-1.0]]),
        "peaked": np.maximum(30.0 - 6.0 * np.abs(offset - np.asarray([[0.0], [s // 2]])), -30.0),
        "sawtooth": (offset % np.asarray([[7.0], [31.0]])) / np.asarray([[6.0], [30.0]]) * 60 - 30,
        "gap": np.where(np.abs(offset) % 5 == 0, -np.inf, offset * np.asarray([[0.1], [0.0]])),
    }[kind]
    return rows.astype(np.float32)


def call_of(lib: ArrayLibrary, arrays, mask=None, bias=None, **options):
    q, k, v = (lib.convert(a) for a in arrays)
    mask = None if mask is None else lib.convert(mask)
    return rfx.relative_attention(q, k, v, bias=lib.convert(bias), mask=mask, **options)


@pytest.mark.parametrize("name", ["favor+", "favor"])
@CAUSAL
def test_each_method_agrees_with_the_oracle(lib: ArrayLibrary, name: str, is_causal: bool) -> None:
    arrays, rng = inputs(), np.random.default_rng(2)
    mask = rng.random((2, 1, S)) < 0.8
    bias = rng.standard_normal((1, 2, T + S - 1)).astype(np.float32)
    phi = draw(name, lib.convert(arrays[0]))
    call = {"features": phi, "bias": bias, "is_causal": is_causal, "mask": mask}
    outs = [call_of(lib, arrays, **call, method=method) for method in ("direct", "fft")]
    assert type(outs[0]) is type(lib.convert(arrays[2]))
    assert_close(outs, *arrays, **call, slack=2.0)


@pytest.mark.parametrize("kind", ["random", "linear", "peaked", "sawtooth", "gap"])
@CAUSAL
def test_biases_over_a_wide_range_are_right(lib: ArrayLibrary, kind: str, is_causal: bool) -> None:
    arrays, rng = inputs(), np.random.default_rng(3)
    mask = np.ones((2, 1, S), dtype=bool)
    bias = biases(kind, T, S, rng)[None]
    call = {"features": draw("favor+", lib.convert(arrays[0])), "bias": bias, "mask": mask}
    call["is_causal"] = is_causal
    outs = [call_of(lib, arrays, **call, method=method) for method in ("direct", "fft")]
    assert_close(outs, *arrays, **call, slack=2.0)


@pytest.mark.parametrize("kind", ["random", "linear", "peaked", "sawtooth", "gap"])
@CAUSAL
def test_several_strips_are_put_together(kind: str, is_causal: bool) -> None:
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((2, n, 4)).astype(np.float32) for n in (300, 520, 520))
    phi = draw("favor+", q, dim=4)
    call = {"features": phi, "bias": biases(kind, 300, 520, rng), "is_causal": is_causal}
    outs = [rfx.relative_attention(q, k, v, **call, method=method) for method in ("direct", "fft")]
    assert_close(outs, q, k, v, **call, slack=2.0)


@pytest.mark.parametrize("kind", ["random", "far", "late keys"])
def test_an_inaccurate_transform_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check the error is of the size of the values."""
    rng = np.random.default_rng(5)
    q, k, v = rng.standard_normal((3, 1, 600, 4)).astype(np.float32)
    bias = np.zeros(1199, dtype=np.float32)
    if kind == "random":
        bias = rng.uniform(-30.0, 30.0, 1199).astype(np.float32)
        bias[595:600] = -30.0  # what the first queries see
    elif kind == "far":
        bias[299] = 40.0  # which the first 300 queries do not see
    else:
        k[:, :400] *= 8.0  # whose features are small
    call = {"features": draw("favor+", q, heads=None, dim=4), "bias": bias, "is_causal": True}
    want, _ = oracle(q, k, v, **call)
    right = rfx.relative_attention(q, k, v, method="fft", **call)
    assert np.abs(right - want).max() < 1e-4
    monkeypatch.setattr(relative_fourier, "_TOLERANCE", 1e30)
    wrong = rfx.relative_attention(q, k, v, method="fft", **call)
    assert np.abs(wrong - want).max() > 1e-3


@CAUSAL
@pytest.mark.parametrize("kind", ["linear", "smooth"])
def test_an_accurate_transform_is_kept(
    is_causal: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bias that falls steadily, or with the distance: only the first strip may be direct."""
    q, k, v = (0.5 * np.random.default_rng(6).standard_normal((3, 1, 1500, 4))).astype(np.float32)
    offset = np.arange(2999) - 1499.0
    bias = {"linear": 60.0 * offset / 2999, "smooth": -0.01 * np.abs(offset)}[kind]
    done, over = [], relative_blocks._over

    def counted(*args, **kwargs):
        done.append(int(args[2][0, 0]))
        return over(*args, **kwargs)

    monkeypatch.setattr(relative_blocks, "_over", counted)
    call = {"features": draw("favor+", q, heads=None, dim=4), "bias": bias.astype(np.float32)}
    out = rfx.relative_attention(q, k, v, **call, is_causal=is_causal, method="fft")
    assert set(done) <= ({0} if is_causal else set())
    assert_close(out, q, k, v, **call, is_causal=is_causal, slack=4.0)


@METHODS
@pytest.mark.parametrize(("dtype", "last"), [("float32", 120), ("float64", 1200)])
def test_a_row_is_right_at_any_scale(method: str, dtype: str, last: int) -> None:
    """The first query sees itself alone, at a bias that is ever lower beside the others."""
    lower = np.linspace(0.0, last, 61)
    q, k, v = 0.3 * np.random.default_rng(17).standard_normal((3, 61, 70, 4)).astype(dtype)
    bias = np.where(np.arange(139) == 69, -lower[:, None], 0.0).astype(dtype)
    phi = draw("favor+", q, heads=None, dim=4)
    call = {"features": phi, "is_causal": True, "method": method}
    for implementation in (None, "portable"):  # head by head, and all at once
        out = rfx.relative_attention(q, k, v, bias=bias, implementation=implementation, **call)
        assert_agrees(out[:, 0], v[:, 0].astype(np.float64))


@CAUSAL
def test_keys_that_a_row_does_not_see_do_not_hide_those_it_sees(
    lib: ArrayLibrary, is_causal: bool
) -> None:
    """Keys grow along the sequence, by hundreds in their logs: a strip is done pair by pair."""
    q, k, v = inputs(7)
    k *= np.geomspace(60.0, 0.5, S, dtype=np.float32)[:, None]
    q[..., : T // 2, :] *= 20.0
    mask = np.ones((2, 1, S), dtype=bool)
    bias = np.where(np.arange(T + S - 1) > T + 10, -np.inf, 0.0).astype(np.float32)[None, None]
    call = {"features": draw("favor+", lib.convert(q)), "bias": np.repeat(bias, 2, axis=1)}
    call |= {"is_causal": is_causal, "mask": mask}
    for method in ("direct", "fft"):
        assert_close(call_of(lib, (q, k, v), **call, method=method), q, k, v, **call, slack=4.0)


@METHODS
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes_are_those_of_linear_attention(method: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    arrays, rng = inputs(8), np.random.default_rng(8)
    bias = rng.uniform(-5.0, 5.0, T + S - 1)
    q, k, v = (torch.asarray(a).to(getattr(torch, dtype)) for a in arrays)
    phi = draw("favor+", q)
    out = rfx.relative_attention(q, k, v, features=phi, bias=torch.asarray(bias), method=method)
    assert out.dtype == v.dtype
    host = [to_numpy(a).astype(np.float64) for a in (q, k, v)]
    held = bias if dtype == "float64" else bias.astype(np.float32)
    assert_close(out, *host, features=phi, bias=held, slack=2.0)


@METHODS
def test_the_future_does_not_change_the_past(lib: ArrayLibrary, method: str) -> None:
    arrays, rng = inputs(9), np.random.default_rng(9)
    bias = biases("sawtooth", T, S, rng)[None]
    call = {"features": draw("favor+", lib.convert(arrays[0])), "bias": bias, "is_causal": True}
    call |= {"mask": np.ones((2, 1, S), dtype=bool), "method": method}
    before = to_numpy(call_of(lib, arrays, **call))
    arrays[1][..., 60:, :] += 1.0
    arrays[2][..., 60:, :] = 50.0
    after = to_numpy(call_of(lib, arrays, **call))
    rows = slice(0, 60 - (S - T))
    assert_agrees(after[..., rows, :], before[..., rows, :].astype(np.float64), scale=64, size=50.0)
    assert np.abs(after - before).max() > 1.0


@METHODS
@CAUSAL
def test_masked_and_unseen_keys_are_absent(lib: ArrayLibrary, method: str, is_causal: bool) -> None:
    arrays, mask = inputs(10), np.ones((2, 1, S), dtype=bool)
    mask[..., : S - T + 5] = False  # in causal attention five queries see nothing
    mask[1, ..., 40:] = False
    bias = np.zeros((1, 2, T + S - 1), dtype=np.float32)
    call = {"features": draw("favor+", lib.convert(arrays[0])), "bias": bias, "mask": mask}
    call |= {"method": method, "is_causal": is_causal}
    clean = to_numpy(call_of(lib, arrays, **call))
    for a in arrays[1:]:
        a[~np.broadcast_to(mask, (2, 2, S))] = np.nan
    np.testing.assert_array_equal(to_numpy(call_of(lib, arrays, **call)), clean)
    if is_causal:
        assert (clean[..., :5, :] == 0.0).all()
    hidden = call_of(lib, arrays, **(call | {"mask": np.zeros_like(mask)}))
    assert (to_numpy(hidden) == 0.0).all()


@METHODS
def test_nan_in_a_query_touches_its_own_row(method: str) -> None:
    q, k, v = inputs(11)
    q[1, 2, 9, 0] = np.nan
    bias = np.zeros(T + S - 1, dtype=np.float32)
    out = rfx.relative_attention(q, k, v, features=draw("favor+", q), bias=bias, method=method)
    bad = np.isnan(out).any(axis=-1)
    assert bad[1, 2, 9]
    assert bad.sum() == 1


@METHODS
def test_nan_in_a_value_stays_in_what_sees_it(method: str) -> None:
    rng = np.random.default_rng(12)
    q, k, v = rng.standard_normal((3, 2, 600, 4)).astype(np.float32)
    v[1, 300] = np.nan
    call = {"features": draw("favor+", q, dim=4), "bias": np.zeros(1199, dtype=np.float32)}
    out = rfx.relative_attention(q, k, v, is_causal=True, method=method, **call)
    bad = np.isnan(out).any(axis=-1)
    assert bad[1, 300:].all()
    assert not bad[1, :256].any()
    assert not bad[0].any()


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 5, 4), (2, 0, 4), (3, 5, 0)])
def test_axes_of_size_zero_give_empty_outputs(lib: ArrayLibrary, shape: tuple[int, ...]) -> None:
    x = lib.convert(np.zeros((*shape[:-1], 4), dtype=np.float32))
    value = lib.convert(np.zeros(shape, dtype=np.float32))
    bias = lib.convert(np.zeros(max(2 * shape[-2] - 1, 0), dtype=np.float32))
    phi = draw("favor+", x, heads=None, dim=4)
    assert tuple(rfx.relative_attention(x, x, value, features=phi, bias=bias).shape) == shape


def test_points_without_heads_and_lengths_of_one_work(lib: ArrayLibrary) -> None:
    rng = np.random.default_rng(13)
    for t, s in ((1, 9), (9, 1), (1, 1), (9, 7)):
        q, k, v = (rng.standard_normal((n, 4)).astype(np.float32) for n in (t, s, s))
        bias = rng.standard_normal(t + s - 1).astype(np.float32)
        call = {"features": draw("favor+", lib.convert(q), heads=None, dim=4), "bias": bias}
        assert_close(call_of(lib, (q, k, v), **call), q, k, v, **call)
        if lib.library == "jax":  # one compilation is enough
            return


@CAUSAL
def test_memory_is_linear_without_all_columns(is_causal: bool) -> None:
    length, m, e = 2048, 32, 32
    rng = np.random.default_rng(14)
    q, k, v = (0.3 * rng.standard_normal((3, 1, length, e))).astype(np.float32)
    phi = draw("favor+", q, heads=None, dim=e, m=m)
    call = {"features": phi, "bias": -0.01 * np.abs(np.arange(2 * length - 1.0) - length + 1)}
    for method, share in (("fft", 0.4), ("direct", 0.4)):
        peak = peak_memory(
            lambda m=method: rfx.relative_attention(q, k, v, is_causal=is_causal, method=m, **call)
        )
        assert peak < share * length * m * e * 4


def test_the_length_decides_which_method_runs() -> None:
    def method(length: int) -> str:
        x = np.zeros((2, length, 4), dtype=np.float32)
        phi = draw("favor+", x, dim=4)
        bias = np.zeros(2 * length - 1, dtype=np.float32)
        return rfx.relative_attention.plan(x, x, x, features=phi, bias=bias)[2]["method"]

    assert method(64) == "direct"
    assert method(65_536) == "fft"


def test_it_is_explained() -> None:
    x = np.zeros((2, 8, 4), dtype=np.float32)
    call = {"features": draw("favor+", x, dim=4), "bias": np.zeros(15, dtype=np.float32)}
    found = rfx.explain(rfx.relative_attention, x, x, x, **call)
    assert (found.op, found.implementation) == ("relative", "numpy-threads")


REFUSED = {
    "short": ({"bias": np.zeros(14)}, ValueError, r"t \+ s - 1 = 15 entries for t=8 and s=8"),
    "heads": ({"bias": np.zeros((3, 15))}, ValueError, r"shape \(15,\) or \(2, 15\) with 1"),
    "axes": ({"bias": np.zeros((1, 2, 15))}, ValueError, r"shape \(15,\) or \(2, 15\) with 1"),
    "list": ({"bias": [0.0] * 15}, TypeError, "`bias` must be an array"),
    "int": ({"bias": np.zeros(15, dtype=int)}, TypeError, "`bias` must hold real floating"),
    "method": ({"method": "slow"}, ValueError, "`method` must be 'direct' or 'fft', got 'slow'"),
    "causal": ({"is_causal": True, "t": 9, "bias": np.zeros(16)}, ValueError, "as many keys"),
    "path": ({"implementation": "fast"}, ValueError, "known are portable, numpy-threads"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    options, kind, sentence = REFUSED[case]
    x, query = np.zeros((2, 8, 4)), np.zeros((2, options.get("t", 8), 4))
    call = {"features": draw("favor+", x, dim=4), "bias": np.zeros(15)} | options
    call.pop("t", None)
    with pytest.raises(kind, match=sentence):
        rfx.relative_attention(query, x, x, **call)


@pytest.mark.parametrize(("t", "s"), [(1, 1), (5, 9), (63, 100), (100, 63), (300, 1)])
def test_toeplitz_products_are_those_of_the_matrix(lib: ArrayLibrary, t: int, s: int) -> None:
    rng = np.random.default_rng(15)
    c, x = rng.standard_normal((3, t + s - 1)), rng.standard_normal((2, 1, s))
    want = np.empty((2, 3, t))
    for i in range(t):
        want[..., i] = np.sum(c[:, t - 1 - i : t - 1 - i + s] * x, axis=-1)
    out = toeplitz(*(lib.convert(a.astype(np.float32)) for a in (x, c)))
    assert_agrees(out, want, size=float(np.sqrt(t + s)))


def test_toeplitz_refuses_what_does_not_fit() -> None:
    x = np.zeros(4)
    with pytest.raises(ValueError, match=r"shape \(..., t \+ s - 1\) for `x` of shape"):
        toeplitz(x, np.zeros(3))
    with pytest.raises(TypeError, match="must share a dtype, got float64 and float32"):
        toeplitz(x, np.zeros(5, dtype=np.float32))


def small(length: int, seed: int = 16):
    rng = np.random.default_rng(seed)
    q, k, v = 0.5 * rng.standard_normal((3, 2, length, 4))
    return q, k, v, rng.standard_normal((2, 2 * length - 1))


@CAUSAL
@pytest.mark.parametrize(("name", "length"), [("favor+", 5), ("favor+", 66), ("favor", 66)])
def test_torch_gradients_are_those_of_finite_differences(
    name: str, length: int, is_causal: bool
) -> None:
    torch = pytest.importorskip("torch")
    arrays = [torch.asarray(a).requires_grad_() for a in small(length)]
    phi = draw(name, arrays[0].detach(), dim=4, m=4)
    mask = torch.arange(length) != 1

    def call(q, k, v, bias):
        return rfx.relative_attention(
            q, k, v, features=phi, bias=bias, is_causal=is_causal, mask=mask,
            method="direct" if length == 5 else "fft",
        )  # fmt: skip

    assert torch.autograd.gradcheck(call, arrays, fast_mode=True)


@CAUSAL
def test_gradients_of_both_methods_agree(is_causal: bool) -> None:
    torch = pytest.importorskip("torch")
    found = []
    for method in ("direct", "fft"):
        arrays = [torch.asarray(a).requires_grad_() for a in small(300)]
        phi = draw("favor+", arrays[0].detach(), dim=4)
        q, k, v, bias = arrays
        keep = torch.arange(300) % 7 != 0
        with torch.no_grad():
            k[:, ~keep], v[:, ~keep] = torch.nan, torch.nan
        out = rfx.relative_attention(
            q, k, v, features=phi, bias=bias, is_causal=is_causal, mask=keep, method=method
        )
        (out * out).sum().backward()
        found.append([to_numpy(a.grad) for a in arrays])
        assert (k.grad[:, ~keep] == 0).all()
    for direct, fft in zip(*found, strict=True):
        assert_agrees(fft, direct, scale=256.0)


def test_jax_gradients_are_those_of_torch() -> None:
    """With a bias for which the transform is good, and one for which the blocks are taken."""
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    good = small(66)
    steep = (*good[:3], good[3] + 60.0 * (np.arange(131) == 100))
    with jax.enable_x64(True):
        phi = draw("favor+", jax.numpy.asarray(good[0]), dim=4, m=4)

        @jax.jit
        def gradient(*arrays):
            def call(q, k, v, bias):
                out = rfx.relative_attention(q, k, v, features=phi, bias=bias, method="fft")
                return (out * out).sum()

            return jax.grad(call, argnums=(0, 1, 2, 3))(*arrays)

        found = [gradient(*map(jax.numpy.asarray, host)) for host in (good, steep)]
    for host, got in zip((good, steep), found, strict=True):
        arrays = [torch.asarray(a).requires_grad_() for a in host]
        q, k, v, bias = arrays
        phi = draw("favor+", q.detach(), dim=4, m=4)
        out = rfx.relative_attention(q, k, v, features=phi, bias=bias, method="direct")
        (out * out).sum().backward()
        for mine, other in zip(got, arrays, strict=True):
            assert_agrees(mine, to_numpy(other.grad), scale=4096.0)


def test_transforms_of_both_libraries_go_through() -> None:
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    q, k, v, bias = (a.astype(np.float32) for a in small(9))
    call = {"features": draw("favor+", q, heads=None, dim=4), "is_causal": True}
    want = rfx.relative_attention(q, k, v, bias=bias, **call)
    for module, vmap in ((jax.numpy, jax.vmap), (torch, torch.func.vmap)):
        phi = draw("favor+", module.asarray(q), heads=None, dim=4)

        def attend(q, k, v, bias, phi=phi):
            return rfx.relative_attention(q, k, v, features=phi, bias=bias, is_causal=True)

        out = vmap(attend)(*(module.asarray(a) for a in (q, k, v, bias)))
        assert_agrees(out, want.astype(np.float64), scale=16.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_torch_compile_takes_it_as_one_graph() -> None:
    torch = pytest.importorskip("torch")
    arrays = [torch.asarray(a, dtype=torch.float32) for a in small(8)]
    phi = draw("favor+", arrays[0], dim=4)

    def call(q, k, v, bias):
        return rfx.relative_attention(q, k, v, features=phi, bias=bias, is_causal=True)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_agrees(compiled(*arrays), to_numpy(call(*arrays)).astype(np.float64), scale=16.0)


def test_heads_of_long_sequences_go_one_by_one(lib: ArrayLibrary) -> None:
    """Query heads share key heads; both have masks, and biases of their own."""
    rng = np.random.default_rng(90)
    length = 1030
    q = rng.standard_normal((2, 4, length, 3)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, 2, length, 3)).astype(np.float32)
    bias = -np.abs(rng.standard_normal((1, 4, 2 * length - 1))).astype(np.float32)
    mask = rng.random((2, 2, length)) < 0.8
    q_, k_, v_, bias_, mask_ = (lib.convert(a) for a in (q, k, v, bias, mask))
    phi = rfx.features.Positive(num_features=4).draw(3, seed=91, like=q_)
    call = {"features": phi, "bias": bias_, "mask": mask_, "is_causal": True}
    found = rfx.relative_attention(q_, k_, v_, method="fft", **call)
    want = rfx.relative_attention(q_, k_, v_, method="direct", **call)
    assert_agrees(found, to_numpy(want), scale=512.0)
