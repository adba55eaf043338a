"""Tables of images, read row by row, so that the data may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor

from pcgen.device import generator
from pcgen.errors import DataError

Shape = tuple[int, int, int]
"""Channels, height and width of an image. A table's row of D columns is (1, 1, D)."""


@dataclass(slots=True)
class Rows:
    """Some rows of a table, in the order they were asked for.

    Attributes:
        pixels_BD: float32. An image is C H W flattened, in [0, 1]; a table's row is standardised; a
            row that is not ok is 0.
        status: `ok`, `unreadable`, `nonfinite` or `shape` for each row.
        reason: why a row is not ok; empty for a row that is.
        index_B: the row numbers that were asked for.
        labels_B: int64; None if the table has no labels.
    """

    pixels_BD: Tensor
    status: list[str]
    reason: list[str]
    index_B: Tensor
    labels_B: Tensor | None = None

    @property
    def ok(self) -> Tensor:
        """Return for each row whether it can be used, (B,) of bool."""
        return torch.tensor([status == "ok" for status in self.status], dtype=torch.bool)


class Store(Protocol):
    """The source of a table's rows: an array, or files that are decoded when they are read."""

    @property
    def shape(self) -> Shape:
        """The shape that every row is brought to."""

    def __len__(self) -> int: ...

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        """Return pixels (B, D), statuses and reasons of the rows of these numbers."""

    def id(self, row: int) -> str:
        """Return the row's name for users."""

    def digest(self) -> bytes:
        """Return a hash of the content; it does not depend on the place of the files."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images, or a table's rows, in a fixed order.

    Attributes:
        name: the name of the data set or of the file.
        source: the name or path that the user gave.
        store: the source of the rows.
        index: the numbers of the store's rows that belong to this table; None for all of them.
        labels: (N,) int64; None if there are none.
        classes: the names of the labels, if they have names.
        columns: the names of a table's columns.
        scale: means and standard deviations (D,) by which a table's columns are standardised.
        preprocessing: the changes that brought the images to `shape`, in words; empty for none.
        notes: what a user should know about how the data were read, a sentence each.
    """

    name: str
    source: str
    store: Store
    index: Tensor | None = None
    labels: Tensor | None = None
    classes: list[str] | None = None
    columns: list[str] | None = None
    scale: tuple[Tensor, Tensor] | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape:
        """Return channels, height and width of every row."""
        return self.store.shape

    @property
    def is_table(self) -> bool:
        """Return whether the rows are standardised columns instead of pixels."""
        return self.scale is not None

    @property
    def class_count(self) -> int:
        """Return the number of classes; 0 if there are no labels."""
        if self.labels is None or not len(self.labels):
            return 0
        return len(self.classes) if self.classes else int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.store) if self.index is None else len(self.index)

    def id(self, row: int) -> str:
        """Return a row's name: a path inside the folder or zip, or `FILE[17]`."""
        return self.store.id(row if self.index is None else int(self.index[row]))

    def rows(self, indices: Sequence[int] | Tensor) -> Rows:
        """Return the rows of these numbers, in this order; an unusable row has a status."""
        index_B = _as_index(indices)
        numbers_B = index_B if self.index is None else self.index[index_B]
        pixels_BD, status, reason = self.store.read(numbers_B)
        labels_B = None if self.labels is None else self.labels[index_B]
        return Rows(pixels_BD, status, reason, index_B, labels_B)

    def subset(self, indices: Sequence[int] | Tensor) -> Images:
        """Return these rows, in this order, as a table of their own."""
        index = _as_index(indices)
        return replace(
            self,
            index=index if self.index is None else self.index[index],
            labels=None if self.labels is None else self.labels[index],
        )

    def head(self, n: int) -> Images:
        """Return the first n rows, or all if there are fewer."""
        return self if n >= len(self) else self.subset(range(n))

    def fingerprint(self) -> str:
        """Return a hash of the rows' content, labels, order and shape; not of the files' place."""
        digest = hashlib.sha256(self.store.digest())
        digest.update(repr(self.shape).encode())
        for tensor in (self.index, self.labels):
            digest.update(b"-" if tensor is None else tensor.numpy().tobytes())
        if self.scale is not None:
            for tensor in self.scale:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ChangedStore:
    """Base of stores that read the rows of another store, or of a table, and change them."""

    base: Store | Images

    @property
    def shape(self) -> Shape:
        return self.base.shape

    def __len__(self) -> int:
        return len(self.base)

    def id(self, row: int) -> str:
        return self.base.id(row)


def _as_index(indices: Sequence[int] | Tensor) -> Tensor:
    if isinstance(indices, range):
        return torch.arange(indices.start, indices.stop, indices.step)
    return torch.as_tensor(indices, dtype=torch.int64)


def split(
    images: Images, validation: float, seed: int, purpose: str = "split"
) -> tuple[Images, Images]:
    """Return the rows to train on and the rows held out, each in their old order.

    The choice depends on the seed, the purpose and the number of rows alone.

    Args:
        validation: the share of rows to hold out if below 1, else their number.

    Raises:
        DataError: a number that leaves no rows to train on.
    """
    total = len(images)
    if validation < 0 or (validation >= 1 and validation != int(validation)):
        raise DataError(f"validation {validation}: neither a share below 1 nor a number of rows")
    held_out = round(validation * total) if validation < 1 else int(validation)
    if held_out >= total:
        raise DataError(
            f"{images.source}: holding out {held_out} of {total} rows leaves none to train on",
            "Hold out fewer: --set data.validation=0.1",
        )
    shuffled = torch.randperm(total, generator=generator(seed, purpose))
    chosen, rest = shuffled[:held_out], shuffled[held_out:]
    return images.subset(rest.sort().values), images.subset(chosen.sort().values)


def parts(
    images: Images, validation: float, calibration: float, seed: int
) -> tuple[Images, Images, Images]:
    """Return the rows for training, those that choose the epoch, and those for calibration.

    Args:
        calibration: the share or the number of all rows.
        validation: the share or the number of the other rows.

    Raises:
        DataError: numbers that leave no rows to train on.
    """
    rest, calibration_rows = split(images, calibration, seed, "calibration")
    return *split(rest, validation, seed), calibration_rows


def order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order (n,) of the rows in an epoch; it depends on these three numbers alone."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def mirrored(pixels_BD: Tensor, shape: Shape) -> Tensor:
    """Return the images (B, D) mirrored left to right."""
    return pixels_BD.view(-1, *shape).flip(3).flatten(1)


def moved(pixels_BD: Tensor, shape: Shape, moves_B2: Tensor) -> Tensor:
    """Return the images (B, D) moved down and right by whole pixels (B, 2); 0 comes in."""
    _, height, width = shape
    reach = int(moves_B2.abs().max()) if len(moves_B2) else 0
    images = torch.nn.functional.pad(pixels_BD.view(-1, *shape), [reach] * 4)
    rows_BH, columns_BW = (
        reach + torch.arange(side) - moves_B2[:, axis, None]
        for axis, side in enumerate((height, width))
    )
    first_B111 = torch.arange(len(images)).view(-1, 1, 1, 1)
    channels = torch.arange(shape[0]).view(1, -1, 1, 1)
    result = images[first_B111, channels, rows_BH[:, None, :, None], columns_BW[:, None, None]]
    return result.flatten(1)


def epoch_batches(
    images: Images,
    size: int,
    seed: int,
    epoch: int,
    first: int = 0,
    share: Callable[[Tensor], Tensor] = lambda indices: indices,
) -> Iterator[tuple[Rows, Tensor]]:
    """Yield the rows of each batch of an epoch, and the row numbers of the whole batch.

    The next batch is read while the caller works on this one.

    Args:
        first: the number of the first batch to read.
        share: returns this process's share of a batch's row numbers.

    Raises:
        DataError: a row that cannot be used.
    """
    batches = torch.split(order(len(images), seed, epoch), size)[first:]
    with ThreadPoolExecutor(1) as reader:
        future = reader.submit(images.rows, share(batches[0]))
        for batch, next_batch in zip_longest(batches, batches[1:]):
            rows = future.result()
            if next_batch is not None:
                future = reader.submit(images.rows, share(next_batch))
            require_readable(rows, images)
            yield rows, batch


def require_readable(rows: Rows, images: Images) -> None:
    """Raise DataError unless every row is readable; it names the first that is not, and why."""
    bad = [i for i, status in enumerate(rows.status) if status != "ok"]
    if not bad:
        return
    name = images.id(int(rows.index_B[bad[0]]))
    count = "" if len(bad) == 1 else f"{len(bad)} of {len(rows.status)} rows cannot be used; first "
    raise DataError(
        f"{images.source}: {count}{name}: {rows.reason[bad[0]]}",
        "Every row is needed here: repair or remove those that cannot be read",
    )
