"""Rows collected while a job runs: in memory, or in a file that a resumed job continues.

The file FILE.part holds one JSON line that describes the job, then one JSON line for each input.
It is complete up to its last line break at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from pcgen.errors import RunError
from pcgen.storage.files import writing
from pcgen.storage.locks import locked

Row = dict[str, Any]


class RowsInMemory:
    """Rows in a list, for a job without an output file."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows = list(rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        self._rows += rows

    def rows(self) -> Iterator[Row]:
        """Yield the rows in their order."""
        yield from self._rows

    def close(self) -> None:
        """Do nothing: there is no file to close."""

    def remove(self) -> None:
        """Do nothing: there is no file to delete."""


def lock_of(out: Path, rank: int = 0) -> Path:
    """Return the lock file of a file of rows, one for each process that shares the job."""
    return out.with_name(f".{out.name}.lock" + f"-{rank + 1}" * (rank > 0))


def claimed(out: Path | None, rank: int = 0) -> AbstractContextManager[None]:
    """Return a block in which no other process writes to a file of rows; see `locked`."""
    return nullcontext() if out is None else locked(out, lock_of(out, rank))


class RowsFile:
    """An append-only row file that a resumed job continues; each process has a file of its own."""

    def __init__(self, out: Path, rank: int = 0, size: int = 1) -> None:
        self.path = out.with_name(out.name + ".part" + (f"-{rank + 1}-of-{size}" * (size > 1)))
        self._file: IO[str] | None = None

    def begin(self, job: dict[str, Any]) -> None:
        """Create the file, replacing an older one; its first line describes the job.

        Raises:
            RunError: the file cannot be written.
        """
        with writing(self.path):
            self._file = self.path.open("w", encoding="utf-8")
            self._write([job])

    def resume(self, job: dict[str, Any]) -> int:
        """Open the file to append, and return the number of rows in it.

        Raises:
            RunError: there is no file, it belongs to another job, or it cannot be written.
        """
        if not self.path.is_file():
            raise RunError(f"{self.path}: nothing to resume", "Start anew: leave out --resume")
        with writing(self.path):
            try:
                begun = next(_complete_lines(self.path), None)
            except ValueError:
                begun = None
            if begun != job:
                changed = [key for key in job if not begun or begun.get(key) != job[key]]
                raise RunError(
                    f"{self.path}: was begun with another {', '.join(changed) or 'command'}",
                    "Repeat the command as it was, or start anew: leave out --resume",
                )
            count = self._cut_incomplete_line()
            self._file = self.path.open("a", encoding="utf-8")
        return count - 1

    def _cut_incomplete_line(self) -> int:
        """Cut a last line that was not written to its end; return the number of lines."""
        count, end = 0, 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    count, end = count + 1, end + len(line)
        os.truncate(self.path, end)
        return count

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows.

        Raises:
            RunError: the file cannot be written, for instance because the disk is full.
        """
        with writing(self.path):
            self._write(rows)

    def _write(self, rows: Iterable[Row]) -> None:
        assert self._file is not None
        self._file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        self._file.flush()

    def rows(self) -> Iterator[Row]:
        """Yield the rows in their order."""
        lines = _complete_lines(self.path)
        next(lines, None)
        yield from lines

    def close(self) -> None:
        """Close the file, which stays on disk."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)


RowStore = RowsInMemory | RowsFile
"""A place for the rows of a running job."""


def _complete_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, without a last line that was not written to its end."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
