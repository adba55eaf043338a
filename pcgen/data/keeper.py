"""The results of a command that answers image by image: a row for each, and the first pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcgen.data.images import Images, Rows


@dataclass(slots=True)
class Keeper:
    """Rows and first pictures, collected batch by batch.

    Attributes:
        images: the table that the batches come from.
        count: how many pictures are kept.
        rows: one for every input so far, in order, with its status.
        pictures: batches of the first pictures, by name.
    """

    images: Images
    count: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, list[Tensor]] = field(default_factory=dict)

    def keep(
        self, read: Rows, columns: dict[str, Tensor | list[Any]], pictures: dict[str, Tensor]
    ) -> None:
        """Add the next batch.

        Args:
            read: the batch as read, with each row's status.
            columns: values of the readable rows only.
            pictures: (B, D) of the readable rows only.
        """
        lists = [c.tolist() if isinstance(c, Tensor) else c for c in columns.values()]
        values = zip(*lists, strict=True)
        for status, reason in zip(read.status, read.reason, strict=True):
            row: dict[str, Any] = {"id": self.images.id(len(self.rows)), "status": status}
            if status == "ok":
                row |= dict(zip(columns, next(values), strict=True))
            else:
                row["reason"] = reason
            self.rows.append(row)
        for name, pixels_BD in pictures.items():
            batches = self.pictures.setdefault(name, [])
            if sum(map(len, batches)) < self.count:
                batches.append(pixels_BD[: self.count].cpu())

    def first(self, name: str) -> Tensor:
        """Return the first pictures (B, D) of this name, or none."""
        empty = torch.zeros(0, *self.images.shape).flatten(1)
        return torch.cat([empty, *self.pictures.get(name, [])])[: self.count]
