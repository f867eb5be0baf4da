"""The sections about the time and memory of attention."""

from __future__ import annotations

from asv_bench.benchmarks._clock import crossing

from .jobs import Found, Job
from .sections import DIRECTIONS, Scope, Section, number, table

__all__ = ["BFloat16", "Backward", "Forward", "Memory"]


class _Compared(Section):
    """Times by length in both directions, beside exact attention."""

    module: str
    what: str

    def lengths(self, scope: Scope) -> tuple[int, ...]:
        raise NotImplementedError

    def job(self, L: int, name: str, is_causal: bool) -> Job:
        case = "Forward" if self.module == "comparison" else "Comparison"
        return Job(f"benchmarks.{self.module}", case, "seconds", (L, name, is_causal))

    def jobs(self, scope: Scope) -> list[Job]:
        return [
            self.job(L, name, is_causal)
            for name in scope.names
            for is_causal in DIRECTIONS
            for L in self.lengths(scope)
        ]

    def measured(self, scope: Scope, found: Found) -> list[str]:
        """The libraries with a result."""
        done = {job.params[1] for job in self.jobs(scope) if found.number(job, "linear")}
        return [name for name in scope.names if name in done]

    def ratios(self, scope: Scope, found: Found, name: str, is_causal: bool) -> dict[int, float]:
        """Time over that of exact attention, by length, where both were measured."""
        jobs = {L: self.job(L, name, is_causal) for L in self.lengths(scope)}
        all_of_them = {L: found.ratio(job, "linear", "exact") for L, job in jobs.items()}
        return {L: ratio for L, ratio in all_of_them.items() if ratio is not None}

    def losses(self, scope: Scope, found: Found) -> list[str]:
        lines = []
        for name in self.measured(scope, found):
            for is_causal, direction in DIRECTIONS.items():
                ratios = self.ratios(scope, found, name, is_causal)
                slower = [f"{L} ({number(r)} times)" for L, r in ratios.items() if r > 1.0]
                if slower:
                    lines.append(
                        f"{self.what}, {name}, {direction}: slower than exact attention at length "
                        f"{', '.join(slower)}."
                    )
        return lines


class Forward(_Compared):
    title = "Forward pass"
    module = "comparison"
    what = "Forward"

    def lengths(self, scope: Scope) -> tuple[int, ...]:
        return (256, 1024) if scope.quick else tuple(2**n for n in range(9, 17))

    def body(self, scope: Scope, found: Found) -> list[str]:
        names = self.measured(scope, found)
        lines = [
            "Median milliseconds; how many times the arithmetic floor; how many times the library's"
            " own exact attention. Below 1 in the last column, linear attention is faster. A dash:"
            " exact attention was not measured at that length."
        ]
        head = ["length", *(f"{n} {unit}" for n in names for unit in ("ms", "× floor", "× exact"))]
        for is_causal, direction in DIRECTIONS.items():
            lines += ["", f"### {direction.capitalize()}"]
            lines += table(
                head,
                [
                    [str(L), *(c for n in names for c in self._cells(found, L, n, is_causal))]
                    for L in self.lengths(scope)
                ],
            )
        return [*lines, *self._crossovers(scope, found)]

    def _cells(self, found: Found, L: int, name: str, is_causal: bool) -> list[str]:
        job = self.job(L, name, is_causal)
        return [
            number(found.number(job, "linear"), 1e3),
            number(found.ratio(job, "linear", "floor")),
            number(found.ratio(job, "linear", "exact")),
        ]

    def _crossovers(self, scope: Scope, found: Found) -> list[str]:
        rows = []
        for name in self.measured(scope, found):
            ratios = [self.ratios(scope, found, name, is_causal) for is_causal in DIRECTIONS]
            rows.append([name, *map(_crossover, ratios)])
        title = "### Length from which on linear attention is faster than exact"
        return [title, *table(["library", *DIRECTIONS.values()], rows)]


class Backward(_Compared):
    title = "Forward and backward pass"
    module = "backward"
    what = "Forward and backward"

    def lengths(self, scope: Scope) -> tuple[int, ...]:
        return (256,) if scope.quick else (1024, 4096, 16384)

    def body(self, scope: Scope, found: Found) -> list[str]:
        rows = []
        for name in self.measured(scope, found):
            for is_causal, direction in DIRECTIONS.items():
                for L in self.lengths(scope):
                    job = self.job(L, name, is_causal)
                    rows.append(
                        [
                            f"{name}, {direction}",
                            str(L),
                            number(found.number(job, "linear"), 1e3),
                            number(found.ratio(job, "linear", "forward")),
                            number(found.ratio(job, "linear", "exact")),
                        ]
                    )
        head = ["library, direction", "length", "ms", "× forward alone", "× exact"]
        return [
            "The output, and the gradient of sum(output · g) by queries, keys and values, beside "
            "the same of the library's own exact attention.",
            *table(head, rows),
        ]


class BFloat16(Section):
    title = "bfloat16"

    def jobs(self, scope: Scope) -> list[Job]:
        names = [name for name in scope.names if name.startswith("torch")]
        return [
            Job("benchmarks.comparison", "BFloat16", "seconds", (L, name, is_causal))
            for name in names
            for is_causal in DIRECTIONS
            for L in ((256,) if scope.quick else (4096, 16384))
        ]

    def body(self, scope: Scope, found: Found) -> list[str]:
        rows = []
        for job in self.jobs(scope):
            L, name, is_causal = job.params
            times = (number(found.number(job, d), 1e3) for d in ("float32", "bfloat16"))
            ratio = number(found.ratio(job, "bfloat16", "float32"))
            rows.append([f"{name}, {DIRECTIONS[is_causal]}", str(L), *times, ratio])
        if not rows:
            return ["Measured on torch only, which is not here."]
        head = ["library, direction", "length", "float32 ms", "bfloat16 ms", "× float32"]
        return ["Queries, keys and values in bfloat16 against float32.", *table(head, rows)]

    def losses(self, scope: Scope, found: Found) -> list[str]:
        lines = []
        for job in self.jobs(scope):
            L, name, is_causal = job.params
            ratio = found.ratio(job, "bfloat16", "float32")
            if ratio is not None and ratio > 1.0:
                lines.append(
                    f"bfloat16, {name}, {DIRECTIONS[is_causal]}, length {L}: slower than float32 "
                    f"({number(ratio)} times)."
                )
        return lines


class Memory(Section):
    title = "Memory"
    alone = True

    def length(self, scope: Scope) -> int:
        return 1024 if scope.quick else 65536

    def jobs(self, scope: Scope) -> list[Job]:
        L = self.length(scope)
        return [
            Job("benchmarks.memory", case, "track_extra", (L, name))
            for name in scope.names
            for case in ("Forward", "Backward")
        ]

    def body(self, scope: Scope, found: Found) -> list[str]:
        rows: dict[str, list[str]] = {}
        for job in self.jobs(scope):
            rows.setdefault(job.params[1], []).append(number(found.number(job)))
        shown = [[name, *cells] for name, cells in rows.items() if set(cells) != {"–"}]
        return [
            f"What a causal call at length {self.length(scope)} needs at its peak beyond its "
            "inputs, output and gradients included, in multiples of the size of queries, keys and "
            "values together. The output alone is 0.33, the gradients 1.",
            *table(["library", "forward", "forward and backward"], shown),
        ]


def _crossover(ratios: dict[int, float]) -> str:
    """In words: there, at the first length already, or nowhere."""
    if not ratios:
        return "–"
    lengths, found = sorted(ratios), crossing(ratios)
    if found != found:
        return f"none up to {lengths[-1]}"
    return f"{lengths[0]} or before" if found == lengths[0] else f"{found:,.0f}"
