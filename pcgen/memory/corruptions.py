"""Corruptions: they turn images into cues, from which a memory restores the whole images.

A cue has pixels and a mask of the visible ones. Random numbers depend on the seed and the image's
number alone, not on the batch.

    noise:S           add normal noise of standard deviation S, without clipping
    mask:bottom       hide the bottom half; also top, left, right
    mask:P%           hide P percent of the pixels in all channels, chosen anew for each image
    mask:FILE         hide the dark pixels (below 0.5) of a picture of the images' size
    occlude:K         hide K rectangles; each side is 1/8 to 3/8 of the image's
    none              use the images as cues, unchanged
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pcgen.data.images import Shape
from pcgen.device import generator
from pcgen.errors import DataError

_HALVES = ("bottom", "top", "left", "right")
_KNOWN = "noise:S, mask:bottom, mask:75%, mask:FILE, occlude:K, none"
# Sides of an occluder, as shares of the image's.
_LEAST_SIDE, _LARGEST_SIDE = 0.125, 0.375


@dataclass(slots=True)
class Cues:
    """Damaged images.

    Attributes:
        pixels_BD: C H W flattened; 0 where hidden.
        visible_BD: which pixels are visible, bool.
        noise: standard deviation of the noise in the visible pixels.
    """

    pixels_BD: Tensor
    visible_BD: Tensor
    noise: float


Draw = Callable[[Shape, torch.Generator], Tensor]
"""Returns which pixels (H, W) of one image are visible."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """Masks and noise for images.

    Attributes:
        words: as the user wrote them.
        noise: standard deviation.
        draws: masks; a pixel is visible if it is visible in every mask.
    """

    words: tuple[str, ...]
    noise: float
    draws: tuple[Draw, ...]

    def cues(self, images_BD: Tensor, numbers: Sequence[int], shape: Shape, seed: int) -> Cues:
        """Return the cues of images.

        Args:
            numbers: the number of each image in its data, for its random numbers.

        Raises:
            DataError: an image with no visible pixel.
        """
        visible_BD = torch.ones_like(images_BD, dtype=torch.bool)
        pixels_BD = images_BD.clone()
        for i, number in enumerate(numbers):
            source = generator(seed, "corruption", number)
            for draw in self.draws:
                visible_BD[i] &= draw(shape, source).expand(shape).reshape(-1)
            if self.noise:
                noise_D = torch.randn(images_BD.shape[1], generator=source)
                pixels_BD[i] += self.noise * noise_D.to(pixels_BD)
        blind = (~visible_BD).all(1).nonzero().squeeze(1)
        if len(blind):
            raise DataError(
                f"--corrupt {' '.join(self.words)}: hides every pixel of image "
                f"{numbers[int(blind[0])]}, so nothing is left to recall it from"
            )
        return Cues(pixels_BD.where(visible_BD, 0.0), visible_BD, self.noise)


def corruption_of(words: Sequence[str], shape: Shape) -> Corruption:
    """Return the corruption that words describe, for images of a shape.

    Raises:
        DataError: an unknown word, a value out of range, or a mask of another size.

    Example:
        >>> from pcgen.memory.corruptions import corruption_of
        >>> corruption_of(["mask:bottom", "noise:0.1"], (1, 8, 8)).noise
        0.1
    """
    variance = 0.0
    draws: list[Draw] = []
    for word in words:
        kind, _, value = word.partition(":")
        if kind == "noise":
            variance += _number(word, value, 1e6) ** 2
        elif kind == "mask":
            draws.append(_mask(word, value, shape))
        elif kind == "occlude":
            draws.append(_occluders(int(_number(word, value, 1e4, whole=True))))
        elif word != "none":
            raise DataError(f"--corrupt {word}: no such corruption", f"There are: {_KNOWN}")
    if draws and shape[1] == 1:
        raise DataError(
            f"--corrupt {' '.join(words)}: masks are for images, not for rows of numbers"
        )
    return Corruption(tuple(words), variance**0.5, tuple(draws))


def _number(word: str, value: str, largest: float, *, whole: bool = False) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 < number <= largest or (whole and number != int(number)):
        kind = "a whole number" if whole else "a number"
        raise DataError(
            f"--corrupt {word}: {value!r} is not {kind} above 0", f"For example {_KNOWN}"
        )
    return number


def _mask(word: str, value: str, shape: Shape) -> Draw:
    if value in _HALVES:
        visible_HW = half(value, shape)
        return lambda shape, source: visible_HW
    if value.endswith("%"):
        share = _number(word, value[:-1], 100) / 100
        hidden = round(share * shape[1] * shape[2])
        return lambda shape, source: _share(hidden, shape, source)
    visible_HW = _picture(word, value, shape)
    return lambda shape, source: visible_HW


def half(side: str, shape: Shape) -> Tensor:
    """Return which pixels (H, W) are visible if the bottom, top, left or right half is hidden."""
    visible_HW = torch.ones(shape[1:], dtype=torch.bool)
    middle_y, middle_x = shape[1] // 2, shape[2] // 2
    rows = {"bottom": slice(middle_y, None), "top": slice(middle_y)}.get(side, slice(None))
    columns = {"right": slice(middle_x, None), "left": slice(middle_x)}.get(side, slice(None))
    visible_HW[rows, columns] = False
    return visible_HW


def _share(hidden: int, shape: Shape, source: torch.Generator) -> Tensor:
    order = torch.randperm(shape[1] * shape[2], generator=source)
    return (order >= hidden).reshape(shape[1:])


def _picture(word: str, value: str, shape: Shape) -> Tensor:
    from pcgen.data.decode import MAX_BYTES, decode
    from pcgen.data.reading import UnreadableError, read_bytes

    try:
        pixels_CHW = decode(read_bytes(Path(value), MAX_BYTES))
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise DataError(f"--corrupt {word}: {value}: {reason}", f"There are: {_KNOWN}") from None
    except UnreadableError as error:
        raise DataError(f"--corrupt {word}: {value}: {error}") from None
    if tuple(pixels_CHW.shape[1:]) != shape[1:]:
        mask, image = ("x".join(map(str, s)) for s in (pixels_CHW.shape[1:], shape[1:]))
        raise DataError(f"--corrupt {word}: the mask is {mask}, the model's images are {image}")
    return pixels_CHW.float().mean(0) >= 127.5


def _occluders(count: int) -> Draw:
    def draw(shape: Shape, source: torch.Generator) -> Tensor:
        visible_HW = torch.ones(shape[1:], dtype=torch.bool)
        for height, width, top, left in torch.rand(count, 4, generator=source).tolist():
            rows, columns = _span(shape[1], height, top), _span(shape[2], width, left)
            visible_HW[rows, columns] = False
        return visible_HW

    return draw


def _span(side: int, length: float, place: float) -> slice:
    """Return the pixels of an occluder along a side, from its random length and place in [0, 1)."""
    share = _LEAST_SIDE + (_LARGEST_SIDE - _LEAST_SIDE) * length
    extent = max(1, round(share * side))
    first = int(place * (side - extent + 1))
    return slice(first, first + extent)
