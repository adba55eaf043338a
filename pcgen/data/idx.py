"""IDX files, the format of MNIST, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pcgen.data.arrays import in_native_order
from pcgen.data.reading import open_regular, reading, require_unpackable
from pcgen.errors import DataError

Array = NDArray[Any]
Check = Callable[[tuple[int, ...], np.dtype[Any]], None]

_GZIP = b"\x1f\x8b"
# The third byte of a file is the type of its numbers; their most significant byte comes first.
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
# Images have three dimensions or four, labels one.
_MOST_DIMENSIONS = 4
# A file is unpacked so many bytes at a time: a header that lies takes no more memory than the file.
_CHUNK = 2**20
_HINT = "Fetch the file again; gunzip -t tells whether a .gz file is damaged"


def looks_like_idx(path: Path) -> bool:
    """Return whether the file's name or its first bytes are those of an IDX file."""
    if path.suffix.lower() in (".gz", ".idx") or "idx" in path.name:
        return True
    with open_regular(path) as file:
        return file.read(2) in (b"\0\0", _GZIP)


def read_images(
    path: Path, limit: int | None = None, check: Check | None = None
) -> tuple[Array, Array | None]:
    """Return the images of an IDX file, and the labels from the file beside it if there is one.

    With a limit, there are still all labels, because they are numbered together.
    """
    name, is_images = re.subn(r"images([-.])idx[34]", r"labels\1idx1", path.name)
    plain = name.removesuffix(".gz")
    beside = [path.with_name(candidate) for candidate in (name, plain, plain + ".gz")]
    labels = next((file for file in beside if is_images and file.is_file()), None)
    return read_idx(path, limit, check), None if labels is None else read_idx(labels)


def read_idx(path: Path, limit: int | None = None, check: Check | None = None) -> Array:
    """Return the array of an IDX file, or its first rows; a plain file is mapped from disk.

    Args:
        check: is called with the shape and the type of the array before it takes any memory.

    Raises:
        DataError: the file is not IDX, or has more or fewer numbers than its header announces.
    """
    with reading(str(path)), open_regular(path) as file:
        is_gzip = file.read(2) == _GZIP
        file.seek(0)
        if is_gzip:
            return in_native_order(_unpack(file, path, limit, check))
        dtype, dims = _header(file, path)
        offset = file.tell()
        _check_size(path, dims, dtype, os.fstat(file.fileno()).st_size - offset)
        if check is not None:
            check(dims, dtype)
        if not math.prod(dims):
            return np.empty(dims, dtype)
        mapped: Array = np.memmap(file, dtype, "c", offset, dims)
        return in_native_order(mapped[:limit])


def _unpack(packed: BinaryIO, path: Path, limit: int | None, check: Check | None) -> Array:
    """Return the array of a gzipped file, or its first rows."""
    size = os.fstat(packed.fileno()).st_size
    with gzip.open(packed) as file:
        dtype, dims = _header(file, path)  # type: ignore[arg-type]
        if check is not None:
            check(dims, dtype)
        row = math.prod(dims[1:]) * dtype.itemsize
        rows = dims[0] if limit is None else min(limit, dims[0])
        require_unpackable(rows * row, size)
        # One byte more than announced shows that a file is longer.
        body = _first_bytes(file, rows * row + 1)  # type: ignore[arg-type]
    if rows == dims[0] or len(body) < rows * row:
        _check_size(path, dims, dtype, len(body))
    return np.frombuffer(body, dtype, rows * row // dtype.itemsize).reshape(rows, *dims[1:])


def _first_bytes(file: BinaryIO, size: int) -> bytearray:
    """Return the next `size` bytes, or all if there are fewer."""
    body = bytearray()
    while chunk := file.read(min(_CHUNK, size - len(body))):
        body += chunk
    return body


def _header(file: BinaryIO, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type of the numbers after the header, and the array's shape."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not magic[3]:
        raise DataError(f"{path}: not an IDX file (it begins with {magic.hex(' ') or 'nothing'})")
    if magic[3] > _MOST_DIMENSIONS:
        raise DataError(f"{path}: announces {magic[3]} dimensions, images have 3 or 4", _HINT)
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
