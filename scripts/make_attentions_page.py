"""Writes docs/attentions.md: a row for each attention, and the first line of its docstring.

Whether one is causal, and whether it has a state, is found by calling it.
Run from the project's root: python scripts/make_attentions_page.py
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rfx

PAGE = Path(__file__).parents[1] / "docs" / "attentions.md"

_HEAD = """\
# Table of attentions

Written by `python scripts/make_attentions_page.py`; a test holds that it is current and names every
attention. Whether one is causal or has a state was found by calling it.

- **time**, **memory**: up to a factor, for n queries and as many keys, m features, d axes of points
  and of values; memory is what a call needs beyond its inputs and its output, without autodiff.
- **causal**: a query may be kept from later keys; "always" where it always is.
- **state**: sums of constant size that go on where a call ended, as decoding needs.
- **estimates**: what the output comes near to. A ratio of unbiased sums is consistent, not
  unbiased: as features grow in number it comes to its target.

"""


class Row(NamedTuple):
    """What cannot be found by calling: cost, target and paper; and what a call needs."""

    time: str
    memory: str
    target: str
    paper: str
    page: str
    options: Callable[[Any], dict[str, Any]] = lambda q: {}


def _with(spec: rfx.features.Spec, **more: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A map of this spec, and other arguments made of the queries."""

    def options(q: Any) -> dict[str, Any]:
        made = {name: make(q) for name, make in more.items()}
        return {"features": spec.draw(q.shape[-1], seed=0, like=q), **made}

    return options


MAP = rfx.features.Positive(8)
LINEAR, QUADRATIC = "n m d", "n² d"
STATE, BLOCK = "m d", "a block of pairs"
EXACT, KERNEL = "is its own target", "attention with the map's kernel; consistent"
NYSTROM = "; exact with all tokens for landmarks"

ROWS: dict[str, Row] = {
    "linear_attention": Row(
        LINEAR, STATE, KERNEL, "Katharopoulos et al. 2020", "attention.md", _with(MAP)
    ),
    "kernel_attention": Row(QUADRATIC, BLOCK, EXACT, "Vaswani et al. 2017", "attention.md"),
    "gated_attention": Row(
        LINEAR,
        STATE,
        KERNEL + ", under the same gates",
        "Peng et al. 2021; Yang et al. 2024",
        "gated.md",
        _with(MAP, log_gate=lambda q: np.zeros((*q.shape[:-1], 1))),
    ),
    "cosformer_attention": Row(LINEAR, STATE, EXACT, "Qin et al. 2022", "gated.md"),
    "fourier_attention": Row(
        "R n m d",
        "R m d",
        KERNEL + ", times R cosines of the distance",
        "Choromanski et al. 2024",
        "gated.md",
        _with(MAP, frequencies=lambda q: np.zeros(1), amplitudes=lambda q: np.ones(1)),
    ),
    "relative_attention": Row(
        "m d n log n, or n² (m + d)",
        "n (m + d)",
        KERNEL + ", under the same bias",
        "Luo et al. 2021",
        "relative.md",
        _with(MAP, bias=lambda q: np.zeros(2 * q.shape[-2] - 1)),
    ),
    "skyformer_attention": Row(
        "n l d + l³",
        "n l",
        "the Gaussian kernel times values" + NYSTROM,
        "Chen et al. 2021",
        "landmarks.md",
        lambda q: {"landmarks": 4},
    ),
    "nystrom_attention": Row(
        "n l d + l³",
        "l² + a block of pairs",
        "softmax attention" + NYSTROM,
        "Xiong et al. 2021",
        "landmarks.md",
        lambda q: {"landmarks": 4},
    ),
    "soft_attention": Row(
        "n l d + l³",
        "n l",
        "the Gaussian kernel of keys times values" + NYSTROM,
        "Lu et al. 2021",
        "landmarks.md",
        lambda q: {"landmarks": 4},
    ),
    "schoenbat_attention": Row(
        LINEAR,
        STATE,
        KERNEL + ", of scaled points",
        "Guo et al. 2025",
        "polynomial.md",
        _with(rfx.features.Maclaurin(8)),
    ),
    "fastmax_attention": Row("n dᵖ⁺¹", "dᵖ⁺¹", EXACT, "Gerami et al. 2024", "polynomial.md"),
    "polysketch_attention": Row(
        LINEAR,
        STATE,
        "attention with a power of the dot product; biased upward",
        "Kacham et al. 2024",
        "polynomial.md",
        _with(rfx.features.PolySketch(16)),
    ),
    "based_attention": Row(
        "n m d + n w d",
        "m d + w d",
        "softmax attention; exact for the last w keys",
        "Arora et al. 2024",
        "polynomial.md",
        lambda q: {"window": 2},
    ),
    "sigmoid_attention": Row(
        "n² d; n m d with features", BLOCK, EXACT, "Ramapuram et al. 2024", "sigmoid.md"
    ),
    "lara_attention": Row(
        "n c d + c² d",
        "n c",
        "softmax attention; biased, consistent in c proposals",
        "Zheng et al. 2022",
        "randomized.md",
        lambda q: {"num_proposals": 2},
    ),
    "eva_attention": Row(
        "n (w + n / g) d",
        "n (w + n / g)",
        "softmax attention; exact in windows of w and with groups of g = 1",
        "Zheng et al. 2023",
        "randomized.md",
        lambda q: {"window": 4, "group_size": 2},
    ),
    "entmax_attention": Row("n² (d + log n)", BLOCK, EXACT, "Correia et al. 2019", "sparse.md"),
    "sparsefinder_attention": Row(
        "n² (d + log n)",
        BLOCK,
        "entmax attention; exact where all pairs with weight are predicted",
        "Treviso et al. 2022",
        "sparse.md",
        lambda q: {"rule": None, "window": 1},
    ),
    "sbm_attention": Row(
        "E (d + log E) for E edges",
        "E d",
        "softmax attention over a random graph",
        "Cho et al. 2022",
        "sparse.md",
        lambda q: {"clusters": np.ones((2, q.shape[-1]))},
    ),
}
"""By name, in the order of the page."""


def table() -> str:
    """A row for each."""
    titles = ["attention", "time", "memory", "causal", "state", "estimates", "paper"]
    rows = [titles, ["---"] * len(titles)]
    for name, row in ROWS.items():
        link = f"[`{name}`]({row.page})"
        found = [_causal(name, row), "yes" if _has_state(name) else "no"]
        rows.append([link, row.time, row.memory, *found, row.target, row.paper])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _causal(name: str, row: Row) -> str:
    function = getattr(rfx, name)
    if "is_causal" not in inspect.signature(function).parameters:
        return "always"
    q = np.random.default_rng(0).standard_normal((1, 8, 4))
    args = (q, q) if name == "soft_attention" else (q, q, q)
    try:
        function(*args, is_causal=True, **row.options(q))
    except ValueError as error:
        if "causal" not in str(error):
            raise
        return "no"
    return "yes"


def _has_state(name: str) -> bool:
    return "return_state" in inspect.signature(getattr(rfx, name)).parameters


def page() -> str:
    """The whole page."""
    formulas = []
    for name in ROWS:
        first = (inspect.getdoc(getattr(rfx, name)) or "").split("\n\n")[0].replace("\n", " ")
        formulas.append(f"- `{name}`: {first}")
    return f"{_HEAD}{table()}\n\n## What each computes\n\n" + "\n".join(formulas) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
