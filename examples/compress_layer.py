"""A layer f(Wx + b) of a trained network, replaced by features of inputs times features of weights.

A network with one hidden layer is trained on a regression task made here. Then f(Wx + b), with its
d + 1 numbers for each neuron, becomes φ(x)·B, where B = φ([W, b]) has m < d numbers for each
neuron and φ(x) has no parameters but its seed (Sehanobish et al., Scalable neural network kernels,
2023). B is what the formula says at first, and is then fitted to the layer on the training inputs.

Beside it stand W cut to the rank that has as many numbers, and features of the same number that
know nothing of W. Run: python examples/compress_layer.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

import rfx

Host = np.ndarray
DIM, NEURONS, TRAINING = 32, 128, 4000


def task(rng: np.random.Generator, number: int) -> tuple[Host, Host]:
    """Points whose axes matter less and less, and a smooth function of a few directions."""
    scale = np.geomspace(1.0, 0.1, DIM)
    x = rng.standard_normal((number, DIM)) * scale
    directions = np.random.default_rng(1).standard_normal((DIM, 6)) / DIM**0.5
    u = 2.0 * x @ directions
    return x, np.tanh(u[:, 0] + u[:, 1] * u[:, 2]) + np.sin(u[:, 3]) * np.cos(u[:, 4]) + 0.5 * u[:, 5]


def trained(rng: np.random.Generator, x: Host, y: Host, steps: int) -> tuple[Host, Host]:
    """Weights (NEURONS, DIM + 1), biases last, and readout (NEURONS,), by Adam."""
    one = np.ones((len(x), 1))
    inputs = np.concatenate([x, one], axis=-1)
    parameters = [
        rng.standard_normal((NEURONS, DIM + 1)) / DIM**0.5,
        rng.standard_normal(NEURONS) / NEURONS**0.5,
    ]
    mean, square = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(1, steps + 1):
        some = rng.integers(len(x), size=128)
        hidden = np.tanh(inputs[some] @ parameters[0].T)
        error = (hidden @ parameters[1] - y[some]) / len(some)
        back = error[:, None] * parameters[1] * (1.0 - hidden**2)
        for i, gradient in enumerate((back.T @ inputs[some], error @ hidden)):
            mean[i] = 0.9 * mean[i] + 0.1 * gradient
            square[i] = 0.99 * square[i] + 0.01 * gradient**2
            corrected = mean[i] / (1.0 - 0.9**step), square[i] / (1.0 - 0.99**step)
            parameters[i] = parameters[i] - 0.01 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return parameters[0], parameters[1]


def fitted(features: Host, wanted: Host) -> Host:
    """B of least squares, with a ridge: (neurons, m)."""
    matrix = features.T @ features
    ridge = 1e-6 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    return np.linalg.solve(matrix + ridge, features.T @ wanted).T


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print errors of the network's output, and return them by what they are of."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=24, help=f"m, below {DIM}")
    parser.add_argument("--steps", type=int, default=3000, help="of training the network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng, m = np.random.default_rng(options.seed), options.features
    x, y = task(rng, TRAINING)
    x_test, y_test = task(rng, 2000)
    weights, readout = trained(rng, x, y, options.steps)
    inputs, inputs_test = (np.pad(a, ((0, 0), (0, 1)), constant_values=1.0) for a in (x, x_test))

    def layer(points: Host) -> Host:
        return np.tanh(points @ weights.T)

    phi = rfx.features.Universal(m, function="tanh", bias=True, limit=6.0, tolerance=0.05).fit(
        inputs, weights, seed=options.seed
    )
    relu = rfx.features.Generalized(m, epsilon=0.0).draw(DIM + 1, seed=options.seed, like=x)
    bundled = phi.key(weights).exp()
    rank = NEURONS * m // (NEURONS + DIM)
    left, size, right = np.linalg.svd(weights[:, :-1], full_matrices=False)
    low = np.concatenate([(left[:, :rank] * size[:rank]) @ right[:rank], weights[:, -1:]], axis=-1)
    layers: dict[str, tuple[int, Callable[[Host], Host]]] = {
        "the layer": (weights.size, layer),
        "no layer (its mean)": (NEURONS, lambda p: np.broadcast_to(layer(inputs).mean(0), (len(p), NEURONS))),
        "W of low rank": (rank * (NEURONS + DIM) + NEURONS, lambda p: np.tanh(p @ low.T)),
        "urf, B from the formula": (bundled.size, lambda p: phi.query(p).exp() @ bundled.T),
    }
    for name, features in (("urf, B fitted", phi), ("relu features, B fitted", relu)):
        B = fitted(features.query(inputs).exp(), layer(inputs))
        layers[name] = (B.size, lambda p, f=features, B=B: f.query(p).exp() @ B.T)
    spread, want = np.std(y_test), layer(inputs_test)
    norms = [np.sqrt(np.mean(np.sum(a[:, :-1] ** 2, axis=-1))) for a in (inputs, weights)]
    print(f"{NEURONS} neurons of {DIM} inputs; |x| |w| is {norms[0] * norms[1]:.1f} on average")
    print(f"{'':24} {'numbers':>8} {'error of the layer':>19} {'of the network':>15}")
    errors: dict[str, float] = {}
    for name, (numbers, call) in layers.items():
        found = call(inputs_test)
        of_layer = np.linalg.norm(found - want) / np.linalg.norm(want - want.mean(0))
        errors[name] = float(np.std(found @ readout - y_test) / spread)
        print(f"{name:24} {numbers:8} {of_layer:19.3f} {errors[name]:15.3f}")
    print("errors are relative to the spread; 1 is that of a constant")
    return errors


if __name__ == "__main__":
    main()
