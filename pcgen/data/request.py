"""What data are to be brought to: what `open_data` was asked for, as one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcgen.data.images import Shape
from pcgen.errors import DataError


def must_be(found: Shape, native: Shape) -> str:
    """Return why an image's own shape will not do."""
    kinds = {1: "grey", 3: "coloured"}
    is_a, must = (
        f"{height}x{width} {kinds.get(channels, channels)}"
        for channels, height, width in (found, native)
    )
    return f"is {is_a}, must be {must}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `open_data` was asked for; its arguments are explained there."""

    source: str
    limit: int | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    like: Shape | None = None
    like_scale: Sequence[Any] | None = None
    memory: int = 2**30
    native: Shape | None = None
    columns: Sequence[str] | None = None

    @property
    def rows_of(self) -> int | None:
        """Return how many plain numbers a model takes that knows no height and width."""
        return self.like[2] if self.like is not None and self.like[:2] == (1, 1) else None

    def shape_of_image(self, native: Shape) -> Shape:
        """Return what an image of a known shape is brought to.

        Raises:
            DataError: the model takes plain numbers, and not as many as the image has.
        """
        if self.rows_of is not None and self.rows_of != math.prod(native):
            words = "x".join(map(str, native))
            raise DataError(
                f"{self.source}: images of {words}, the model takes rows of {self.rows_of} numbers"
            )
        if self.native is not None and native != self.native:
            raise DataError(f"{self.source}: {must_be(native, self.native)}")
        if self.rows_of is not None:
            return native
        return self.like or (self.channels or native[0], *(self.size or native[1:]))

    def shape_of_row(self, width: int) -> Shape:
        """Return which shape plain numbers have as an image.

        Raises:
            DataError: another number than the shape asked for has.
        """
        if self.like is None and self.size is None:
            return (1, 1, width)
        if self.like is not None:
            shape = self.like
        else:
            assert self.size is not None
            shape = (self.channels or max(1, width // math.prod(self.size)), *self.size)
        if math.prod(shape) != width or shape[0] not in (1, 3):
            words = "x".join(map(str, shape))
            raise DataError(f"{self.source}: rows of {width} numbers do not make images of {words}")
        return shape
