"""Feature maps on every library: columns, claims, exact special points, closed-form variances."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import special

import rfx
from rfx import reference, testing
from rfx._xp import to_numpy
from rfx.features import ALL, Positive, Spec, Trigonometric, named
from rfx.kernels import ExponentialKernel, Gaussian, Softmax
from rfx.projections import IID, Orthogonal
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees, dtype_name
from tests.conftest import one_name_per_form, one_spec_per_class

LIBRARIES = array_libraries()
EACH_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=str)
EACH_SPEC = pytest.mark.parametrize("spec", ALL, ids=repr)
EACH_KERNEL = pytest.mark.parametrize("kernel", [Softmax(), Softmax(0.9), Gaussian(1.7)], ids=repr)


def points(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def drawn(spec: Spec, x: object, dim: int = 8, heads: int | None = None) -> rfx.features.DrawnMap:
    return testing.drawn(spec, dim, like=x, seed=1, heads=heads)


def rounding(phi: rfx.features.DrawnMap, x: object) -> float:
    """What the roundings of features grow with: logs, and the angles of waves."""
    weights = [to_numpy(a) for name, a in phi.arrays().items() if name.endswith("query_weight")]
    longest = max((np.max(np.linalg.norm(weight, axis=-2)) for weight in weights), default=0.0)
    angle = np.max(np.linalg.norm(to_numpy(x), axis=-1)) * longest
    return reference.log_size(x, x, features=phi) + float(angle)


EVERY_MAP = [(spec, (2, 3), 3) for spec in ALL]
COMPILED = [(spec, (2, 3), 3) for spec in one_spec_per_class()]
EVERY_SHAPE = [
    (named(name, num_features=32), batch, heads)
    for name in one_name_per_form()
    for batch, heads in (((), None), ((3,), None), ((2, 3), None), ((1, 3), 3))
]
EACH_MAP = pytest.mark.parametrize(
    ("library", "spec", "batch", "heads"),
    [
        (library, *case)
        for library in LIBRARIES
        for case in (COMPILED if library.library == "jax" else EVERY_MAP) + EVERY_SHAPE
    ],
    ids=lambda value: str(value) if isinstance(value, ArrayLibrary) else repr(value),
)


@EACH_MAP
def test_features_are_those_of_the_oracle(
    library: ArrayLibrary, spec: Spec, batch: tuple[int, ...], heads: int | None
) -> None:
    for dtype in library.dtypes:
        x = library.convert(points(*batch, 63, 8), dtype)
        phi = drawn(spec, x, heads=heads)
        for side, call in (("query", phi.query), ("key", phi.key)):
            log, value = reference.features(phi, x, side)
            scale = rounding(phi, x)
            found = call(x)
            assert type(found.log_scale) is type(x)
            nothing = np.all(value == 0.0, axis=-1, keepdims=True)  # any log will do
            logs = np.where(nothing, log, to_numpy(found.log_scale).astype(np.float64))
            assert_agrees(logs, log, dtype=found.log_scale.dtype, scale=scale)
            wanted = "float64" if dtype == "float64" else "float32"
            assert dtype_name(found.log_scale.dtype) == wanted
            if found.value is None:
                assert np.all(value == 1.0)
            else:
                assert_agrees(found.value, value, scale=scale)
            assert_agrees(found.exp(), value * np.exp(log), scale=scale)


@EACH_MAP
def test_gram_is_that_of_the_oracle(
    library: ArrayLibrary, spec: Spec, batch: tuple[int, ...], heads: int | None
) -> None:
    for dtype in library.dtypes if library.library != "jax" else library.dtypes[:1]:
        x = library.convert(0.5 * points(*batch, 63, 8), dtype)
        y = library.convert(0.5 * points(*batch, 10, 8, seed=6), dtype)
        phi = drawn(spec, x, heads=heads)
        matrix = rfx.gram(x, y, features=phi)
        assert matrix.dtype == x.dtype
        want = reference.gram(x, y, features=phi)
        assert_agrees(matrix, want, scale=rounding(phi, x) + rounding(phi, y))


@EACH_SPEC
@pytest.mark.parametrize("length", [0, 1, 63])
def test_num_features_is_the_number_of_columns(spec: Spec, length: int) -> None:
    x = np.full((2, length, 8), 0.1)
    phi = drawn(spec, x)
    assert phi.num_features == getattr(spec, "num_features", phi.num_features)
    for features in (phi.query(x), phi.key(x)):
        assert features.exp().shape == (2, length, phi.num_features)
        wanted = {(2, length, phi.num_features)} if phi.scale_per_feature else {(2, length, 1)}
        assert {features.log_scale.shape} == wanted


@EACH_SPEC
def test_positive_estimates_are_never_negative_and_others_are(spec: Spec) -> None:
    x, y = 2.0 * points(100, 8), 2.0 * points(100, 8, seed=6)
    few = spec.replace(num_features=16) if hasattr(spec, "num_features") else spec
    smallest = float(np.min(rfx.gram(x, y, features=drawn(few, x))))
    assert (smallest >= 0) == spec.positive


@EACH_SPEC
def test_values_are_bounded_by_one(spec: Spec) -> None:
    """Attention relies on the logs alone to hold what is unbounded."""
    x = 100.0 * points(100, 8)
    value = drawn(spec, x).query(x).value
    assert value is None or np.max(np.abs(value)) <= 1.0


@EACH_KERNEL
@pytest.mark.parametrize("hyperbolic", [False, True])
def test_positive_estimate_at_opposite_points_is_exact(
    kernel: ExponentialKernel, hyperbolic: bool
) -> None:
    x = 3.0 * points(10, 8)
    phi = Positive(16, kernel, hyperbolic=hyperbolic).draw(8, seed=2, like=x)
    estimate = np.diagonal(rfx.gram(x, -x, features=phi))
    want = np.exp(np.diagonal(reference.log_kernel(x, -x, kernel=kernel)))
    for have, exact in zip(estimate, want, strict=True):
        assert_agrees(have, exact, scale=reference.log_size(x, -x, features=phi))


@EACH_KERNEL
def test_trigonometric_estimate_at_equal_points_is_exact(kernel: ExponentialKernel) -> None:
    x = points(10, 8)
    phi = Trigonometric(16, kernel).draw(8, seed=2, like=x)
    estimate = np.diagonal(rfx.gram(x, x, features=phi))
    want = np.exp(np.diagonal(reference.log_kernel(x, x, kernel=kernel)))
    assert_agrees(estimate, want, scale=rounding(phi, x))


def test_hyperbolic_columns_are_pairs_of_opposite_frequencies() -> None:
    x = points(10, 8)
    phi = Positive(16, Softmax(), hyperbolic=True).draw(8, seed=2, like=x)
    weight = phi.arrays()["query_weight"]
    assert np.array_equal(weight[:, :8], -weight[:, 8:])
    log = phi.query(x).log_scale
    both = -np.sum(x**2, axis=-1, keepdims=True) / np.sqrt(8) - np.log(16)
    assert_agrees(log[:, :8] + log[:, 8:], np.tile(both, 8), scale=rounding(phi, x))


def test_one_sided_and_hyperbolic_share_their_frequencies() -> None:
    x = points(10, 8)
    one, two = (
        Positive(n, hyperbolic=n > 8).draw(8, seed=2, like=x).arrays()["query_weight"]
        for n in (8, 16)
    )
    assert np.array_equal(one, two[:, :8])


def test_offset_is_one_cosine_a_frequency() -> None:
    """(2/m)^(1/2) cos(ω·x + b), with one phase in [0, 2π) for each frequency."""
    x = points(10, 8)
    phi = Trigonometric(500, Gaussian(2.0), offset=True).draw(8, seed=2, like=x)
    weight, phase = (phi.arrays()[name] for name in ("query_weight", "query_bias"))
    assert weight.shape == (8, 500)
    assert phase.shape == (500,)
    assert 0 <= np.min(phase) < 0.1
    assert 2 * np.pi - 0.1 < np.max(phase) < 2 * np.pi
    want = np.sqrt(2 / 500) * np.cos(x @ weight + phase)
    assert_agrees(phi.query(x).exp(), want, scale=rounding(phi, x))


def test_paired_waves_are_cosines_and_then_sines() -> None:
    x = points(10, 8)
    phi = Trigonometric(14, Gaussian(2.0)).draw(8, seed=2, like=x)
    angle = x @ phi.arrays()["query_weight"]
    assert angle.shape == (10, 7)
    want = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1) / np.sqrt(7)
    assert_agrees(phi.query(x).exp(), want, scale=rounding(phi, x))


def test_frequencies_are_in_the_unit_of_the_kernel() -> None:
    like = np.zeros(1)
    plain = Positive(8, Gaussian(1.0)).draw(8, seed=2, like=like).arrays()["query_weight"]
    for kernel, unit in ((Gaussian(2.5), 0.4), (Softmax(0.25), 0.5), (Softmax(), 8**-0.25)):
        scaled = Positive(8, kernel).draw(8, seed=2, like=like).arrays()["query_weight"]
        assert_agrees(scaled, unit * plain)


def variance_by_hand(spec: Spec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The papers' formulas, pair by pair, with the covariance from SciPy."""
    dim, n = x.shape[-1], spec.num_frequencies  # type: ignore[attr-defined]
    unit = spec.kernel.unit(dim)  # type: ignore[attr-defined]
    block = np.arange(n) // dim
    pairs = np.sum(block[:, None] == block[None, :]) - n
    pairs = 0 if spec.projection == IID() else pairs
    found = np.empty((len(x), len(y)))
    for i, a in enumerate(unit * x):
        for j, b in enumerate(unit * y):
            phi, delta = np.sum((a + b) ** 2), np.sum((a - b) ** 2)
            softmax, gauss = np.exp(a @ b), np.exp(-delta / 2)
            if isinstance(spec, Positive):
                shrink = np.exp(-(a @ a + b @ b)) ** 2  # of exp(ω·z − |a|² − |b|²)
                one = np.exp(2 * phi) - np.exp(phi)
                if spec.hyperbolic:
                    one = (np.exp(phi) - 1) ** 2 / 2
                two = special.hyp1f1(dim, dim / 2, phi / 2) - np.exp(phi)
            else:
                shrink = 1.0
                one = (1 - gauss**2) ** 2 / 2 + (0.5 if spec.offset else 0.0)  # type: ignore[attr-defined]
                two = special.hyp1f1(dim, dim / 2, -delta / 2) - gauss**2
            gaussian_variance = shrink * (one / n + pairs * two / n**2)
            factor = 1.0 if isinstance(spec.kernel, Gaussian) else (softmax / gauss) ** 2
            found[i, j] = factor * gaussian_variance
    return found


CLOSED = [
    dataclasses.replace(spec, num_features=22, kernel=kernel, projection=projection)
    for spec in (
        Positive(2),
        Positive(2, hyperbolic=True),
        Trigonometric(2),
        Trigonometric(2, offset=True),
    )
    for kernel in (Softmax(), Gaussian(1.7))
    for projection in (IID(), Orthogonal())
]


@EACH_LIBRARY
@pytest.mark.parametrize("spec", CLOSED, ids=repr)
def test_variance_is_the_formula_of_the_paper(library: ArrayLibrary, spec: Spec) -> None:
    """22 or 11 frequencies in 8 dimensions: the last block of orthogonal ones is cut."""
    for dtype in library.dtypes:
        x, y = (library.convert(points(2, n, 8, seed=n), dtype) for n in (7, 5))
        found = spec.variance(x, y)
        assert dtype_name(found.dtype) == ("float64" if dtype == "float64" else "float32")
        for head in range(2):
            host = (to_numpy(a).astype(float)[head] for a in (x, y))
            want = variance_by_hand(spec, *host)
            assert_agrees(found[head, ...], want, scale=1 + np.max(np.abs(np.log(want))))


@EACH_SPEC
def test_variance_of_a_drawn_map_is_that_of_its_spec(spec: Spec) -> None:
    x, y = points(3, 10, 8), points(3, 9, 8)
    phi = drawn(spec, x)
    ours, log = phi.variance(x, y), phi.log_relative_variance(x, y)
    if not spec.needs_data:
        specs = spec.variance(x, y)
        assert (ours is None) == (specs is None)
        assert ours is None or np.array_equal(ours, specs)
    if ours is not None:
        assert ours.shape == log.shape == (3, 10, 9)
        assert np.all(ours >= 0)
        squared = np.exp(2 * phi.kernel.log(x, y))
        largest = np.max(np.abs(np.log(ours[ours > 0])), initial=0.0)
        assert_agrees(np.exp(log) * squared, ours, scale=1 + largest)


def test_variance_is_zero_where_the_estimate_is_exact() -> None:
    """Also far from the origin, where the row terms overflow."""
    x = np.asarray([[30.0, 0.0, 0.0, 0.0]])
    with np.errstate(over="ignore"):
        assert Positive(8).variance(x, -x) == 0
        assert Trigonometric(8).variance(x, x) == 0


def test_opposite_pairs_vary_less_than_independent_ones_at_equal_columns() -> None:
    x = points(10, 8)
    single = Positive(16, projection=IID()).variance(x, x)
    paired = Positive(16, projection=IID(), hyperbolic=True).variance(x, x)
    assert np.all(paired <= single)


def test_a_pair_of_waves_varies_less_than_offset_cosines_at_equal_columns() -> None:
    x = points(10, 8)
    paired = Trigonometric(16, projection=IID()).variance(x, x)
    offset = Trigonometric(16, projection=IID(), offset=True).variance(x, x)
    assert np.all(paired <= offset)


def test_logs_of_large_points_are_finite() -> None:
    """exp of them is not, and nothing in attention takes it."""
    x = np.asarray([[1e4] * 8], dtype=np.float32)
    for spec in ALL:
        phi = drawn(spec, x)
        assert np.all(np.isfinite(phi.query(x).log_scale))


def test_the_page_of_maps_is_current() -> None:
    root = Path(__file__).parents[1]
    found = runpy.run_path(str(root / "scripts" / "make_maps_page.py"), run_name="page")
    assert (root / "docs" / "maps.md").read_text(encoding="utf-8") == found["page"](), (
        "run python scripts/make_maps_page.py"
    )
