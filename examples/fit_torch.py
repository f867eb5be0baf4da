"""Feature maps trained to give softmax attention on recorded activations, in torch.

Half of the tokens, taken at random, are for training; errors are those on the other half, which
attend to one another alone. Each map is drawn with arrays of its own for each head, made a module
with trainable arrays, and trained by Adam on the mean squared error of the outputs.

Run: python examples/fit_torch.py --data FOLDER, with minilm_n384.npz in the folder: arrays q0, k0
and v0 of shape (heads, tokens, d), where 0 is the layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rfx_torch import FeatureModule
from torch import Tensor

import rfx
from rfx.diagnostics import relative_error, uniform_attention

Activations = tuple[Tensor, Tensor, Tensor]


def activations(folder: Path, layer: int) -> tuple[Activations, Activations]:
    """Queries, keys and values of one half of the tokens, and of the other."""
    with np.load(folder / "minilm_n384.npz") as data:
        arrays = [torch.asarray(data[f"{name}{layer}"].astype(np.float32)) for name in "qkv"]
    tokens = np.random.default_rng(0).permutation(arrays[0].shape[-2])
    halves = np.split(tokens, [len(tokens) // 2])
    train, test = (tuple(a[:, np.sort(half)] for a in arrays) for half in halves)
    return train, test  # type: ignore[return-value]


def error(phi: rfx.features.DrawnMap, data: Activations) -> float:
    """Relative error of attention, mean over heads."""
    with torch.no_grad():
        estimate = rfx.linear_attention(*data, features=phi)
        return float(relative_error(estimate, rfx.kernel_attention(*data)).mean())


def fit(
    phi: rfx.features.DrawnMap, data: Activations, steps: int, rate: float
) -> rfx.features.DrawnMap:
    """The map after training, on half of the tokens at each step: none is learned by heart."""
    module = FeatureModule(phi, trainable=True)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    rng = np.random.default_rng(1)
    length = data[0].shape[-2]
    for _ in range(steps):
        some = torch.asarray(rng.permutation(length)[: length // 2])
        q, k, v = (a[:, some] for a in data)
        exact = rfx.kernel_attention(q, k, v)
        off = rfx.linear_attention(q, k, v, features=module()) - exact
        loss = (off.square().sum((-2, -1)) / exact.square().sum((-2, -1))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module()


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Print the errors before and after training, and return them by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of activations")
    parser.add_argument("--layer", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(argv)
    train, test = activations(options.data, options.layer)
    heads, _, dim = train[0].shape
    columns = 2 * dim  # those of Hedgehog, for all
    specs = {
        "favor+": rfx.features.named("favor+", num_features=columns),
        "dark": rfx.features.named("dark", num_features=columns),
        "favor+relu": rfx.features.named("favor+relu", num_features=columns),
        "hedgehog": rfx.features.named("hedgehog"),
    }
    uniform = relative_error(uniform_attention(*test), rfx.kernel_attention(*test)).mean()
    print(f"{heads} heads, {columns} features; relative errors on {test[0].shape[-2]} other tokens")
    print(f"{'uniform attention':18} {float(uniform):7.3f}")
    print(f"{'':18} {'drawn':>7} {'trained':>8}")
    errors: dict[str, tuple[float, float]] = {"uniform": (float(uniform),) * 2}
    for name, spec in specs.items():
        phi = spec.draw(dim, seed=0, like=train[0], heads=heads)
        learned = fit(phi, train, options.steps, rate=0.01)
        errors[name] = error(phi, test), error(learned, test)
        print(f"{name:18} {errors[name][0]:7.3f} {errors[name][1]:8.3f}")
    return errors


if __name__ == "__main__":
    torch.set_num_threads(1)  # arrays of this size gain nothing from more
    main()
