"""Picture files in a folder, in a zip or in a list of paths."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pcgen.data.decode import MAX_BYTES, SUFFIXES, require_known_kind
from pcgen.data.reading import (
    UnreadableError,
    first_line,
    read_bytes,
    require_plain_member,
    require_unpackable,
)
from pcgen.errors import DataError

# Deflate never shrinks a real picture by more; a member that announces more is a zip bomb.
_MAX_RATIO = 1000
# A folder is searched for so many pictures, so deep, and past so many other files.
MOST_PICTURES = 10_000_000
DEEPEST = 100
MOST_OTHERS = 50_000
_OTHERS_PER_PICTURE = 10
_MAX_TEXT = 2**26


class Files(ABC):
    """Files in sorted order; `names` are their paths inside the folder or zip."""

    names: Sequence[str]

    @abstractmethod
    def content(self, name: str, limit: int) -> bytes:
        """Return the bytes of a file, of which there may be so many.

        Raises:
            UnreadableError: the file cannot be read; the message is the reason.
        """

    @abstractmethod
    def digest(self) -> bytes:
        """Return a hash of names and sizes, and of some content or (in a zip) check sums."""

    def head(self, keep: Sequence[int]) -> Files:
        """Return the files of these numbers alone."""
        fewer = copy.copy(self)
        fewer.names = [self.names[i] for i in keep]
        return fewer

    def bytes_of(self, row: int) -> bytes:
        """Return a picture's bytes.

        Raises:
            UnreadableError: the file cannot be read; the message is the reason.
        """
        require_known_kind(self.names[row])
        return self.content(self.names[row], MAX_BYTES)

    def text_of(self, name: str) -> str | None:
        """Return the content of a text file among the pictures, or None."""
        try:
            return self.content(name, _MAX_TEXT).decode()
        except (UnicodeDecodeError, UnreadableError):
            return None


class FolderFiles(Files):
    """Pictures in a folder and its sub-folders, or in a list of paths."""

    def __init__(self, root: Path | None, names: Sequence[str]) -> None:
        self.root = root
        self.names = names

    @classmethod
    def of(cls, root: Path) -> FolderFiles:
        """Return the pictures of a folder and its sub-folders; a link is followed once.

        A sub-folder that cannot be opened is among them, as a name that ends with a slash.

        Raises:
            DataError: the folder cannot be opened, or holds more than is searched.
        """
        names: list[str] = []
        failed: list[OSError] = []
        seen: set[tuple[int, int]] = set()
        others = 0
        for folder, inner, files in os.walk(root, followlinks=True, onerror=failed.append):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                inner.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            inner[:] = [name for name in inner if not _is_hidden(name)]
            prefix = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
            before = len(names)
            names += [prefix + name for name in (*files, *inner) if is_picture(name)]
            others += len(files) - (len(names) - before)
            _require_searchable(root, prefix, len(names), others)
        for error in failed:
            if error.filename == str(root):
                raise error
            names.append(f"{Path(error.filename).relative_to(root).as_posix()}/")
        return cls(root, sorted(names))

    def _path(self, name: str) -> Path:
        return Path(name) if self.root is None else self.root / name

    def content(self, name: str, limit: int) -> bytes:
        if name.endswith("/"):
            raise UnreadableError("a folder that cannot be opened")
        try:
            return read_bytes(self._path(name), limit)
        except OSError as error:
            raise UnreadableError((error.strerror or str(error)).lower()) from None
        except ValueError:
            raise UnreadableError("no path can hold a NUL byte") from None

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


class ZipFiles(Files):
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
        named = {_within(member, path): member for member in self._archive.infolist()}
        self._by_name = named
        # Without its slash, a folder's name is one under which no member is found.
        paths = (name.removesuffix("/") for name in named)
        self.names = sorted(name for name in paths if is_picture(name))

    def content(self, name: str, limit: int) -> bytes:
        member = self._by_name.get(name)
        if member is None:
            raise UnreadableError("not a file")
        if member.file_size > limit:
            raise UnreadableError(f"announces {member.file_size} bytes, more than {limit}")
        require_unpackable(member.file_size, member.compress_size, _MAX_RATIO, free=0)
        require_plain_member(member)
        try:
            with self._lock:
                return self._archive.read(member)
        except Exception as error:  # zipfile, zlib and the system each have their own
            raise UnreadableError(f"damaged in the zip: {first_line(error)}") from None

    def digest(self) -> bytes:
        hashed = hashlib.sha256()
        for name in self.names:
            member = self._by_name.get(name)
            size, check_sum = (member.file_size, member.CRC) if member else (0, 0)
            hashed.update(f"{name}\0{size}\0{check_sum}\0".encode("utf-8", "surrogateescape"))
        return hashed.digest()


def _within(member: zipfile.ZipInfo, path: Path) -> str:
    """Return a member's path inside the zip, with forward slashes.

    Raises:
        DataError: the path points outside the zip.
    """
    name = member.filename.replace("\\", "/")
    parts = PurePosixPath(name)
    drive = parts.parts[:1] and parts.parts[0][1:] == ":"
    if parts.is_absolute() or drive or ".." in parts.parts:
        raise DataError(
            f"{path}: its member {member.filename} points outside the zip",
            "Such a zip is broken or hostile: unpack what you need and name the folder",
        )
    return name


def _require_searchable(root: Path, prefix: str, pictures: int, others: int) -> None:
    """Raise DataError if a folder holds more than is searched for pictures."""
    hint = "Name the folder that holds the pictures"
    if prefix.count("/") > DEEPEST:
        raise DataError(f"{root}: searched no deeper than {DEEPEST} folders", hint)
    if pictures > MOST_PICTURES:
        raise DataError(f"{root}: holds more than {MOST_PICTURES:,} pictures", hint)
    if others > MOST_OTHERS + _OTHERS_PER_PICTURE * pictures:
        raise DataError(
            f"{root}: not searched further after {others:,} files that are no pictures, and "
            f"{pictures:,} that are",
            hint,
        )


def is_picture(name: str) -> bool:
    """Return whether a path names a picture of the user.

    Files that systems leave behind (.DS_Store, ._0001.png, __MACOSX/) are no pictures.
    """
    return name.lower().endswith(SUFFIXES) and not any(map(_is_hidden, name.split("/")))


def _is_hidden(part: str) -> bool:
    return part.startswith(".") or part in ("__MACOSX", "lost+found")
