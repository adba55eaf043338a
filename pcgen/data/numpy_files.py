"""NumPy's .npy and .npz files; no Python objects in them are ever made."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pcgen.data.reading import (
    UnreadableError,
    first_line,
    open_regular,
    require_plain_member,
    require_unpackable,
)
from pcgen.errors import DataError

Array = NDArray[Any]
Check = Callable[[tuple[int, ...], np.dtype[Any]], None]

_LABEL_KEYS = ("y", "labels", "label", "targets", "target", "y_train")
_IMAGE_KEYS = ("x", "images", "pixels", "data", "inputs", "x_train", "arr_0")
_MAGIC = b"\x93NUMPY"
# No header is longer: NumPy refuses 10,000 characters.
_LONGEST_HEADER = 2**14


def read_numpy(
    path: Path, check: Check, label: str | None = None
) -> tuple[Array, Array | None, str | None]:
    """Return the images of a .npy file, mapped from disk; or of a .npz file, with its labels.

    The last value is the name of the labels' array.

    Args:
        check: is called with the shape and the type of the images before they take any memory.
        label: this name; empty for no labels, None for one of the usual names.

    Raises:
        DataError: a .npz file in which no name tells which array holds the images.
        Exception: whatever `pcgen.data.reading.reading` turns into a DataError.
    """
    with open_regular(path) as file:
        is_npy = file.read(len(_MAGIC)) == _MAGIC
        file.seek(0)
        if is_npy:
            return _mapped(file, check), None, None
        with zipfile.ZipFile(file) as archive:
            members = {
                member.filename.removesuffix(".npy"): member for member in archive.infolist()
            }
            images, labels = _keys([*members], path, label)
            return (
                _unpacked(archive, members[images], check),
                None if labels is None else _unpacked(archive, members[labels]),
                labels,
            )


def _mapped(file: BinaryIO, check: Check) -> Array:
    shape, is_fortran, dtype, offset = _header(file)
    size = os.fstat(file.fileno()).st_size - offset
    announced = math.prod(shape) * dtype.itemsize
    if announced > size:
        raise UnreadableError(f"truncated: it announces {announced} bytes, {size} follow")
    check(shape, dtype)
    order: Any = "F" if is_fortran else "C"
    if not announced:
        return np.empty(shape, dtype, order)
    # Copy-on-write, because torch warns of arrays that cannot be written.
    return np.memmap(file, dtype, "c", offset, shape, order)


def _unpacked(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, check: Check | None = None
) -> Array:
    require_plain_member(member)
    with archive.open(member) as file:
        shape, _, dtype, offset = _header(file)  # type: ignore[arg-type]
    announced = offset + math.prod(shape) * dtype.itemsize
    if announced != member.file_size:
        raise UnreadableError(
            f"damaged: {member.filename} announces {announced} bytes and has {member.file_size}"
        )
    require_unpackable(announced, member.compress_size)
    if check is not None:
        check(shape, dtype)
    with archive.open(member) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether the first axis varies fastest, type, and where the numbers begin."""
    start = io.BytesIO(file.read(_LONGEST_HEADER))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of Python 2
            version = np.lib.format.read_magic(start)
            read = np.lib.format.read_array_header_1_0
            if version[0] > 1:
                read = np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(start)
    except Exception as error:
        raise UnreadableError(f"damaged or truncated: {first_line(error)}") from None
    if dtype.hasobject:
        raise UnreadableError("holds Python objects, which pcgen does not read")
    if not dtype.itemsize or not all(type(side) is int and side >= 0 for side in shape):
        raise UnreadableError(f"damaged: no array has the shape {shape} of {dtype}")
    return shape, is_fortran, dtype, start.tell()


def _keys(keys: Sequence[str], path: Path, label: str | None) -> tuple[str, str | None]:
    """Return the key of the images, and the key of the labels if there is one."""
    lower = {key.lower(): key for key in reversed(keys)}
    labels = next((lower[key] for key in _LABEL_KEYS if key in lower), None)
    if label is not None:
        labels = label if label in keys else None
    others = [key for key in keys if key != labels]
    named = [lower[key] for key in _IMAGE_KEYS if key in lower]
    if not named and len(others) != 1:
        raise DataError(
            f"{path}: which of its arrays holds the images? {', '.join(keys) or 'none'}",
            "Name the images x, and the labels y",
        )
    return (named or others)[0], labels
