"""Why a path does not serve a call: one sentence each, or None. They are composed with ``or``."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["refuse_empty"]


def refuse_empty(*arrays: np.ndarray[Any, Any]) -> str | None:
    """Arrays without entries."""
    return "there is nothing to compute" if any(0 in a.shape for a in arrays) else None
