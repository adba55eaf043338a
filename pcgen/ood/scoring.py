"""Scores of new images: a column for every score, an image at a time independent of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.images import Images, Rows

BATCH = 500

Columns = dict[str, NDArray[np.float64]]


class Scorer(Protocol):
    """What gives images their scores.

    Attributes:
        names: the score columns, in order. In each, higher is more unusual.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return a column (B,) for each name, and perhaps columns that are no scores.

        What an image gets depends on itself alone.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a file must hold beside the network, by name."""


class MappingScorer(Scorer, Protocol):
    """A scorer that can also say where an image is unusual."""

    def heatmap(self, data_BD: Tensor) -> Tensor:
        """Return the size (B, D) of each pixel's prediction error."""


@dataclass(slots=True)
class Scored:
    """A batch of inputs and the scores of those that can be read.

    Attributes:
        first: the row number of the batch's first input.
        rows: the inputs as read, with each one's status.
        data_BD: the readable ones.
        columns: (R,) each, of the readable ones.
    """

    first: int
    rows: Rows
    data_BD: Tensor
    columns: Columns


def scored(
    scorers: Sequence[Scorer],
    images: Images,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
) -> Iterator[Scored]:
    """Yield every batch of images with its scores."""
    for start in range(0, len(images), batch_size):
        rows = images.rows(range(start, min(start + batch_size, len(images))))
        data_BD = rows.pixels_BD[rows.ok].to(device)
        yield Scored(start, rows, data_BD, columns_of(scorers, data_BD))


def columns_of(scorers: Sequence[Scorer], data_BD: Tensor) -> Columns:
    """Return the columns of all scorers as float64; of no images, no columns."""
    columns: Columns = {}
    if not len(data_BD):
        return columns
    for scorer in scorers:
        for name, column_B in scorer(data_BD).items():
            columns[name] = column_B.detach().to("cpu", torch.float64).numpy()
    return columns


def joined(batches: Iterator[Scored]) -> tuple[Columns, list[dict[str, Any]]]:
    """Return the columns of all readable inputs, and what is wrong with each of the others."""
    parts, failures = [], []
    for batch in batches:
        if batch.columns:
            parts.append(batch.columns)
        failures += [
            {"row": batch.first + i, "status": status, "reason": batch.rows.reason[i]}
            for i, status in enumerate(batch.rows.status)
            if status != "ok"
        ]
    names = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}, failures
