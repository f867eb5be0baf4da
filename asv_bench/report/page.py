"""The page: what was measured where, the sections, and where rfx loses."""

from __future__ import annotations

from collections.abc import Mapping

from asv_bench.benchmarks._libraries import LIBRARIES

from .attention import Backward, BFloat16, Forward, Memory
from .jobs import Found
from .machine import present
from .others import Compiled, Decoding, Errors, FeatureMatrix, Others
from .sections import Scope, Section

__all__ = ["SECTIONS", "page"]

SECTIONS: tuple[Section, ...] = (
    Forward(), Backward(), BFloat16(), Memory(), Decoding(), FeatureMatrix(), Compiled(), Errors(),
    Others(),
)  # fmt: skip

SMOKE = (
    "**Smoke run: tiny sizes and one call each. Nothing on this page is a measurement, and none of "
    "its numbers may be quoted.**"
)
CASE = (
    "Unless a row says otherwise: batch 1, 8 heads, dimension 64, 256 features of `favor+`, "
    "float32, queries, keys and values of standard normal numbers. Times are medians of calls "
    "after one that compiles; the numbers of a row and library come from calls made in turn in one "
    "process. [docs/benchmarks.md](docs/benchmarks.md) says how each number is defined, and how "
    "this page is made."
)


def page(scope: Scope, found: Found, facts: Mapping[str, str]) -> str:
    """The whole page, in Markdown."""
    lines = ["# Benchmarks (smoke run)", "", SMOKE] if scope.quick else ["# Benchmarks"]
    lines += ["", CASE, "", *(f"- {name}: {fact}" for name, fact in facts.items())]
    lines += _titled("Where rfx loses", _losses(scope, found))
    for section in SECTIONS:
        lines += _titled(section.title, section.body(scope, found))
    lines += _titled("Not measured", _bullets(_absent(scope, found), "Everything was."))
    if found.failed:
        lines += _titled("Failed", _bullets(_failed(scope, found), ""))
    text = "\n".join(lines).rstrip() + "\n"
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def _titled(title: str, body: list[str]) -> list[str]:
    return ["", f"## {title}", "", *body]


def _losses(scope: Scope, found: Found) -> list[str]:
    lines = [line for section in SECTIONS for line in section.losses(scope, found)]
    return [
        "Every row below in which linear attention is slower than exact attention, an estimate is "
        "worse than uniform attention, bfloat16 is slower than float32, or features are slower than"
        " those of scikit-learn. Other maps and activations may lose elsewhere.",
        "",
        *_bullets(lines, "None."),
    ]


def _absent(scope: Scope, found: Found) -> list[str]:
    """What is not here, each reason once a section."""
    libraries = {name: found.reason(present(name), failed=False) for name in LIBRARIES}
    lines = [f"{name}: {reason}" for name, reason in libraries.items() if reason is not None]
    for section in SECTIONS:
        reasons = [found.reason(job, failed=False) for job in section.jobs(scope)]
        lines += [f"{section.title}: {r}" for r in dict.fromkeys(reasons) if r is not None]
    return lines


def _failed(scope: Scope, found: Found) -> list[str]:
    """What broke, job by job."""
    jobs = [("Libraries", present(name)) for name in LIBRARIES]
    jobs += [(section.title, job) for section in SECTIONS for job in section.jobs(scope)]
    reasons = [(title, job.params, found.reason(job, failed=True)) for title, job in jobs]
    return [f"{title}, {params}: {r}" for title, params, r in reasons if r is not None]


def _bullets(lines: list[str], otherwise: str) -> list[str]:
    return [f"- {line}" for line in lines] or [otherwise]
