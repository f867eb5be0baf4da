"""The loops of `rfx_numba` inside JAX programs on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import rfx_numba
from jax import Array
from jax import numpy as jnp

from rfx.features import DrawnMap, ExponentialMap
from rfx.features.forms import TrigonometricMap, refuse_other
from rfx.ops import Carry
from rfx.ops.features import log_and_factor
from rfx.ops.refusals import refuse_empty, refuse_long
from rfx_jax import scan
from rfx_jax.features import features as cosine_features
from rfx_jax.features import refuse_features as refuse_waves
from rfx_jax.host import HostCall, HostFunction
from rfx_jax.placing import on_cpu, with_derivative
from rfx_jax.tangent import with_gradient

__all__ = [
    "attention",
    "defer_attention",
    "defer_features",
    "defer_step",
    "features",
    "refuse_attention",
    "refuse_features",
    "refuse_step",
    "step",
]


_LARGE = 1 << 18
"""Numbers in the sums of a step."""


@partial(jax.jit, static_argnames=("is_causal", "chunk_size"))
def attention(
    is_causal: bool,
    features: ExponentialMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.causal` or `rfx.ops.bidirectional`."""
    plain = partial(scan.causal if is_causal else scan.bidirectional, chunk_size=chunk_size)
    options = {"is_causal": is_causal, "chunk_size": chunk_size}

    def attend(features: ExponentialMap, *arrays: Any) -> tuple[Array, Carry]:
        query, _, value, _, carry = arrays
        outputs = [_like(carry.numerator, *query.shape[:-1], value.shape[-1]), *carry]
        out, *after = _called(_attention_call(), features, arrays, outputs, **options)
        return out, Carry(*after)

    def gradient(args: Any, out: Any, back: Any) -> Sequence[Array]:
        def on_host(features: ExponentialMap, *arrays: Any) -> Sequence[Array]:
            return _called(_gradient_call(), features, arrays, _given(*arrays[:5]), **options)

        def by_scan(features: ExponentialMap, *arrays: Any) -> Sequence[Array]:
            *given, _, _, out_back, after_back = arrays
            _, transpose = jax.vjp(plain, features, *given)
            return _given(*transpose((out_back, after_back))[1:])

        features, *arrays = args
        return with_derivative(on_host, by_scan)(features, *arrays, *out, *back)

    def differentiated(_: Any, *arrays: Any) -> Sequence[Any]:
        return _given(*arrays)

    run = with_gradient(on_cpu(attend, plain), plain, gradient, differentiated)
    return run(features, query, key, value, _with_axes(mask, key.ndim), carry)


def _given(query: Any, key: Any, value: Any, mask: Any, carry: Carry) -> Sequence[Any]:
    """The arrays whose gradient the host computes."""
    return [query, key, value, carry.numerator, carry.denominator]


def _called(
    call: HostFunction, features: ExponentialMap, arrays: Any, outputs: Any, **options: Any
) -> Any:
    """Of a map, and of arrays that begin with query, key, value and mask."""
    inputs = [*_sides(features), *jax.tree.leaves(arrays)]
    options |= {"is_masked": arrays[3] is not None, "log_constant": features.log_constant}
    return call(inputs, outputs, **options)


@partial(jax.jit, static_argnames="chunk_size")
def step(
    features: ExponentialMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    *,
    chunk_size: int,
) -> tuple[Array, Carry]:
    """The op `rfx.ops.bidirectional` for one query and one key."""
    run = with_derivative(_one_step, partial(scan.bidirectional, chunk_size=chunk_size))
    return run(features, query, key, value, _with_axes(mask, key.ndim), carry)


def _one_step(
    features: ExponentialMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
) -> tuple[Array, Carry]:
    """The kernel takes all heads of all entries of a batch as one axis."""
    sums, sides = math.prod(key.shape[:-2]), _sides(features)
    if mask is None:
        seen = jnp.zeros(0, dtype=bool)
    else:
        seen = jnp.broadcast_to(mask, (*key.shape[:-1], 1)).reshape(sums)
    groups = math.prod(query.shape[:-2]) // sums
    (heads, dim, width), columns = sides[0].shape, value.shape[-1]
    inputs = [query, key, value, seen, *sides]
    *after, out = _step_call()(
        [*inputs, *carry],
        [*carry, _like(carry.numerator, *query.shape[:-1], columns)],
        in_place={len(inputs) + i: i for i in range(len(carry))},  # a loop of steps hands them on
        sizes=(sums, groups, heads, dim, columns, width, sides[-1].shape[-1], *seen.shape),
        log_constant=features.log_constant,
    )
    return out, Carry(*after)


@partial(jax.jit, static_argnames="side")
def features(features: TrigonometricMap, x: Array, *, side: str) -> tuple[Array, Array]:
    """The op `rfx.ops.features`."""
    log_scale, factor = log_and_factor(features, features.side(side), x)

    def waves(features: TrigonometricMap, x: Array) -> Array:
        arrays = features.side(side)
        weight, bias = arrays.weight, arrays.bias
        bias = jnp.zeros(weight.shape[-1:], weight.dtype) if bias is None else bias
        shape = (*x.shape[:-1], features.num_features)
        options: dict[str, Any] = {"factor": factor, "paired": features.paired}
        (out,) = _waves_call()([x, weight, bias], [_like(weight, *shape)], **options)
        return out

    def other(features: TrigonometricMap, x: Array) -> Array:
        return cosine_features(features, x, side=side)[1]

    return log_scale, with_derivative(waves, other)(features, x)


@cache
def _attention_call() -> HostFunction:
    return HostFunction("rfx_attention", _attend)


def _attend(call: HostCall) -> None:
    attend, rest = _begun(rfx_numba.attention, call)
    before, out, after = Carry(*rest[:3]), rest[3], Carry(*rest[4:])
    attend(before, results=(out, after))


@cache
def _gradient_call() -> HostFunction:
    return HostFunction("rfx_attention_gradient", _find_gradient)


def _find_gradient(call: HostCall) -> None:
    find, rest = _begun(rfx_numba.gradient, call)
    before, out, after, back = Carry(*rest[:3]), rest[3], Carry(*rest[4:7]), rest[7]
    after_back, results = (rest[8], rest[9]), rest[11:]  # scales, in between, are constants
    find(before, after, out, back, after_back, results=results)


def _begun(function: Callable[..., Any], call: HostCall) -> tuple[Callable[..., Any], list[Any]]:
    """A function with its first arguments and its options, and the arrays behind them."""
    weight, bias, key_weight, key_bias, quadratic, query, key, value, *rest = call.arrays()
    row_term = quadratic, call.options["log_constant"]
    sides = rfx_numba.Sides((weight, bias), (key_weight, key_bias), row_term)
    mask = rest.pop(0) if call.options["is_masked"] else None
    args = (call.options["is_causal"], sides, query, key, value, mask)
    options = {"chunk_size": call.options["chunk_size"], "threads": call.threads()}
    return partial(function, *args, **options), rest


@cache
def _step_call() -> HostFunction:
    return HostFunction("rfx_step", _take_step)


def _take_step(call: HostCall) -> None:
    rfx_numba.step_in_memory(call.addresses, call.options["sizes"], call.options["log_constant"])


@cache
def _waves_call() -> HostFunction:
    return HostFunction("rfx_waves", _wave)


def _wave(call: HostCall) -> None:
    x, weight, bias, out = call.arrays()
    rfx_numba.waves(x, weight, bias, out, **call.options, threads=call.threads())


def _sides(features: ExponentialMap) -> list[Array]:
    """What `rfx_numba.Sides` holds, but the constant."""
    heads, query = features.heads or 1, features.query_side
    key = features.key_side or query
    dim, width = query.weight.shape[-2:]

    def whole(array: Array | None, *axes: int) -> Array:
        if array is None:
            return jnp.zeros((heads, *axes), query.weight.dtype)
        return jnp.broadcast_to(array if array.ndim > len(axes) else array[None], (heads, *axes))

    pairs = [(whole(s.weight, dim, width), whole(s.bias, width)) for s in (query, key)]
    return [*pairs[0], *pairs[1], whole(key.quadratic, 0 if key.quadratic is None else dim)]


def _like(array: Array, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, array.dtype)


def _with_axes(mask: Array | None, ndim: int) -> Array | None:
    """With all of the batch axes, so that there may be one more before them."""
    return None if mask is None else mask.reshape((1,) * (ndim - mask.ndim) + mask.shape)


def refuse_attention(
    features: DrawnMap,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    carry: Carry,
    **_: Any,
) -> str | None:
    """What `attention` does not serve."""
    return (
        refuse_other(features, ExponentialMap)
        or _refuse_shape(query, key, value)
        or rfx_numba.refuse_dtype(jnp.float32, query, key, value, *carry)
        or _refuse_mesh()
        or rfx_numba.refuse_missing()
    )


def refuse_step(features: DrawnMap, query: Array, key: Array, *args: Any, **_: Any) -> str | None:
    """What `step` does not serve."""
    return refuse_long(features, query, key) or refuse_attention(features, query, key, *args)


def refuse_features(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """What `features` does not serve."""
    return (
        refuse_waves(features, x)
        or _refuse_shape(x)
        or rfx_numba.refuse_dtype(jnp.float32, x)
        or _refuse_mesh()
        or rfx_numba.refuse_missing()
    )


def _refuse_shape(*arrays: Array) -> str | None:
    """Lengths that are symbols of ``jax.export``, and arrays without entries."""
    if not all(isinstance(n, int) for a in arrays for n in a.shape):
        return "it serves lengths that are numbers"
    return refuse_empty(*arrays)


def _refuse_mesh() -> str | None:
    """Parts of arrays that are spread over devices."""
    mesh = getattr(jax.sharding, "get_abstract_mesh", lambda: None)()
    axes = getattr(mesh, "manual_axes", None)
    if axes is None:
        return "it needs JAX 0.6 or later, which says what is inside jax.shard_map"
    return "it serves no parts of arrays inside jax.shard_map" if axes else None


def defer_attention(features: DrawnMap, query: Array, key: Array, *_: Any, **__: Any) -> str | None:
    """What others serve better: short calls, and other devices."""
    return _defer_elsewhere(query) or rfx_numba.defer_little(features, query, key)


def defer_step(
    features: DrawnMap, query: Array, key: Array, value: Array, mask: Any, carry: Carry, **_: Any
) -> str | None:
    """As `defer_attention`, and large sums: XLA copies none that it may not write to."""
    if carry.numerator.size > _LARGE:
        return f"the sums are large ({carry.numerator.size} numbers), and XLA is as fast on these"
    return _defer_elsewhere(query)


def defer_features(features: DrawnMap, x: Array, **_: Any) -> str | None:
    """As `defer_attention`."""
    return _defer_elsewhere(x) or rfx_numba.defer_few(features, x)


def _defer_elsewhere(array: Array) -> str | None:
    """Programs for other devices, of which a trace knows the usual one only."""
    backend = jax.default_backend()
    if isinstance(array, jax.core.Tracer) and backend != "cpu":
        return f"programs run on {backend} here, unless told otherwise"
    return rfx_numba.defer_unusable()
