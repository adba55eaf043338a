"""Files that are written completely or not at all.

A file is written as `.NAME.PID.part` beside its final place, synced and renamed. A process that is
killed leaves that part behind; the next write of the same name removes it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pcgen.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: parts have no lock there, and none is removed
    fcntl = None  # type: ignore[assignment]

# A file system allows 255 bytes; the rest is for the process's number.
_LONGEST = 230


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        RunError: it could not be written; an older file stays.
    """
    with replacing(path) as (file,):
        file.write(content)


@contextmanager
def replacing(*paths: Path, one_of_many: bool = False) -> Iterator[list[BinaryIO]]:
    """Yield a new file for each path; at the end of the block they replace the older files.

    All replace the older files, or, after an error, none does. Folders are made, a link is
    followed, and an older file's permissions are kept.

    Args:
        one_of_many: for files that are written by the thousand, such as heat maps: they are not
            synced, parts of killed processes are not looked for (`remove_strays` does that for
            all of them), and a link is replaced, not followed.

    Raises:
        RunError: a file could not be written; all older files stay.
    """
    parts: list[_Part] = []
    try:
        for path in paths:
            target = path if one_of_many else Path(os.path.realpath(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            if not one_of_many:
                remove_strays(target.parent, [target.name])
            parts.append(_Part.of(target))
        yield [part.file for part in parts]
        for part in parts:
            part.end(sync=not one_of_many)
        for part in parts:
            os.replace(part.path, part.target)
    except OSError as error:
        where = paths[0] if len(paths) == 1 else paths[0].parent
        raise RunError(f"{where}: cannot be written: {error.strerror}") from None
    finally:
        for part in parts:
            part.discard()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError into a RunError that names the path."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class _Part:
    """A file that is being written, and the place that it is for."""

    path: Path
    target: Path
    file: BinaryIO

    @classmethod
    def of(cls, target: Path) -> _Part:
        """Open the part of a file; it has the older file's permissions.

        Raises:
            OSError: it cannot be opened, or another process has it open.
        """
        path = target.with_name(f"{_start(target.name)}{os.getpid()}.part")
        older = _status(target)
        # Not truncated before it is locked; a link that somebody has put here is not followed.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "wb")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OSError(errno.EBUSY, "another process is writing it") from None
        except OSError:
            pass  # a file system without locks
        file.truncate(0)
        if older is not None:
            path.chmod(stat.S_IMODE(older.st_mode))
        return cls(path, target, file)

    def end(self, *, sync: bool) -> None:
        """Close the complete file."""
        self.file.flush()
        if sync:
            os.fsync(self.file.fileno())
        self.file.close()

    def discard(self) -> None:
        """Remove the file, if it has not been renamed."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _start(name: str) -> str:
    """Return the start of the names of a file's parts."""
    return f".{os.fsdecode(os.fsencode(name)[:_LONGEST])}."


def _status(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None if there is none.

    Raises:
        OSError: a folder, a device, a FIFO or a socket.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode):
        return status
    kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, a FIFO or a socket"
    raise OSError(0, f"is {kind}, not a file")


def require_writable(path: Path) -> None:
    """Raise RunError unless a file may be written: before the work starts whose result it is for.

    Raises:
        RunError: the path names a folder, a device, a FIFO or a socket; a file or a folder without
            permission; or something in a file instead of a folder.
    """
    try:
        older = _status(path)
        folder = next(p for p in Path(os.path.realpath(path)).parents if os.path.lexists(p))
        reason = ""
        if not folder.is_dir():
            reason = f"{folder} is a file, not a folder"
        elif older is not None and not os.access(path, os.W_OK):
            reason = "it is write-protected"
        elif not os.access(folder, os.W_OK | os.X_OK):
            reason = f"no permission to write in {folder}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason:
        raise RunError(f"{path}: cannot be written: {reason}")


def remove_strays(folder: Path, names: Iterable[str]) -> None:
    """Remove the parts of files of these names that killed processes left in a folder."""
    starts = {_start(name) for name in names}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            start, _, number = entry.name.removesuffix(".part").rpartition(".")
            is_part = entry.name.endswith(".part") and number.isdecimal() and f"{start}." in starts
            if is_part and entry.is_file() and not _is_in_use(Path(entry.path), int(number)):
                os.unlink(entry.path)


def _is_in_use(part: Path, process: int) -> bool:
    """Return whether the process that writes a part lives, here or on another machine."""
    if os.name == "nt":
        return True
    with suppress(ProcessLookupError, OverflowError):
        with suppress(PermissionError):
            os.kill(process, 0)
        return True
    try:
        with part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
