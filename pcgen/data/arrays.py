"""Arrays of images, in memory or mapped from disk; only the rows asked for become floats."""

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

from pcgen.data.fit import fit, rule, unit
from pcgen.data.images import Images, Shape
from pcgen.data.request import DataRequest
from pcgen.errors import DataError

Array = NDArray[Any]

# Larger arrays are not looked at in full when their range or fingerprint is asked for; others are,
# so many bytes at a time.
_WHOLE = 2**30
_CHUNK = 2**24
# With a byte that is touched a system maps up to so many around it.
_AROUND = 2**21


@dataclass(frozen=True, slots=True)
class ArrayStore:
    """Rows of an array.

    Attributes:
        array: (N, ...) of numbers.
        name: what a row is called, before its number.
        native: the shape of a row in the array, its channels first or last.
        channels_last: whether the array has H W C instead of C H W.
        divisor: what the array's numbers are divided by to be in [0, 1].
        shape: what rows are brought to.
        pixels: whether values must be in [0, 1]; a table's need not be.
        memory: bytes of an array mapped from disk that may stay in memory.
    """

    array: Array
    name: str
    native: Shape
    channels_last: bool
    divisor: float
    shape: Shape
    pixels: bool = True
    memory: int = 2**30

    def __len__(self) -> int:
        return len(self.array)

    def id(self, row: int) -> str:
        """Return FILE[17]."""
        return f"{self.name}[{row}]"

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        """Return pixels (B, D), statuses and reasons."""
        taken = self._take(index_B.numpy())
        count, channels, height, width = len(taken), *self.native
        status, reason = ["ok"] * count, [""] * count
        if taken.dtype == np.uint8:
            divisor = self.divisor
        else:
            # In float64, so that a number too large for float32 is seen to be so.
            flat = taken.reshape(count, channels * height * width).astype(np.float64)
            flat /= self.divisor
            self._judge(flat, status, reason)
            taken, divisor = flat.astype(np.float32), 1.0
        if self.channels_last:
            taken = taken.reshape(count, height, width, channels).transpose(0, 3, 1, 2)
        if self.native != self.shape:
            if divisor not in (1, 255):
                taken, divisor = taken / np.float32(divisor), 1.0
            raw = torch.from_numpy(taken.reshape(count, channels, height, width))
            taken = fit(raw, self.shape).numpy()
        return unit(taken.reshape(count, math.prod(self.shape)), divisor), status, reason

    def _take(self, rows: Array) -> Array:
        if self.array.nbytes <= self.memory:
            return np.take(self.array, rows, axis=0)
        taken = np.empty((len(rows), *self.array.shape[1:]), self.array.dtype)
        row = self.array.nbytes // len(self.array) + _AROUND
        step = max(1, self.memory // (4 * row))
        for first in range(0, len(rows), step):
            taken[first : first + step] = self.array[rows[first : first + step]]
            _release(self.array)
        return taken

    def _judge(self, values_BD: Array, status: list[str], reason: list[str]) -> None:
        """Say which rows cannot be used, and set those to zeros."""
        finite_B: Array = np.all(np.abs(values_BD) <= np.finfo(np.float32).max, axis=1)
        good_B = finite_B
        if self.pixels:
            with np.errstate(invalid="ignore"):
                good_B = finite_B & (values_BD >= 0).all(1) & (values_BD <= 1).all(1)
        for i in np.flatnonzero(~good_B).tolist():
            row = values_BD[i]
            if finite_B[i]:
                status[i] = "unreadable"
                reason[i] = f"values from {row.min():.4g} to {row.max():.4g}, outside [0, 1]"
            else:
                bad = int((~np.isfinite(row.astype(np.float32))).sum())
                status[i] = "nonfinite"
                reason[i] = f"{bad} of {len(row)} values are NaN or infinite"
            values_BD[i] = 0

    def digest(self) -> bytes:
        """Return a hash of the bytes; of 4096 rows spread evenly where the array is very large."""
        hashed = hashlib.sha256(repr((self.array.shape, self.native, self.divisor)).encode())
        for part in _parts(self.array, 4096):
            hashed.update(np.ascontiguousarray(part).data)
        return hashed.digest()


def _parts(array: Array, rows: int) -> Iterator[Array]:
    """Yield the array in parts, or some evenly spread rows of a very large one."""
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
    """Return the images of an array; their layout and range are found from the array.

    Args:
        array: (N, H, W), (N, H, W, C), (N, C, H, W), (N, D), or a single image.
        labels: one for every image.
        divisor: of the values; None finds it: 255 for uint8, 65535 for uint16, 1 for bool, and for
            other numbers 1, or 255 where all are whole numbers up to 255.

    Raises:
        DataError: an array that holds no images, or values that are no pixels.
    """
    if array.dtype.kind not in "buif":
        raise DataError(f"{request.source}: holds {array.dtype}, not numbers")
    array, native, channels_last = _layout(array, request)
    if not array.size:
        raise DataError(f"{request.source}: holds no images (shape {tuple(array.shape)})")
    found = None if labels is None else as_labels(labels, len(array), request.source)
    array = array[: request.limit]
    if array.dtype.kind == "b":
        # A mask is 0 or 1, which 8 bits hold as well.
        array, divisor = array.astype(np.uint8), 1.0
    shape = request.shape_of_image(native)
    divisor = divisor or _divisor(array, request.source)
    store = ArrayStore(array, name, native, channels_last, divisor, shape, memory=request.memory)
    return Images(
        name,
        request.source,
        store,
        labels=None if found is None else found[0][: request.limit],
        classes=list(classes) if classes else None if found is None else found[1],
        preprocessing=rule({native}, shape),
    )


def _layout(array: Array, request: DataRequest) -> tuple[Array, Shape, bool]:
    """Return the array with its rows first, the shape of a row, and whether channels come last."""
    size = request.size if request.like is None else request.like[1:]
    dims = array.shape
    if array.ndim == 2 and size and size[0] > 1 and dims == tuple(size):
        array = array[None]  # a single grey image
    elif array.ndim == 3 and dims[2] == 3 and min(dims[:2]) > 3:
        array = array[None]  # a single colour image: no image is 3 pixels wide
    elif array.ndim == 3 and dims[0] == 3 and request.like is not None and request.like[0] == 3:
        array = array[None]  # for a colour model, a single colour image, not three grey ones
    elif array.ndim == 1:
        array = array[None]  # a single row
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
        f"{request.source}: shape {tuple(dims)} is not one of images",
        "Expected (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, or (N, D)",
    )


def _divisor(array: Array, name: str) -> float:
    """Return what brings the values to [0, 1].

    Raises:
        DataError: values that are no pixels.
    """
    if array.dtype == np.uint8:
        return 255.0
    if array.dtype == np.uint16:
        return 65535.0
    low, high, whole = math.inf, -math.inf, True
    for part in _parts(array, 4096):
        finite = part[np.isfinite(part)] if part.dtype.kind == "f" else part
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            whole = whole and bool((finite == np.trunc(finite)).all())
    if low > high or (low >= 0 and high <= 1):
        return 1.0
    if low >= 0 and high <= 255 and whole:
        return 255.0
    raise DataError(
        f"{name}: values from {low:.4g} to {high:.4g} are not pixels: expected 0 to 1, or whole "
        "numbers 0 to 255",
        "Rescale the array; for columns that are to be standardised, save it as .csv",
    )


def as_labels(values: Array, count: int, name: str) -> tuple[Tensor, list[str] | None]:
    """Return labels (N,) as int64 and, where they are words, the classes they stand for.

    Raises:
        DataError: not one label for every row.
    """
    values = values.reshape(-1) if values.size == count else values
    if values.shape != (count,):
        raise DataError(f"{name}: {len(values)} labels for {count} rows")
    if values.dtype.kind in "biu" or (
        values.dtype.kind == "f" and bool((values == np.trunc(values)).all())
    ):
        return torch.from_numpy(values.astype(np.int64)), None
    if values.dtype.kind == "f":
        raise DataError(f"{name}: labels must be whole numbers or words")
    classes, numbers = np.unique(values.astype(str), return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), classes.tolist()
