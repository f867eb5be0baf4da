"""Structured frequencies project as their dense matrix does, which is never formed."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.linalg import hadamard

from rfx import dispatch, ops
from rfx._xp import to_numpy
from rfx.projections import Fastfood, Hadamard
from rfx.projections.structured import Structured, StructuredProjection, padded
from rfx.testing import ArrayLibrary, array_libraries, assert_agrees

LAWS = (Hadamard(), Hadamard(norms="fixed", blocks=1), Hadamard(blocks=4), Fastfood())
EACH = pytest.mark.parametrize("law", LAWS, ids=repr)
SHAPES = pytest.mark.parametrize(
    ("dim", "num"), [(1, 1), (1, 5), (4, 4), (5, 3), (6, 20), (63, 100), (128, 130)]
)


@pytest.fixture(autouse=True)
def load_paths() -> None:
    for lib in array_libraries():
        dispatch.load(lib.library)


def draw(
    law: StructuredProjection, num: int, dim: int, lib: ArrayLibrary, heads: int | None = None
) -> Structured:
    """Factors on a library in float32, with an axis of heads if asked for."""
    rng = np.random.default_rng(21)
    draws = [law.factors(rng, num, dim) for _ in range(heads or 1)]
    fields = []
    for parts in zip(*draws, strict=True):
        host = None if parts[0] is None else parts[0] if heads is None else np.stack(parts)
        fields.append(None if host is None else lib.convert(host, "float32"))
    return Structured(*fields)


def matrix(law: StructuredProjection, num: int, dim: int, seed: int) -> np.ndarray:
    """The rows as a product of matrices in float64, shape (num, dim)."""
    inner, signs, outer, order = law.factors(np.random.default_rng(seed), num, dim)
    width = padded(dim)
    transform = hadamard(width) / width**0.5
    rows = []
    for block in range(len(inner)):
        product = transform @ np.diag(np.append(inner[block], np.zeros(width - dim)))
        if order is not None:
            product = product[order[block].astype(int)]
        for diagonal in signs[:, block]:
            product = transform @ (diagonal[:, None] * product)
        rows.append(product)
    return outer[0][:, None] * np.concatenate(rows)[:num, :dim]


@EACH
@SHAPES
def test_dense_is_the_product_of_the_factors(law: StructuredProjection, num: int, dim: int) -> None:
    found = law.sample(np.random.default_rng(4), num, dim)
    np.testing.assert_allclose(found, matrix(law, num, dim, 4), atol=1e-12)


@EACH
@SHAPES
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)
def test_projecting_is_multiplying_by_the_dense_matrix(
    lib: ArrayLibrary, law: StructuredProjection, num: int, dim: int, batch: tuple[int, ...]
) -> None:
    factors = draw(law, num, dim, lib)
    x = lib.convert(np.random.default_rng(1).standard_normal((*batch, 7, dim)), "float32")
    found, dense = factors.project(x), to_numpy(factors.dense()).astype(np.float64)
    assert found.dtype == x.dtype
    assert factors.shape == dense.shape == (dim, num)
    assert factors.ndim == 2
    assert factors.dtype == x.dtype
    assert_agrees(found, to_numpy(x) @ dense, scale=4.0)


@EACH
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_heads_have_frequencies_of_their_own(
    lib: ArrayLibrary, law: StructuredProjection, batch: tuple[int, ...]
) -> None:
    factors = draw(law, 20, 6, lib, heads=3)
    x = lib.convert(np.random.default_rng(1).standard_normal((*batch, 3, 7, 6)), "float32")
    dense = to_numpy(factors.dense()).astype(np.float64)
    assert factors.shape == dense.shape == (3, 6, 20)
    assert factors.ndim == 3
    assert_agrees(factors.project(x), to_numpy(x) @ dense, scale=4.0)
    for head in range(3):
        alone = Structured(*(None if part is None else part[head, ...] for part in factors))
        assert_agrees(alone.dense(), dense[head], scale=4.0)


@EACH
@pytest.mark.parametrize("heads", [None, 3])
def test_frequencies_are_scaled_and_mirrored(
    lib: ArrayLibrary, law: StructuredProjection, heads: int | None
) -> None:
    factors = draw(law, 20, 6, lib, heads)
    dense = to_numpy(factors.dense()).astype(np.float64)
    assert_agrees(factors.scaled(0.3).dense(), 0.3 * dense, scale=4.0)
    axes = np.asarray([1.0, 0.5, 2.0, -1.0, 3.0, 0.0], dtype=np.float32)
    scaled = factors.scaled(lib.convert(axes))
    assert_agrees(scaled.dense(), axes[:, None] * dense, scale=4.0)
    both = factors.mirrored()
    assert both.shape == (*dense.shape[:-1], 40)
    assert_agrees(both.dense(), np.concatenate([dense, -dense], axis=-1), scale=4.0)


@EACH
@pytest.mark.parametrize("heads", [None, 2])
def test_no_matrix_is_formed(
    law: StructuredProjection, heads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is larger than (..., t, blocks · p): the matrix would be of 12 MB, and more."""
    lib = ArrayLibrary("numpy", "numpy")
    factors = draw(law, 3000, 1000, lib, heads)
    sizes = []
    transform = ops.fwht

    def watched(x: Any) -> Any:
        sizes.append(x.shape)
        return transform(x)

    monkeypatch.setattr("rfx.projections.structured.ops.fwht", watched)
    x = lib.convert(np.ones((*([heads] if heads else []), 5, 1000)), "float32")
    factors.project(x)
    sizes.clear()
    tracemalloc.start()
    projected = factors.project(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert projected.shape == (*x.shape[:-1], 3000)
    assert peak < 10 * (heads or 1) * 5 * 3 * 1024 * 4
    assert len(sizes) == 1 + factors.signs.shape[-3]
    assert set(sizes) == {(*x.shape[:-1], 3, 1024)}
    stored = sum(part.size for part in factors if part is not None)
    assert stored <= (heads or 1) * 6 * 3 * 1024


@EACH
@pytest.mark.parametrize("dim", [3, 8, 100])
def test_hadamard_rows_are_orthogonal_in_padded_dimensions(
    law: StructuredProjection, dim: int
) -> None:
    """Their norms are those of all padded dimensions, so that dim of them are right on average."""
    width = padded(dim)
    rows = law.factors(np.random.default_rng(3), 3 * width, dim)
    squares = np.sum(rows.dense() ** 2, axis=0)
    assert abs(np.mean(squares) / dim - 1.0) < 5 * (2.0 / (3 * dim * width)) ** 0.5
    if isinstance(law, Fastfood):
        return
    complete = rows._replace(inner=np.ones((3, width)))
    blocks = complete.dense().T.reshape(3, width, width)
    norms = np.linalg.norm(blocks, axis=-1)
    gram = blocks @ blocks.swapaxes(1, 2) / (norms[:, :, None] * norms[:, None, :])
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(width), gram.shape), atol=1e-12)
    if law.norms == "fixed":
        np.testing.assert_allclose(norms, width**0.5)


@EACH
@pytest.mark.parametrize("heads", [None, 2])
def test_the_gradient_of_torch(law: StructuredProjection, heads: int | None) -> None:
    torch = pytest.importorskip("torch")
    factors = draw(law, 6, 3, ArrayLibrary("torch", "torch"), heads)
    *leaves, order = (part if part is None else part.double() for part in factors)
    shape = (heads, 2, 3) if heads else (2, 3)
    x = torch.asarray(np.random.default_rng(2).standard_normal(shape))
    inputs = [array.requires_grad_() for array in (x, *leaves) if math.prod(array.shape)]

    def project(*arrays: Any) -> Any:
        given = list(arrays)
        x, inner = given.pop(0), given.pop(0)
        outer = given.pop()
        signs = given.pop() if given else leaves[1]
        return Structured(inner, signs, outer, order).mirrored().scaled(0.7).project(x)

    assert torch.autograd.gradcheck(project, inputs)


@EACH
@pytest.mark.parametrize("heads", [None, 2])
def test_the_gradient_of_jax(law: StructuredProjection, heads: int | None) -> None:
    """Of every array but the permutation's, which has none; compiled, and batched."""
    jax = pytest.importorskip("jax")
    torch = pytest.importorskip("torch")
    shape = (heads, 5, 6) if heads else (5, 6)
    host = np.random.default_rng(2).standard_normal(shape).astype(np.float32)

    def loss(factors: Structured, x: Any) -> Any:
        return (factors.project(x) ** 2).sum()

    factors = draw(law, 20, 6, ArrayLibrary("jax", "jax"), heads)
    found, of_x = jax.jit(jax.grad(loss, (0, 1)))(factors, jax.numpy.asarray(host))
    twin = draw(law, 20, 6, ArrayLibrary("torch", "torch"), heads)
    leaves = [part if part is None else part.requires_grad_() for part in twin]
    x = torch.asarray(host).requires_grad_()
    loss(Structured(*leaves), x).backward()
    assert_agrees(of_x, to_numpy(x.grad), scale=16.0)
    for name, mine, other in zip(Structured._fields, found, leaves, strict=True):
        if name == "order":
            assert mine is None or not np.any(to_numpy(mine))
        elif math.prod(other.shape):
            assert_agrees(mine, to_numpy(other.grad), scale=16.0)
    points = jax.numpy.asarray(np.stack([host, host]))
    batched = jax.vmap(factors.project)(points)
    assert_agrees(batched[1], to_numpy(factors.project(points[0])), scale=4.0)
