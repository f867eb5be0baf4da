"""Benchmarks of rfx for asv: docs/benchmarks.md says what each row means."""
