"""Images of which a part is hidden: its pixels are NaN."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcgen.data.images import ChangedStore, Images

Visible = Callable[[Tensor, list[int]], Tensor]
"""Returns which pixels (B, D) of images (B, D) with these numbers are visible, bool."""


@dataclass(frozen=True, slots=True)
class HiddenStore(ChangedStore):
    """Rows of a table with hidden pixels; rows that cannot be read stay as they are."""

    base: Images
    name: str
    visible: Visible

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        rows = self.base.rows(index_B)
        visible_BD = self.visible(rows.pixels_BD, index_B.tolist())
        return torch.where(visible_BD, rows.pixels_BD, torch.nan), rows.status, rows.reason

    def digest(self) -> bytes:
        return hashlib.sha256(f"{self.base.fingerprint()} {self.name}".encode()).digest()


def hidden(images: Images, name: str, visible: Visible) -> Images:
    """Return images with hidden pixels.

    Args:
        name: of what is hidden, for the fingerprint.
    """
    return replace(images, store=HiddenStore(images, name, visible), index=None)
