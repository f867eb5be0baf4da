"""A feature map trained to give softmax attention on recorded activations, in JAX.

A drawn map is a pytree, so it is differentiated as it is, and Adam is a few lines of jax.tree.map.
Half of the tokens, taken at random, are for training; errors are those on the other half.

Run: python examples/fit_jax.py --data FOLDER, with minilm_n384.npz in the folder: arrays q0, k0 and
v0 of shape (heads, tokens, d), where 0 is the layer.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import rfx
from rfx.diagnostics import relative_error, uniform_attention

Activations = tuple[Array, Array, Array]


def activations(folder: Path, layer: int) -> tuple[Activations, Activations]:
    """Queries, keys and values of one half of the tokens, and of the other."""
    with np.load(folder / "minilm_n384.npz") as data:
        arrays = [jnp.asarray(data[f"{name}{layer}"].astype(np.float32)) for name in "qkv"]
    tokens = np.random.default_rng(0).permutation(arrays[0].shape[-2])
    halves = np.split(tokens, [len(tokens) // 2])
    train, test = (tuple(a[:, np.sort(half)] for a in arrays) for half in halves)
    return train, test  # type: ignore[return-value]


@jax.jit
def error(phi: rfx.features.DrawnMap | None, data: Activations) -> Array:
    """Relative error of attention, mean over heads; of uniform attention for None."""
    if phi is None:
        estimate = uniform_attention(*data)
    else:
        estimate = rfx.linear_attention(*data, features=phi)
    return relative_error(estimate, rfx.kernel_attention(*data)).mean()


def loss(phi: rfx.features.DrawnMap, q: Array, k: Array, v: Array) -> Array:
    """Squared error of the output over its squared size, mean over heads."""
    exact = rfx.kernel_attention(q, k, v)
    off = rfx.linear_attention(q, k, v, features=phi) - exact
    return ((off**2).sum((-2, -1)) / (exact**2).sum((-2, -1))).mean()


@partial(jax.jit, donate_argnames=("phi", "moments"))
def step(
    phi: rfx.features.DrawnMap, moments: Any, count: Array, rate: Array, data: Activations
) -> tuple[rfx.features.DrawnMap, Any]:
    """One step of Adam; the fingerprint's gradient is 0, and so it stays."""
    gradient = jax.grad(loss)(phi, *data)
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], gradient)
    square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, moments[1], gradient)
    scale = rate * jnp.sqrt(1.0 - 0.999**count) / (1.0 - 0.9**count)
    phi = jax.tree.map(lambda p, m, s: p - scale * m / (jnp.sqrt(s) + 1e-8), phi, mean, square)
    return phi, (mean, square)


def fit(
    phi: rfx.features.DrawnMap, data: Activations, steps: int, rate: float
) -> rfx.features.DrawnMap:
    """The map after training, on half of the tokens at each step."""
    rng = np.random.default_rng(1)
    length = data[0].shape[-2]
    phi = jax.tree.map(jnp.copy, phi)  # the first one is given away
    moments = jax.tree.map(jnp.zeros_like, (phi, phi))
    for count in range(1, steps + 1):
        some = rng.permutation(length)[: length // 2]
        now = 0.5 * rate * (1.0 + np.cos(np.pi * (count - 1) / steps))
        phi, moments = step(phi, moments, float(count), now, tuple(a[:, some] for a in data))
    return phi


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Print the errors before and after training, and return them by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of activations")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(argv)
    train, test = activations(options.data, options.layer)
    heads, _, dim = train[0].shape
    plain = rfx.features.named("favor+", num_features=2 * dim)
    drawn = float(error(plain.draw(dim, seed=0, like=train[0], heads=heads), test))
    uniform = float(error(None, test))
    print(f"{heads} heads, {2 * dim} features; relative errors on {test[0].shape[-2]} other tokens")
    print(f"uniform attention  {uniform:.3f}\nfavor+             {drawn:.3f}")
    phi = rfx.features.named("hedgehog").draw(dim, seed=0, like=train[0], heads=heads)
    learned = fit(phi, train, options.steps, rate=0.01)
    before, after = float(error(phi, test)), float(error(learned, test))
    print(f"hedgehog           {before:.3f}, trained {after:.3f}")
    return {"uniform": (uniform, uniform), "favor+": (drawn, drawn), "hedgehog": (before, after)}


if __name__ == "__main__":
    main()
