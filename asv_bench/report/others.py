"""The sections about decoding, features, errors, imports and drawing."""

from __future__ import annotations

from typing import ClassVar

from asv_bench.benchmarks.compiled import WITHOUT

from .jobs import Found, Job
from .sections import DIRECTIONS, Scope, Section, number, table

__all__ = ["Compiled", "Decoding", "Errors", "FeatureMatrix", "Others"]


class Decoding(Section):
    title = "Decoding"

    def jobs(self, scope: Scope) -> list[Job]:
        batches = (1,) if scope.quick else (1, 32)
        tokens = [
            Job("benchmarks.decode", "Token", "seconds", (batch, name))
            for name in scope.names
            for batch in batches
        ]
        prompts = [Job("benchmarks.decode", "Prompt", "seconds", (name,)) for name in scope.names]
        return tokens + prompts

    def body(self, scope: Scope, found: Found) -> list[str]:
        tokens = [
            [
                job.params[1],
                str(job.params[0]),
                number(found.number(job, "token"), 1e6),
                number(found.number(job, "copy"), 1e6),
                number(found.ratio(job, "token", "copy")),
            ]
            for job in self.jobs(scope)
            if job.case == "Token"
        ]
        prompts = [
            [job.params[0], number(found.number(job, "prompt and tokens"), 1e3)]
            for job in self.jobs(scope)
            if job.case == "Prompt"
        ]
        length, steps = (64, 4) if scope.quick else (512, 64)
        return [
            "One token for each sequence of a batch, with a state, beside a copy of the state's "
            "numerator, which a token must read and write. On JAX inside the caller's `jax.jit`.",
            *table(["library", "batch", "token µs", "copy µs", "× copy"], tokens),
            f"A prompt of {length} tokens in one call and {steps} tokens after it, batch 1:",
            *table(["library", "ms"], prompts),
        ]


class FeatureMatrix(Section):
    title = "Features"
    _others: ClassVar = {"Sampler": "RBFSampler", "CountSketch": "PolynomialCountSketch"}
    """What a case is compared with."""

    def jobs(self, scope: Scope) -> list[Job]:
        kinds = ("trigonometric", "positive")
        samplers = [
            Job("benchmarks.features", "Sampler", "seconds", (kind, name))
            for kind in kinds
            for name in scope.names
        ]
        sketches = [
            Job("benchmarks.features", "CountSketch", "seconds", (name,)) for name in scope.names
        ]
        return samplers + sketches

    def body(self, scope: Scope, found: Found) -> list[str]:
        rows: dict[str, list[list[str]]] = {name: [] for name in self._others.values()}
        for job in self.jobs(scope):
            other = self._others[job.case]
            mine, theirs = (found.number(job, name) for name in ("rfx", other))
            ratio = number(found.ratio(job, "rfx", other))
            what = ", ".join(job.params)
            rows[other].append([what, number(mine, 1e3), number(theirs, 1e3), ratio])
        points, columns = ("100", "64") if scope.quick else ("20,000", "1,024")
        sampler, sketch = rows
        return [
            f"The features of the Gaussian kernel of {points} points of dimension 64 in {columns} "
            "columns, float32, beside scikit-learn's RBFSampler, which computes on NumPy arrays.",
            *table(["map, library", "rfx ms", f"{sampler} ms", f"× {sampler}"], rows[sampler]),
            "TensorSketch of degree 3, as many columns of the same points in float32, beside "
            "scikit-learn's PolynomialCountSketch, which computes on NumPy arrays in float64.",
            *table(["library", "rfx ms", f"{sketch} ms", f"× {sketch}"], rows[sketch]),
        ]

    def losses(self, scope: Scope, found: Found) -> list[str]:
        lines = []
        for job in self.jobs(scope):
            other = self._others[job.case]
            ratio = found.ratio(job, "rfx", other)
            if ratio is not None and ratio > 1.0:
                what = f"Features, {', '.join(job.params)}"
                lines.append(f"{what}: slower than {other} ({number(ratio)} times).")
        return lines


class Compiled(Section):
    title = "numba"

    def jobs(self, scope: Scope) -> list[Job]:
        return [
            Job("benchmarks.compiled", "Loops", "seconds", case)
            for case in WITHOUT
            if case[1] in scope.names and not (scope.quick and case[0] != "causal")
        ]

    def body(self, scope: Scope, found: Found) -> list[str]:
        rows = [
            [
                ", ".join(job.params),
                *(number(found.number(job, side), 1e3) for side in ("without", "with")),
                number(found.ratio(job, "with", "without")),
            ]
            for job in self.jobs(scope)
        ]
        return [
            "The rows above are measured with numba if its version is at the head of the page. "
            "Here are calls with it and without, in turn: attention at length "
            f"{256 if scope.quick else 4096}, causal attention with its gradients (backward), one "
            "token at batch 1, and the features from above.",
            *table(["what, library", "without ms", "with ms", "× without"], rows),
        ]


class Errors(Section):
    title = "Error on real activations"

    def jobs(self, scope: Scope) -> list[Job]:
        maps = ("favor+", "favor+hyp", "favor", "favor-offset", "dense", "gerf", "favor+relu")
        return [
            Job("benchmarks.error", "Map", "numbers", (layer, scope.names[0], is_causal, name))
            for layer in ((0,) if scope.quick else (0, 5))
            for is_causal in DIRECTIONS
            for name in maps
        ]

    def body(self, scope: Scope, found: Found) -> list[str]:
        rows = [
            [
                f"layer {job.params[0]}, {DIRECTIONS[job.params[2]]}, {job.params[3]}",
                *(number(found.number(job, key)) for key in ("error", "uniform", "skill")),
            ]
            for job in self.jobs(scope)
        ]
        return [
            "Relative error of attention on the sample that comes with rfx, 256 features, mean "
            "over heads and draws, beside that of uniform attention, which looks at no queries and "
            "no keys. Skill: 1 − error / uniform of each head, then the mean; 1 is exact, at 0 or "
            "below the estimate is worth nothing.",
            *table(["layer, direction, map", "error", "uniform", "skill"], rows),
        ]

    def losses(self, scope: Scope, found: Found) -> list[str]:
        lines = []
        for job in self.jobs(scope):
            error, uniform = (found.number(job, key) for key in ("error", "uniform"))
            if error is not None and uniform is not None and error > uniform:
                lines.append(
                    f"Error, layer {job.params[0]}, {DIRECTIONS[job.params[2]]}, {job.params[3]}: "
                    f"{number(error)}, worse than uniform attention with {number(uniform)}."
                )
        return lines


class Others(Section):
    title = "Import and drawing"

    def jobs(self, scope: Scope) -> list[Job]:
        draws = [
            Job("benchmarks.drawing", "Draw", "seconds", (projection, name))
            for name in scope.names
            for projection in ("Orthogonal", "IID")
        ]
        return [Job("benchmarks.imports", "Import", "seconds"), *draws]

    def body(self, scope: Scope, found: Found) -> list[str]:
        imports, *draws = self.jobs(scope)
        rows = [
            ["`import rfx`, NumPy included", number(found.number(imports, "rfx"), 1e3)],
            ["`import numpy`", number(found.number(imports, "numpy"), 1e3)],
        ]
        for job in draws:
            projection, name = job.params
            rows.append([f"draw, {projection}, {name}", number(found.number(job, "draw"), 1e3)])
        heads, columns = (2, 64) if scope.quick else (32, 1024)
        return [
            f"Draws are of {columns} features of dimension 64 for {heads} heads.",
            *table(["what", "ms"], rows),
        ]
