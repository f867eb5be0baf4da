"""The page BENCHMARKS.md, from runs of the benchmarks' own classes: docs/benchmarks.md."""
