"""Shifts: images made unusual, each shift in one known way.

A shifted table is read row by row like any other. A shifted row depends on the row, its number and
the seed alone, so it is the same in every batch and order. A new shift is one function and one
entry of `SHIFTS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcgen.data.images import ChangedStore, Images, Store
from pcgen.data.vision import blurred
from pcgen.device import generator
from pcgen.errors import DataError

Shift = Callable[[Tensor, Tensor, int], Tensor]
"""Takes images (B, C, H, W) in [0, 1], their row numbers (B,) and the seed; returns images."""

BLUR = 2.0
"""Standard deviation of the blur in pixels of a 28x28 image; it grows with the image's size."""
CONTRAST = 0.3
"""Share of each pixel's distance from the image's mean that low contrast keeps."""


def constant(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return images of one value for each channel, drawn uniformly from [0, 1) for each image."""
    return _uniform(pixels.shape[1], numbers_B, seed, "constant")[..., None, None].expand_as(pixels)


def noise(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return pixels drawn uniformly from [0, 1) for each image."""
    return _uniform(pixels[0].numel(), numbers_B, seed, "noise").reshape(pixels.shape)


def shuffle(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images with their pixels in one random order, the same for all images."""
    places = torch.randperm(pixels[0, 0].numel(), generator=generator(seed, "shuffle"))
    return pixels.flatten(2)[..., places].reshape(pixels.shape)


def blur(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images under a Gaussian blur of `BLUR` pixels."""
    return blurred(pixels, BLUR * min(pixels.shape[2:]) / 28)


def low_contrast(pixels: Tensor, numbers_B: Tensor, seed: int) -> Tensor:
    """Return the images with each pixel moved towards the image's own mean."""
    mean = pixels.mean((2, 3), keepdim=True)
    return mean + CONTRAST * (pixels - mean)


SHIFTS: dict[str, Shift] = {
    "hflip": lambda pixels, numbers_B, seed: pixels.flip(3),  # left to right
    "vflip": lambda pixels, numbers_B, seed: pixels.flip(2),  # upside down
    # A quarter turn counterclockwise; the images must be square.
    "rot90": lambda pixels, numbers_B, seed: pixels.rot90(1, (2, 3)),
    "negative": lambda pixels, numbers_B, seed: 1 - pixels,
    "constant": constant,
    "noise": noise,
    "shuffle": shuffle,
    "blur": blur,
    "low-contrast": low_contrast,
}


@dataclass(frozen=True, slots=True)
class ShiftedStore(ChangedStore):
    """Rows of a table, shifted as they are read; rows that cannot be read stay as they are."""

    base: Images
    name: str
    seed: int

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        rows = self.base.rows(index_B)
        pixels_BD, ok_B = rows.pixels_BD.clone(), rows.ok
        if bool(ok_B.any()):
            images = pixels_BD[ok_B].reshape(-1, *self.shape)
            shifted = SHIFTS[self.name](images, index_B[ok_B], self.seed)
            pixels_BD[ok_B] = shifted.reshape(len(images), -1).clamp(0, 1)
        return pixels_BD, rows.status, rows.reason

    def digest(self) -> bytes:
        return _digest(self.base.fingerprint(), self.name, self.seed)


def shifted(images: Images, name: str, seed: int = 0) -> Images:
    """Return images under a shift of `SHIFTS`.

    Raises:
        DataError: an unknown shift, a table of numbers, or a quarter turn of images that are not
            square.
    """
    if name not in SHIFTS:
        raise DataError(f"{name}: no such shift", f"Known shifts: {', '.join(SHIFTS)}")
    if images.is_table:
        raise DataError(f"{images.source}: holds a table of numbers; a shift takes images")
    if name == "rot90" and images.shape[1] != images.shape[2]:
        raise DataError(f"{images.source}: a quarter turn takes square images")
    return _wrapped(images, ShiftedStore(images, name, seed), name)


@dataclass(frozen=True, slots=True)
class MatchedStore(ChangedStore):
    """Rows of a table, each with the pixel values of a random row of another table.

    The brightest pixel gets the largest value of the other row, and so on down to the darkest. So a
    row keeps its forms and gets the histogram of the other row.
    """

    base: Images
    like: Images
    seed: int

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        source = generator(self.seed, "match")
        partners = torch.randint(len(self.like), (len(self.base),), generator=source)
        rows, others = self.base.rows(index_B), self.like.rows(partners[index_B])
        status, reason = list(rows.status), list(rows.reason)
        for i, other in enumerate(others.status):
            if status[i] == "ok" and other != "ok":
                status[i], reason[i] = other, f"its partner: {others.reason[i]}"
        values_BD = others.pixels_BD.sort(1).values
        # Equal pixels, as a black ground, take their values in the order of their places.
        ranks_BD = rows.pixels_BD.argsort(dim=1, stable=True).argsort(1)
        matched_BD = values_BD.gather(1, ranks_BD)
        usable_B = torch.tensor([value == "ok" for value in status])
        return torch.where(usable_B[:, None], matched_BD, 0.0), status, reason

    def digest(self) -> bytes:
        return _digest(self.base.fingerprint(), self.like.fingerprint(), self.seed)


def intensity_matched(images: Images, like: Images, seed: int = 0) -> Images:
    """Return images, each with the pixel values of a random image of another table.

    A score that uses brightness alone cannot tell them from the images of the other table.

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
    """Return the images of a label, and all others with their labels renumbered without a gap.

    Raises:
        DataError: the images have no labels, or none has this label, or all have.
    """
    if images.labels is None:
        raise DataError(f"{images.source}: has no labels, so no class can be left out")
    chosen = images.labels == label
    if not bool(chosen.any()) or bool(chosen.all()):
        raise DataError(f"{images.source}: label {label} is not one of several labels in it")
    own, others = chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)
    rest, classes = images.subset(others), images.classes
    assert rest.labels is not None
    renumbered = rest.labels - (rest.labels > label).to(rest.labels.dtype)
    names = None if classes is None else [*classes[:label], *classes[label + 1 :]]
    return images.subset(own), replace(rest, labels=renumbered, classes=names)


def _wrapped(images: Images, store: Store, words: str) -> Images:
    preprocessing = {**images.preprocessing, "shift": words}
    return replace(images, store=store, index=None, name=words, preprocessing=preprocessing)


def _uniform(count: int, numbers_B: Tensor, seed: int, purpose: str) -> Tensor:
    """Return numbers (B, count) in [0, 1); a row depends on its own number and the seed alone."""
    sources = (generator(seed, purpose, int(number)) for number in numbers_B)
    return torch.stack([torch.rand(count, generator=source) for source in sources])


def _digest(*parts: str | int) -> bytes:
    return hashlib.sha256("/".join(map(str, parts)).encode()).digest()
