"""Writes docs/maps.md: the table of maps from their claims, and a section a map from its docstring.

Run from the project's root: python scripts/make_maps_page.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np

import rfx
import rfx.testing
from rfx.features import ALL, NAMES, AdditiveChiSquared, Spec, Trigonometric
from rfx.kernels import Cauchy, Laplace, Matern, RationalQuadratic, SkewedChiSquared

UNNAMED: tuple[Spec, ...] = (
    *(Trigonometric(256, kernel=k) for k in (Laplace(), Matern(), RationalQuadratic(), Cauchy())),
    Trigonometric(256, kernel=SkewedChiSquared()),
    AdditiveChiSquared(2),
)
"""For kernel methods rather than attention, so that no paper's name stands for them."""

PAGE = Path(__file__).parents[1] / "docs" / "maps.md"

_HEAD = """\
# Table of maps

Written by `python scripts/make_maps_page.py` from what each map claims; the tests hold the claims,
and that this page is current. `rfx.features.named(name, num_features=...)` gives the spec of a row.

- **kernel**: what `rfx.gram` estimates. exp stands for the softmax and the Gaussian kernel, either
  of which a map takes; softmax is the default.
- **unbiased**: the mean of `rfx.gram` over draws is the kernel, given what was fitted.
- **positive**: no estimate is negative, so that attention is an average of the values.
- **changes kernel**: arrays of the map are a part of its kernel, so that training them changes what
  is estimated; see [learning.md](learning.md). All other claims are of the map as it is drawn.
- **columns**: output columns for each frequency; "d" where the width follows from the points.
- **variance**: whether its closed form is known with orthogonal frequencies (the default), with
  independent ones only (iid), or not at all. `variance(x, y)` of a spec or of a drawn map gives it.
- **fit, draw, apply**: operations up to a factor, for n points of d axes and m features; apply is
  for each point. An empty cell under fit: the map needs no data, and has `draw`.

{table}

## Which one?

- For attention, with queries and keys to fit to: `dense`. Before you rely on any, look at
  `rfx compare --input yours.npz`, which sets every error beside that of uniform attention.
- For attention that is trained with the map: `hedgehog`, or `favor+relu` and `elu+1`, whose kernels
  are their own (see [learning.md](learning.md)).
- For kernel regression, where both sides have one law: `favor` at moderate distances, and `sderf`.
- For a causal model: fit to other text, with `Moments` (see [features.md](features.md)).

"""


def table() -> str:
    """The rows of all names."""
    claims = ("unbiased", "positive", "changes kernel", "columns", "variance")
    titles = ["name", "class", "kernel", *claims, "fit", "draw", "apply", "paper"]
    rows = [titles, ["---"] * len(titles)]
    each = [*zip(NAMES, ALL, strict=True), *(("", spec) for spec in UNNAMED)]
    for name, spec in each:
        fit, draw, apply = spec.costs
        rows.append(
            [
                f"[{_code(name) or 'no name'}](#{_anchor(type(spec))})",
                f"`{_short(spec)}`",
                _kernel(spec),
                _yes(spec.unbiased),
                _yes(spec.positive),
                _yes(spec.changes_kernel),
                _columns(spec),
                _variance(spec),
                fit or "",
                draw,
                apply,
                spec.paper,
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def section(kind: type[Spec]) -> str:
    """A class: its names, and from its docstring the formula, the text and the example."""
    names = [_code(name) for name, spec in zip(NAMES, ALL, strict=True) if type(spec) is kind]
    named = f"Named {', '.join(names)}. " if names else ""
    parts = _parts(inspect.cleandoc(kind.__doc__ or ""))
    formula, _, text = parts[""].partition("\n\n")
    return "\n\n".join(
        [
            f"## {kind.__name__}",
            f"{named}Parameters, errors: `help(rfx.features.{kind.__name__})`.",
            f"    {formula.rstrip('.')}" if "=" in formula else formula,
            *([text] if text else []),
            *([parts["Notes"]] if "Notes" in parts else []),
            f"```python\n{parts['Examples']}\n\n```",
            f"References: {' '.join(parts['References'].split())}",
        ]
    )


def page() -> str:
    """The whole page."""
    kinds = list(dict.fromkeys(type(spec) for spec in (*ALL, *UNNAMED)))
    sections = "\n\n".join(section(kind) for kind in kinds)
    return f"{_HEAD.format(table=table())}{sections}\n"


def _parts(docstring: str) -> dict[str, str]:
    """Sections of a numpydoc docstring by title; the beginning has none."""
    pieces = re.split(r"\n\n(\w+)\n-{3,}\n", f"{docstring}\n")
    found = {"": pieces[0].strip()}
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        found[title] = body.strip()
    return found


def _short(spec: Spec) -> str:
    """The class, with what tells a row from others of the class."""
    if isinstance(spec, rfx.features.Aligned):
        inner = type(spec.base).__name__
        return f"Aligned({inner}, {spec.center!r}, {spec.transform!r})"
    if isinstance(spec, rfx.features.Normalized):
        return f"Normalized({_short(spec.base)})"
    extra = [f"{name}=True" for name in ("hyperbolic", "offset") if getattr(spec, name, False)]
    if getattr(getattr(spec, "projection", None), "norms", "chi") != "chi":
        extra.append('norms="fixed"')
    if isinstance(spec, rfx.features.GERF):
        extra.append("A, s")
    if isinstance(spec, rfx.features.Deterministic | rfx.features.Generalized):
        extra.append(repr(spec.function))
    return f"{type(spec).__name__}({', '.join(extra)})" if extra else type(spec).__name__


def _kernel(spec: Spec) -> str:
    if isinstance(spec.kernel, rfx.kernels.ExponentialKernel):
        return "exp"
    return f"`{spec.kernel!r}`"


def _columns(spec: Spec) -> str:
    if not hasattr(spec, "num_features"):
        return "d"
    base = getattr(spec, "base", spec)
    return str(getattr(base, "columns", 1))


def _variance(spec: Spec) -> str:
    if _has_variance(spec):
        return "yes"
    if hasattr(spec, "projection") and _has_variance(
        spec.replace(projection=rfx.projections.IID())
    ):
        return "iid"
    return "no"


def _has_variance(spec: Spec) -> bool:
    phi = rfx.testing.drawn(spec, 3, like=np.zeros(1))
    points = np.ones((1, 3))
    return phi.variance(points, points) is not None


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _anchor(kind: type[Spec]) -> str:
    return kind.__name__.lower()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
