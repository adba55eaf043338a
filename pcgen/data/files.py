"""Picture files in a folder, in a zip or in a list of paths."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from pcgen.data.decode import MAX_BYTES, SUFFIXES, UnreadableError
from pcgen.errors import DataError

# Deflate never shrinks a real picture by more; a member that announces more is a zip bomb.
_MAX_RATIO = 1000


class Files(Protocol):
    """Files in sorted order; `names` are their paths inside the folder or zip."""

    @property
    def names(self) -> Sequence[str]: ...

    def head(self, keep: Sequence[int]) -> Files:
        """Return the files of these numbers alone."""

    def bytes_of(self, row: int) -> bytes:
        """Return a file's bytes.

        Raises:
            UnreadableError: the file cannot be read; the message is the reason.
        """

    def text_of(self, name: str) -> str | None:
        """Return the content of a text file among the pictures, or None."""

    def digest(self) -> bytes:
        """Return a hash of names and sizes, and of some content or (in a zip) check sums."""


class FolderFiles:
    """Pictures in a folder and its sub-folders, or in a list of paths."""

    def __init__(self, root: Path | None, names: Sequence[str]) -> None:
        self.root = root
        self.names = names

    @classmethod
    def of(cls, root: Path) -> FolderFiles:
        """Return the pictures of a folder and its sub-folders; a link is followed once."""
        names: list[str] = []
        seen: set[tuple[int, int]] = set()
        for folder, inner, files in os.walk(root, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                inner.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            within = PurePosixPath(os.path.relpath(folder, root))
            names += [str(within / file) for file in files]
        return cls(root, sorted(name for name in names if is_picture(name)))

    def head(self, keep: Sequence[int]) -> FolderFiles:
        """Return the files of these numbers alone."""
        return FolderFiles(self.root, [self.names[i] for i in keep])

    def _path(self, name: str) -> Path:
        return Path(name) if self.root is None else self.root / name

    def bytes_of(self, row: int) -> bytes:
        """Return a file's bytes."""
        try:
            path = self._path(self.names[row])
            size = path.stat().st_size
            if size > MAX_BYTES:
                raise UnreadableError(f"{size} bytes, more than {MAX_BYTES}")
            return path.read_bytes()
        except OSError as error:
            raise UnreadableError((error.strerror or str(error)).lower()) from None
        except ValueError:
            raise UnreadableError("no path can hold a NUL byte") from None

    def text_of(self, name: str) -> str | None:
        """Return the content of a text file among the pictures, or None."""
        try:
            return self._path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def digest(self) -> bytes:
        """Return a hash of the names and sizes, and of the content of 64 files spread evenly."""
        hashed = hashlib.sha256()
        every = max(1, len(self.names) // 64)
        for row, name in enumerate(self.names):
            try:
                size = self._path(name).stat().st_size
            except (OSError, ValueError):
                size = -1
            within = name if self.root is not None else os.path.basename(name)
            hashed.update(f"{within}\0{size}\0".encode("utf-8", "surrogateescape"))
            if row % every == 0:
                try:
                    hashed.update(self.bytes_of(row))
                except UnreadableError as error:
                    hashed.update(str(error).encode())
        return hashed.digest()


class ZipFiles:
    """Pictures in a zip, read without unpacking it."""

    def __init__(self, path: Path) -> None:
        """Read the zip's list of members.

        Raises:
            DataError: the file is no zip, or a member's path points outside it.
        """
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"{path}: not a zip, or a truncated one: {error}", "Fetch the file again"
            ) from None
        # All threads share one file handle: they read in turn and decode at once.
        self._lock = threading.Lock()
        for member in self._archive.infolist():
            name = PurePosixPath(member.filename.replace("\\", "/"))
            drive = name.parts[:1] and name.parts[0][1:] == ":"
            if name.is_absolute() or drive or ".." in name.parts:
                raise DataError(
                    f"{path}: its member {member.filename} points outside the zip",
                    "Such a zip is broken or hostile: unpack what you need and name the folder",
                )
        members = [m for m in self._archive.infolist() if is_picture(m.filename)]
        self._members = sorted(members, key=lambda member: member.filename)
        self.names: Sequence[str] = [member.filename for member in self._members]

    def head(self, keep: Sequence[int]) -> ZipFiles:
        """Return the files of these numbers alone."""
        fewer = object.__new__(ZipFiles)
        fewer.path, fewer._archive, fewer._lock = self.path, self._archive, self._lock
        fewer._members = [self._members[i] for i in keep]
        fewer.names = [member.filename for member in fewer._members]
        return fewer

    def bytes_of(self, row: int) -> bytes:
        """Return a member's bytes."""
        member = self._members[row]
        if member.file_size > MAX_BYTES:
            raise UnreadableError(f"announces {member.file_size} bytes, more than {MAX_BYTES}")
        if member.file_size > _MAX_RATIO * max(1, member.compress_size):
            raise UnreadableError(f"announces {_MAX_RATIO} times its packed size or more")
        if member.flag_bits & 1:
            raise UnreadableError("encrypted")
        try:
            with self._lock:
                return self._archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            raise UnreadableError(f"damaged in the zip: {error}") from None
        except (NotImplementedError, RuntimeError) as error:
            raise UnreadableError(f"cannot be unpacked: {error}") from None

    def text_of(self, name: str) -> str | None:
        """Return the content of a text file among the pictures, or None."""
        try:
            with self._lock:
                return self._archive.read(name).decode()
        except (KeyError, UnicodeDecodeError, zipfile.BadZipFile, RuntimeError):
            return None

    def digest(self) -> bytes:
        """Return a hash of the names, sizes and check sums."""
        hashed = hashlib.sha256()
        for member in self._members:
            words = f"{member.filename}\0{member.file_size}\0{member.CRC}\0"
            hashed.update(words.encode("utf-8", "surrogateescape"))
        return hashed.digest()


def is_picture(name: str) -> bool:
    """Return whether a path names a picture of the user.

    Files that systems leave behind (.DS_Store, ._0001.png, __MACOSX/) are no pictures.
    """
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and not name.endswith("/") and name.lower().endswith(SUFFIXES)
