"""Finished rows on disk: csv, jsonl or npz, and beside them what the numbers depend on."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pcgen.errors import CheckpointError, RunError
from pcgen.storage.checkpoint import write_whole
from pcgen.storage.rows_file import Row, said

_NO_NUMBER = {"is_ood": False, "converged": False, "class_argmin": -1, "surprised_layer": -1}
_TEXT = ("id", "source", "status", "score_name", "heatmap", "reason")


def _csv(rows: Iterable[Row], columns: list[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _jsonl(rows: Iterable[Row], columns: list[str], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def _npz(rows: Iterable[Row], columns: list[str], path: Path) -> None:
    """Write an array a column; what a row does not have is NaN, -1, false or empty."""
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for row in rows:
        for name in columns:
            value = row[name]
            missing = "" if name in _TEXT else _NO_NUMBER.get(name, float("nan"))
            values[name].append(missing if value is None else value)
    with path.open("wb") as file:
        arrays: dict[str, Any] = {name: np.array(column) for name, column in values.items()}
        np.savez_compressed(file, **arrays)


FORMATS: dict[str, Callable[[Iterable[Row], list[str], Path], None]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".npz": _npz,
}


def require_format(out: Path) -> None:
    """Let names of files pass that can be written.

    Raises:
        RunError: another ending.
    """
    if out.suffix.lower() not in FORMATS:
        raise RunError(f"{out}: not a kind of file to write", f"End it in {', '.join(FORMATS)}")


def write_rows(rows: Iterable[Row], columns: list[str], out: Path) -> None:
    """Write rows in the form that the file's ending names, whole or not at all.

    Raises:
        RunError: it could not be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    with said(out):
        try:
            FORMATS[out.suffix.lower()](rows, columns, temporary)
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)


def meta_path(out: Path) -> Path:
    """Return where stands what the numbers of a file depend on."""
    return out.with_name(out.name + ".meta.json")


def write_meta(meta: dict[str, Any], out: Path) -> None:
    """Write what the numbers of a file depend on beside it.

    Raises:
        RunError: it could not be written.
    """
    text = json.dumps(meta, indent=1, allow_nan=False) + "\n"
    try:
        write_whole(meta_path(out), text.encode())
    except CheckpointError as error:
        raise RunError(error.message) from None


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a finished file, as they were written.

    Raises:
        RunError: a file that cannot be read, or of another kind.
    """
    try:
        yield from _READERS[path.suffix.lower()](path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) else "holds no scored rows"
        raise RunError(f"{path}: {reason}", "Make one: pcgen ood-score") from None


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: _parsed(name, text) for name, text in row.items()}


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _read_npz(path: Path) -> Iterator[Row]:
    with np.load(path) as arrays:
        columns = {name: arrays[name].tolist() for name in arrays.files}
    for i, status in enumerate(columns["status"]):
        row = {name: column[i] for name, column in columns.items()}
        yield {name: _present(name, value, status) for name, value in row.items()}


def _present(name: str, value: Any, status: str) -> Any:
    """Return a value of an array, or None for what stands there in place of none."""
    absent = value == "" if name in _TEXT else status != "ok" or value != value
    return None if absent else value


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".npz": _read_npz}


def _parsed(name: str, text: str) -> Any:
    if text == "":
        return None
    if name in _TEXT:
        return text
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else float(text)
