"""A derivative with a transpose of its own: what JAX does to it agrees with plain code."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy

from rfx_jax.tangent import with_gradient  # noqa: E402

TRANSFORMS = {
    "grad": lambda f: jax.grad(f, (0, 1)),
    "jit of grad": lambda f: jax.jit(jax.grad(f, (0, 1))),
    "grad of jit": lambda f: jax.grad(jax.jit(f), (0, 1)),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    "forwards": lambda f: jax.jacfwd(f, (0, 1)),
    "hessian": jax.hessian,
    "back and back": lambda f: jax.jacrev(jax.jacrev(f), 1),
    "forwards twice": lambda f: jax.jacfwd(jax.jacfwd(f), 1),
}


def reference(a, b):
    return {"sine": jnp.sin(a["u"]) * b, "sum": jnp.sum(a["u"]) * b, "whole": jnp.round(b + a["u"])}


def of_both(a, b):
    return [a["u"], b]


def of_first(a, b):
    return [a["u"]]


def back_by_jax(calls: list, of=of_both):
    """A gradient that JAX finds, and that notes that it was called."""

    def gradient(args, out, back):
        calls.append(args)
        same(out, reference(*args))
        found = jax.vjp(reference, *args)[1](back)
        return of(*found)

    return with_gradient(reference, reference, gradient, of)


def same(found, want) -> None:
    if not any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((found, want))):
        check = partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6)
        jax.tree.map(check, found, want)


def loss(function):
    return lambda a, b: sum(jnp.sum(jnp.cos(x)) for x in function(a, b).values())


def of_a_batch(function, axes):
    return lambda a, b: jnp.sum(jax.vmap(loss(function), axes)(a, b))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("axes", [None, (0, None)])
def test_transforms_agree_with_plain_code(name: str, axes) -> None:
    calls: list = []
    function = back_by_jax(calls)
    u, b = jnp.arange(12.0).reshape(4, 3), jnp.asarray([[2.0, 3.0, 0.5]] * 4)
    if axes is None:
        found, want = (TRANSFORMS[name](loss(f))({"u": u[0]}, b[0]) for f in (function, reference))
    else:
        args = ({"u": u if axes[0] == 0 else u[0]}, b if axes[1] == 0 else b[0])
        pair = (of_a_batch(f, axes) for f in (function, reference))
        found, want = (TRANSFORMS[name](f)(*args) for f in pair)
    same(found, want)
    assert bool(calls) == ("forwards" not in name)


def test_what_the_gradient_does_not_give_is_found_by_the_reference() -> None:
    calls: list = []
    function = back_by_jax(calls, of_first)
    args = {"u": jnp.arange(3.0)}, jnp.asarray([2.0, 3.0, 0.5])
    same(jax.grad(loss(function), (0, 1))(*args), jax.grad(loss(reference), (0, 1))(*args))
    assert not calls
    same(jax.grad(loss(function))(*args), jax.grad(loss(reference))(*args))
    assert calls


def test_gradients_of_each_entry_of_a_batch() -> None:
    calls: list = []
    function = back_by_jax(calls)
    a, b = {"u": jnp.arange(12.0).reshape(4, 3)}, jnp.asarray([2.0, 3.0, 0.5])
    each = [jax.vmap(jax.grad(loss(f), (0, 1)), (0, None)) for f in (function, reference)]
    same(*(f(a, b) for f in each))
    assert calls


def test_it_is_linear_in_the_tangents() -> None:
    function = back_by_jax([])
    a, b = {"u": jnp.arange(3.0)}, jnp.asarray([2.0, 3.0, 0.5])
    out, push = jax.linearize(function, a, b)
    same(out, reference(a, b))
    same(push(a, b), jax.jvp(reference, (a, b), (a, b))[1])
