"""Open users' files: regular files alone, within stated limits, and every failure as one error."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pcgen.errors import DataError, PcgenError

# What is packed may unpack to so many bytes, or to so many times its packed size.
_FREE = 2**26
_RATIO = 100


class UnreadableError(Exception):
    """A file that cannot be read; the message is the reason."""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever a library raises within the block into a DataError that names the data.

    Readers of damaged files raise anything: NumPy's a TokenError or an OverflowError.
    """
    try:
        yield
    except (PcgenError, AssertionError):  # an assert is our own mistake
        raise
    except UnreadableError as error:
        raise DataError(f"{name}: {error}") from None
    except MemoryError:
        raise DataError(f"{name}: larger than memory") from None
    except EOFError:
        raise DataError(f"{name}: truncated: it ends early", "Fetch the file again") from None
    except OSError as error:
        raise DataError(f"{name}: {_reason(error)}") from None
    except Exception as error:
        raise DataError(f"{name}: damaged: {first_line(error)}", "Fetch the file again") from None


def _reason(error: OSError) -> str:
    if error.strerror is None:  # a library's own, as gzip's
        return f"damaged: {first_line(error)}"
    return f"cannot be read: {error.strerror.lower()}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_regular(path: Path) -> BinaryIO:
    """Return a regular file, opened for reading. A link to a regular file is followed.

    Raises:
        UnreadableError: a folder, pipe, socket or device.
        OSError: the system cannot open it.
    """
    _require_regular(os.stat(path))  # opening a device can already act on it
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(handle, "rb")
    try:
        _require_regular(os.fstat(handle))  # it may have been replaced in between
    except UnreadableError:
        file.close()
        raise
    return file


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("not a file")


def read_bytes(path: Path, limit: int) -> bytes:
    """Return a regular file's content, of which no more than the limit and one byte is read.

    Raises:
        UnreadableError: no regular file, or a longer one.
        OSError: the system cannot read it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UnreadableError(f"{size} bytes, more than {limit}")
        content = file.read(size + 1)
        if len(content) > size:  # it grows, or its system states no sizes
            content += file.read(limit + 1 - len(content))
        if len(content) > limit:
            raise UnreadableError(f"more than {limit} bytes")
        return content


def read_text(path: Path) -> str:
    """Return the text of a regular file in UTF-8, plain or gzipped; line ends become newlines.

    Raises:
        UnreadableError: no regular file, or a packed one that unpacks to too much.
        OSError: the system cannot read it.
        UnicodeDecodeError: the file is no text.
    """
    with open_regular(path) as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not is_packed:
            return _text(file)
        packed = os.fstat(file.fileno()).st_size
        with gzip.open(file) as unpacked:
            content = unpacked.read(max(_FREE, _RATIO * packed) + 1)
        require_unpackable(len(content), packed)
        return _text(io.BytesIO(content))


def _text(file: BinaryIO) -> str:
    with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        return text.read()


def require_unpackable(
    size: int, packed: int, ratio: int | None = None, free: int | None = None
) -> None:
    """Raise UnreadableError if packed data unpack to an unreasonable size.

    They may unpack to `free` bytes, or to `ratio` times their packed size if that is more.
    """
    ratio, free = ratio or _RATIO, _FREE if free is None else free
    if size > max(free, ratio * packed):
        raise UnreadableError(
            f"unpacks to {size} bytes or more, over {ratio} times its packed size of {packed}"
        )


def require_plain_member(member: zipfile.ZipInfo) -> None:
    """Raise UnreadableError if a zip's member is encrypted, or packed by a method without limits.

    A few bytes of bzip2 or LZMA can unpack to gigabytes in one step.
    """
    if member.flag_bits & 1:
        raise UnreadableError("encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnreadableError("packed by another method than deflate: pack the zip again")
