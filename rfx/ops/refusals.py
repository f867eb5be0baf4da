"""Why a fast path does not serve a call, where backends say the same: one sentence, or None."""

from __future__ import annotations

from typing import Any

from rfx._xp import Array

__all__ = ["refuse_empty", "refuse_long"]


def refuse_empty(*arrays: Array) -> str | None:
    """Arrays without entries."""
    return "there is nothing to compute" if any(0 in a.shape for a in arrays) else None


def refuse_long(features: Any, query: Array, key: Array, *_: Any, **__: Any) -> str | None:
    """All but a step of decoding."""
    many = query.shape[-2] != 1 or key.shape[-2] != 1
    return "it serves one query and one key, a step of decoding" if many else None
