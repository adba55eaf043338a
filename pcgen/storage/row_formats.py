"""Finished rows on disk, as .csv, .jsonl or .npz, with a metadata file beside them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np

from pcgen.data.cells import cell_of, text_of
from pcgen.errors import RunError
from pcgen.storage.files import replacing
from pcgen.storage.rows_file import Row

_TEXT = ("id", "source", "status", "score_name", "class", "heatmap", "reason")
_KINDS: dict[str, type] = {
    **dict.fromkeys(_TEXT, str),
    **dict.fromkeys(("is_ood", "converged"), bool),
    **dict.fromkeys(("label", "class_argmin", "surprised_layer"), int),
}
# An .npz has no empty cells: these values stand for "no value".
_ABSENT: dict[type, Any] = {str: "", bool: False, int: -1, float: math.nan}


def kind_of(column: str) -> type:
    """Return the type of a column's values: str, bool, int or float."""
    return _KINDS.get(column, float)


def _write_csv(rows: Iterable[Row], columns: list[str], file: BinaryIO) -> None:
    """Write a table that a spreadsheet reads: one record for each row, and no formulas."""
    # The csv module quotes a carriage return only where one ends its lines; ours end in "\n".
    lines = SimpleNamespace(write=lambda line: file.write(_text(line[:-2])))
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(map(cell_of, columns))
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return cell_of(value)
    return str(value).lower() if isinstance(value, bool) else value


def _text(line: str) -> bytes:
    return (line + "\n").encode("utf-8", "backslashreplace")


def _write_jsonl(rows: Iterable[Row], columns: list[str], file: BinaryIO) -> None:
    for row in rows:
        file.write(_text(json.dumps(row, allow_nan=False)))


def _write_npz(rows: Iterable[Row], columns: list[str], file: BinaryIO) -> None:
    """Write one array for each column; a missing value is NaN, -1, false or empty."""
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for row in rows:
        for name in columns:
            value = row[name]
            values[name].append(_ABSENT[kind_of(name)] if value is None else value)
    arrays: dict[str, Any] = {
        name: np.array(column, dtype=kind_of(name)) for name, column in values.items()
    }
    np.savez_compressed(file, **arrays)


FORMATS: dict[str, Callable[[Iterable[Row], list[str], BinaryIO], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".npz": _write_npz,
}


def require_format(out: Path) -> None:
    """Raise RunError unless the file's ending is .csv, .jsonl or .npz."""
    if out.suffix.lower() not in FORMATS:
        raise RunError(
            f"{out}: rows cannot be written in this format", f"End it in {', '.join(FORMATS)}"
        )


def write_rows(
    rows: Iterable[Row], columns: list[str], out: Path, metadata: dict[str, Any] | None = None
) -> None:
    """Write rows in the format of the file's ending, with their metadata file if there is any.

    Raises:
        RunError: a file cannot be written; older files of both names stay.
    """
    paths = [out] if metadata is None else [out, metadata_path(out)]
    with replacing(*paths) as files:
        FORMATS[out.suffix.lower()](rows, columns, files[0])
        if metadata is not None:
            files[1].write(_text(json.dumps(metadata, indent=1, allow_nan=False)))


def metadata_path(out: Path) -> Path:
    """Return the path of the metadata file that belongs to a file of rows."""
    return out.with_name(out.name + ".meta.json")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a finished file; a missing value is None.

    Raises:
        RunError: the file cannot be read, or it holds no rows of `pcgen ood-score`.
    """
    try:
        yield from _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception:  # the readers of numpy, zip and csv raise anything on damaged input
        raise RunError(f"{path}: holds no scored rows", "Make one: pcgen ood-score") from None


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        reader.fieldnames = [text_of(name) for name in reader.fieldnames or ()]
        for row in reader:
            yield {name: _parsed(name, text) for name, text in row.items()}


def _parsed(name: str, text: str) -> Any:
    kind = kind_of(name)
    if text == "":
        return None
    if kind is str:
        return text_of(text)
    return text == "true" if kind is bool else kind(text)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _read_npz(path: Path) -> Iterator[Row]:
    with path.open("rb") as file, np.load(file) as arrays:
        columns = {name: arrays[name].tolist() for name in arrays.files}
    for i, status in enumerate(columns["status"]):
        row = {name: column[i] for name, column in columns.items()}
        yield {name: _value(name, value, status) for name, value in row.items()}


def _value(name: str, value: Any, status: str) -> Any:
    """Return the value of an array, or None where it stands for a missing one."""
    kind = kind_of(name)
    if kind is bool:
        return value if status == "ok" else None
    return None if value == _ABSENT[kind] or value != value else value


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".npz": _read_npz}
