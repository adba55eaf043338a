"""The form of a .csv file: its delimiter, its decimal sign, and whether it has a header."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pcgen.data.cells import text_of

_MISSING = ("", "na", "n/a", "#n/a", "<na>", "null", "none", "?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(e[-+]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
_WHOLE = re.compile(r"[-+]?\d+")
_EXCEL = re.compile(r"sep=(.)\n", re.IGNORECASE)
# The form is found from so many characters and so many lines.
_SAMPLE, _LINES = 2**20, 100
# A first line that counts up is a row by chance less often than once in so many files.
_SELDOM = 80
_YEARS = range(1500, 2201)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The form of a file.

    Attributes:
        delimiter: between two cells.
        first: the cells of the first line that is not blank.
        has_header: whether they name the columns.
        skip: number of lines before the first row.
    """

    delimiter: str
    first: list[str]
    has_header: bool
    skip: int


def number(cell: str) -> float | None:
    """Return a cell's number, NaN if it is missing, None if it is a word."""
    cell = cell.strip()
    if cell.lower() in _MISSING:
        return math.nan
    if "," in cell and _DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    elif "_" in cell:  # Python's own mark between thousands
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def has_marks(cell: str) -> bool:
    """Return whether a cell looks like a number with marks between its thousands."""
    return re.fullmatch(r"[-+]?\d+([.,' \u00a0]\d+){2,}", cell.strip()) is not None


def is_thousands(cell: str) -> bool:
    """Return whether a cell such as 1,500 may also be a whole number in groups of three digits."""
    return _THOUSANDS.fullmatch(cell.strip()) is not None


def dialect_of(text: str, names: Sequence[str] = ()) -> Dialect | None:
    """Return the form of a file's text; None if all lines are blank.

    Args:
        names: of columns that a header may have.
    """
    excel = _EXCEL.match(text)
    start = 0 if excel is None else 1
    sample = text[0 if excel is None else excel.end() : _SAMPLE]
    if len(text) > _SAMPLE:
        sample = sample.rpartition("\n")[0] or sample
    delimiter = _delimiter(sample) if excel is None else excel[1]
    records = _records(sample, delimiter)
    if not records:
        return None
    (first, line), following = records[0], [cells for cells, _ in records[1:]]
    has_header = _is_header(first, following, names)
    return Dialect(delimiter, first, has_header, start + line if has_header else start)


def _records(text: str, delimiter: str) -> list[tuple[list[str], int]]:
    """Return the cells of the first lines that are not blank, each with its line's number."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    records: list[tuple[list[str], int]] = []
    try:
        for row in reader:
            cells = [text_of(cell.strip()) for cell in row]
            if any(cells):
                records.append((cells, reader.line_num))
            if len(records) == _LINES:
                break
    except csv.Error:  # whoever reads the whole file names the line
        pass
    return records


def _delimiter(text: str) -> str:
    """Return the first delimiter that divides all lines alike, else the most frequent one."""
    for delimiter in "\t;|,":
        widths = {len(cells) for cells, _ in _records(text, delimiter)}
        if len(widths) == 1 and widths != {1}:
            return delimiter
    start = text.lstrip("\n ").split("\n", 1)[0]
    return max("\t;|,", key=start.count)


def _is_header(first: list[str], following: list[list[str]], names: Sequence[str]) -> bool:
    """Return whether the first line names the columns.

    It does so if at least half of its cells are words, if it holds all of `names`, or if its
    numbers count up and the lines below do not.
    """
    filled = [cell for cell in first if cell]
    words = sum(number(cell) is None for cell in filled)
    if (words and 2 * words >= len(filled)) or (names and set(names) <= set(first)):
        return True
    numbers = [cell for cell in filled if number(cell) is not None]
    below = [row for row in following if len(row) == len(first)]
    if not below or not _count_up(numbers):
        return False
    if words or (not first[0] and all(row[0] for row in below)):
        return True
    if len(numbers) < 2 or 2 * sum(map(_count_up, below)) >= len(below):
        return False
    columns = list(zip(*below, strict=True))
    if not any(_WHOLE.fullmatch(cell) for row in below for cell in row):
        return True
    if all(map(_is_year, numbers)) and not any(_is_year(cell) for row in below for cell in row):
        return True
    if _count_up([numbers[0], *columns[0][:2]]):
        return False
    counted = columns if numbers[0] == "0" else columns[1:]
    return math.prod(max(3, len(set(column))) for column in counted) > _SELDOM


def _is_year(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and int(cell) in _YEARS


def _count_up(cells: Sequence[str]) -> bool:
    """Return whether whole numbers count up by one, or years by equal steps."""
    if not cells or not all(cell.isascii() and cell.isdigit() for cell in cells):
        return False
    values = [int(cell) for cell in cells]
    steps = {later - earlier for earlier, later in itertools.pairwise(values)}
    are_years = all(map(_is_year, cells))
    return steps <= {1} or (are_years and len(steps) == 1 and min(steps) > 0)
