"""Finished rows on disk, as .csv, .jsonl or .npz, with a metadata file beside them."""

from __future__ import annotations

import csv
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pcgen.errors import CheckpointError, RunError
from pcgen.storage.files import write_whole
from pcgen.storage.rows_file import Row, writing

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


def _write_csv(rows: Iterable[Row], columns: list[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _write_jsonl(rows: Iterable[Row], columns: list[str], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def _write_npz(rows: Iterable[Row], columns: list[str], path: Path) -> None:
    """Write one array for each column; a missing value is NaN, -1, false or empty."""
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for row in rows:
        for name in columns:
            value = row[name]
            values[name].append(_ABSENT[kind_of(name)] if value is None else value)
    arrays: dict[str, Any] = {
        name: np.array(column, dtype=kind_of(name)) for name, column in values.items()
    }
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


FORMATS: dict[str, Callable[[Iterable[Row], list[str], Path], None]] = {
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


def write_rows(rows: Iterable[Row], columns: list[str], out: Path) -> None:
    """Write rows in the format of the file's ending: the whole file or nothing.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    with writing(out):
        try:
            FORMATS[out.suffix.lower()](rows, columns, temporary)
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)


def metadata_path(out: Path) -> Path:
    """Return the path of the metadata file that belongs to a file of rows."""
    return out.with_name(out.name + ".meta.json")


def write_metadata(metadata: dict[str, Any], out: Path) -> None:
    """Write the metadata file that belongs to a file of rows.

    Raises:
        RunError: the file cannot be written.
    """
    text = json.dumps(metadata, indent=1, allow_nan=False) + "\n"
    try:
        write_whole(metadata_path(out), text.encode())
    except CheckpointError as error:
        raise RunError(error.message) from None


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a finished file; a missing value is None.

    Raises:
        RunError: the file cannot be read, or it holds no rows of `pcgen ood-score`.
    """
    try:
        yield from _READERS[path.suffix.lower()](path)
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) else "holds no scored rows"
        raise RunError(f"{path}: {reason}", "Make one: pcgen ood-score") from None


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: _parsed(name, text) for name, text in row.items()}


def _parsed(name: str, text: str) -> Any:
    kind = kind_of(name)
    if text == "":
        return None
    return text == "true" if kind is bool else kind(text)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _read_npz(path: Path) -> Iterator[Row]:
    with np.load(path) as arrays:
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
