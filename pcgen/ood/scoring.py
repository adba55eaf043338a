"""Scoring new images: what a scorer is, and its scores batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.images import Images, Rows, require_readable
from pcgen.device import generator
from pcgen.errors import DivergenceError
from pcgen.registry import SCORES

BATCH = 500
# Values beyond this, in the model's units, may overflow float32 whatever the model is.
_LARGE = 1e6

Columns = dict[str, NDArray[np.float64]]


class Scorer(Protocol):
    """A function that returns how unusual each image of a batch is.

    Attributes:
        names: the score columns, in order. In each, higher is more unusual.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return a column (B,) for each name, and possibly further columns that are no scores.

        The values of an image depend on that image alone.
        """


class StoredScorer(Scorer, Protocol):
    """A scorer that a detector's file can hold."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the scorer beside its network, by name."""


class MappingScorer(Scorer, Protocol):
    """A scorer that also shows where an image is unusual."""

    def heatmap(self, data_BD: Tensor) -> Tensor:
        """Return the size (B, D) of each pixel's prediction error."""


@dataclass(slots=True)
class Scored:
    """A batch of inputs and the scores of the readable ones.

    Attributes:
        first: the row number of the batch's first input.
        rows: the inputs as they were read, each with its status.
        data_BD: the readable inputs.
        columns: the scorers' columns of the readable inputs, (R,) each.
    """

    first: int
    rows: Rows
    data_BD: Tensor
    columns: Columns

    @property
    def readable(self) -> list[int]:
        """Return the positions in the batch of the readable inputs."""
        return [i for i, status in enumerate(self.rows.status) if status == "ok"]


def scored(
    scorers: Sequence[Scorer],
    images: Images,
    device: torch.device | str = "cpu",
    batch_size: int = BATCH,
) -> Iterator[Scored]:
    """Yield the images batch by batch, with their scores.

    Raises:
        DivergenceError: a score of pcgen's is not finite, and the image's values are not so large
            that this tells how unusual it is.
    """
    for start in range(0, len(images), batch_size):
        rows = images.rows(range(start, min(start + batch_size, len(images))))
        data_BD = rows.pixels_BD[rows.ok].to(device)
        batch = Scored(start, rows, data_BD, columns_of(scorers, data_BD))
        _require_finite(batch, images)
        yield batch


def _require_finite(batch: Scored, images: Images) -> None:
    users = set(SCORES.names()) - set(SCORES.built_in)
    own = [column for name, column in batch.columns.items() if name not in users]
    if not own:
        return
    bad_R = ~np.isfinite(own).all(0)
    if bad_R.any():
        bad_R &= (batch.data_BD.abs().amax(1) <= _LARGE).numpy(force=True)
    if bad_R.any():
        name = images.id(batch.first + batch.readable[int(bad_R.argmax())])
        raise DivergenceError(f"{name}: its scores are not finite", DivergenceError.too_large)


def columns_of(scorers: Sequence[Scorer], data_BD: Tensor) -> Columns:
    """Return the columns of all scorers as float64; without images, no columns."""
    columns: Columns = {}
    if not len(data_BD):
        return columns
    for scorer in scorers:
        for name, column_B in scorer(data_BD).items():
            columns[name] = column_B.detach().to("cpu", torch.float64).numpy()
    return columns


def joined(batches: Iterable[Scored]) -> tuple[Columns, list[tuple[int, str]]]:
    """Return the columns of all readable inputs, and row number and reason of the other inputs."""
    parts: list[Columns] = []
    unreadable: list[tuple[int, str]] = []
    for batch in batches:
        if batch.columns:
            parts.append(batch.columns)
        for i, status in enumerate(batch.rows.status):
            if status != "ok":
                unreadable.append((batch.first + i, batch.rows.reason[i]))
    names = parts[0] if parts else {}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}, unreadable


def chosen_rows(images: Images, most: int) -> Tensor:
    """Return the row numbers (N,) of at most `most` images, in rising order, always the same."""
    if len(images) <= most:
        return torch.arange(len(images))
    drawn = torch.randperm(len(images), generator=generator(0, "scorer"))
    return drawn[:most].sort().values


def readable_batches(images: Images, numbers: Tensor) -> Iterator[Tensor]:
    """Yield the images of these row numbers, (B, D) at a time.

    Raises:
        DataError: an image cannot be read.
    """
    for part in torch.split(numbers, BATCH):
        rows = images.rows(part)
        require_readable(rows, images)
        yield rows.pixels_BD
