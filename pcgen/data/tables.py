"""Tables of numbers, from .csv files or arrays; every column is standardised."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.arrays import ArrayStore, images_of, labels_of
from pcgen.data.images import Images
from pcgen.data.request import DataRequest
from pcgen.errors import DataError

Array = NDArray[Any]
Scale = tuple[Tensor, Tensor]

_LABEL_COLUMNS = ("y", "label", "labels", "target", "class")
_MISSING = ("", "na", "n/a", "null", "?")


def read_csv(path: Path) -> tuple[Array, list[str], Array | None]:
    """Return the numbers (N, D), the columns' names, and the labels (N,) if a column holds them.

    The first line is a header if at least half of its cells are words. A column named y, label,
    labels, target or class holds the labels. An empty cell is a missing number (NaN).

    Raises:
        DataError: the file is no text, has no rows, has rows of different lengths, or has a word in
            the place of a number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text (UTF-8)") from None
    start = text.lstrip("\n\r ").split("\n", 1)[0]
    delimiter = max("\t;,", key=start.count)
    first = next(csv.reader([start], delimiter=delimiter), [])
    if not first:
        raise DataError(f"{path}: holds no rows")
    names = [cell.strip() for cell in first]
    words = sum(_number(cell) is None for cell in names)
    has_header = words > 0 and 2 * words >= sum(map(bool, names))
    if not has_header:
        names = [f"column{i + 1}" for i in range(len(names))]
    label = next((i for i, name in enumerate(names) if name.lower() in _LABEL_COLUMNS), None)
    numbers = _at_once(text, delimiter, has_header, len(names))
    if numbers is None:
        return _by_cell(path, text, delimiter, has_header, names, label)
    if not len(numbers):
        raise DataError(f"{path}: a header but no rows")
    return _without_labels(numbers, names, label)


def _without_labels(
    numbers: Array, names: list[str], label: int | None, words: Sequence[str] | None = None
) -> tuple[Array, list[str], Array | None]:
    """Return the other columns, their names, and the column of labels."""
    if label is None:
        return numbers, names, None
    labels = numbers[:, label] if words is None else np.array(words)
    return np.delete(numbers, label, 1), names[:label] + names[label + 1 :], labels


def _at_once(text: str, delimiter: str, has_header: bool, width: int) -> Array | None:
    """Return the numbers of a whole table; None if `_by_cell` must read it."""
    skip = 0
    if has_header:
        skip = next(i for i, line in enumerate(text.split("\n")) if line.strip()) + 1
        if not text.split("\n", skip)[-1].strip():
            return np.empty((0, width))
    try:
        numbers = np.loadtxt(
            io.StringIO(text), delimiter=delimiter, skiprows=skip, ndmin=2, comments=None
        )
    except ValueError:
        return None
    return numbers if numbers.shape[1] == width else None


def _by_cell(
    path: Path, text: str, delimiter: str, has_header: bool, names: list[str], label: int | None
) -> tuple[Array, list[str], Array | None]:
    """Return the same as `read_csv`, cell by cell: to name a wrong cell, or for word labels."""
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    numbers: list[list[float]] = []
    words: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if has_header:
                has_header = False
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}: line {reader.line_num} has {len(cells)} cells, "
                    f"the first has {len(names)}"
                )
            if label is not None:
                words.append(cells[label].strip())
            numbers.append(
                [
                    0.0 if i == label else _cell(cell, path, reader.line_num, names[i])
                    for i, cell in enumerate(cells)
                ]
            )
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    if not numbers:
        raise DataError(f"{path}: a header but no rows")
    table = np.array(numbers)
    values = [_number(word) for word in words]
    if label is not None and all(value is not None and value == value for value in values):
        table[:, label] = values
        return _without_labels(table, names, label)
    return _without_labels(table, names, label, words)


def _cell(cell: str, path: Path, line: int, column: str) -> float:
    """Return a cell's number, NaN if it is missing."""
    value = _number(cell)
    if value is None:
        shown = cell.strip() if len(cell) < 40 else cell.strip()[:37] + "..."
        raise DataError(
            f"{path}: line {line}, column {column}: {shown!r} is not a number",
            "Remove the column, or name it label if it holds the classes",
        )
    return value


def _number(cell: str) -> float | None:
    """Return a cell's number, NaN if it is missing, None if it is a word."""
    if cell.strip().lower() in _MISSING:
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        return None


def table_of(
    values: Array,
    columns: list[str],
    name: str,
    request: DataRequest,
    *,
    labels: Array | None = None,
    classes: Sequence[str] | None = None,
) -> Images:
    """Return a table whose columns are standardised: (value - mean) / standard deviation.

    Args:
        values: (N, D) in the columns' own units. The means and deviations ignore NaN.

    Raises:
        DataError: the number of columns is not the model's, or a column asked for is missing.
    """
    values, columns = _selected(values, columns, request)
    width = values.shape[1]
    if not width:
        raise DataError(f"{request.source}: has no columns of numbers")
    if request.like is not None and request.row_width != width:
        takes = request.row_width or "images of " + "x".join(map(str, request.like))
        raise DataError(f"{request.source}: has {width} columns, the model takes {takes}")
    numbers, names = labels_of(labels, classes, len(values), request)
    # A number too large for float32 counts as infinite; the means and deviations ignore it.
    values = np.where(np.abs(values) > np.finfo(np.float32).max, np.inf, values)[: request.limit]
    scale = _scale(values) if request.like_scale is None else _as_scale(request.like_scale)
    with np.errstate(over="ignore", invalid="ignore"):
        standardised = (values - scale[0].numpy()) / scale[1].numpy()
    shape = (1, 1, width)
    return Images(
        name,
        request.source,
        ArrayStore(standardised, name, shape, False, 1.0, shape, pixels=False),
        labels=numbers,
        classes=names,
        columns=columns,
        scale=scale,
        preprocessing={"columns": "standardised: (value - mean) / standard deviation"},
    )


def _selected(values: Array, columns: list[str], request: DataRequest) -> tuple[Array, list[str]]:
    """Return the columns that the request names, in its order."""
    if request.columns is None:
        return values, columns
    missing = [name for name in request.columns if name not in columns]
    if missing and request.like is not None:
        return values, columns
    if missing:
        raise DataError(
            f"{request.source}: no column {missing[0]!r}", f"Its columns: {', '.join(columns)}"
        )
    return values[:, [columns.index(name) for name in request.columns]], list(request.columns)


def open_csv(path: Path, request: DataRequest) -> Images:
    """Return a .csv file as a table; as images if the request has a size or a model of images.

    Raises:
        DataError: the file is no table of numbers, or does not fit the model.
    """
    values, columns, labels = read_csv(path)
    are_images = request.like_scale is None and (request.like or request.size)
    if are_images:
        return images_of(values, path.name, request, labels=labels)
    return table_of(values, columns, path.name, request, labels=labels)


def _scale(values_ND: Array) -> Scale:
    """Return the mean and the standard deviation of each column; 1 for a constant column."""
    finite = np.isfinite(values_ND)
    count = np.maximum(finite.sum(0), 1)
    mean = np.where(finite, values_ND, 0).sum(0) / count
    deviation = np.sqrt((np.where(finite, values_ND - mean, 0) ** 2).sum(0) / count)
    deviation[deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-300)] = 1.0
    return torch.from_numpy(mean), torch.from_numpy(deviation)


def _as_scale(like_scale: Sequence[Any]) -> Scale:
    mean, deviation = (torch.as_tensor(row, dtype=torch.float64) for row in like_scale)
    return mean, deviation


def require_columns(images: Images, known: Sequence[str] | None) -> None:
    """Raise DataError if a table has other columns than the model, or in another order.

    Columns without names are accepted.
    """
    columns = images.columns
    if not images.is_table or columns is None or known is None or columns == [*known]:
        return
    unnamed = [f"column{i + 1}" for i in range(len(columns))]
    if unnamed in (columns, [*known]):
        return
    pairs = zip(columns, known, strict=True)
    first = next(i for i, (name, other) in enumerate(pairs) if name != other)
    raise DataError(
        f"{images.source}: column {first + 1} is {columns[first]}, the model's is {known[first]}",
        f"The model takes, in this order: {', '.join(known)}",
    )
