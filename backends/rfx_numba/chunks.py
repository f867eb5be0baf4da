"""How many rows are worked on at once."""

from __future__ import annotations

from functools import cache

from rfx.threads import blas_architectures

__all__ = ["rows_at_once"]

_USUAL = {False: 256, True: 96}
"""More features leave the cache; and half of the pairs in a causal chunk are for nothing."""
_FEWEST, _ENOUGH = 24, 56
"""Between these, chunks of small products are faster than usual ones."""
_SMALL = 100**3
"""Multiplications of a product that OpenBLAS computes without packing, on some processors."""
_WITHOUT_PACKING = {"SkylakeX", "Cooperlake", "SapphireRapids"}
"""Of OpenBLAS: those with AVX-512, seen in 0.3.30."""


def rows_at_once(is_causal: bool, width: int, columns: int) -> int:
    """For ``width`` features, and ``columns`` of keys or of values, whichever are more."""
    rows = min(_ENOUGH, _SMALL // (width * columns))
    return rows if rows >= _FEWEST and _packs_no_small_products() else _USUAL[is_causal]


@cache
def _packs_no_small_products() -> bool:
    return blas_architectures() <= _WITHOUT_PACKING
