"""For tests of backends and maps: tolerances, z-scores, probes, shapes, array libraries."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rfx._xp import Array, library, to_numpy
from rfx.features import DrawnMap, Spec
from rfx.kernels import ExponentialKernel

__all__ = [
    "ArrayLibrary",
    "Case",
    "Probe",
    "array_libraries",
    "assert_agrees",
    "cases",
    "drawn",
    "probes",
    "tolerance",
    "z_score",
]

EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
"""Spacing of the numbers above 1."""

LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2.0 - 2.0**-7) * 2.0**127,
    "float32": (2.0 - 2.0**-23) * 2.0**127,
    "float64": math.inf,
}

WORKING = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
"""What sums are accumulated in."""

FACTOR = 16.0
"""Roundings of the working dtype that add up in a sum of features; TF32 would need 8192."""


def dtype_name(dtype: Any) -> str:
    """Name of a dtype of any library, such as "float32"."""
    name = getattr(dtype, "__name__", None) or str(dtype)
    return name.rpartition(".")[-1]


def tolerance(
    want: np.ndarray, dtype: Any, scale: Any = 1.0, size: float | None = None
) -> np.ndarray:
    """How far an array of ``dtype`` may be from ``want``: c · eps · max|want|.

    (eps(dtype) + 16 · scale · eps(working dtype)) · size: one rounding of the result, and those of
    the sums, which are made in float32, or in float64 for float64.

    Parameters
    ----------
    want : numpy.ndarray
    dtype : dtype or str
        Of the array that is tested.
    scale : float or array that broadcasts to ``want``
        What magnifies the roundings of the sums: 1 + the largest log of a feature
        (`rfx.reference.log_size`), times the conditioning of signed maps
        (`rfx.reference.conditioning`).
    size : float, optional
        What the roundings are relative to; the largest finite |want| by default. Give max|value|
        where outputs are averages that nearly cancel.

    Returns
    -------
    numpy.ndarray, shape of ``want``
    """
    name = dtype_name(dtype)
    if size is None:
        finite = np.abs(want[np.isfinite(want)])
        size = float(np.max(finite, initial=0.0))
    unit = EPS[name] + FACTOR * np.asarray(scale, dtype=np.float64) * EPS[WORKING[name]]
    return np.broadcast_to(unit * size, np.shape(want))


def assert_agrees(
    actual: Array,
    want: Any,
    *,
    dtype: Any = None,
    scale: Any = 1.0,
    size: float | None = None,
) -> None:
    """Assert that an array of any library is ``want`` to the tolerance of its dtype.

    Parameters
    ----------
    actual : Array
    want : numpy.ndarray
        In float64, of the same shape. Where it exceeds the dtype, ``actual`` must be infinite;
        where it is NaN, so must ``actual`` be.
    dtype : dtype or str, optional
        Take the tolerance of this dtype, the array's own by default. For a float64 result that
        was computed from float32 features, say "float32".
    scale, size
        As in `tolerance`.

    Raises
    ------
    AssertionError
        It names the worst place, and its error in tolerances.

    Examples
    --------
    >>> import numpy as np, rfx, rfx.testing
    >>> third = np.asarray([1.0]) / 3.0
    >>> rfx.testing.assert_agrees(third.astype(np.float32), third)
    """
    name = dtype_name(actual.dtype if dtype is None else dtype)
    have, wanted = to_numpy(actual).astype(np.float64), np.asarray(want, dtype=np.float64)
    assert have.shape == wanted.shape, f"shape {have.shape}, but {wanted.shape} is wanted"
    allowed = tolerance(wanted, name, scale, size)
    infinite, slack = np.copysign(np.inf, wanted), np.where(np.isfinite(allowed), allowed, 0.0)
    at_the_end = np.abs(wanted) > LARGEST[name] - slack  # where the dtype ends either will do
    wanted = np.where(np.abs(wanted) > LARGEST[name] + slack, infinite, wanted)
    same = (
        (have == wanted) | (np.isnan(have) & np.isnan(wanted)) | (at_the_end & (have == infinite))
    )
    comparable = np.isfinite(have) & np.isfinite(wanted)
    error = np.where(same, 0.0, np.inf)
    error[comparable] = np.abs(have[comparable] - wanted[comparable])
    bad = (error > allowed) | np.isinf(error)
    if not np.any(bad):
        return
    ratio = np.zeros_like(error)
    ratio[bad] = np.where(np.isinf(error[bad]) | (allowed[bad] == 0), np.inf, 1.0)
    known = bad & ~np.isinf(ratio)
    ratio[known] = error[known] / allowed[known]
    place = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    raise AssertionError(
        f"{int(np.sum(bad))} of {bad.size} entries of {library(actual)} {actual.dtype} differ by "
        f"more than the tolerance of {name}; the worst, at {tuple(int(i) for i in place)}, is "
        f"{have[place]!r} where {wanted[place]!r} is wanted: {float(ratio[place]):.3g} tolerances "
        f"of {float(allowed[place]):.3g}"
    )


def z_score(
    samples: np.ndarray, want: np.ndarray, *, variance: Any = None, floor: Any = None
) -> np.ndarray:
    """Deviation of the mean over draws from ``want``, in standard errors.

    Parameters
    ----------
    samples : numpy.ndarray, shape (draws, ...)
    want : numpy.ndarray, shape (...)
    variance : numpy.ndarray, shape (...), optional
        Of one sample, where a closed form is known; that of the samples by default. Heavy tails
        hide in a sample's own variance, so the closed form is the sharper test.
    floor : numpy.ndarray or float, optional
        Rounding error to be added to the standard error in squares, 16 eps |want| by default:
        where the variance is zero, the mean need not be equal to the bit.

    Returns
    -------
    numpy.ndarray, shape (...)

    Examples
    --------
    >>> import numpy as np, rfx, rfx.testing
    >>> samples = np.random.default_rng(0).standard_normal((400, 1))
    >>> bool(abs(rfx.testing.z_score(samples, np.zeros(1), variance=1.0)) < 5)
    True
    """
    mean = np.mean(samples, axis=0, dtype=np.float64)
    if variance is None:
        variance = np.var(samples, axis=0, ddof=1, dtype=np.float64)
    if floor is None:
        floor = FACTOR * EPS[dtype_name(samples.dtype)] * np.abs(want)
    error = np.sqrt(np.asarray(variance) / samples.shape[0] + np.square(floor))
    return (mean - want) / np.where(error > 0, error, np.finfo(np.float64).tiny)


class Probe(NamedTuple):
    """A pair of points at which a map is tested."""

    name: str
    x: np.ndarray
    """shape (d,), in the unit of the kernel."""
    y: np.ndarray


def probes(
    spec: Spec, dim: int, *, limit: float = 4.0, activations: np.ndarray | None = None
) -> tuple[Probe, ...]:
    """Fixed pairs of points at which the tails of an estimate are light enough for a sample mean.

    At unit temperature |x + y|² <= ``limit`` for positive maps and |x − y|² <= ``limit`` for signed
    ones, which their relative variance depends on. Beyond 4 the tails defeat any sample mean: at 16
    right code fails one time in eight.

    Parameters
    ----------
    spec : Spec
        Its kernel gives the unit, and ``spec.positive`` says which of the two sums counts.
    dim : int
    limit : float
    activations : numpy.ndarray, shape (2, n, dim), optional
        Real queries and keys, to be rescaled to the limit.

    Returns
    -------
    tuple of Probe
        Along ±e_1, ±e_d and ±ones, random pairs, the activations, y = 0, x = −y and x = y; all but
        x = −y (positive) or x = y (signed), where the variance is zero, are at the limit. Pairs
        that the kernel does not take are left out.

    Examples
    --------
    >>> import rfx.testing
    >>> spec = rfx.features.Positive(num_features=8)
    >>> [probe.name for probe in rfx.testing.probes(spec, 4)][:2]
    ['+e_1', '-e_1']
    """
    unit = spec.kernel.unit(dim) if isinstance(spec.kernel, ExponentialKernel) else 1.0
    radius, sign = math.sqrt(limit), 1.0 if spec.positive else -1.0
    found = []
    for name, direction in _directions(dim):
        found.append((name, 0.5 * radius * direction, sign * 0.5 * radius * direction))
    rng = np.random.default_rng(20_230_117)
    pairs = [(f"random {i}", *rng.standard_normal((2, dim))) for i in range(4)]
    pairs += [(f"activations {i}", *pair) for i, pair in enumerate(_pairs(activations))]
    for name, x, y in pairs:
        shrink = radius / float(np.linalg.norm(x + sign * y))
        found.append((name, shrink * x, shrink * y))
    point = _unit(rng.standard_normal(dim))
    found.append(("y = 0", radius * point, 0.0 * point))
    for name, mirror in (("x = -y", -1.0), ("x = y", 1.0)):
        half = 0.5 * radius * point if mirror == sign else point
        found.append((name, half, mirror * half))
    scaled = (Probe(name, x / unit, y / unit) for name, x, y in found)
    return tuple(probe for probe in scaled if _taken(spec, probe))


def _taken(spec: Spec, probe: Probe) -> bool:
    """Whether the kernel takes the points: that of directions does not take 0."""
    try:
        spec.kernel.check(np.stack([probe.x, probe.y]), "x")
    except ValueError:
        return False
    return True


def _directions(dim: int) -> Iterator[tuple[str, np.ndarray]]:
    first, last = np.eye(dim)[0], np.eye(dim)[-1]
    for name, direction in (("e_1", first), ("e_d", last), ("ones", np.ones(dim))):
        yield f"+{name}", _unit(direction)
        yield f"-{name}", -_unit(direction)


def _unit(point: np.ndarray) -> np.ndarray:
    return point / np.linalg.norm(point)


def _pairs(activations: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if activations is not None:
        yield from zip(*np.asarray(activations, dtype=np.float64), strict=True)


def drawn(
    spec: Spec, dim: int, *, like: Array, seed: int = 0, heads: int | None = None
) -> DrawnMap:
    """A map of any spec: drawn, or fitted to standard normal points if it needs data.

    Parameters
    ----------
    spec : Spec
    dim : int
    like : Array
        As in `rfx.features.Spec.draw`.
    seed : int
    heads : int, optional

    Returns
    -------
    DrawnMap
    """
    if not spec.needs_data:
        return spec.draw(dim, seed=seed, like=like, heads=heads)
    shape = (64, dim) if heads is None else (heads, 64, dim)
    query, key = np.random.default_rng(seed).standard_normal((2, *shape))
    return spec.fit(query, 0.5 * key + 0.2, seed=seed).to_like(like)


@dataclass(frozen=True)
class Case:
    """Shapes of one attention call."""

    name: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    value: tuple[int, ...]

    def arrays(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard normal query, key and value, float64."""
        rng = np.random.default_rng(seed)
        q, k, v = (rng.standard_normal(shape) for shape in (self.query, self.key, self.value))
        return q, k, v

    @property
    def dim(self) -> int:
        """Axes of the points, d."""
        return self.query[-1]

    @property
    def heads(self) -> int | None:
        """Key heads, None without an axis of heads."""
        return self.key[-3] if len(self.key) > 2 else None

    @property
    def causal(self) -> bool:
        """Whether causal attention is possible: t <= s."""
        return self.query[-2] <= self.key[-2]

    def __str__(self) -> str:
        return self.name


def cases() -> tuple[Case, ...]:
    """The shapes that every attention is tested on.

    Odd lengths, 0, 1 and 2 batch axes, grouped queries, lengths that differ, a value dimension that
    is not d, and a single position.
    """
    return (
        Case("no batch", (63, 8), (63, 8), (63, 8)),
        Case("heads", (3, 100, 7), (3, 100, 7), (3, 100, 5)),
        Case("batch and heads", (2, 3, 63, 8), (2, 3, 63, 8), (2, 3, 63, 8)),
        Case("grouped", (2, 6, 63, 8), (2, 2, 63, 8), (2, 2, 63, 3)),
        Case("one key head", (4, 63, 8), (1, 63, 8), (1, 63, 8)),
        Case("more keys", (2, 63, 8), (2, 100, 8), (2, 100, 9)),
        Case("grouped, more keys", (1, 4, 63, 8), (1, 2, 100, 8), (1, 2, 100, 8)),
        Case("fewer keys", (2, 100, 8), (2, 63, 8), (2, 63, 8)),
        Case("one query", (2, 2, 1, 8), (2, 2, 63, 8), (2, 2, 63, 8)),
        Case("one position", (1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    )


@dataclass(frozen=True)
class ArrayLibrary:
    """An array library on this machine, as a place to put arrays.

    Attributes
    ----------
    name : str
        Such as "numpy", "torch" or "torch-cuda".
    library : str
        Such as "torch".
    device : str
        "cpu" or "cuda".
    """

    name: str
    library: str
    device: str = "cpu"

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the real floating dtypes that it can hold, the widest first."""
        if self.library == "torch":
            return ("float64", "float32", "bfloat16", "float16")
        if self.library == "jax":
            wide = bool(importlib.import_module("jax").config.jax_enable_x64)
            return (("float64",) if wide else ()) + ("float32", "bfloat16", "float16")
        if self.library == "array_api_strict":
            return ("float64", "float32")
        return ("float64", "float32", "float16")

    def convert(self, array: np.ndarray, dtype: str | None = None) -> Array:
        """A copy of a host array; read-only where the library has such.

        Parameters
        ----------
        array : numpy.ndarray
        dtype : str, optional
            The array's own by default; float64 becomes float32 where the library has none.
        """
        host = np.array(array)
        name = dtype_name(host.dtype) if dtype is None else dtype
        if name == "float64" and "float64" not in self.dtypes:
            name = "float32"
        if self.library == "torch":
            torch = importlib.import_module("torch")
            return torch.asarray(host).to(dtype=getattr(torch, name), device=self.device)
        if self.library == "numpy":
            made = host.astype(name)
            made.setflags(write=False)
            return made
        module = "jax.numpy" if self.library == "jax" else self.library
        xp = importlib.import_module(module)
        return xp.asarray(
            host if name == "bfloat16" else host.astype(name), dtype=getattr(xp, name)
        )

    def __str__(self) -> str:
        return self.name


def array_libraries() -> tuple[ArrayLibrary, ...]:
    """The array libraries of this machine that rfx is tested on.

    Those that are installed are imported. NumPy's arrays are read-only; array_api_strict has
    nothing beyond the standard; torch comes a second time where it has a CUDA device.

    Returns
    -------
    tuple of ArrayLibrary
        numpy first.
    """
    found = [ArrayLibrary("numpy", "numpy")]
    if _installed("array_api_strict"):
        found.append(ArrayLibrary("array_api_strict", "array_api_strict"))
    if _installed("torch"):
        found.append(ArrayLibrary("torch", "torch"))
        if importlib.import_module("torch").cuda.is_available():
            found.append(ArrayLibrary("torch-cuda", "torch", "cuda"))
    if _installed("jax"):
        backend = importlib.import_module("jax").default_backend()
        found.append(ArrayLibrary("jax", "jax", "cuda" if backend == "gpu" else backend))
    if _installed("cupy") and importlib.import_module("cupy").cuda.is_available():
        found.append(ArrayLibrary("cupy", "cupy", "cuda"))
    return tuple(found)


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
