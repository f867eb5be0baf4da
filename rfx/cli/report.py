"""A comparison as JSON, for programs."""

from __future__ import annotations

import json
import math
import platform
from pathlib import Path
from typing import Any

import numpy as np

import rfx
from rfx.cli.errors import UserError
from rfx.cli.measure import Comparison, Row

__all__ = ["as_dict", "finite", "write"]


def write(found: Comparison, path: Path) -> None:
    """Write the report; numbers that are not finite become null."""
    text = json.dumps(finite(as_dict(found)), indent=2, allow_nan=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json cannot write {path}: {error.strerror}") from error


def as_dict(found: Comparison) -> dict[str, Any]:
    """All numbers of the table and its header, and the errors of each seed and head."""
    inputs, engine = found.inputs, found.engine
    query, key = inputs.logit_size()
    return {
        "versions": {
            "rfx": rfx.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            engine.name: engine.version,
        },
        "input": {
            "source": inputs.source,
            "layer": inputs.layer,
            "layers": inputs.layers,
            "query_heads": inputs.heads,
            "shapes": {
                "q": inputs.query.shape,
                "k": inputs.key.shape,
                "v": inputs.value.shape,
            },
            "stored_dtypes": inputs.stored,
            "median_squared_norm_over_sqrt_dim": {"q": query, "k": key},
        },
        "library": engine.name,
        "device": engine.device,
        "dtype": found.dtype,
        "kernel": {"name": "softmax", "scale": inputs.dim**-0.5},
        "is_causal": found.is_causal,
        "seeds": found.seeds,
        "uniform": {"error": float(np.mean(found.uniform)), "errors": found.uniform},
        "exact": {
            "name": found.exact.name,
            "seconds": found.exact.seconds,
            "error": found.exact.error,
        },
        "rows": [_row(row) for row in found.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "map": row.map,
        "num_features": row.num_features,
        "error": row.error,
        "spread": row.spread,
        "skill": row.skill,
        "worse_than_uniform": row.worse_than_uniform,
        "seconds": row.seconds,
        "implementation": row.implementation,
        "fitted_to_input": row.spec.needs_data,
        "errors": row.errors,
    }


def finite(value: Any) -> Any:
    """The same tree with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
