"""A layer f(Wx + b) of a trained network, replaced by features of inputs times features of weights.

A network with one hidden layer is trained on a regression task made here. Then f(Wx + b), with its
d + 1 numbers for each neuron, becomes φ(x)·B. B = φ([W, b]) has m < d numbers for each neuron, and
φ(x) has no parameters but its seed (Sehanobish et al., Scalable neural network kernels, 2023). B is
what the formula says at first, and is then fitted to the layer, on the training inputs.

Inputs and weights have the norm 1, for which the formula is sound; at norms of 4 it would need
millions of features. Beside it stand W cut to the rank that has as many numbers, and features of
ReLU, which know nothing of W. Run: python examples/compress_layer.py
"""

from __future__ import annotations

import argparse

import numpy as np

import rfx

DIM, NEURONS = 32, 128
AXES = np.geomspace(1.0, 0.1, DIM)


def task(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors whose axes matter less and less, and a smooth function of four directions."""
    x = rng.standard_normal((number, DIM)) * AXES
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    u = 2.0 * x @ np.random.default_rng(1).standard_normal((DIM, 4))
    return x, np.tanh(u[:, 0]) + np.sin(u[:, 1]) * np.cos(u[:, 2]) + 0.5 * u[:, 3]


def unit_rows(weights: np.ndarray) -> np.ndarray:
    """Weights of norm 1, with the biases, which come last, as they are."""
    size = np.linalg.norm(weights[:, :-1], axis=-1, keepdims=True)
    return np.concatenate([weights[:, :-1] / size, weights[:, -1:]], axis=-1)


def trained(
    rng: np.random.Generator, inputs: np.ndarray, y: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (NEURONS, DIM + 1) and readout (NEURONS,), by Adam."""
    weights = unit_rows(rng.standard_normal((NEURONS, DIM + 1)) * np.append(AXES, 1.0))
    parameters = [weights, rng.standard_normal(NEURONS) / NEURONS**0.5]
    mean, square = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    for step in range(1, steps + 1):
        some = rng.integers(len(inputs), size=128)
        hidden = np.tanh(inputs[some] @ parameters[0].T)
        error = (hidden @ parameters[1] - y[some]) / len(some)
        back = error[:, None] * parameters[1] * (1.0 - hidden**2)
        for i, gradient in enumerate((back.T @ inputs[some], error @ hidden)):
            mean[i] = 0.9 * mean[i] + 0.1 * gradient
            square[i] = 0.99 * square[i] + 0.01 * gradient**2
            step_size = 0.01 * np.sqrt(1.0 - 0.99**step) / (1.0 - 0.9**step)
            parameters[i] = parameters[i] - step_size * mean[i] / (np.sqrt(square[i]) + 1e-8)
        parameters[0] = unit_rows(parameters[0])
    return parameters[0], parameters[1]


def fitted(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """B of least squares with a small ridge, shape (neurons, m)."""
    matrix = features.T @ features
    ridge = 1e-4 * np.mean(np.diagonal(matrix)) * np.eye(len(matrix))
    return np.linalg.solve(matrix + ridge, features.T @ wanted).T


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Print errors of the layer and of the network, and return those of the layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=24, help=f"m, below {DIM}")
    parser.add_argument("--steps", type=int, default=2000, help="of training the network")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng, m = np.random.default_rng(options.seed), options.features
    (x, y), (x_test, y_test) = task(rng, 4000), task(rng, 2000)
    inputs, new = (np.pad(a, ((0, 0), (0, 1)), constant_values=1.0) for a in (x, x_test))
    weights, readout = trained(rng, inputs, y, options.steps)
    wanted = np.tanh(inputs @ weights.T)

    def urf(m: int) -> rfx.features.DrawnMap:
        spec = rfx.features.Universal(m, function="tanh", bias=True, limit=3.0, tolerance=0.02)
        return spec.fit(inputs, weights, seed=options.seed)

    phi, wide = urf(m), urf(50 * m)
    relu = rfx.features.Generalized(m, epsilon=0.0).draw(DIM + 1, seed=options.seed, like=x)
    rank = NEURONS * m // (NEURONS + DIM)
    left, size, right = np.linalg.svd(weights[:, :-1], full_matrices=False)
    low = np.concatenate([(left[:, :rank] * size[:rank]) @ right[:rank], weights[:, -1:]], axis=-1)
    B, relu_B = (fitted(f.query(inputs).exp(), wanted) for f in (phi, relu))
    layers = {  # numbers that are kept, and what they make of the test inputs
        "the layer": (weights.size, np.tanh(new @ weights.T)),
        "W of low rank": (rank * (NEURONS + DIM) + NEURONS, np.tanh(new @ low.T)),
        "B from the formula": (B.size, phi.query(new).exp() @ phi.key(weights).exp().T),
        "B fitted": (B.size, phi.query(new).exp() @ B.T),
        "B fitted, ReLU features": (B.size, relu.query(new).exp() @ relu_B.T),
        "B from the formula, 50 m": (
            50 * B.size,
            wide.query(new).exp() @ wide.key(weights).exp().T,
        ),
    }
    exact = layers["the layer"][1]
    print(f"{NEURONS} neurons of {DIM} inputs, m = {m}; 1 is the error of a constant")
    print(f"{'':25} {'numbers':>8} {'error of the layer':>19} {'of the network':>15}")
    errors: dict[str, float] = {}
    for name, (numbers, output) in layers.items():
        errors[name] = float(np.linalg.norm(output - exact) / np.linalg.norm(exact - exact.mean(0)))
        of_network = np.linalg.norm(output @ readout - y_test) / np.linalg.norm(
            y_test - y_test.mean()
        )
        print(f"{name:25} {numbers:8} {errors[name]:19.3f} {of_network:15.3f}")
    return errors


if __name__ == "__main__":
    main()
