"""Functions whose derivative is computed one way forwards and another way back.

A ``jax.custom_vjp`` has no derivative forwards. So the derivative is a primitive here, linear in
the tangents, with a transpose of its own; all else that JAX may do to it is done to the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

__all__ = ["with_gradient"]

Function = Callable[..., Any]


def with_gradient(run: Function, reference: Function, gradient: Function, of: Function) -> Function:
    """``run``, with the derivative of ``reference``, of which ``gradient`` is the transpose.

    ``of(*args)`` lists the arguments whose cotangents ``gradient(args, out, back)`` lists, from the
    cotangents of the results. Derivatives that involve other arguments are the reference's. Each
    result must depend on each argument that vmap gives an axis, for all results then have it.
    """
    function = jax.custom_jvp(run)

    def rule(args: Any, tangents: Any) -> Any:
        given: list[Any]
        arg_tree: Any
        out_tree: Any
        given, arg_tree = jax.tree.flatten(args)
        changes = arg_tree.flatten_up_to(tangents)
        moved = [i for i, t in enumerate(changes) if not isinstance(t, SymbolicZero)]
        numbers = of(*arg_tree.unflatten(range(len(given))))

        def of_moved(given: Sequence[Array], *some: Array) -> Any:
            leaves = list(given)
            for i, leaf in zip(moved, some, strict=True):
                leaves[i] = leaf
            return reference(*arg_tree.unflatten(leaves))

        def push(given: Sequence[Array], changes: Sequence[Array]) -> Any:
            some = tuple(given[i] for i in moved)
            return jax.jvp(partial(of_moved, given), some, tuple(changes))

        moving = [changes[i] for i in moved]
        if not set(moved) <= set(numbers):
            return push(given, moving)
        found, out_tree = jax.tree.flatten(function(*args))
        inputs, known = len(given), len(given) + len(found)

        def forward(*arrays: Array) -> list[Array]:
            return jax.tree.leaves(push(arrays[:inputs], arrays[known:])[1])

        def backward(*arrays: Array) -> list[Array]:
            args = arg_tree.unflatten(arrays[:inputs])
            out, back = map(out_tree.unflatten, (arrays[inputs:known], arrays[known:]))
            by_number = dict(zip(numbers, gradient(args, out, back), strict=True))
            return [by_number[i] for i in moved]

        options = {"forward": forward, "backward": backward}
        counts = {"inputs": inputs, "results": len(found)}
        change = _tangent.bind(*given, *found, *moving, **counts, **options)
        return out_tree.unflatten(found), out_tree.unflatten(change)

    function.defjvp(rule, symbolic_zeros=True)
    return function


_tangent = Primitive("rfx_tangent")
"""Of arguments, results and tangents: ``forward`` gives the results' tangents.

``backward``, of the results' cotangents in the place of the tangents, gives those of the arguments.
"""
_tangent.multiple_results = True


@_tangent.def_impl
def _push(*arrays: Array, forward: Function, **_: Any) -> list[Array]:
    return list(forward(*arrays))


@_tangent.def_abstract_eval
def _shapes(*arrays: Any, results: int, inputs: int, **_: Any) -> list[Any]:
    return list(arrays[inputs : inputs + results])


def _derivative(primals: Any, tangents: Any, **params: Any) -> Any:
    changes = tuple(ad.instantiate_zeros(t) for t in tangents)
    return jax.jvp(partial(_push, **params), tuple(primals), changes)


def _transpose(
    back: Any, *arrays: Any, results: int, inputs: int, backward: Function, **_: Any
) -> list[Any]:
    known, tangents = arrays[: inputs + results], arrays[inputs + results :]
    found = backward(*known, *(ad.instantiate_zeros(b) for b in back))
    wanted = zip(tangents, found, strict=True)
    return [None] * len(known) + [f if ad.is_undefined_primal(t) else None for t, f in wanted]


def _batched(
    arrays: Any, axes: Any, *, results: int, inputs: int, forward: Function, backward: Function
) -> tuple[Any, list[int]]:
    """Results and tangents all get the axis, so that the transpose adds up over it."""
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    front = []
    for number, (array, axis) in enumerate(zip(arrays, axes, strict=True)):
        if axis is not None:
            array = jnp.moveaxis(array, axis, 0)
        elif number >= inputs:
            array = jnp.broadcast_to(array, (size, *array.shape))
        front.append(array)
    given = [None if axis is None else 0 for axis in axes[:inputs]]
    tangents = len(arrays) - inputs - results
    forward = jax.vmap(forward, (*given, *[0] * (results + tangents)), axis_size=size)
    backward = jax.vmap(backward, (*given, *[0] * (2 * results)), axis_size=size)
    options = {"results": results, "inputs": inputs, "forward": forward, "backward": backward}
    return _tangent.bind(*front, **options), [0] * results


ad.primitive_jvps[_tangent] = _derivative
ad.primitive_transposes[_tangent] = _transpose
batching.primitive_batchers[_tangent] = _batched
mlir.register_lowering(_tangent, mlir.lower_fun(_push, multiple_results=True))
