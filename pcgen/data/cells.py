"""Text in a cell of a .csv file, written so that a spreadsheet does not run it as a formula."""

from __future__ import annotations

import re

# The last four are the full-width forms of the first four, which some spreadsheets take for them.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def cell_of(text: str) -> str:
    """Return a text as a cell: with an apostrophe before a start that makes a formula.

    `text_of` gives every text back, those too that begin with apostrophes of their own.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def text_of(cell: str) -> str:
    """Return the text of a cell that `cell_of` made; a cell of another origin as it is."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
