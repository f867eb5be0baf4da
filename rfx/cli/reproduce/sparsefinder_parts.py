"""What is judged of rules that predict the support of entmax attention, and the judgement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rfx.attention import supports
from rfx.attention.entmax import entmax_attention
from rfx.attention.sparsefinder import sparsefinder_attention
from rfx.attention.supports import Bins, Clusters, Distance, Projection, Rule
from rfx.cli import inputs
from rfx.cli.errors import UserError
from rfx.cli.reproduce.experiment import Request
from rfx.diagnostics import relative_error, uniform_attention
from rfx.ops.entmax import entmax

__all__ = ["AXES", "CLUSTERS", "RULES", "SETTINGS", "SHARED", "SPLITS", "judge", "parts"]

AXES, SHARED, CLUSTERS = 4, 2, 16
SETTINGS: dict[str, tuple[float, ...]] = {
    "distance": (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7),
    "bins": (2, 3, 4, 5, 6, 8, 12),
    "clusters": (1, 2, 3, 4, 5, 6, 8),
    "not fitted": (0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "window": (0, 1, 2, 4, 8, 16, 32, 64, 96),
    "random": (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
}
"""Thresholds; bins; clusters of a token; share of pairs; places on either side; share of pairs."""
RULES = ("distance", "bins", "clusters")
_RANDOM = (*RULES, "random")
_LEAST = 32

SPLITS = ("alternate", "halves")


class Part(NamedTuple):
    """The judged half of a layer, and the half to fit to."""

    split: str
    name: str
    layer: int | None
    fitted: tuple[np.ndarray, np.ndarray]
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    is_causal: bool


def parts(path: Path | None, quick: bool) -> Iterator[Part]:
    """The layers of a file, split in each way."""
    layers = inputs.read(path, None, None).layers
    for layer in layers[: 1 if quick else None] or (None,):
        data = inputs.read(path, layer, None)
        least = min(data.query.shape[-2], data.key.shape[-2])
        if least < _LEAST:
            raise UserError(
                f"{data.source} has {least} tokens, too few to fit to one half and judge on the "
                f"other; name a file with at least {_LEAST}"
            )
        is_causal = path is not None and "causal" in path.name.lower()
        source, arrays = Path(data.source).name, (data.query, data.key, data.value)
        for split in SPLITS:
            (q0, q), (k0, k), (_, v) = (_split(a, split) for a in arrays)
            yield Part(split, source, layer, (q0, k0), q, k, v, is_causal)


def _split(array: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens to fit to, and those that are judged. The first is in neither."""
    half = array.shape[-2] // 2
    chosen = {
        "alternate": (slice(2, None, 2), slice(1, None, 2)),
        "halves": (slice(1, half), slice(half, None)),
    }
    fitted, judged = chosen[split]
    return array[..., fitted, :], array[..., judged, :]


def judge(part: Part, request: Request) -> list[dict[str, Any]]:
    """Sparsity, recall and error of each method at each of its settings, by heads."""
    q, k, v, is_causal = part.query, part.key, part.value, part.is_causal
    exact = supports.exact_pairs(q, k, is_causal=is_causal)
    seen = supports.visible_pairs(q, k, is_causal=is_causal)
    wide = [a.astype(np.float64) for a in (q, k, v)]
    want = entmax_attention(*wide, is_causal=is_causal)
    uniform = relative_error(uniform_attention(*wide, is_causal=is_causal), want)
    key = {"split": part.split, "file": part.name, "layer": part.layer}
    rows: list[dict[str, Any]] = [
        key
        | {"method": "uniform", "setting": None, "seed": 0, "error": np.ravel(uniform).tolist()}
        | {"exact_sparsity": np.ravel(supports.sparsity(exact, seen)).tolist()}
    ]
    for seed in range(request.seeds):
        projection = supports.fit_projection(
            *part.fitted,
            num_axes=AXES,
            is_causal=is_causal,
            steps=30 if request.quick else 300,
            seed=seed,
        )
        for method, settings in SETTINGS.items():
            if seed > 0 and method not in _RANDOM:
                continue
            for setting in settings[:: 3 if request.quick else 1]:
                pairs, out = _predict(part, method, setting, projection, seed, exact.shape)
                rows.append(
                    key
                    | {"method": method, "setting": setting, "seed": seed}
                    | {
                        "sparsity": np.ravel(supports.sparsity(pairs, seen)).tolist(),
                        "recall": np.ravel(supports.recall(pairs, exact)).tolist(),
                        "error": np.ravel(relative_error(out.astype(np.float64), want)).tolist(),
                    }
                )
    return rows


def _predict(
    part: Part,
    method: str,
    setting: float,
    projection: Projection,
    seed: int,
    shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that are predicted, and the output of attention over them."""
    q, k, v, is_causal = part.query, part.key, part.value, part.is_causal
    if method == "random":
        pairs = np.random.default_rng(seed).random(shape) < setting
        window = supports.predicted_pairs(q, k, rule=None, is_causal=is_causal)
        pairs = (pairs & supports.visible_pairs(q, k, is_causal=is_causal)) | window
        groups = q.shape[-3] // k.shape[-3]
        k, v = (np.repeat(a, groups, axis=-3) for a in (k, v))
        scores = q @ np.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5
        return pairs, entmax(scores, mask=pairs) @ v
    call: dict[str, Any] = {"rule": None, "window": int(setting), "is_causal": is_causal}
    if method != "window":
        call |= {"rule": _rule(part, method, setting, projection, seed), "window": 0}
    return supports.predicted_pairs(q, k, **call), sparsefinder_attention(q, k, v, **call)


def _rule(part: Part, method: str, setting: float, projection: Projection, seed: int) -> Rule:
    if method == "distance":
        return Distance(projection, setting)
    fit: dict[str, Any] = {"projection": projection}
    if method == "bins":
        return Bins.fit(*part.fitted, num=int(setting), shared=SHARED, **fit)
    if method == "clusters":
        return Clusters.fit(*part.fitted, num=CLUSTERS, nearest=int(setting), seed=seed, **fit)
    q, k = (a.astype(np.float64) for a in part.fitted)
    k = np.repeat(k, q.shape[-3] // k.shape[-3], axis=-3)
    q, k = (a.reshape(-1, *q.shape[-3:-2], *a.shape[-2:]) for a in (q, k))
    power = (q**2).sum(axis=-1)[..., :, None] + (k**2).sum(axis=-1)[..., None, :]
    squares = power - 2.0 * q @ np.swapaxes(k, -1, -2)
    share = np.quantile(np.maximum(squares, 1e-12), setting, axis=(0, 2, 3)) ** 0.5
    each = np.eye(q.shape[-1]) / share[:, None, None]  # so that a threshold of 1 is that of a head
    return Distance(Projection(each, each), 1.0)
