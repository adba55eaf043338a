"""IDX files, the format of MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pcgen.data.arrays import in_native_order
from pcgen.errors import DataError

Array = NDArray[Any]

_GZIP = b"\x1f\x8b"
# The third byte of a file is the type of its numbers; their most significant byte comes first.
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
# Deflate shrinks data to 1/1032 of their size at most.
_MAX_RATIO = 1032
_HINT = "Fetch the file again; gunzip -t tells whether a .gz file is damaged"


def looks_like_idx(path: Path) -> bool:
    """Return whether the file's name or its first bytes are those of an IDX file."""
    if path.suffix.lower() in (".gz", ".idx") or "idx" in path.name:
        return True
    with path.open("rb") as file:
        return file.read(2) in (b"\0\0", _GZIP)


def read_images(path: Path, limit: int | None = None) -> tuple[Array, Array | None]:
    """Return the images of an IDX file, and the labels from the file beside it if there is one.

    With a limit, there are still all labels, because they are numbered together.
    """
    name, is_images = re.subn(r"images([-.])idx[34]", r"labels\1idx1", path.name)
    plain = name.removesuffix(".gz")
    beside = [path.with_name(candidate) for candidate in (name, plain, plain + ".gz")]
    labels = next((file for file in beside if is_images and file.is_file()), None)
    return read_idx(path, limit), None if labels is None else read_idx(labels)


def read_idx(path: Path, limit: int | None = None) -> Array:
    """Return the array of an IDX file, or its first rows; a plain file is mapped from disk.

    Raises:
        DataError: the file is not IDX, or has more or fewer numbers than its header announces.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP
            file.seek(0)
            if is_gzip:
                with gzip.open(file) as unpacked:
                    return in_native_order(_unpack(unpacked, path, limit))  # type: ignore[arg-type]
            dtype, dims = _header(file, path)
            offset = file.tell()
        _check_size(path, dims, dtype, path.stat().st_size - offset)
        if not math.prod(dims):
            return np.empty(dims, dtype)
        mapped: Array = np.memmap(path, dtype, "c", offset, dims)
        return in_native_order(mapped[:limit])
    except EOFError:
        raise DataError(f"{path}: truncated: the gzip stream ends early", _HINT) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip: {error}", _HINT) from None
    except MemoryError:
        raise DataError(f"{path}: announces an array larger than memory") from None


def _unpack(file: BinaryIO, path: Path, limit: int | None) -> Array:
    """Return the array of an unpacked file, or its first rows."""
    dtype, dims = _header(file, path)
    row = math.prod(dims[1:]) * dtype.itemsize
    rows = dims[0] if limit is None else min(limit, dims[0])
    # One byte more than announced shows that a file is longer. A header that lies reserves no more
    # memory than the file can hold.
    body = bytearray(file.read(min(rows * row, _MAX_RATIO * path.stat().st_size) + 1))
    if rows == dims[0] or len(body) < rows * row:
        _check_size(path, dims, dtype, len(body))
    return np.frombuffer(body, dtype, rows * row // dtype.itemsize).reshape(rows, *dims[1:])


def _header(file: BinaryIO, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type of the numbers after the header, and the array's shape."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not magic[3]:
        raise DataError(f"{path}: not an IDX file (it begins with {magic.hex(' ') or 'nothing'})")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: truncated within the IDX header", _HINT)
    return np.dtype(_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)


def _check_size(path: Path, dims: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    """Raise DataError unless `size` bytes are those that the header announces."""
    announced = math.prod(dims) * dtype.itemsize
    if size == announced:
        return
    is_short = size < announced
    raise DataError(
        f"{path}: {'truncated' if is_short else 'longer than it should be'}: the header announces "
        f"{'x'.join(map(str, dims))} = {announced} bytes, {size if is_short else 'more'} follow",
        _HINT,
    )
