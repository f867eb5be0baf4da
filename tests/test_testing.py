"""The tools of the tests: oracles against calculations by hand, and assertions that do fail."""

from __future__ import annotations

import numpy as np
import pytest

from rfx import reference
from rfx.features import ExponentialMap, Positive, Side, Trigonometric
from rfx.kernels import Gaussian, Softmax
from rfx.testing import (
    EPS,
    array_libraries,
    assert_agrees,
    cases,
    probes,
    tolerance,
    z_score,
)

ONE_PERCENT = np.log(0.01)


class Unscaled(Positive):
    """Features without the factor common to all, for calculations by hand."""

    @property
    def log_constant(self) -> float:
        return 0.0


def hand_map(*weights: float) -> ExponentialMap:
    """Features exp(w_j x) of numbers x."""
    side = Side(np.asarray([weights]))
    return ExponentialMap(Unscaled(len(weights)), side, None, np.asarray(0.0))


def column(*numbers: float) -> np.ndarray:
    return np.asarray(numbers)[:, None]


def test_oracle_attention_is_that_of_a_calculation_by_hand() -> None:
    """Features (1, 2^x): φ(0)·φ(0) = 2, φ(0)·φ(1) = 3, φ(1)·φ(0) = 3, φ(1)·φ(1) = 5."""
    phi, x, v = hand_map(0.0, np.log(2.0)), column(0.0, 1.0), column(1.0, 2.0)
    call = {"features": phi}
    assert_agrees(reference.gram(x, x, **call), np.asarray([[2.0, 3.0], [3.0, 5.0]]))
    assert_agrees(reference.linear_attention(x, x, v, **call), column(8 / 5, 13 / 8))
    causal = reference.linear_attention(x, x, v, **call, is_causal=True)
    assert_agrees(causal, column(1.0, 13 / 8))
    masked = reference.linear_attention(x, x, v, **call, mask=np.asarray([False, True]))
    assert_agrees(masked, column(2.0, 2.0))
    nothing = reference.linear_attention(x, x, v, **call, mask=np.asarray([False, False]))
    assert_agrees(nothing, column(0.0, 0.0))


def test_oracle_ignores_what_is_masked_even_nan() -> None:
    phi, x = hand_map(0.0, 1.0), column(0.0, np.nan)
    out = reference.linear_attention(
        x[:1], x, x + 1.0, features=phi, mask=np.asarray([True, False])
    )
    assert_agrees(out, column(1.0))


def test_oracle_sees_the_keys_before_the_queries_when_causal() -> None:
    """With s = t + 1 the first query sees two keys; with t = s + 1, none."""
    phi, v = hand_map(0.0), column(1.0, 3.0, 8.0)
    call = {"features": phi, "is_causal": True}
    x = column(0.0, 0.0, 0.0)
    assert_agrees(reference.linear_attention(x[1:], x, v, **call), column(2.0, 4.0))
    assert_agrees(reference.linear_attention(x, x[1:], v[1:], **call), column(0.0, 3.0, 5.5))


def test_oracle_gives_each_group_of_query_heads_its_key_head() -> None:
    x = np.zeros((4, 2, 1))
    v = np.arange(4.0).reshape(2, 2, 1)
    out = reference.linear_attention(x, x[:2], v, features=hand_map(0.0))
    assert_agrees(out[:, 0, 0], np.asarray([0.5, 0.5, 2.5, 2.5]))
    exact = reference.kernel_attention(x, x[:2], v)
    assert_agrees(exact[:, 0, 0], np.asarray([0.5, 0.5, 2.5, 2.5]))


def test_oracle_attention_is_right_where_features_overflow() -> None:
    """Logs of 1e4: the weights are 1 and 1/100 whatever is common to them."""
    phi = hand_map(1.0)
    out = reference.linear_attention(
        column(1.0), column(1e4, 1e4 + ONE_PERCENT), column(1.0, 0.0), features=phi
    )
    assert_agrees(out, column(1 / 1.01), scale=1e4)


def test_oracle_kernels_are_those_of_a_calculation_by_hand() -> None:
    x, y = np.asarray([[1.0, 2.0]]), np.asarray([[3.0, -1.0]])
    assert_agrees(reference.log_kernel(x, y, kernel=Softmax(0.5)), column(0.5))
    assert_agrees(reference.log_kernel(x, y, kernel=Gaussian(2.0)), column(-13 / 8))
    v = column(1.0, 3.0)
    out = reference.kernel_attention(column(1.0), column(0.0, np.log(3.0)), v, kernel=Softmax(1.0))
    assert_agrees(out, column(2.5))


def test_conditioning_is_the_share_that_cancels() -> None:
    """cos(0 − 0) + cos(0 − 2): terms of size 1 and |cos 2|, that nearly cancel at the half."""
    like = column(0.0, 0.0)
    phi = Trigonometric(2, Gaussian(1.0)).draw(1, seed=0, like=like)
    phi = phi.with_arrays(phi.arrays() | {"query_weight": np.ones((1, 1))})
    keys = column(0.0, 2.0)
    found = reference.conditioning(like[:1], keys, features=phi)
    assert_agrees(found, column((1 - np.cos(2.0)) / (1 + np.cos(2.0))))
    assert np.all(reference.conditioning(like, keys, features=hand_map(0.0, 1.0)) == 1.0)


def test_log_size_is_one_more_than_the_largest_log() -> None:
    assert reference.log_size(column(2.0), column(-7.0), features=hand_map(1.0)) == 8.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_an_error_of_a_hundred_roundings_fails(dtype: str) -> None:
    want = np.asarray([1.0, -2.0, 0.25])
    assert_agrees(want + EPS[dtype] * 0.5, want, dtype=dtype)
    with pytest.raises(AssertionError, match=r"at \(2,\), is .* tolerances of"):
        assert_agrees(want + np.asarray([0, 0, 100 * EPS[dtype]]), want, dtype=dtype)


def test_tf32_is_no_float32() -> None:
    want = np.random.default_rng(0).standard_normal((63, 8))
    rounded = np.round(want * 2**10) / 2**10
    with pytest.raises(AssertionError, match="tolerances"):
        assert_agrees(rounded.astype(np.float32), want)


@pytest.mark.parametrize(
    ("have", "want"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (-np.inf, np.inf)]
)
def test_what_is_not_finite_must_be_wanted(have: float, want: float) -> None:
    for scale in (1.0, np.inf):
        with pytest.raises(AssertionError, match=r"the worst, at .* inf tolerances"):
            assert_agrees(np.asarray([have, 1.0]), np.asarray([want, 1.0]), scale=scale)
    assert_agrees(np.asarray([want, 1.0]), np.asarray([want, 1.0]))


def test_infinity_is_wanted_where_the_dtype_ends() -> None:
    assert_agrees(np.asarray([np.inf], dtype=np.float16), np.asarray([1e5]))
    with pytest.raises(AssertionError, match="is wanted"):
        assert_agrees(np.asarray([65504.0], dtype=np.float16), np.asarray([1e5]))
    for either in (65504.0, np.inf):
        assert_agrees(np.asarray([either], dtype=np.float16), np.asarray([65510.0]))


def test_shapes_must_be_equal() -> None:
    with pytest.raises(AssertionError, match=r"shape \(1,\), but \(1, 1\) is wanted"):
        assert_agrees(np.ones(1), np.ones((1, 1)))


def test_tolerance_of_half_precision_is_one_rounding_and_those_of_float32() -> None:
    want = np.asarray([2.0, -4.0])
    assert np.all(tolerance(want, "float16", scale=10.0) == 4 * (2**-10 + 160 * 2**-23))
    assert np.all(tolerance(want, "float64", size=1.0) == 17 * 2**-52)


def test_z_score_counts_standard_errors() -> None:
    samples = np.tile([[0.0], [2.0]], (50, 1))
    assert z_score(samples, np.asarray([0.5]), variance=4.0) == pytest.approx(0.5 / 0.2)
    assert z_score(samples, np.asarray([1.0]))[0] == 0.0
    exact = np.full((100, 1), 3.0)
    assert z_score(exact, np.asarray([3.0]))[0] == 0.0
    assert abs(z_score(exact, np.asarray([3.0 * (1 + 1e-12)]))[0]) > 100


@pytest.mark.parametrize("dim", [1, 2, 8, 64])
@pytest.mark.parametrize("kernel", [Softmax(), Gaussian(1.7)], ids=repr)
def test_probes_are_at_the_limit_in_the_unit_of_the_kernel(dim: int, kernel: Gaussian) -> None:
    real = np.random.default_rng(0).standard_normal((2, 3, dim))
    for spec, sign in ((Positive(8, kernel), 1), (Trigonometric(8, kernel), -1)):
        found = probes(spec, dim, limit=4.0, activations=real)
        assert len({probe.name for probe in found}) == len(found) == 16
        for name, x, y in found:
            distance = kernel.unit(dim) ** 2 * np.sum((x + sign * y) ** 2)
            wanted = 0.0 if name == ("x = -y" if sign == 1 else "x = y") else 4.0
            assert distance == pytest.approx(wanted, abs=1e-12)


def test_cases_hold_what_attention_must_serve() -> None:
    found = cases()
    assert {len(case.query) - 2 for case in found} == {0, 1, 2}
    assert {63, 100} <= {length for case in found for length in (case.query[-2], case.key[-2])}
    assert any(case.query[-3:-2] != case.key[-3:-2] for case in found)
    assert {case.causal for case in found} == {True, False}
    assert any(case.value[-1] != case.dim for case in found)
    for case in found:
        assert tuple(a.shape for a in case.arrays(0)) == (case.query, case.key, case.value)


def test_libraries_convert_every_dtype_that_they_name() -> None:
    host = np.asarray([[0.5, -2.0]])
    for library in array_libraries():
        for dtype in library.dtypes:
            array = library.convert(host, dtype)
            assert_agrees(array, host)
            assert str(array.dtype).endswith(dtype)
        assert_agrees(library.convert(host), host)
    numpy = array_libraries()[0].convert(host)
    assert not numpy.flags.writeable
