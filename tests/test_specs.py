"""Specs are records; what they, their names and their maps refuse, with the sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rfx
from rfx.features import ALL, NAMES, Positive, Spec, Trigonometric, named
from rfx.kernels import Gaussian, Softmax
from rfx.projections import Orthogonal
from rfx.testing import ArrayLibrary, array_libraries, dtype_name

LIBRARIES = array_libraries()
LIKE = np.zeros(1)


def test_equal_specs_have_equal_fingerprints() -> None:
    one, two = Positive(8, Gaussian(2)), Positive(8, Gaussian(2.0))
    assert one == two
    first, second = (spec.draw(8, seed=4, like=LIKE) for spec in (one, two))
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("spec", ALL, ids=repr)
def test_specs_are_records(spec: Spec) -> None:
    copied = dataclasses.replace(spec)
    assert copied == spec
    assert hash(copied) == hash(spec)
    field = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, field, getattr(spec, field))
    names = vars(rfx.kernels) | vars(rfx.projections) | vars(rfx.features)  # kernels share some
    assert eval(repr(spec), names) == spec
    assert isinstance(spec.paper, str)


def test_every_name_has_a_ready_spec() -> None:
    assert len(ALL) == len(NAMES) == len(set(ALL))
    for name, spec in zip(NAMES, ALL, strict=True):
        if hasattr(spec, "num_features"):
            assert named(name, num_features=spec.num_features) == spec
            assert spec.replace(num_features=4 * spec.num_features) != spec
        else:
            assert named(name) == spec


def test_names_take_hyperparameters() -> None:
    assert named("favor+", num_features=8) == Positive(8)
    assert named("favor+hyp", num_features=8) == Positive(8, hyperbolic=True)
    assert named("favor", num_features=8, kernel=Gaussian(2.0)) == Trigonometric(8, Gaussian(2.0))
    assert named("favor-offset", num_features=7) == Trigonometric(7, offset=True)


def test_defaults_are_those_of_attention() -> None:
    for spec in (Positive(8), Trigonometric(8)):
        assert spec.kernel == Softmax()
        assert spec.projection == Orthogonal()
        assert spec.draw(8, seed=4, like=LIKE).kernel == Softmax()


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no map named 'favour\+'; did you mean favor\+"):
        named("favour+", num_features=8)
    with pytest.raises(ValueError, match=r"no map named 'zzz'; did you mean .*favor-offset"):
        named("zzz", num_features=8)


COUNTS = [
    (lambda n: Positive(n), 0, ValueError, "must be at least 1, got 0"),
    (lambda n: Trigonometric(n), -2, ValueError, "must be at least 2, got -2"),
    (
        lambda n: Positive(n, hyperbolic=True),
        7,
        ValueError,
        r"must be a multiple of 2 .*, got 7; use 8",
    ),
    (lambda n: Trigonometric(n), 7, ValueError, r"must be a multiple of 2 .*, got 7; use 8"),
    (lambda n: Positive(n), True, TypeError, "must be an int, got True; pass a positive whole"),
    (lambda n: Positive(n), 8.0, TypeError, r"must be an int, got 8\.0; pass a positive whole"),
    (lambda n: Trigonometric(n), "8", TypeError, "must be an int, got '8'; pass a positive"),
    (lambda n: Trigonometric(n), None, TypeError, "must be an int, got None; pass a positive"),
]


@pytest.mark.parametrize(("make", "count", "error", "message"), COUNTS)
def test_num_features_must_be_a_whole_number_of_columns(
    make: Callable[[Any], Spec], count: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="`num_features` " + message):
        make(count)


@pytest.mark.parametrize("make", [Positive, Trigonometric])
@pytest.mark.parametrize("kernel", ["softmax", Softmax, Orthogonal(), None], ids=repr)
def test_a_kernel_of_another_kind_is_refused(make: type[Spec], kernel: Any) -> None:
    of = rf"Softmax or Gaussian(, or a .*)? for {make.__name__}"
    message = f"`kernel` must be rfx.kernels.{of}, got"
    with pytest.raises(TypeError, match=message):
        make(8, kernel)


@pytest.mark.parametrize("projection", ["orthogonal", Orthogonal, Softmax(), None], ids=repr)
def test_a_projection_of_another_kind_is_refused(projection: Any) -> None:
    with pytest.raises(TypeError, match=r"`projection` must be a record of rfx.projections, got"):
        Trigonometric(8, projection=projection)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dim": 0}, ValueError, "`dim` must be at least 1, got 0"),
        ({"dim": 8.0}, TypeError, "`dim` must be an int, got 8.0"),
        ({"heads": 0}, ValueError, "`heads` must be at least 1, got 0"),
        ({"heads": True}, TypeError, "`heads` must be an int, got True"),
        ({"like": [1.0]}, TypeError, "`like` must be an array .*, got list"),
        ({"like": None}, TypeError, "`like` must be an array .*, got NoneType"),
        ({"like": np.zeros(1, dtype=int)}, TypeError, "`like` must hold real floating numbers"),
    ],
)
def test_what_a_map_is_drawn_for_is_checked(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Positive(8).draw(**{"dim": 8, "seed": 4, "like": LIKE} | changes)


def test_points_of_another_dim_are_refused_with_the_fix() -> None:
    phi = Positive(8).draw(8, seed=4, like=LIKE)
    message = r"was drawn for dim=8, but `{}` has d=7; draw it again with dim=7"
    for name, call in (("x", phi.query), ("y", phi.key)):
        with pytest.raises(ValueError, match=message.format(name)):
            call(np.zeros((3, 7)))
    with pytest.raises(ValueError, match=message.format("x")):
        rfx.gram(np.zeros((3, 7)), np.zeros((3, 7)), features=phi)


@pytest.mark.parametrize(("of_map", "of_points"), [("float64", "float32"), ("float32", "float64")])
def test_points_of_another_working_dtype_are_refused_with_the_fix(
    of_map: str, of_points: str
) -> None:
    phi = Positive(8).draw(8, seed=4, like=np.zeros(1, dtype=of_map))
    x = np.zeros((3, 8), dtype=of_points)
    message = rf"works in {of_map}, but `x` has dtype {of_points}; use features.to_like\(x\)"
    with pytest.raises(TypeError, match=message):
        phi.query(x)
    assert phi.to_like(x).query(x).log_scale.dtype == x.dtype


def test_a_float32_map_serves_half_precision() -> None:
    for library in LIBRARIES:
        phi = Positive(8).draw(8, seed=4, like=library.convert(LIKE, "float32"))
        for dtype in set(library.dtypes) - {"float64"}:
            x = library.convert(np.ones((3, 8)), dtype)
            assert dtype_name(phi.query(x).log_scale.dtype) == "float32"


@pytest.mark.parametrize("library", LIBRARIES[1:], ids=str)
def test_points_of_another_library_are_refused_with_the_fix(library: ArrayLibrary) -> None:
    phi = Positive(8).draw(8, seed=4, like=np.zeros(1, dtype=np.float32))
    x = library.convert(np.zeros((3, 8)), "float32")
    message = rf"holds arrays of numpy, but `x` is an array of {library.library}; use "
    with pytest.raises(TypeError, match=message + r"features.to_like\(x\)"):
        phi.query(x)
    assert type(phi.to_like(x).query(x).log_scale) is type(x)


@pytest.mark.parametrize("wrong", [[[1.0]], np.zeros((3, 8), dtype=int), 1.0])
def test_points_must_be_floating_arrays(wrong: object) -> None:
    phi = Positive(8).draw(8, seed=4, like=LIKE)
    with pytest.raises(TypeError, match=r"`x` must (be an array|hold real floating numbers)"):
        phi.query(wrong)
    with pytest.raises(TypeError, match=r"`y` must (be an array|hold real floating numbers)"):
        phi.key(wrong)


def test_gram_takes_a_drawn_map_and_no_spec() -> None:
    x = np.zeros((3, 8))
    with pytest.raises(
        TypeError, match=r"`features` must be a drawn map, got Positive.*; draw one"
    ):
        rfx.gram(x, x, features=Positive(8))  # type: ignore[arg-type]


def test_parameters_of_generalised_features_outside_their_domain_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`A` must have a real part below 1/8, .*, got 0\.125"):
        rfx.features.GERF(8, A=0.125)
    with pytest.raises(ValueError, match=r"`A` must have a real part below 1/8, .*, got \(1\+2j\)"):
        rfx.features.GERF(8, A=1 + 2j)
    with pytest.raises(TypeError, match="`A` must be a number, got 'a'"):
        rfx.features.GERF(8, A="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`s` must be 1 or -1, got 2"):
        rfx.features.GERF(8, s=2)
    with pytest.raises(ValueError, match=r"must be a multiple of 2 .*, got 7; use 8"):
        rfx.features.GERF(7, A=0.05j)
