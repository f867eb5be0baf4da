"""Drawing, fitting and moving maps: seeds, heads, libraries."""

from __future__ import annotations

import numpy as np
import pytest

import rfx
from rfx._xp import to_numpy
from rfx.features import (
    ALL,
    Deterministic,
    Hedgehog,
    Maclaurin,
    PolySketch,
    Positive,
    ProductSketch,
    Spec,
    Taylor,
    TensorSketch,
)
from rfx.testing import ArrayLibrary, array_libraries, dtype_name

LIBRARIES = array_libraries()
EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=str)
EACH_SPEC = pytest.mark.parametrize("spec", [spec for spec in ALL if not spec.needs_data], ids=repr)
FIXED = (Deterministic, Hedgehog, Taylor)
RANDOM = [spec for spec in ALL if not spec.needs_data and not isinstance(spec, FIXED)]
DISCRETE = (Maclaurin, PolySketch, ProductSketch, TensorSketch)
"""Maps of random signs and places, which two draws may share here and there."""
EACH_RANDOM_SPEC = pytest.mark.parametrize("spec", RANDOM, ids=repr)
LIKE = np.zeros(1)


def same(first: rfx.features.DrawnMap, second: rfx.features.DrawnMap) -> bool:
    """Whether two maps have the same arrays, to the bit."""
    one, two = first.arrays(), second.arrays()
    return one.keys() == two.keys() and all(
        np.array_equal(to_numpy(one[name]), to_numpy(two[name])) for name in one
    )


def weight(phi: rfx.features.DrawnMap) -> np.ndarray:
    """The first frequencies of a map, or of the first map of a composite."""
    arrays = phi.arrays()
    return to_numpy(arrays[next(name for name in arrays if name.endswith("query_weight"))])


def differ(spec: Spec, first: np.ndarray, second: np.ndarray) -> bool:
    """Whether no frequency of two draws is the same, or few of discrete ones are."""
    if first.shape != second.shape:  # Maclaurin: of random degrees
        return True
    return np.mean(first == second) <= (0.8 if isinstance(spec, DISCRETE) else 0.0)


@EACH_SPEC
def test_a_seed_gives_the_same_frequencies_to_the_bit_on_every_library(spec: Spec) -> None:
    for heads in (None, 3):
        want = spec.draw(8, seed=4, like=LIKE, heads=heads).arrays()
        for library in LIBRARIES:
            for dtype in library.dtypes:
                like = library.convert(LIKE, dtype)
                found = spec.draw(8, seed=4, like=like, heads=heads).arrays()
                working = "float64" if dtype == "float64" else "float32"
                assert found.keys() == want.keys()
                for name, array in found.items():
                    assert type(array) is type(like)
                    assert dtype_name(array.dtype) == working
                    assert np.array_equal(to_numpy(array), want[name].astype(working)), name


@EACH_RANDOM_SPEC
def test_a_seed_decides_the_map_and_another_changes_it(spec: Spec) -> None:
    first, again, other = (spec.draw(8, seed=seed, like=LIKE) for seed in (4, 4, 5))
    assert same(first, again)
    assert differ(spec, weight(first), weight(other))
    assert first.fingerprint != other.fingerprint


def test_a_generator_is_used_up_and_an_int_starts_one() -> None:
    spec = Positive(8)
    rng = np.random.default_rng(4)
    first, second = (spec.draw(8, seed=rng, like=LIKE) for _ in range(2))
    assert same(first, spec.draw(8, seed=4, like=LIKE))
    assert not np.any(weight(first) == weight(second))


def test_any_kind_of_int_is_a_seed() -> None:
    spec = Positive(8)
    assert same(spec.draw(8, seed=np.uint8(4), like=LIKE), spec.draw(8, seed=4, like=LIKE))
    assert weight(spec.draw(8, seed=10**40, like=LIKE)).shape == (8, 8)


def test_drawing_leaves_numpys_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002, the global one is what is tested
    Positive(8).draw(8, seed=4, like=LIKE)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    "seed",
    [None, 1.0, "0", True, (1, 2), np.random.RandomState(0)],
    ids=lambda seed: type(seed).__name__,
)
def test_other_seeds_are_refused(seed: object) -> None:
    message = r"`seed` must be an int or a numpy.random.Generator, got .*; pass for example seed=0"
    with pytest.raises(TypeError, match=message):
        Positive(8).draw(8, seed=seed, like=LIKE)
    with pytest.raises(TypeError, match=message):
        Positive(8).fit(np.zeros((3, 8)), np.zeros((3, 8)), seed=seed)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`seed` must not be negative, got -1; pass for example"):
        Positive(8).draw(8, seed=-1, like=LIKE)


def test_a_seed_must_be_given() -> None:
    with pytest.raises(TypeError, match="seed"):
        Positive(8).draw(8, like=LIKE)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="seed"):
        Positive(8).fit(np.zeros((3, 8)), np.zeros((3, 8)))  # type: ignore[call-arg]


@EACH_RANDOM_SPEC
def test_heads_are_independent_draws(spec: Spec) -> None:
    phi = spec.draw(8, seed=4, like=LIKE, heads=3)
    assert phi.heads == 3
    for array in (a for name, a in phi.arrays().items() if name != "fingerprint"):
        assert array.shape[0] == 3
    columns = weight(phi)
    assert differ(spec, columns[0], columns[1])
    assert differ(spec, columns[1], columns[2])


@EACH_SPEC
def test_one_shared_matrix_is_the_draw_of_one_head(spec: Spec) -> None:
    shared, one = (spec.draw(8, seed=4, like=LIKE, heads=heads) for heads in (None, 1))
    assert shared.heads is None
    assert np.array_equal(weight(shared), weight(one)[0])


@EACH_SPEC
@pytest.mark.parametrize("heads", [None, 3])
def test_each_head_is_evaluated_with_its_own_frequencies(spec: Spec, heads: int | None) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 63, 8))
    phi = spec.draw(8, seed=4, like=x, heads=heads)
    whole = phi.query(x).exp()
    for head in range(3):
        arrays = {
            name: array if heads is None or name == "fingerprint" else array[head]
            for name, array in phi.arrays().items()
        }
        alone = phi.with_arrays(arrays).query(x[:, head]).exp()
        assert np.allclose(whole[:, head], alone, rtol=1e-13, atol=0)


def test_points_of_another_number_of_heads_are_refused() -> None:
    phi = Positive(8).draw(8, seed=4, like=LIKE, heads=2)
    x = np.zeros((3, 5, 8))
    for call in (phi.query, phi.key, lambda x: rfx.gram(x, x, features=phi)):
        with pytest.raises(ValueError, match="heads"):
            call(x)


@EACH_SPEC
def test_fit_of_a_map_without_data_is_a_draw_for_the_key_heads(spec: Spec) -> None:
    query, key = np.ones((2, 6, 5, 8)), np.ones((2, 3, 7, 8))
    assert same(spec.fit(query, key, seed=4), spec.draw(8, seed=4, like=query, heads=3))
    pooled = spec.fit(query, key, seed=4, per_head=False)
    assert same(pooled, spec.draw(8, seed=4, like=query))
    assert spec.fit(query[0, 0], key[0, 0], seed=4).heads is None


def test_fit_takes_the_working_dtype_of_the_query() -> None:
    half = np.ones((3, 5, 8), dtype=np.float16)
    assert weight(Positive(8).fit(half, half, seed=4)).dtype == np.float32


def test_fit_refuses_what_attention_refuses() -> None:
    query, key = np.ones((2, 6, 5, 8)), np.ones((2, 3, 7, 8))
    with pytest.raises(
        ValueError, match=r"for a mask of \(batch, length\) pass mask\[:, None, :\]"
    ):
        Positive(8).fit(query, key, seed=4, mask=np.ones((2, 7), dtype=bool))
    with pytest.raises(ValueError, match="must have the same last axis, got d=8 and d=7"):
        Positive(8).fit(query, key[..., :7], seed=4)
    with pytest.raises(TypeError, match=r"`key` must be an array .*, got list"):
        Positive(8).fit(query, [1.0], seed=4)


@EACH_LIBRARY
@EACH_SPEC
def test_to_like_moves_every_array_and_no_bit_changes(library: ArrayLibrary, spec: Spec) -> None:
    phi = spec.draw(8, seed=4, like=np.zeros(1, dtype=np.float32), heads=2)
    like = library.convert(np.zeros(1), "float32")
    moved = phi.to_like(like)
    assert {type(array) for array in moved.arrays().values()} == {type(like)}
    assert same(moved, phi)
    assert same(moved.to_like(np.zeros(1, dtype=np.float32)), phi)
    assert moved.spec == spec
    assert same(moved, spec.draw(8, seed=4, like=like, heads=2))


def test_to_like_takes_the_working_dtype() -> None:
    phi = Positive(8).draw(8, seed=4, like=LIKE)
    for dtype, working in ((np.float16, np.float32), (np.float64, np.float64)):
        moved = phi.to_like(np.zeros(1, dtype=dtype))
        assert {array.dtype for array in moved.arrays().values()} == {np.dtype(working)}


@EACH_SPEC
def test_with_arrays_replaces_the_arrays_and_nothing_else(spec: Spec) -> None:
    phi = spec.draw(8, seed=4, like=LIKE)
    assert same(phi.with_arrays(phi.arrays()), phi)
    doubled = {name: 2.0 * array for name, array in phi.arrays().items()}
    twice = phi.with_arrays(doubled)
    assert np.array_equal(weight(twice), 2.0 * weight(phi))
    assert twice.statics() == phi.statics()
    assert twice.spec == spec


def test_with_arrays_refuses_other_names() -> None:
    phi = Positive(8).draw(8, seed=4, like=LIKE)
    with pytest.raises(
        ValueError, match=r"`arrays` must have the names .*query_weight.*, got \[\]"
    ):
        phi.with_arrays({})
    with pytest.raises(ValueError, match=r"got .*'key_weight'.*; start from features.arrays\(\)"):
        phi.with_arrays(phi.arrays() | {"key_weight": weight(phi)})


def test_maps_are_compared_by_identity() -> None:
    """Arrays have no single truth; the fingerprint tells whether two maps are one draw."""
    phi, again = (Positive(8).draw(8, seed=4, like=LIKE) for _ in range(2))
    assert phi == phi
    assert phi != again
    assert len({phi, again}) == 2
    assert phi.fingerprint == again.fingerprint
