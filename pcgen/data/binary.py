"""Pixels as black or white: 1 above a threshold, else 0."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from torch import Tensor

from pcgen.data.images import Images, Shape, Store


@dataclass(frozen=True, slots=True)
class Binary:
    """A store whose pixels are compared with a threshold."""

    store: Store
    threshold: float

    @property
    def shape(self) -> Shape:
        return self.store.shape

    def __len__(self) -> int:
        return len(self.store)

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        pixels_BD, status, reason = self.store.read(index_B)
        return (pixels_BD > self.threshold).to(pixels_BD), status, reason

    def id(self, row: int) -> str:
        return self.store.id(row)

    def digest(self) -> bytes:
        return hashlib.sha256(self.store.digest() + str(self.threshold).encode()).digest()


def binarised(images: Images, threshold: float) -> Images:
    """Return the images with pixels of 0 and 1."""
    preprocessing = {**images.preprocessing, "pixels": f"1 above {threshold:g}, else 0"}
    return replace(images, store=Binary(images.store, threshold), preprocessing=preprocessing)
