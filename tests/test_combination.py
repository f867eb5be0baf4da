"""Sums and products of maps: the oracle, the derived variance, storage and every library."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import rfx
from rfx import reference
from rfx._xp import to_numpy
from rfx.features import (
    GERF,
    OPRF,
    SDERF,
    Aligned,
    Combination,
    CompositeMap,
    Deterministic,
    Generalized,
    Positive,
    Trigonometric,
    load,
    save,
)
from rfx.kernels import Gaussian, Softmax
from rfx.projections import IID, Hadamard
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees, drawn, z_score

ONE = Softmax(1.0)
POSITIVE = Positive(6, ONE)
WAVES = Trigonometric(4, Gaussian(1.5))
RELU = Generalized(3, epsilon=0.0)
SIGNS = Generalized(2, function="sign", epsilon=0.0)

EACH: dict[str, Combination] = {
    "sum": Combination((POSITIVE, WAVES), ((0.5, (0,)), (0.5, (1,)))),
    "product of a log per feature and one per row": Combination(
        (POSITIVE, WAVES), ((1.0, (0, 1)),)
    ),
    "product of one feature and one log per row": Combination(
        (Positive(1, ONE), WAVES), ((1.0, (0, 1)),)
    ),
    "product of logs per row": Combination((RELU, WAVES), ((2.0, (0, 1)),)),
    "product of positives": Combination((POSITIVE, OPRF(3, ONE)), ((1.0, (0, 1)),)),
    "sum of positives": Combination((POSITIVE, OPRF(3, ONE)), ((1.0, (0,)), (2.0, (1,)))),
    "negative, constant and shared": Combination(
        (POSITIVE, WAVES, RELU), ((-0.7, (0,)), (0.3, (0, 1)), (1.2, ()), (0.4, (2, 0, 1)))
    ),
    "negative product": Combination((RELU, WAVES), ((-1.0, (0, 1)),)),
    "negative positive": Combination((POSITIVE,), ((-1.0, (0,)),)),
    "constant": Combination((RELU,), ((1.0, (0,)), (-2.0, ()))),
    "squared": Combination((WAVES, RELU), ((1.0, (0, 0)), (0.5, (1,)))),
    "nested": Combination(
        (
            Combination((POSITIVE, SIGNS), ((1.0, (0,)), (-0.5, (0, 1)))),
            Combination((WAVES,), ((2.0, (0,)), (1.0, ()))),
        ),
        ((1.0, (0, 1)), (0.25, (1,))),
    ),
    "fitted": Combination(
        (Aligned(SDERF(5, ONE), "mean", "full"), WAVES, Aligned(OPRF(3, ONE), None, "diagonal")),
        ((1.0, (0, 1)), (-0.5, (2,))),
    ),
    "structured": Combination(
        (Positive(5, ONE, Hadamard()), Trigonometric(4, ONE, Hadamard())),
        ((0.5, (0,)), (-0.5, (0, 1))),
    ),
    "complex": Combination((GERF(4, ONE, A=-0.02 + 0.05j), RELU), ((1.0, (0, 1)), (1.0, (0,)))),
}
EVERY = pytest.mark.parametrize("name", EACH)


def on_each(*some: str) -> pytest.MarkDecorator:
    """Every map on NumPy, and some on the other libraries."""
    pairs = [(lib, n) for lib in array_libraries() for n in (EACH if lib.name == "numpy" else some)]
    return pytest.mark.parametrize(("lib", "name"), pairs, ids=str)


CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
COMPILER = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def points(*shape: int, seed: int = 0) -> np.ndarray:
    return 0.6 * np.random.default_rng(seed).standard_normal(shape)


def rounding(phi: rfx.features.DrawnMap, x: np.ndarray) -> float:
    """What the roundings of features grow with: logs and angles."""
    return 8.0 + reference.log_size(x, x, features=phi)


@on_each("nested", "structured")
def test_features_and_gram_are_those_of_the_oracle(lib: ArrayLibrary, name: str) -> None:
    host = points(2, 7, 5)
    for dtype, heads in ((lib.dtypes[0], None), (lib.dtypes[-1], 2)):
        x = lib.convert(host, dtype)
        phi = drawn(EACH[name], 5, like=x, seed=1, heads=heads)
        assert isinstance(phi, CompositeMap)
        for side, call in (("query", phi.query), ("key", phi.key)):
            log, value = reference.features(phi, x, side)
            found = call(x)
            width = phi.num_features if phi.scale_per_feature else 1
            assert found.log_scale.shape == (2, 7, width)
            assert value.shape == (2, 7, phi.num_features)
            assert np.all(np.isfinite(to_numpy(found.log_scale)))
            if found.value is None:
                assert np.all(value == 1.0)
            else:
                assert np.max(np.abs(to_numpy(found.value))) <= 1.0
            assert_agrees(found.exp(), value * np.exp(log), scale=rounding(phi, x))
        want = reference.gram(x, x, features=phi)
        assert_agrees(rfx.gram(x, x, features=phi), want, scale=rounding(phi, x))


@EVERY
def test_the_oracle_is_the_polynomial_of_the_maps(name: str) -> None:
    """Neither knows of Kronecker products: each map is asked alone."""
    x, y = points(7, 5), points(4, 5, seed=2)
    spec = EACH[name]
    phi = drawn(spec, 5, like=x, seed=1)
    grams = [rfx.gram(x, y, features=m) for m in phi.maps]
    want = sum(c * np.prod([grams[i] for i in which], axis=0) for c, which in spec.terms)
    want = np.broadcast_to(want, (7, 4))
    np.testing.assert_allclose(reference.gram(x, y, features=phi), want, rtol=1e-11, atol=1e-12)
    kernels = [m.kernel(x, y) for m in spec.maps]
    want = sum(c * np.prod([kernels[i] for i in which], axis=0) for c, which in spec.terms)
    np.testing.assert_allclose(phi.kernel(x, y), np.broadcast_to(want, (7, 4)), rtol=1e-11)
    assert phi.num_features == spec.num_features == phi.query(x).exp().shape[-1]


def test_maps_of_one_spec_are_drawn_independently() -> None:
    phi = Combination((POSITIVE, POSITIVE), ((1.0, (0, 1)),)).draw(5, seed=0, like=np.zeros(1))
    first, second = (phi.arrays()[f"map{i}_query_weight"] for i in range(2))
    assert np.max(np.abs(first - second)) > 0.1
    heads = EACH["nested"].draw(5, seed=0, like=np.zeros(1), heads=2)
    weight = heads.arrays()["map0_map0_query_weight"]
    assert weight.shape == (2, 5, 6)
    assert heads.heads == 2
    assert np.max(np.abs(weight[0] - weight[1])) > 0.1


def second_moment(spec: Combination, x: np.ndarray, y: np.ndarray, phi) -> np.ndarray:
    """E (Σ c Π e_i)², from the second moments and the means of the maps, pair by pair of terms."""
    means = [m.kernel(x, y) for m in spec.maps]
    squares = [m.variance(x, y) + k**2 for m, k in zip(phi.maps, means, strict=True)]
    total = np.zeros((len(x), len(y)))
    for (a, first), (b, second) in itertools.product(spec.terms, repeat=2):
        both = set(first) & set(second)
        total = total + a * b * np.prod(
            [squares[i] for i in both] + [means[i] for i in {*first, *second} - both], axis=0
        )
    return total


IID_RELU = Generalized(3, projection=IID(), epsilon=0.0)
KNOWN: dict[str, Combination] = {
    "sum": EACH["sum"],
    "shared": Combination(
        (POSITIVE, WAVES, IID_RELU), ((-0.7, (0,)), (0.3, (0, 1)), (1.2, ()), (0.4, (2, 0, 1)))
    ),
    "product of three": Combination((POSITIVE, WAVES, IID_RELU), ((1.0, (0, 1, 2)),)),
    "nested": Combination(
        (Combination((POSITIVE, IID_RELU), ((1.0, (0,)), (-0.5, (0, 1)))), WAVES),
        ((1.0, (0, 1)), (0.25, (1,))),
    ),
    "fitted": Combination(
        (Aligned(SDERF(5, ONE, IID()), "mean", "full"), WAVES), ((1.0, (0, 1)), (-0.5, (0,)))
    ),
    "one without randomness": Combination(
        (Deterministic("identity"), WAVES), ((1.0, (0, 1)), (1.0, (1,)), (3.0, (0,)))
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_variance_is_the_second_moment_less_the_square_of_the_mean(name: str) -> None:
    spec, x, y = KNOWN[name], points(7, 5), points(4, 5, seed=2)
    phi = drawn(spec, 5, like=x, seed=1)
    want = second_moment(spec, x, y, phi) - spec.kernel(x, y) ** 2
    found = phi.variance(x, y)
    np.testing.assert_allclose(found, want, rtol=1e-8, atol=1e-10 * np.max(want))
    log = phi.log_relative_variance(x, y)
    np.testing.assert_allclose(np.exp(log) * spec.kernel(x, y) ** 2, found, rtol=1e-9)
    if not spec.needs_data:
        assert np.array_equal(spec.variance(x, y), found)


@pytest.mark.parametrize("name", ["shared", "product of three", "fitted"])
def test_mean_and_variance_over_draws_are_the_closed_forms(name: str) -> None:
    """A head is a draw; maps that are fitted are fitted to the same points for all."""
    draws, spec = 3000, KNOWN[name]
    x, y = 0.5 * points(3, 4), 0.5 * points(3, 4, seed=2)
    if spec.needs_data:
        moments = rfx.features.Moments.of(points(50, 4), points(50, 4, seed=3))
        phi = spec.fit_moments(moments, seed=0, like=x, heads=draws)
    else:
        phi = spec.draw(4, seed=0, like=x, heads=draws)
    left, right = (np.broadcast_to(a, (draws, *a.shape)) for a in (x, y))
    samples = rfx.gram(left, right, features=phi)
    mean, variance = spec.kernel(x, y), phi.variance(left, right)[0]
    assert np.max(np.abs(z_score(samples, mean, variance=variance))) < 5
    squares = np.square(samples - mean)
    assert np.max(np.abs(z_score(squares, variance, floor=1e-14))) < 5


def test_variance_does_not_overflow_and_cancels_exactly() -> None:
    """k₀ k₁ (1 − 1) varies by nothing but k₂; and a product of large kernels has a finite log."""
    large = np.full((2, 4), 12.0)
    spec = Combination(
        (POSITIVE, Trigonometric(4, ONE), SIGNS.replace(num_features=1)),
        ((1.0, (0,)), (0.5, (2, 0)), (-0.5, (2, 1))),
    )
    with np.errstate(over="ignore"):
        log = spec.draw(4, seed=0, like=large).log_relative_variance(large, large)
        assert np.all(np.isfinite(log))
        assert spec.variance(large, large)[0, 0] == np.inf
    # The signs are exact at x = y, and so are the waves: all that is left is that of map 0.
    x = points(1, 4)
    want = 1.5**2 * POSITIVE.variance(x, x)
    np.testing.assert_allclose(spec.variance(x, x), want, rtol=1e-12)


def test_claims() -> None:
    x = points(3, 5)
    # A map that is squared, and rows that are not Gaussian.
    assert {name for name in EACH if not EACH[name].unbiased} == {"squared", "structured"}
    assert EACH["squared"].variance(x, x) is None
    assert EACH["structured"].variance(x, x) is None  # that of a member is not known
    biased = Combination((POSITIVE, Generalized(3)), ((1.0, (0, 1)),))
    assert not biased.unbiased
    assert biased.variance(x, x) is None
    for name, spec in EACH.items():
        wanted = ("product of positives", "sum of positives", "squared")
        assert spec.positive == (name in wanted)
    square = Combination((WAVES, POSITIVE), ((1.0, (0, 1, 0)), (2.0, ())))
    assert square.positive
    assert np.all(rfx.gram(x, -x, features=square.draw(5, seed=0, like=x)) >= 2.0)
    assert not Combination((WAVES,), ((1.0, (0, 0, 0)),)).positive
    assert EACH["sum"].needs == "nothing"
    assert EACH["fitted"].needs == "moments"
    points_too = Combination((rfx.features.Optimal(4), POSITIVE), ((1.0, (0, 1)),))
    assert points_too.needs == "points"
    assert EACH["fitted"].costs.fit == "n d² + d³ + n d²"
    assert EACH["sum"].costs == (None, "d² m", "d m + m")


def test_replace_changes_the_maps() -> None:
    spec = EACH["sum"].replace(num_features=8, kernel=Gaussian(2.0))
    assert [m.num_features for m in spec.maps] == [8, 8]
    assert {m.kernel for m in spec.maps} == {Gaussian(2.0)}
    assert spec.terms == EACH["sum"].terms
    assert EACH["sum"].replace(terms=((1.0, (0, 1)),)).num_features == 24
    one = EACH["sum"].replace(maps=(WAVES, WAVES), num_features=2)
    assert [m.num_features for m in one.maps] == [2, 2]


REFUSED = [
    ((), ((1.0, (0,)),), ValueError, "`maps` must not be empty"),
    (POSITIVE, ((1.0, (0,)),), TypeError, r"`maps` must be a tuple of specs, got Positive"),
    ((Positive,), ((1.0, (0,)),), TypeError, "`maps` must hold specs, got <class"),
    ((POSITIVE,), (), ValueError, "`terms` must not be empty"),
    ((POSITIVE,), ((1.0, (1,)),), ValueError, "indices from 0 to 0"),
    ((POSITIVE,), ((1.0, (-1,)),), ValueError, "indices from 0 to 0"),
    ((POSITIVE,), ((float("nan"), (0,)),), ValueError, "a finite coefficient"),
    ((POSITIVE,), ((0.0, (0,)),), ValueError, "`terms` must have no coefficient 0"),
    ((POSITIVE,), ((1.0, 0),), TypeError, "must be a tuple of indices"),
    ((POSITIVE, WAVES), ((1.0, (0,)),), ValueError, r"`maps\[1\]` is in no term of .* leave it"),
]


@pytest.mark.parametrize(("maps", "terms", "error", "message"), REFUSED)
def test_what_is_refused(maps, terms, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Combination(maps, terms)


def test_points_outside_the_domain_of_a_member_are_refused() -> None:
    x = points(3, 5)
    spec = Combination((POSITIVE, rfx.features.AdditiveChiSquared()), ((1.0, (0,)), (1.0, (1,))))
    phi = spec.draw(5, seed=0, like=x)
    assert phi.query(np.abs(x)).exp().shape == (3, phi.num_features)
    with pytest.raises(ValueError, match="`x` must have no negative coordinates"):
        phi.kernel(x, x)


@on_each("nested", "structured")
def test_arrays_storage_and_moving_keep_every_bit(
    lib: ArrayLibrary, name: str, tmp_path: Path
) -> None:
    x = lib.convert(points(2, 7, 5), "float32")
    phi = drawn(EACH[name], 5, like=x, seed=1, heads=2)
    arrays = phi.arrays()
    assert "fingerprint" in arrays
    assert not any(n != "fingerprint" and n.endswith("fingerprint") for n in arrays)
    save(phi, tmp_path / "map")
    moved = phi.to_like(np.zeros(1, dtype=np.float32))
    for other in (phi.with_arrays(arrays), load(tmp_path / "map", like=x), moved):
        assert type(other) is CompositeMap
        assert other.spec == phi.spec
        assert other.statics() == phi.statics()
        assert hash(tuple(other.statics().items())) == hash(tuple(phi.statics().items()))
        assert other.arrays().keys() == arrays.keys()
        for key, array in other.arrays().items():
            assert np.array_equal(to_numpy(array), to_numpy(arrays[key]))
    back = moved.to_like(x)
    assert np.array_equal(*(to_numpy(rfx.gram(x, x, features=p)) for p in (back, phi)))
    with pytest.raises(ValueError, match="`arrays` must have the names"):
        phi.with_arrays({"fingerprint": arrays["fingerprint"]})


def test_the_fingerprint_tells_draws_and_specs_apart() -> None:
    like = np.zeros(1)
    found = [EACH["sum"].draw(5, seed=seed, like=like).fingerprint for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    other = EACH["sum"].replace(terms=((0.5, (0,)), (0.25, (1,)))).draw(5, seed=0, like=like)
    assert other.fingerprint != found[0]
    state = rfx.linear_attention(*np.ones((3, 4, 5)), features=other, return_state=True)[1]
    phi = EACH["sum"].draw(5, seed=0, like=like)
    with pytest.raises(ValueError, match="another map"):
        rfx.linear_attention(*np.ones((3, 4, 5)), features=phi, initial_state=state)


def attention_inputs(length: int = 13) -> tuple[np.ndarray, ...]:
    q = points(4, length, 5)
    k, v = points(2, 2, length, 5, seed=1)
    return q, k, v


@on_each("negative positive", "nested")
@CAUSAL
def test_attention_with_masks_and_grouped_queries_is_that_of_the_oracle(
    lib: ArrayLibrary, name: str, is_causal: bool
) -> None:
    q, k, v = attention_inputs()
    mask = np.random.default_rng(5).random((2, 13)) < 0.7
    arrays = [lib.convert(a) for a in (q, k, v)]
    phi = drawn(EACH[name], 5, like=arrays[0], seed=1, heads=2)
    padded = [arrays[0], *(lib.convert(np.where(mask[..., None], a, np.nan)) for a in (k, v))]
    call = {"features": phi, "is_causal": is_causal}
    out = rfx.linear_attention(*padded, mask=lib.convert(mask), chunk_size=4, **call)
    want = reference.linear_attention(q, k, v, mask=mask, **call)
    spread = reference.conditioning(q, k, mask=mask, **call)
    size = float(np.abs(v).max())
    assert_agrees(out, want, scale=rounding(phi, q) * spread * (1 + np.abs(want) / size), size=size)


def loss(out):
    return (out * out).sum() + out[..., 0].sum()


@pytest.mark.parametrize(("name", "is_causal"), [("nested", False), ("fitted", True)])
def test_gradients_through_every_array_are_those_of_finite_differences(
    name: str, is_causal: bool
) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a[:, :5]).requires_grad_() for a in attention_inputs(5))
    phi = drawn(EACH[name], 5, like=q.detach(), seed=1, heads=2)
    names = [
        n for n in phi.arrays() if n != "fingerprint" and "order" not in n and "fitted" not in n
    ]
    leaves = [phi.arrays()[n].clone().requires_grad_() for n in names]

    def call(q, k, v, *leaves):
        features = phi.with_arrays(phi.arrays() | dict(zip(names, leaves, strict=True)))
        return rfx.linear_attention(q, k, v, features=features, is_causal=is_causal, chunk_size=3)

    assert torch.autograd.gradcheck(call, (q, k, v, *leaves), fast_mode=True)


def test_it_is_a_pytree_with_the_gradients_of_torch_through_jit() -> None:
    name = "negative, constant and shared"
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    arrays = attention_inputs()
    with jax.enable_x64(True):
        q, k, v = (jax.numpy.asarray(a) for a in arrays)
        phi = drawn(EACH[name], 5, like=q, seed=1, heads=2)
        leaves, tree = jax.tree_util.tree_flatten(phi)
        same = jax.tree_util.tree_unflatten(tree, leaves)
        assert same.spec == phi.spec
        assert jax.tree_util.tree_structure(same) == tree
        hash(tree)

        def call(q, k, v, phi):
            return loss(rfx.linear_attention(q, k, v, features=phi))

        got = jax.jit(jax.grad(call, argnums=(0, 1, 2, 3)))(q, k, v, phi)
    q, k, v = (torch.asarray(a).requires_grad_() for a in arrays)
    phi = drawn(EACH[name], 5, like=q.detach(), seed=1, heads=2)
    leaves = {n: a.requires_grad_(n != "fingerprint") for n, a in phi.arrays().items()}
    features = phi.with_arrays(leaves)
    loss(rfx.linear_attention(q, k, v, features=features)).backward()
    pairs = [*zip(got[:3], (q, k, v), strict=True)]
    pairs += [(got[3].arrays()[n], a) for n, a in leaves.items() if n != "fingerprint"]
    for mine, other in pairs:
        gradient = torch.zeros_like(other) if other.grad is None else other.grad
        assert_agrees(mine, to_numpy(gradient), scale=1024.0)


@COMPILER
@pytest.mark.parametrize(("name", "is_causal"), [("nested", True), ("fitted", False)])
def test_torch_compiles_it_as_one_graph(name: str, is_causal: bool) -> None:
    torch = pytest.importorskip("torch")
    arrays = [torch.asarray(a) for a in attention_inputs()]
    phi = drawn(EACH[name], 5, like=arrays[0], seed=1, heads=2)

    def call(q, k, v):
        return rfx.linear_attention(q, k, v, features=phi, is_causal=is_causal, chunk_size=8)

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    assert_agrees(compiled(*arrays), to_numpy(call(*arrays)), scale=64.0)


@COMPILER
def test_another_draw_is_not_compiled_again() -> None:
    torch = pytest.importorskip("torch")
    graphs = 0

    def count(graph, _inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    q, k, v = (torch.asarray(a) for a in attention_inputs())

    def call(q, k, v, phi):
        return rfx.linear_attention(q, k, v, features=phi)

    compiled = torch.compile(call, backend=count, fullgraph=True)
    for seed in (0, 1, 2):
        phi = EACH["nested"].draw(5, seed=seed, like=q)
        assert_agrees(compiled(q, k, v, phi), to_numpy(call(q, k, v, phi)), scale=64.0)
    assert graphs == 1


@COMPILER
@pytest.mark.parametrize("combined", [False, True])
def test_draws_of_one_spec_with_other_statics_are_compiled_apart(combined: bool) -> None:
    """The degrees of these features are drawn, and are no array."""
    torch = pytest.importorskip("torch")
    q, k, v = (torch.asarray(a) for a in attention_inputs())
    spec: rfx.features.Spec = rfx.features.Maclaurin(16, stratified=False)
    if combined:
        spec = Combination((spec, RELU), ((1.0, (0,)), (0.5, (1,))))

    def call(q, k, v, phi):
        return rfx.linear_attention(q, k, v, features=phi)

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    draws = [spec.draw(5, seed=seed, like=q) for seed in (0, 1)]
    assert draws[0].statics() != draws[1].statics()
    for phi in draws:
        assert_agrees(compiled(q, k, v, phi), to_numpy(call(q, k, v, phi)), scale=1024.0)


def test_a_torch_module_holds_it() -> None:
    torch = pytest.importorskip("torch")
    from rfx_torch import FeatureModule

    x = torch.asarray(points(2, 7, 5), dtype=torch.float32)
    phi = drawn(EACH["nested"], 5, like=x, seed=1)
    module = FeatureModule(phi, trainable=True)
    assert set(dict(module.named_parameters())) == set(phi.arrays()) - {"fingerprint"}
    assert "map0_map1_query_weight" in module.state_dict()
    rfx.gram(x, x, features=module()).sum().backward()
    assert module.map0_map0_query_weight.grad.abs().max() > 0
    wide = module.double()()
    assert wide.like.dtype == torch.float64
    other = FeatureModule(EACH["nested"].draw(5, seed=9, like=x))
    other.load_state_dict(FeatureModule(phi).state_dict())
    assert torch.equal(rfx.gram(x, x, features=other()), rfx.gram(x, x, features=phi))
