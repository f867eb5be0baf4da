"""Benchmarks of rfx for asv: docs/benchmarks.md says what each row means."""

import os

# Before NumPy is imported: else OpenBLAS's threads spin on after each product, in the next row.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
