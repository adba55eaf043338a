"""Read .csv files: the numbers of their columns, and the column of labels."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcgen.data.csv_dialect import Dialect, dialect_of, has_marks, is_thousands, number
from pcgen.data.reading import read_text
from pcgen.data.request import DataRequest
from pcgen.errors import DataError

Array = NDArray[Any]

_LABEL_COLUMNS = ("label", "labels", "class", "target")
_POINT = "Write numbers with a decimal point, and without marks between the thousands"
_COMMAS = "its numbers have decimal commas: 1,5 is 1.5"


@dataclass(slots=True)
class CsvTable:
    """The content of a file.

    Attributes:
        numbers: (N, D) in the columns' own units, NaN where a cell is empty.
        columns: their names.
        labels: (N,), numbers or words; None if no column holds labels.
        label: the name of the column that holds them.
        lines: (N,) the number of each row's line in the file.
        notes: how the file was read, where that is not obvious.
    """

    numbers: Array
    columns: list[str]
    labels: Array | None
    label: str | None
    lines: Array
    notes: list[str]


@dataclass(slots=True)
class _Layout:
    """The use of each column.

    Attributes:
        names: of all columns; `column3` for one without a name.
        nameless: positions of the columns without a name in the header.
        label: position of the labels.
        index: position of a first column without a name, which may only number the rows.
        used: positions of the columns of numbers.
    """

    names: list[str]
    nameless: list[int] = field(default_factory=list)
    label: int | None = None
    index: int | None = None
    used: list[int] = field(default_factory=list)


def read_csv(path: Path, request: DataRequest) -> CsvTable:
    """Return the columns that a request asks for, and the labels.

    `dialect_of` finds the form of the file. The column of labels is the one that the request names,
    else the one called label, labels, class or target.

    Raises:
        DataError: the file is no text, has no rows, has rows of different lengths, lacks a column
            of the request, or has a word in the place of a number.
    """
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text (UTF-8)") from None
    dialect = dialect_of(text, request.columns or ())
    if dialect is None:
        raise DataError(f"{path}: holds no rows")
    notes: list[str] = []
    layout = _layout(dialect, request, notes)
    columns = _at_once(text, dialect, layout, notes)
    columns = columns or _by_cell(path, text, dialect, layout, notes)
    if not len(columns.lines):
        raise DataError(f"{path}: a header but no rows")
    _leave_out_nameless(layout, columns, request, notes)
    label = None if layout.label is None else layout.names[layout.label]
    return CsvTable(
        columns_at(columns.values, layout.used),
        [layout.names[i] for i in layout.used],
        None if layout.label is None else _labels(layout, columns, request, notes),
        label,
        columns.lines,
        [f"{request.source}: {note}" for note in notes],
    )


def _layout(dialect: Dialect, request: DataRequest, notes: list[str]) -> _Layout:
    """Return the use of each column, as the header and the request say."""
    own = dialect.first if dialect.has_header else [""] * len(dialect.first)
    wanted = request.columns or ()
    names = [name or ("" if "" in wanted else f"column{i + 1}") for i, name in enumerate(own)]
    layout = _Layout(names, [i for i, name in enumerate(own) if not name])
    if not dialect.has_header:
        by_place = "taken in the model's order" if request.like and wanted else ""
        called = f"called {names[0]} to {names[-1]}"
        notes.append(f"no header; its columns are {by_place or called}")
    elif all(number(name) is not None for name in own if name):
        shown = ", ".join([name for name in own if name][:4]) + (", ..." if len(own) > 4 else "")
        notes.append(f"the first line ({shown}) names the columns")
    is_index = own[0] in ("", "Unnamed: 0") and any(own) and names[0] not in wanted
    layout.index = 0 if is_index and len(own) > 1 else None
    layout.label = _label_of(names, request)
    if layout.label is not None and layout.label == layout.index:
        layout.index = None
    free = [i for i in range(len(names)) if i not in (layout.label, layout.index)]
    layout.used = used_columns(names, free, request)
    _note_columns(layout, free, request, notes)
    return layout


def _note_columns(layout: _Layout, free: list[int], request: DataRequest, notes: list[str]) -> None:
    names = layout.names
    if layout.label is not None:
        notes.append(f"labels: column {names[layout.label]!r}")
    for i in layout.used:
        if names[i].lower() == "y" and request.columns is None and layout.label is None:
            notes.append(
                f"column {names[i]!r} is one of the numbers; if it holds classes: "
                f"--set data.labels={names[i]}"
            )
    left_out = [names[i] for i in free if i not in layout.used]
    if left_out and request.like is not None:
        shown = ", ".join(map(repr, left_out[:5])) + (", ..." if len(left_out) > 5 else "")
        notes.append(f"left out, because the model does not know it: column {shown}")


def _label_of(names: list[str], request: DataRequest) -> int | None:
    """Return the position of the column of labels.

    A model that does not know a column y may have learnt its labels from it.
    """
    if request.labels is not None:
        if request.labels in names:
            return names.index(request.labels)
        if request.labels and request.like is None:
            raise DataError(
                f"{request.source}: no column {request.labels!r}, which data.labels names",
                f"Its columns: {', '.join(names)}",
            )
        return None
    wanted = request.columns or ()
    known = [i for i, name in enumerate(names) if name.lower() in _LABEL_COLUMNS]
    known = [i for i in known if names[i] not in wanted]
    if len(known) > 1 and request.like is None:
        raise DataError(
            f"{request.source}: which column holds the labels: "
            + " or ".join(repr(names[i]) for i in known)
            + "?",
            f"Name it: --set data.labels={names[known[0]]}",
        )
    if not known and wanted and request.like is not None and not are_numbered(wanted):
        known = [i for i, name in enumerate(names) if name.lower() == "y" and name not in wanted]
    return known[0] if known else None


def used_columns(names: Sequence[str], free: Sequence[int], request: DataRequest) -> list[int]:
    """Return the positions of the columns of numbers, in the order of the request.

    Args:
        free: the positions of the columns that may hold numbers.

    Raises:
        DataError: a column of the request is missing, or there are two of one name.
    """
    wanted = request.columns
    places = {name: i for i, name in enumerate(names)}
    if wanted is not None and places.keys() >= {*wanted}:
        chosen = [places[name] for name in wanted]
    elif wanted is None or (request.like is not None and _by_place(names, free, request)):
        chosen = [*free]
    else:
        raise _missing(names, free, request)
    times = Counter(names)
    twice = next((names[i] for i in chosen if times[names[i]] > 1), None)
    if twice is not None:
        raise DataError(f"{request.source}: two columns are named {twice!r}", "Rename one of them")
    return chosen


def columns_at(values: Array, places: list[int]) -> Array:
    """Return these columns (N, U) of a table; the table itself, not a copy, if they are all."""
    return values if places == [*range(values.shape[1])] else values[:, places]


def _by_place(names: Sequence[str], free: Sequence[int], request: DataRequest) -> bool:
    """Return whether a model's columns are taken in their order: pixels, or without names."""
    own = [names[i] for i in free]
    return request.like_scale is None or are_numbered(own) or are_numbered(request.columns or ())


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether the names are those that pcgen gives to columns without a header."""
    return all(name.startswith("column") and name[6:].isdigit() for name in names)


def _missing(names: Sequence[str], free: Sequence[int], request: DataRequest) -> DataError:
    """Return the error about columns that are not there; it names those that are not known."""
    wanted = request.columns or ()
    missing = [name for name in wanted if name not in names]
    others = [names[i] for i in free if names[i] not in wanted]
    message = f"{request.source}: no column {', '.join(map(repr, missing[:5]))}"
    message += ", ..." if len(missing) > 5 else ""
    if others and request.like is not None:
        message += f"; the model does not know {', '.join(map(repr, others[:5]))}"
    takes = "The model takes" if request.like is not None else "Its columns"
    return DataError(
        message, f"{takes}: {', '.join(wanted if request.like is not None else names)}"
    )


@dataclass(slots=True)
class _Columns:
    """The cells of the columns that are used.

    Attributes:
        values: (N, D) of all columns; 0 in a column of words.
        words: the words of columns that may hold any.
    """

    values: Array
    lines: Array
    words: dict[int, list[str]] = field(default_factory=dict)

    def is_index(self, column: int) -> bool:
        """Return whether a column only names the rows: distinct whole numbers, or words."""
        if column in self.words:
            return True
        values = self.values[:, column]
        return bool((values == np.trunc(values)).all()) and len(np.unique(values)) == len(values)


def _at_once(text: str, dialect: Dialect, layout: _Layout, notes: list[str]) -> _Columns | None:
    """Return the numbers of a whole table; None if `_by_cell` must read it."""
    body = text if not dialect.skip else text.split("\n", dialect.skip)[-1]
    if not body.strip():
        return _Columns(np.empty((0, len(layout.names))), np.empty(0))
    has_commas = dialect.delimiter != "," and "," in body
    if has_commas and (dialect.delimiter != ";" or "." in body):
        return None
    if has_commas:
        body = body.replace(",", ".")
    try:
        values = np.loadtxt(io.StringIO(body), delimiter=dialect.delimiter, ndmin=2, comments=None)
    except ValueError:
        return None
    if values.shape[1] != len(layout.names):
        return None
    lines = 1 + dialect.skip + np.arange(len(values))
    if body.rstrip("\n").count("\n") + 1 != len(values):
        filled = [i for i, line in enumerate(body.split("\n")) if line.strip()]
        lines = 1 + dialect.skip + np.array(filled)
    if has_commas:
        notes.append(_COMMAS)
    return _Columns(values, lines)


def _by_cell(
    path: Path, text: str, dialect: Dialect, layout: _Layout, notes: list[str]
) -> _Columns:
    """Return the same as `_at_once`, cell by cell: to name a wrong cell, or for words."""
    reader = csv.reader(io.StringIO(text), delimiter=dialect.delimiter)
    names, used = layout.names, layout.used
    cells = _Cells(path, dialect.delimiter)
    values: list[list[float]] = []
    lines: list[int] = []
    words: dict[int, list[str]] = {i: [] for i in (layout.label, layout.index) if i is not None}
    try:
        for row in reader:
            if reader.line_num <= dialect.skip or not any(cell.strip() for cell in row):
                continue
            if len(row) != len(names):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(row)} cells, the first has "
                    f"{len(names)}"
                )
            numbers = [0.0] * len(names)
            for i in used:
                numbers[i] = cells.number(row[i], reader.line_num, names[i])
            for i, column in words.items():
                column.append(row[i].strip())
            values.append(numbers)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    cells.require_one_sign(notes)
    columns = _Columns(np.array(values).reshape(len(lines), len(names)), np.array(lines))
    for i, column in words.items():
        as_numbers = [number(cell) for cell in column]
        if any(value is None for value in as_numbers):
            columns.words[i] = column
        else:
            columns.values[:, i] = as_numbers
    return columns


class _Cells:
    """Reads the cells of numbers, and remembers their decimal signs."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self.path, self.delimiter = path, delimiter
        self.comma: tuple[int, str, str] | None = None
        self.has_point, self.all_thousands = False, True

    def number(self, cell: str, line: int, column: str) -> float:
        """Return a cell's number, NaN if it is missing."""
        value = number(cell)
        if value is None:
            shown = cell.strip() if len(cell) < 40 else cell.strip()[:37] + "..."
            name_it = (
                f"If the column holds the classes: --set data.labels={column}; to leave it out, "
                "name the others: --set data.columns"
            )
            raise DataError(
                f"{self.path}: line {line}, column {column}: {shown!r} is not a number",
                _POINT if has_marks(cell) else name_it,
            )
        if "," in cell:
            self.comma = self.comma or (line, column, cell.strip())
            self.all_thousands = self.all_thousands and is_thousands(cell)
        elif "." in cell:
            self.has_point = True
        return value

    def require_one_sign(self, notes: list[str]) -> None:
        """Raise DataError if it is not clear what a comma in a number means."""
        if self.comma is None:
            return
        line, column, cell = self.comma
        if self.has_point or (self.all_thousands and self.delimiter != ";"):
            reason = "others have a decimal point" if self.has_point else "1,500 is 1.5 or 1500"
            raise DataError(
                f"{self.path}: line {line}, column {column}: {cell!r} has a comma, and {reason}",
                _POINT,
            )
        notes.append(_COMMAS)


def _leave_out_nameless(
    layout: _Layout, columns: _Columns, request: DataRequest, notes: list[str]
) -> None:
    """Leave out a first column without a name that numbers the rows, and empty ones."""
    if layout.index is not None:
        if columns.is_index(layout.index):
            notes.append("its first column has no name and numbers the rows; it is left out")
        elif request.columns is None:
            layout.used.insert(0, layout.index)
            notes.append(f"its first column has no name; it is called {layout.names[0]}")
    for i in layout.nameless:
        if i in layout.used and np.isnan(columns.values[:, i]).all():
            layout.used.remove(i)
            notes.append(f"column {i + 1} has neither a name nor values; it is left out")


def _labels(
    layout: _Layout, columns: _Columns, request: DataRequest, notes: list[str]
) -> Array | None:
    """Return the labels, numbers or words; None with a note if a model's data lack some.

    Raises:
        DataError: a row has none.
    """
    assert layout.label is not None
    words = columns.words.get(layout.label)
    labels: Array = columns.values[:, layout.label] if words is None else np.array(words)
    empty = np.isnan(labels) if words is None else labels == ""
    if not empty.any():
        return labels
    line = columns.lines[np.flatnonzero(empty)[0]]
    missing = f"line {line}: no label in column {layout.names[layout.label]!r}"
    if request.like is None:
        raise DataError(f"{request.source}: {missing}")
    notes.append(f"{missing}; the labels are left out")
    return None
