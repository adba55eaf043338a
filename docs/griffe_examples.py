"""Tells mkdocstrings that our docstrings' `Example:` holds code, as its own `Examples:` does."""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section when a docstring is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section of one class or function."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
