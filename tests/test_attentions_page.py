"""The table of attentions is current, and names every attention."""

from __future__ import annotations

import runpy
from pathlib import Path

import rfx

ROOT = Path(__file__).parents[1]


def test_the_page_is_what_the_script_writes_and_has_a_row_for_each() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_attentions_page.py"))
    wanted = "run python scripts/make_attentions_page.py"
    assert (ROOT / "docs" / "attentions.md").read_text(encoding="utf-8") == script["page"](), wanted
    assert set(script["ROWS"]) == {n for n in rfx.__all__ if n.endswith("_attention")}
    for row in script["ROWS"].values():
        assert (ROOT / "docs" / row.page).exists()
