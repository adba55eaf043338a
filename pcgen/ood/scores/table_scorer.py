"""The energies of a table's rows as scores of a detector, beside those of the trained network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.data.images import Images
from pcgen.device import generator
from pcgen.ood.scores.causes import Causes
from pcgen.ood.scores.stored import Stored
from pcgen.ood.scores.table import TableModel, fit_whole
from pcgen.ood.scoring import chosen_rows, readable_batches

TABLE_SCORES = ("table-energy", "table-mixture", "table-memory")
"""Columns: the sum of both energies, that of the mixture, and that of the memory, in nats."""

# Known rows that are kept, at most.
_MOST = 5000


@dataclass(frozen=True, slots=True)
class TableScorer:
    """The energies of a linear network with a mixture and of a memory, chosen from known rows."""

    model: TableModel

    @classmethod
    def fit(cls, images: Images) -> TableScorer:
        """Return the scorer of known rows; of more than 5,000, so many are drawn.

        Raises:
            DataError: a row cannot be read.
        """
        batches = readable_batches(images, chosen_rows(images, _MOST))
        rows_ND = torch.cat([*batches]).cpu().double()
        return cls(fit_whole(rows_ND, generator(0, "table")))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the score columns."""
        return TABLE_SCORES

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return the energies (B,) in nats."""
        found = self.model.energies(data_BD.cpu().double())
        parts = ("energy", "free-energy", "memory")
        return {name: found[part] for name, part in zip(TABLE_SCORES, parts, strict=True)}

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, in float64, so that a loaded scorer is the same."""
        stored = self.model.stored
        assert stored is not None
        causes = {f"causes.{name}": own for name, own in self.model.causes.tensors().items()}
        return stored.tensors() | causes

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> TableScorer:
        """Return the scorer whose `tensors()` these are."""
        own = (tensors[f"causes.{name}"] for name in ("log_weights", "means", "roots"))
        return cls(TableModel(Causes(*own), Stored.load(tensors)))
