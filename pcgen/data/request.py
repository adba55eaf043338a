"""The rules by which data are opened, as one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcgen.data.images import Shape
from pcgen.errors import DataError


@dataclass(frozen=True, slots=True)
class DataRequest:
    """The arguments of `open_data`, which explains them.

    Attributes:
        source: the name of the data in messages.
    """

    source: str
    limit: int | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    like: Shape | None = None
    like_scale: Sequence[Any] | None = None
    memory: int = 2**30
    native_size: tuple[int, int] | None = None
    columns: Sequence[str] | None = None
    threshold: float | None = None
    labels: str | None = None
    value_range: tuple[float, float] | None = None
    by_class: bool = False

    @property
    def values_in_words(self) -> dict[str, str]:
        """Return how the user's range changes the numbers; empty without one."""
        if self.value_range is None:
            return {}
        return {"values": "{:g} is 0, {:g} is 1".format(*self.value_range)}

    @property
    def row_width(self) -> int | None:
        """Return the length of the model's rows where it takes plain numbers, else None."""
        return self.like[2] if self.like is not None and self.like[:2] == (1, 1) else None

    def refusal_of_size(self, height: int, width: int) -> str:
        """Return why an image of this own size is refused; empty if it is not."""
        if self.native_size is None or self.native_size == (height, width):
            return ""
        return "is {}x{}, must be {}x{}".format(height, width, *self.native_size)

    def shape_of_image(self, own: Shape) -> Shape:
        """Return the shape that images of their own shape `own` are brought to.

        Raises:
            DataError: the model takes rows of another length, or images of another size.
        """
        if self.row_width is not None and self.row_width != math.prod(own):
            words = "x".join(map(str, own))
            raise DataError(
                f"{self.source}: images of {words}, the model takes rows of {self.row_width} "
                "numbers"
            )
        if refusal := self.refusal_of_size(*own[1:]):
            raise DataError(f"{self.source}: {refusal}")
        if self.row_width is not None:
            return own
        return self.like or (self.channels or own[0], *(self.size or own[1:]))

    def shape_of_row(self, width: int) -> Shape:
        """Return the shape of the image that a row of `width` numbers holds.

        Raises:
            DataError: the shape asked for has another number of pixels.
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
