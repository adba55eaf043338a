"""The user's documents keep to plain words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("models/*/CARD.md"),
    *ROOT.glob("models/*/recipe.toml"),
]
# A pattern, and the reason why no document may contain it.
UNWANTED = {
    r"\b(bars?|aims?|aimed|missed)\b": "a measurement, not a target, belongs in a document",
    r"\bas published\b": "name the authors, the year and the table",
    r"\bissues?\b|#\d+\b": "readers have no tracker",
    r"(?<![\w.~/])/(work|home|root|tmp|Users|mnt)/": "a path of one machine",
}
ALLOWED = ("progress bar", "bar chart")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_document_has_no_jargon_and_no_path_of_a_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for phrase in ALLOWED:
        text = text.replace(phrase, "")
    for pattern, reason in UNWANTED.items():
        match = re.search(pattern, text, re.IGNORECASE)
        assert match is None, f"{page}: {match.group()!r}: {reason}"
