"""What mkdocs does beside its settings: links out of docs/ become plain words on the site."""

from __future__ import annotations

import re
from typing import Any

# CONTRIBUTING.md, the cards of the models and the like are read in the repository.
_OUTSIDE = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+(?:[A-Z]+\.md|models/)[^)]*)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page whose links to files outside docs/ name the file instead."""
    return _OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2].lstrip('./')}`)", markdown)
