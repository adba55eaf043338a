"""Rows on disk: written as they come, whole at any time, and finished in the form asked for.

FILE.part       a JSON line for each input so far, below a line that says what was asked
FILE            csv, jsonl or npz, once all are scored or the command is stopped
FILE.meta.json  what the numbers depend on
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from pcgen.checkpoint import write_whole
from pcgen.detector.rows import Row, Verdicts
from pcgen.errors import CheckpointError, RunError

_NO_NUMBER = {"is_ood": False, "converged": False, "class_argmin": -1, "surprised_layer": -1}
_TEXT = ("id", "source", "status", "score_name", "heatmap", "reason")


class Rows(Protocol):
    """Rows so far."""

    def begin(self, asked: dict[str, Any]) -> None: ...

    def add(self, rows: Iterable[Row]) -> None: ...

    def rows(self) -> Iterator[Row]: ...

    def close(self) -> None: ...


class Kept:
    """Rows kept in memory, where no file is asked for."""

    def __init__(self) -> None:
        self._kept: list[Row] = []

    def begin(self, asked: dict[str, Any]) -> None:
        """Start anew."""
        self._kept.clear()

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        self._kept += rows

    def rows(self) -> Iterator[Row]:
        """Yield the rows so far."""
        yield from self._kept

    def close(self) -> None:
        """Nothing is to be closed."""


class Part:
    """The working file of rows so far; of several processes, each has its own."""

    def __init__(self, out: Path, rank: int = 0, size: int = 1) -> None:
        self.path = out.with_name(out.name + ".part" + (f"-{rank + 1}-of-{size}" * (size > 1)))
        self._file: IO[str] | None = None

    def begin(self, asked: dict[str, Any]) -> None:
        """Start anew, for what is asked.

        Raises:
            RunError: a folder that cannot be written.
        """
        with _said(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("w", encoding="utf-8")
            self._write([asked])

    def resume(self, asked: dict[str, Any]) -> int:
        """Go on where rows end, and return how many there are.

        Raises:
            RunError: nothing to go on with, or rows of another question.
        """
        if not self.path.is_file():
            raise RunError(f"{self.path}: nothing to resume", "Start anew: leave out --resume")
        with _said(self.path):
            try:
                begun = next(_lines(self.path, 1), None)
            except ValueError:
                begun = None
            if begun != asked:
                differs = [k for k in asked if not begun or begun.get(k) != asked[k]]
                raise RunError(
                    f"{self.path}: was begun with another {', '.join(differs) or 'question'}",
                    "Repeat the command as it was, or start anew: leave out --resume",
                )
            count, end = 0, 0
            with self.path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    count, end = count + 1, end + len(line)
            os.truncate(self.path, end)
            self._file = self.path.open("a", encoding="utf-8")
        return count - 1

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows.

        Raises:
            RunError: a full disk.
        """
        with _said(self.path):
            self._write(rows)

    def _write(self, rows: Iterable[Row]) -> None:
        assert self._file is not None
        self._file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self._file.flush()

    def rows(self) -> Iterator[Row]:
        """Yield the rows so far."""
        lines = _lines(self.path)
        next(lines, None)
        yield from lines

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


def _lines(path: Path, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a file; one cut by a kill is left out."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number == limit or not line.endswith("\n"):
                return
            yield json.loads(line)


def with_verdicts(rows: Iterable[Row], verdicts: Verdicts) -> Iterator[Row]:
    """Yield rows with their verdicts; those that could not be read get none."""
    each = zip(verdicts.is_ood, verdicts.q_values, strict=True)
    for row in rows:
        if row["status"] == "ok":
            is_ood, q_value = next(each)
            row |= {"threshold": verdicts.threshold, "is_ood": is_ood, "q_value_bh": q_value}
        yield row


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
    with _said(out):
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


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Say what the system has against a file as a user's error."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a finished csv or jsonl file, numbers as numbers.

    Raises:
        RunError: a file that cannot be read, or of another kind.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                yield from map(json.loads, file)
            else:
                for row in csv.DictReader(file):
                    yield {name: _parsed(name, text) for name, text in row.items()}
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read as rows: {error}") from None


def _parsed(name: str, text: str) -> Any:
    if text == "":
        return None
    if name in _TEXT:
        return text
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else float(text)
