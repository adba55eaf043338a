"""The range of an array's numbers: which of them is black, and which is white."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcgen.data.request import DataRequest
from pcgen.errors import DataError

Array = NDArray[Any]

TOLERANCE = 1e-6
"""Rounding may take pixels in [0, 1] so far out of it; they are clipped."""

# Images that are no brighter than this share of white are probably of another range.
_DARK = 0.25
_SAMPLE = 64


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that become 0 and 1.

    Attributes:
        notes: a doubt about them, if there is one.
    """

    black: float
    white: float
    notes: tuple[str, ...] = ()


def range_of(array: Array, chunks: Iterable[Array], request: DataRequest) -> Range:
    """Return the range that the user gives, else that of the array's type or of its numbers.

    It is 0 to 255 for uint8 and 0 to 65535 for uint16. For other numbers it is 0 to 1, or 0 to 255
    if all are whole numbers up to 255.

    Args:
        chunks: the whole array, or enough of it.

    Raises:
        DataError: values that are no pixels.
    """
    of_type = {"u1": (0.0, 255.0), "u2": (0.0, 65535.0)}.get(array.dtype.str[1:])
    given = request.value_range or of_type
    if given is not None:
        every = max(1, len(array) // _SAMPLE)
        low, high, _ = _extent([array[::every]])
    else:
        low, high, is_whole = _extent(chunks)
        if low > high or (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            return Range(0, 1)
        if low < -255 * TOLERANCE or high > 255 * (1 + TOLERANCE) or not is_whole:
            raise DataError(
                f"{request.source}: values from {low:.4g} to {high:.4g} are not pixels: expected "
                "0 to 1, or whole numbers 0 to 255",
                "Name black and white: --set data.range=[0,4095]; save columns that pcgen is to "
                "standardise as .csv",
            )
        given = (0.0, 255.0)
    black, white = given
    return Range(black, white, doubts(low, high, given, request.source))


def doubts(low: float, high: float, range_: tuple[float, float], source: str) -> tuple[str, ...]:
    """Return a note if images with values from `low` to `high` are almost black in a range."""
    black, white = range_
    if not 0 < high - black <= _DARK * (white - black):
        return ()
    expected = f"where {black:g} (black) to {white:g} (white) are expected"
    advice = f"if white is another number, train with --set data.range=[{black:g},{high:g}]"
    return (f"{source}: values from {low:g} to {high:g}, {expected}; {advice}",)


def _extent(chunks: Iterable[Array]) -> tuple[float, float, bool]:
    """Return the least and the largest finite number, and whether all are nearly whole."""
    low, high, is_whole = math.inf, -math.inf, True
    for chunk in chunks:
        finite = chunk[np.isfinite(chunk)] if chunk.dtype.kind == "f" else chunk
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            if chunk.dtype.kind == "f" and is_whole:
                is_whole = bool((np.abs(finite - np.rint(finite)) <= 255 * TOLERANCE).all())
    return low, high, is_whole
