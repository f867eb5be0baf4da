"""Error, skill and time of feature maps on given queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import rfx
from rfx import features
from rfx._xp import Array, to_numpy
from rfx.cli.engines import Engine
from rfx.cli.errors import UserError
from rfx.cli.inputs import Inputs
from rfx.diagnostics import relative_error, uniform_attention
from rfx.features import Spec

__all__ = ["Comparison", "Exact", "Row", "compare", "plan"]


@dataclass(frozen=True)
class Row:
    """One map at one number of features."""

    map: str
    spec: Spec
    num_features: int
    errors: tuple[tuple[float, ...], ...]
    """Relative error for each seed and each head (entries of the batch one after another)."""
    uniform: float
    """Error of uniform attention, mean over heads."""
    seconds: float
    implementation: str

    @property
    def error(self) -> float:
        """Mean over seeds and heads."""
        return float(np.mean(self.errors))

    @property
    def spread(self) -> float:
        """Standard deviation over seeds and heads."""
        with np.errstate(invalid="ignore"):
            return float(np.std(self.errors))

    @property
    def skill(self) -> float:
        """1 − error / uniform."""
        return 1.0 - self.error / self.uniform

    @property
    def worse_than_uniform(self) -> bool:
        """Whether the mean error is above that of uniform attention, or no number."""
        return not self.error <= self.uniform


@dataclass(frozen=True)
class Exact:
    """The library's own exact attention: its name, time, and error against the target."""

    name: str
    seconds: float
    error: float


@dataclass(frozen=True)
class Comparison:
    """All that `rfx compare` found, and how."""

    inputs: Inputs
    engine: Engine
    dtype: str
    is_causal: bool
    seeds: tuple[int, ...]
    uniform: tuple[float, ...]
    """Error of uniform attention for each head."""
    exact: Exact
    rows: tuple[Row, ...]


def plan(maps: Sequence[str] | None, num_features: Sequence[int]) -> list[tuple[str, Spec]]:
    """Specs by name, at each number of features; once where the width follows from dim.

    Of all maps, where none are named, those are left out that cannot have a number of features.
    """
    ready = dict(zip(features.NAMES, features.ALL, strict=True))
    specs: list[tuple[str, Spec]] = []
    for name in features.NAMES if maps is None else maps:
        if name in ready and not hasattr(ready[name], "num_features"):
            specs.append((name, ready[name]))
            continue
        for m in num_features:
            try:
                specs.append((name, features.named(name, num_features=m)))
            except ValueError as error:
                if maps is None:
                    continue
                known = name in ready
                raise (_refusal(name, m, error) if known else UserError(str(error))) from error
    return specs


def compare(
    inputs: Inputs,
    specs: Sequence[tuple[str, Spec]],
    engine: Engine,
    *,
    is_causal: bool,
    seeds: Sequence[int],
    advance: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Measure each map against exact attention, computed by NumPy in float64.

    ``advance`` is called with the name of what is measured next.
    """
    advance("exact attention")
    host = [a.astype(np.float64) for a in (inputs.query, inputs.key, inputs.value)]
    target = rfx.kernel_attention(*host, is_causal=is_causal)
    if not (target != 0.0).any(axis=(-2, -1)).all():
        raise UserError(
            "the exact output of a head is all zeros, so its relative error is undefined; "
            "leave that head out with --heads"
        )
    uniform = _errors(uniform_attention(*host, is_causal=is_causal), target)
    if np.mean(uniform) < 1e-6:
        raise UserError(
            "uniform attention is already exact here up to rounding, so there is nothing to "
            "estimate; look for queries, keys or values that are all the same"
        )
    q, k, v = moved = [engine.move(a) for a in (inputs.query, inputs.key, inputs.value)]
    name, call = engine.exact(q, k, v, is_causal)
    error = float(np.mean(_errors(call(), target)))
    exact = Exact(name, engine.seconds(call), error)
    rows = []
    for map_name, spec in specs:
        advance(map_name)
        rows.append(_row(map_name, spec, moved, engine, is_causal, seeds, target, uniform))
    dtype = str(moved[0].dtype).removeprefix("torch.")
    return Comparison(
        inputs, engine, dtype, is_causal, tuple(seeds), tuple(uniform), exact, tuple(rows)
    )


def _row(
    name: str,
    spec: Spec,
    moved: Sequence[Array],
    engine: Engine,
    is_causal: bool,
    seeds: Sequence[int],
    target: np.ndarray,
    uniform: Sequence[float],
) -> Row:
    query, key, value = moved
    attend = engine.linear(is_causal)
    errors = []
    for seed in seeds:
        try:
            phi = spec.fit(query, key, seed=seed)
        except ValueError as error:
            m = getattr(spec, "num_features", None)
            raise _refusal(name, m, error) from error
        with np.errstate(all="ignore"):  # a signed map may divide by nearly nothing
            errors.append(tuple(_errors(attend(phi, query, key, value), target)))
    with np.errstate(all="ignore"):
        seconds = engine.seconds(lambda: attend(phi, query, key, value))
    how = rfx.explain(rfx.linear_attention, *moved, features=phi, is_causal=is_causal)
    mean = float(np.mean(uniform))
    return Row(name, spec, phi.num_features, tuple(errors), mean, seconds, how.implementation)


def _errors(estimate: Array, target: np.ndarray) -> list[float]:
    """Relative error of each head, in float64 on the host."""
    with np.errstate(all="ignore"):
        errors = relative_error(to_numpy(estimate).astype(np.float64), target)
    return [float(error) for error in np.ravel(errors)]


def _refusal(name: str, num_features: int | None, error: ValueError) -> UserError:
    width = "" if num_features is None else f" with m = {num_features}"
    return UserError(f"the map {name} cannot be used{width}: {error}")
