"""IDX files, MNIST's own format, plain or gzipped."""

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

from pcgen.errors import DataError

Array = NDArray[Any]

# The third byte of the file says what numbers it holds, the most significant byte first.
_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_HINT = "Fetch the file again, or unpack it with gunzip -t to see where it breaks"


def read_idx(path: Path, limit: int | None = None) -> Array:
    """Return the array of an IDX file, or its first rows; a plain file is mapped from disk.

    Raises:
        DataError: a file that is not IDX, or does not hold as many numbers as its header announces.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                with gzip.open(file) as unpacked:
                    return _native(_read(unpacked, path, limit))  # type: ignore[arg-type]
            file.seek(0)
            dtype, dims = _header(file, path)
            offset = file.tell()
        _check_size(path, dims, dtype, path.stat().st_size - offset)
        if not math.prod(dims):
            return np.empty(dims, dtype)
        mapped: Array = np.memmap(path, dtype, "c", offset, dims)
        return _native(mapped[:limit])
    except EOFError:
        raise DataError(f"{path}: truncated: the gzip stream ends early", _HINT) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip: {error}", _HINT) from None
    except MemoryError:
        raise DataError(f"{path}: announces an array larger than memory") from None


def _read(file: BinaryIO, path: Path, limit: int | None) -> Array:
    dtype, dims = _header(file, path)
    row = math.prod(dims[1:]) * dtype.itemsize
    rows = dims[0] if limit is None else min(limit, dims[0])
    # One byte more than announced shows a file that is longer. Deflate shrinks to 1/1032 at most,
    # so a header that lies cannot make us reserve more than the file may hold.
    most = 1032 * path.stat().st_size + 1
    body = bytearray(file.read(min(rows * row + 1, most)))
    if rows == dims[0] or len(body) < rows * row:
        _check_size(path, dims, dtype, len(body))
    return np.frombuffer(body, dtype, rows * row // dtype.itemsize).reshape(rows, *dims[1:])


def _header(file: BinaryIO, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return what numbers follow the header, and the array's shape."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not magic[3]:
        raise DataError(f"{path}: not an IDX file (it begins with {magic.hex(' ') or 'nothing'})")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path}: truncated within the IDX header", _HINT)
    return np.dtype(_TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes)


def _check_size(path: Path, dims: tuple[int, ...], dtype: np.dtype[Any], found: int) -> None:
    wanted = math.prod(dims) * dtype.itemsize
    if found != wanted:
        shape = "x".join(map(str, dims))
        how = "truncated" if found < wanted else "longer than it should be"
        raise DataError(
            f"{path}: {how}: the header announces {shape} = {wanted} bytes, "
            + (f"{found} follow" if found < wanted else "more follow"),
            _HINT,
        )


def _native(array: Array) -> Array:
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def labels_beside(path: Path) -> Path | None:
    """Return the file of labels that belongs to a file of images, where it is there."""
    name, found = re.subn(r"images([-.])idx[34]", r"labels\1idx1", path.name)
    if not found:
        return None
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, plain + ".gz"):
        if path.with_name(candidate).is_file():
            return path.with_name(candidate)
    return None
