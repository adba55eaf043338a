"""Rows as they come, whole at any time, and what goes on with them after an interruption.

FILE.part holds a JSON line for each input so far, below a line that says what was asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from pcgen.errors import RunError

Row = dict[str, Any]


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
        with said(self.path):
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
        with said(self.path):
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
        with said(self.path):
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


@contextmanager
def said(path: Path) -> Iterator[None]:
    """Say what the system has against a file as a user's error."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None
