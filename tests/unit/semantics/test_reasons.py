"""One list of reasons, and a page for each of them."""

from pathlib import Path

import pytest

from profilelake.semantics import events
from profilelake.semantics.reasons import REASONS, REMEDIES, what_happened

PAGES = Path(__file__).parents[3] / "docs" / "failed-events"


def test_each_reason_says_what_to_do() -> None:
    assert REMEDIES.keys() == REASONS.keys()
    assert events.REASONS.keys() < REASONS.keys()
    assert what_happened("of_tomorrow") == "a newer program decided this"


@pytest.mark.parametrize("code", REASONS)
def test_each_reason_has_a_page(code: str) -> None:
    text = (PAGES / f"{code}.md").read_text()
    assert text.startswith(f"# `{code}`\n")
    for part in ("## What happened", "## Example", "## What to do", "## Replay"):
        assert part in text
    assert f"]({PAGES.name}/{code}.md)" in PAGES.with_suffix(".md").read_text()


def test_there_is_no_page_of_a_reason_that_is_gone() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == REASONS.keys()
