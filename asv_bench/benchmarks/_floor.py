"""The arithmetic floor: the time of the same operations at the rate of a large matrix product."""

from __future__ import annotations

from ._cases import BATCH, DIM, HEADS, NUM_FEATURES, QUICK, normal
from ._libraries import Call, Library

__all__ = ["floor", "operations", "product"]

SIDE = 256 if QUICK else 3072
CHUNK = 128


def operations(L: int, is_causal: bool) -> int:
    """Floating point operations of a forward call of the base case at length L.

    8 B H L d m: the features of queries and of keys, the state, and what is read of it, each with a
    multiplication and an addition. Causal calls add 2 B H L C (m + d) for the logits and the output
    inside of chunks of C = 128.
    """
    rows = BATCH * HEADS * L
    total = 8 * rows * DIM * NUM_FEATURES
    return total + 2 * rows * CHUNK * (NUM_FEATURES + DIM) if is_causal else total


def product(library: Library) -> Call:
    """A float32 matrix product of 3072 x 3072 by 3072 x 3072 numbers."""
    return library.finished(library.product(normal(library, (SIDE, SIDE), 0)))


def floor(L: int, is_causal: bool, product_seconds: float) -> float:
    """Seconds of `operations` at the rate of `product`."""
    return operations(L, is_causal) * product_seconds / (2 * SIDE**3)
