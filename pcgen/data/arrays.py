"""Arrays of images, in memory or mapped from disk; a row becomes floats when it is asked for."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.fit import fit, preprocessing_of, unit
from pcgen.data.images import Images, Shape
from pcgen.data.labels import labels_of
from pcgen.data.request import DataRequest
from pcgen.data.values import TOLERANCE, Range, range_of
from pcgen.errors import DataError

Array = NDArray[Any]

# The range and the fingerprint of an array larger than this come from rows spread evenly; a smaller
# one is read whole, so many bytes at a time.
_WHOLE = 2**30
_CHUNK = 2**24
# A system may map so many bytes around the one that is read.
_AROUND = 2**21


@dataclass(frozen=True, slots=True)
class ArrayStore:
    """Rows of an array.

    Attributes:
        array: (N, ...) of numbers.
        name: a row is called NAME[17].
        own_shape: the shape of a row in the array, written with its channels first.
        channels_last: whether the array has H W C instead of C H W.
        divisor: the array's numbers are divided by it to be in [0, 1].
        shape: the shape that rows are brought to.
        pixels: whether values must be in [0, 1]; a table's need not be.
        memory: bytes of an array mapped from disk that may stay in memory.
        lines: the number of each row's line in its file, if it has lines.
        black: the number that becomes 0.
        is_given: whether the user gave the range, so that bytes may be outside it too.
    """

    array: Array
    name: str
    own_shape: Shape
    channels_last: bool
    divisor: float
    shape: Shape
    pixels: bool = True
    memory: int = 2**30
    lines: Array | None = None
    black: float = 0.0
    is_given: bool = False

    def __len__(self) -> int:
        return len(self.array)

    def id(self, row: int) -> str:
        return f"{self.name}[{row}]"

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        values = self._take(index_B.numpy())
        count, channels, height, width = len(values), *self.own_shape
        status, reason = ["ok"] * count, [""] * count
        divisor = self.divisor
        if values.dtype != np.uint8 or self.is_given:
            # float64 also holds a number that is too large for float32.
            flat = values.reshape(count, channels * height * width).astype(np.float64)
            flat -= self.black
            flat /= divisor
            self._zero_unusable(flat, status, reason)
            if self.lines is not None:
                for i in [i for i, text in enumerate(reason) if text]:
                    reason[i] = f"line {self.lines[int(index_B[i])]}: {reason[i]}"
            values, divisor = flat.astype(np.float32), 1.0
        if self.channels_last:
            values = values.reshape(count, height, width, channels).transpose(0, 3, 1, 2)
        if self.own_shape != self.shape:
            if divisor not in (1, 255):
                values, divisor = values / np.float32(divisor), 1.0
            images = torch.from_numpy(values.reshape(count, channels, height, width))
            values = fit(images, self.shape).numpy()
        return unit(values.reshape(count, math.prod(self.shape)), divisor), status, reason

    def incomplete(self) -> list[int]:
        """Return the numbers of the rows in which a value is NaN, infinite or too large."""
        if self.array.dtype.kind != "f":
            return []
        rows: list[int] = []
        step = max(1, _CHUNK * len(self) // max(1, self.array.nbytes))
        for first in range(0, len(self), step):
            chunk = self.array[first : first + step]
            largest = np.abs(chunk).reshape(len(chunk), -1).max(1)
            rows += (first + np.flatnonzero(~(largest <= np.finfo(np.float32).max))).tolist()
            _release(self.array)
        return rows

    def _take(self, rows: Array) -> Array:
        """Return the rows; give the memory of a large mapped array back on the way."""
        if self.array.nbytes <= self.memory:
            return np.take(self.array, rows, axis=0)
        taken = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        row_bytes = self.array.nbytes // len(self.array) + _AROUND
        step = max(1, self.memory // (4 * row_bytes))
        for first in range(0, len(rows), step):
            taken[first : first + step] = self.array[rows[first : first + step]]
            _release(self.array)
        return taken

    def _zero_unusable(self, values_BD: Array, status: list[str], reason: list[str]) -> None:
        """Set rows that are not finite, or no pixels, to 0; write their statuses and reasons."""
        finite_B: Array = np.all(np.abs(values_BD) <= np.finfo(np.float32).max, axis=1)
        usable_B: Array = finite_B
        if self.pixels:
            with np.errstate(invalid="ignore"):
                inside_BD: Array = (values_BD >= -TOLERANCE) & (values_BD <= 1 + TOLERANCE)
            usable_B = np.all(inside_BD, axis=1)
        for i in np.flatnonzero(~usable_B).tolist():
            row = values_BD[i]
            if finite_B[i]:
                status[i] = "unreadable"
                reason[i] = self._outside(row)
            else:
                bad = int((~np.isfinite(row.astype(np.float32))).sum())
                status[i] = "nonfinite"
                reason[i] = f"{bad} of {len(row)} values are NaN or infinite"
            values_BD[i] = 0
        if self.pixels:
            np.clip(values_BD, 0, 1, out=values_BD)

    def _outside(self, row_D: Array) -> str:
        black, scale = (self.black, self.divisor) if self.is_given else (0.0, 1.0)
        low, high = (float(value) * scale + black for value in (row_D.min(), row_D.max()))
        return f"values from {low:.4g} to {high:.4g}, outside [{black:g}, {black + scale:g}]"

    def digest(self) -> bytes:
        """Return a hash of the bytes; of 4096 rows spread evenly where the array is very large."""
        hashed = hashlib.sha256(repr((self.array.shape, self.own_shape, self.divisor)).encode())
        if self.is_given:
            hashed.update(repr((self.black, self.divisor)).encode())
        for chunk in _chunks(self.array, 4096):
            hashed.update(np.ascontiguousarray(chunk).data)
        return hashed.digest()


def _chunks(array: Array, rows: int) -> Iterator[Array]:
    """Yield the array in chunks, or `rows` evenly spread rows of a very large one."""
    if array.nbytes > _WHOLE:
        for i in np.linspace(0, len(array) - 1, rows).astype(int):
            yield array[i : i + 1]
    else:
        step = max(1, _CHUNK * len(array) // max(1, array.nbytes))
        for first in range(0, len(array), step):
            yield array[first : first + step]
            _release(array)


def _release(array: Array) -> None:
    """Give back the memory that a mapped array's pages have taken; they are read again on use."""
    mapped: mmap.mmap | None = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def in_native_order(array: Array) -> Array:
    """Return the array in this machine's byte order, the only one that torch reads."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def images_of(
    array: Array,
    name: str,
    request: DataRequest,
    *,
    labels: Array | None = None,
    classes: Sequence[str] | None = None,
    divisor: float | None = None,
) -> Images:
    """Return the images of an array, whose axes and range of values are found from the array.

    Args:
        array: (N, H, W), (N, H, W, C), (N, C, H, W), (N, D), or a single image.
        labels: one label for every image.
        classes: the names of labels that are numbers.
        divisor: divides the values. Without it `range_of` finds their range; bool is 0 or 1.

    Raises:
        DataError: the array holds no images, or values that are no pixels.
    """
    require_numbers(array.dtype, request)
    array, own_shape, channels_last = _images_first(array, request)
    if not array.size:
        raise DataError(f"{request.source}: holds no images (shape {tuple(array.shape)})")
    numbers, names, notes = labels_of(labels, classes, len(array), request)
    array = array[: request.limit]
    if array.dtype.kind == "b":
        # 8 bits hold a mask of 0 and 1 as well.
        array, divisor = array.astype(np.uint8), 1.0
    shape = request.shape_of_image(own_shape)
    found = Range(0, divisor) if divisor else range_of(array, _chunks(array, 4096), request)
    _release(array)
    is_given = not divisor and request.value_range is not None
    store = ArrayStore(
        *(array, name, own_shape, channels_last, float(found.white - found.black), shape),
        memory=request.memory,
        black=float(found.black),
        is_given=is_given,
    )
    words = request.values_in_words if is_given else {}
    return Images(
        name,
        request.source,
        store,
        labels=numbers,
        classes=names,
        preprocessing={**preprocessing_of({own_shape}, shape), **words},
        notes=(*notes, *found.notes),
    )


def require_numbers(dtype: np.dtype[Any], request: DataRequest) -> None:
    """Raise DataError if an array of this type holds anything but real numbers."""
    if dtype.kind not in "buif":
        raise DataError(f"{request.source}: holds {dtype}, not numbers")


def require_layout(dims: tuple[int, ...], dtype: np.dtype[Any], request: DataRequest) -> None:
    """Raise DataError if `images_of` would refuse an array for its shape or type.

    The array itself need not be read yet.
    """
    if request.like_scale is not None:
        return
    require_numbers(dtype, request)
    without_memory = np.broadcast_to(np.zeros((), dtype), dims)
    request.shape_of_image(_images_first(without_memory, request)[1])


def _images_first(array: Array, request: DataRequest) -> tuple[Array, Shape, bool]:
    """Return the array with its images first, the shape of one, and whether channels come last."""
    size = request.size if request.like is None else request.like[1:]
    channels = request.channels if request.like is None else request.like[0]
    dims = array.shape
    is_single = array.ndim == 1
    if array.ndim == 2:
        is_single = size is not None and size[0] > 1 and dims == tuple(size)
    elif array.ndim == 3:
        # No image is 3 pixels wide; and a colour model is shown one image rather than 3 grey ones.
        is_single = (dims[2] == 3 and min(dims[:2]) > 3) or (dims[0] == 3 and channels == 3)
    if is_single:
        array = array[None]
    dims = array.shape
    if array.ndim == 2:
        return array, request.shape_of_row(dims[1]), False
    if array.ndim == 3:
        return array, (1, dims[1], dims[2]), False
    if array.ndim == 4 and dims[1] in (1, 3):
        return array, (dims[1], dims[2], dims[3]), False
    if array.ndim == 4 and dims[3] in (1, 3):
        return array, (dims[3], dims[1], dims[2]), True
    raise DataError(
        f"{request.source}: an array of shape {tuple(dims)} holds no images",
        "Expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, or (N, D)",
    )
