"""Images made unusual: each shift changes every image of a table in one known way.

A shifted table is read row by row like any other. What a row becomes depends on the row, its place
in the table and the seed alone, so it is the same in any batch and order. A new shift is one
function and one row in `SHIFTS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcgen.data.images import Images, Shape, Store
from pcgen.data.vision import blurred
from pcgen.device import generator
from pcgen.errors import DataError

Shift = Callable[[Tensor, Tensor, int], Tensor]
"""Images (B, C, H, W) in [0, 1], their numbers (B,) and the seed, to images of the same shape."""

BLUR = 2.0
"""Standard deviation of the blur, in pixels of a 28x28 image; in proportion for other sizes."""
CONTRAST = 0.3
"""Share of an image's contrast around its mean that low contrast leaves."""


def hflip(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images mirrored left to right."""
    return pixels.flip(3)


def vflip(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images upside down."""
    return pixels.flip(2)


def rot90(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images a quarter turn counterclockwise; they must be square."""
    return pixels.rot90(1, (2, 3))


def negative(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return one minus the pixels."""
    return 1 - pixels


def constant(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return images of a single value, uniform in [0, 1), drawn for each channel of each."""
    return _uniform(pixels.shape[1], numbers_B, seed, "constant")[..., None, None].expand_as(pixels)


def noise(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return pixels uniform in [0, 1), drawn for each image."""
    return _uniform(pixels[0].numel(), numbers_B, seed, "noise").reshape(pixels.shape)


def shuffle(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images with their pixels in one random order, the same for all of them."""
    places = torch.randperm(pixels[0, 0].numel(), generator=generator(seed, "shuffle"))
    return pixels.flatten(2)[..., places].reshape(pixels.shape)


def blur(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images under a Gaussian blur of `BLUR` pixels."""
    return blurred(pixels, BLUR * min(pixels.shape[2:]) / 28)


def low_contrast(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images with `CONTRAST` of their deviations from their own mean."""
    mean = pixels.mean((2, 3), keepdim=True)
    return mean + CONTRAST * (pixels - mean)


SHIFTS: dict[str, Shift] = {
    "hflip": hflip,
    "vflip": vflip,
    "rot90": rot90,
    "negative": negative,
    "constant": constant,
    "noise": noise,
    "shuffle": shuffle,
    "blur": blur,
    "low-contrast": low_contrast,
}


@dataclass(frozen=True, slots=True)
class _Changed:
    """A table whose rows are changed as they are read: as many, of the same shape and names."""

    images: Images

    @property
    def shape(self) -> Shape:
        """Return channels, height, width of every row."""
        return self.images.shape

    def __len__(self) -> int:
        return len(self.images)

    def id(self, row: int) -> str:
        """Return the row's own name."""
        return self.images.id(row)


@dataclass(frozen=True, slots=True)
class ShiftedStore(_Changed):
    """Rows of a table, shifted as they are read; rows that cannot be read stay as they are."""

    name: str
    seed: int

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        """Return pixels (B, D), statuses and reasons."""
        rows = self.images.rows(index_B)
        pixels_BD, ok_B = rows.pixels_BD.clone(), rows.ok
        if bool(ok_B.any()):
            maps = pixels_BD[ok_B].reshape(-1, *self.shape)
            shifted = SHIFTS[self.name](maps, index_B[ok_B], self.seed)
            pixels_BD[ok_B] = shifted.reshape(len(maps), -1).clamp(0, 1)
        return pixels_BD, rows.status, rows.reason

    def digest(self) -> bytes:
        """Return a hash of the table's content and of the shift."""
        return _digest(self.images.fingerprint(), self.name, self.seed)


def shifted(images: Images, name: str, seed: int = 0) -> Images:
    """Return images under a shift of `SHIFTS`.

    Raises:
        DataError: an unknown shift, a table of numbers, or a quarter turn of what is not square.
    """
    if name not in SHIFTS:
        raise DataError(f"{name}: no such shift", f"There are: {', '.join(SHIFTS)}")
    if images.is_table:
        raise DataError(f"{images.source}: holds a table of numbers; a shift takes images")
    if name == "rot90" and images.shape[1] != images.shape[2]:
        raise DataError(f"{images.source}: a quarter turn takes square images")
    return _wrapped(images, ShiftedStore(images, name, seed), name)


@dataclass(frozen=True, slots=True)
class MatchedStore(_Changed):
    """Rows of a table, each with the pixel values of a row of another table.

    The brightest pixel gets the other row's largest value, and so on down to the darkest: what is
    where stays, how much of each value there is becomes the other's. Both are of one shape.
    """

    like: Images
    seed: int

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        """Return pixels (B, D), statuses and reasons."""
        source = generator(self.seed, "match")
        partners = torch.randint(len(self.like), (len(self.images),), generator=source)
        rows, others = self.images.rows(index_B), self.like.rows(partners[index_B])
        status, reason = list(rows.status), list(rows.reason)
        for i, other in enumerate(others.status):
            if status[i] == "ok" and other != "ok":
                status[i], reason[i] = other, f"its partner: {others.reason[i]}"
        values_BD = others.pixels_BD.sort(1).values
        # Equal pixels, as a black ground, take their values in the order of their places.
        ranks_BD = rows.pixels_BD.argsort(dim=1, stable=True).argsort(1)
        matched_BD = values_BD.gather(1, ranks_BD)
        usable_B = torch.tensor([word == "ok" for word in status])
        return torch.where(usable_B[:, None], matched_BD, 0.0), status, reason

    def digest(self) -> bytes:
        """Return a hash of both tables' content."""
        return _digest(self.images.fingerprint(), self.like.fingerprint(), self.seed)


def intensity_matched(images: Images, like: Images, seed: int = 0) -> Images:
    """Return images, each with the pixel values of a random image of another table.

    No score that looks at brightness alone can tell them from the other table's.

    Raises:
        DataError: tables of numbers, or images of different shapes.
    """
    if images.is_table or like.is_table:
        raise DataError(f"{images.source}: matching takes images, not a table of numbers")
    if images.shape != like.shape:
        raise DataError(
            f"{images.source}: images of {images.shape} cannot match {like.source}'s {like.shape}"
        )
    return _wrapped(images, MatchedStore(images, like, seed), f"matched to {like.source}")


def of_label(images: Images, label: int) -> tuple[Images, Images]:
    """Return the images of a label, and all others, whose labels have no gap.

    Raises:
        DataError: images without labels, or none of this label or of another.
    """
    if images.labels is None:
        raise DataError(f"{images.source}: has no labels, so none can be left out")
    chosen = images.labels == label
    if not bool(chosen.any()) or bool(chosen.all()):
        raise DataError(f"{images.source}: label {label} is not one of several there")
    own, others = chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)
    rest, classes = images.subset(others), images.classes
    assert rest.labels is not None
    closed = rest.labels - (rest.labels > label).to(rest.labels.dtype)
    names = None if classes is None else [*classes[:label], *classes[label + 1 :]]
    return images.subset(own), replace(rest, labels=closed, classes=names)


def _wrapped(images: Images, store: Store, words: str) -> Images:
    done = {**images.preprocessing, "shift": words}
    return replace(images, store=store, index=None, name=words, preprocessing=done)


def _uniform(count: int, numbers_B: Tensor, seed: int, purpose: str) -> Tensor:
    """Return (B, count) of [0, 1), a row for each number whatever stands beside it."""
    sources = (generator(seed, purpose, int(number)) for number in numbers_B)
    return torch.stack([torch.rand(count, generator=source) for source in sources])


def _digest(*parts: str | int) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()
