"""Bad input gets one clear sentence before any array work, and never a wrong number."""

from __future__ import annotations

import numpy as np
import pytest

import rfx
from rfx.testing import ArrayLibrary

SPEC = rfx.features.Positive(num_features=8)


def arrays(*shapes: tuple[int, ...], dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(60)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def problem(lib: ArrayLibrary, heads: int = 2, key_heads: int = 2, t: int = 6, s: int = 6):
    made = arrays((3, heads, t, 4), (3, key_heads, s, 4), (3, key_heads, s, 4))
    q, k, v = map(lib.convert, made)
    return q, k, v, SPEC.draw(4, seed=0, like=q)


def refused(error: type[Exception], message: str, *args, **kwargs) -> None:
    """Both the call and its explanation refuse, with one sentence that ends in the fix."""
    for function in (
        rfx.linear_attention,
        lambda *a, **k: rfx.explain(rfx.linear_attention, *a, **k),
    ):
        with pytest.raises(error, match=message) as caught:
            function(*args, **kwargs)
        text = str(caught.value)
        assert "\n" not in text
        assert len(text) < 300


def test_shapes_that_do_not_fit_are_refused(lib: ArrayLibrary) -> None:
    q, k, v, phi = problem(lib)
    call = {"features": phi}
    refused(ValueError, "same last axis, got d=4 and d=3", q, k[..., :3], v, **call)
    refused(ValueError, "same length, got s=6 and s=5", q, k, v[..., :5, :], **call)
    refused(ValueError, r"shape \(\.\.\., length, dim\)", q[0, 0, 0, :], k, v, **call)
    refused(ValueError, "equal batch axes", q[0, ...], k, v, **call)
    refused(ValueError, "equal batch axes before the heads", q[:2, ...], k, v, **call)
    refused(ValueError, "equal batch axes", q, k, v[:, :1, ...], **call)


def test_query_heads_must_be_a_multiple_of_key_heads(lib: ArrayLibrary) -> None:
    q, k, v, phi = problem(lib, heads=3, key_heads=2)
    refused(ValueError, "3 heads must be a multiple of the key's 2 heads", q, k, v, features=phi)


def test_a_map_for_other_points_is_refused(lib: ArrayLibrary) -> None:
    q, k, v, _ = problem(lib)
    other = SPEC.draw(5, seed=0, like=q)
    refused(ValueError, "drawn for dim=5, but `query` has d=4", q, k, v, features=other)
    heads = SPEC.draw(4, seed=0, like=q, heads=3)
    refused(ValueError, "drawn for 3 heads, but `key` has 2", q, k, v, features=heads)
    refused(TypeError, "must be a drawn map, got Positive", q, k, v, features=SPEC)
    if "float64" in lib.dtypes:
        wide = SPEC.draw(4, seed=0, like=lib.convert(np.zeros(1)))
        message = r"works in .*float64, but `query` has dtype .*float32; use features.to_like"
        refused(TypeError, message, q, k, v, features=wide)


def test_arrays_of_different_libraries_are_refused(lib: ArrayLibrary) -> None:
    q, k, v, phi = problem(lib)
    host = np.zeros((3, 2, 6, 4), dtype=np.float32)
    if lib.library == "numpy":
        pytest.skip("the other library is NumPy")
    refused(
        TypeError, "`key` is an array of numpy, but `query` is one of", q, host, v, features=phi
    )
    refused(TypeError, "`value` is an array of numpy", q, k, host, features=phi)
    mine = SPEC.draw(4, seed=0, like=host)
    refused(
        TypeError, r"holds arrays of numpy.*use features.to_like\(query\)", q, k, v, features=mine
    )
    mask = np.ones(6, dtype=bool)
    refused(TypeError, "`mask` is an array of numpy", q, k, v, features=phi, mask=mask)


def test_arrays_on_different_devices_are_refused() -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.zeros(2, 6, 4) for _ in range(3))
    phi = SPEC.draw(4, seed=0, like=q)
    away = torch.zeros(2, 6, 4, device="meta")
    refused(ValueError, "`key` is on meta, but `query` is on cpu", q, away, v, features=phi)
    refused(ValueError, "`value` is on meta", q, k, away, features=phi)
    mask = torch.ones(6, dtype=torch.bool, device="meta")
    refused(ValueError, "`mask` is on meta", q, k, v, features=phi, mask=mask)
    message = r"`features` is on cpu, but `query` is on meta; use features.to_like\(query\)"
    refused(ValueError, message, away, away, away, features=phi)


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_what_is_no_floating_array_is_refused(lib: ArrayLibrary, name: str) -> None:
    q, k, v, phi = problem(lib)
    integers = lib.convert(np.ones((3, 2, 6, 4), dtype=np.int32))
    for wrong, message in ((integers, "real floating numbers, got dtype"), ([[1.0]], "got list")):
        given = {"query": q, "key": k, "value": v} | {name: wrong}
        refused(TypeError, f"`{name}` must .*{message}", *given.values(), features=phi)


def test_a_masked_numpy_array_is_refused() -> None:
    q, k, v = arrays((6, 4), (6, 4), (6, 4))
    phi = SPEC.draw(4, seed=0, like=q)
    refused(TypeError, "mask would be ignored", q, np.ma.masked_array(k), v, features=phi)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_numpy_arrays_that_are_not_what_they_seem_are_refused() -> None:
    q, k, v = arrays((6, 4), (6, 4), (6, 4))
    phi = SPEC.draw(4, seed=0, like=q)
    refused(TypeError, "is a numpy.matrix", np.matrix(q), k, v, features=phi)
    foreign = "native float16, float32 or float64, got dtype"
    for dtype in (">f4", np.longdouble):
        refused(TypeError, foreign, q, k, v.astype(dtype), features=phi)
    mask = np.ma.masked_array(np.ones(6, dtype=bool))
    refused(TypeError, "`mask` is a numpy masked array", q, k, v, features=phi, mask=mask)


def test_unknown_and_wrong_options_are_refused(lib: ArrayLibrary) -> None:
    q, k, v, phi = problem(lib)
    message = "`implementation` must be a string, got 5"
    refused(TypeError, message, q, k, v, features=phi, implementation=5)
    refused(TypeError, r"^linear_attention\(\) got an unexpected", q, k, v, features=phi, foo=1)


def test_a_state_of_another_dtype_is_refused(lib: ArrayLibrary) -> None:
    if "float64" not in lib.dtypes:
        pytest.skip(f"{lib} holds no float64 by default")
    q, k, v, phi = problem(lib)
    _, state = rfx.linear_attention(q, k, v, features=phi, return_state=True)
    wide = [lib.convert(np.zeros((3, 2, 6, 4))) for _ in range(3)]
    other = SPEC.draw(4, seed=0, like=wide[0])
    refused(TypeError, "must have dtype .*float64", *wide, features=other, initial_state=state)
    _, second = rfx.linear_attention(*wide, features=other, return_state=True)
    with pytest.raises(TypeError, match="`second` must have dtype"):
        rfx.merge(state, second)


def test_query_and_key_must_share_a_dtype(lib: ArrayLibrary) -> None:
    q, _, v, phi = problem(lib)
    narrow = lib.convert(np.zeros((3, 2, 6, 4)), lib.dtypes[-1])
    if narrow.dtype == q.dtype:
        narrow = lib.convert(np.zeros((3, 2, 6, 4)), lib.dtypes[0])
    refused(TypeError, "`query` and `key` must share a dtype", q, narrow, v, features=phi)


def test_masks_of_other_shapes_are_refused(lib: ArrayLibrary) -> None:
    q, k, v, phi = problem(lib)

    def mask(*shape: int):
        return lib.convert(np.ones(shape, dtype=bool))

    call = {"features": phi}
    refused(ValueError, r"pass mask\[:, None, :\]", q, k, v, mask=mask(3, 6), **call)
    refused(ValueError, "pairs of a query and a key", q, k, v, mask=mask(3, 2, 6, 6), **call)
    refused(ValueError, "last axis must be the keys' length", q, k, v, mask=mask(5), **call)
    refused(ValueError, "last axis must be the keys' length", q, k, v, mask=mask(3, 2, 1), **call)
    flat = (a[0, 0, ...] for a in (q, k, v))
    refused(ValueError, "pairs of a query and a key", *flat, mask=mask(6, 6), **call)
    floats = lib.convert(np.ones(6, dtype=np.float32))
    refused(TypeError, "must be bool with True for positions to keep", q, k, v, mask=floats, **call)
    refused(TypeError, "`mask` must be a bool array, got list", q, k, v, mask=[True] * 6, **call)


def test_more_queries_than_keys_need_a_state_when_causal(lib: ArrayLibrary) -> None:
    q, k, v, phi = problem(lib, t=7, s=6)
    refused(ValueError, "got t=7 and s=6", q, k, v, features=phi, is_causal=True)
    with pytest.raises(ValueError, match="got t=7 and s=6"):
        rfx.kernel_attention(q, k, v, is_causal=True)


def test_a_state_that_does_not_fit_is_refused(lib: ArrayLibrary) -> None:
    q, k, v, phi = problem(lib)
    _, state = rfx.linear_attention(q, k, v, features=phi, return_state=True)
    redrawn = SPEC.draw(4, seed=1, like=q)
    refused(ValueError, "made with another map", q, k, v, features=redrawn, initial_state=state)
    refused(TypeError, "must be an rfx.State, got tuple", q, k, v, features=phi, initial_state=())
    _, small = rfx.linear_attention(
        q[:1, ...], k[:1, ...], v[:1, ...], features=phi, return_state=True
    )
    message = r"numerator of shape \(3, 2, 8, 4\), got \(1, 2, 8, 4\)"
    refused(ValueError, message, q, k, v, features=phi, initial_state=small)
    _, other = rfx.linear_attention(q, k, v, features=redrawn, return_state=True)
    with pytest.raises(ValueError, match="made with another map"):
        rfx.merge(state, other)
    with pytest.raises(ValueError, match="must have the same shape"):
        rfx.merge(state, small)
    with pytest.raises(TypeError, match=r"`second` must be an rfx\.State"):
        rfx.merge(state, None)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_chunk_sizes_must_be_positive_ints(lib: ArrayLibrary, size: object) -> None:
    q, k, v, phi = problem(lib)
    error = ValueError if type(size) is int else TypeError
    refused(error, "`chunk_size` must be", q, k, v, features=phi, chunk_size=size)


def test_gram_and_kernels_refuse_points_that_do_not_fit(lib: ArrayLibrary) -> None:
    x, y = map(lib.convert, arrays((2, 5, 4), (2, 6, 4)))
    phi = SPEC.draw(4, seed=0, like=x)
    for call in (lambda *a: rfx.gram(*a, features=phi), phi.kernel, phi.kernel.log, phi.variance):
        with pytest.raises(ValueError, match="same last axis"):
            call(x, y[..., :3])
        with pytest.raises(ValueError, match="equal batch axes"):
            call(x, y[:1, ...])
        with pytest.raises(TypeError, match="got int"):
            call(x, 3)
    with pytest.raises(TypeError, match="must be a drawn map"):
        rfx.gram(x, y, features=SPEC)
    with pytest.raises(TypeError, match=r"`kernel` must be a record of rfx.kernels"):
        rfx.kernel_attention(x, y, y, kernel="softmax")


def test_diagnostics_refuse_outputs_of_other_shapes() -> None:
    a, b = arrays((2, 5, 4), (2, 6, 4))
    with pytest.raises(ValueError, match="must have the same shape"):
        rfx.diagnostics.relative_error(a, b)


def test_public_names_are_listed_and_documented() -> None:
    for name in rfx.__all__:
        value = getattr(rfx, name)
        assert value.__doc__, name
    assert len(set(rfx.__all__)) == len(rfx.__all__)
