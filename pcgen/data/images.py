"""Tables of images: rows are read when asked for, so that data larger than memory pass through."""

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
"""Channels, height, width. A table's row of D columns is (1, 1, D)."""


@dataclass(slots=True)
class Rows:
    """Some rows, in the order asked for.

    Attributes:
        pixels_BD: float32, C H W flattened, in [0, 1]; standardised for tables; 0 where not ok.
        status: `ok`, `unreadable`, `nonfinite` or `shape`.
        reason: why not, where not ok; else empty.
        index_B: the row numbers asked for.
        labels_B: int64, where known.
    """

    pixels_BD: Tensor
    status: list[str]
    reason: list[str]
    index_B: Tensor
    labels_B: Tensor | None = None

    @property
    def ok(self) -> Tensor:
        """Return which rows can be used, (B,) of bool."""
        return torch.tensor([status == "ok" for status in self.status], dtype=torch.bool)


class Store(Protocol):
    """Where rows come from: an array, or files that are decoded on demand."""

    @property
    def shape(self) -> Shape:
        """The shape that every row is brought to."""

    def __len__(self) -> int: ...

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        """Return pixels (B, D), statuses and reasons."""

    def id(self, row: int) -> str:
        """Return what the user would call the row."""

    def digest(self) -> bytes:
        """Return a hash of the content, equal wherever the same content lies."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images, or a table's rows, in a fixed order.

    Attributes:
        name: a data set's name, or a file's.
        source: what the user asked for.
        store: where the rows are read.
        index: the store's rows that belong to this table; None is all of them.
        labels: (N,) int64, where known.
        classes: the labels' names, where they have names.
        columns: the names of a table's columns.
        scale: mean and standard deviation (D,) that a table's columns were standardised with.
        preprocessing: what was done to bring the images to `shape`; empty where nothing was.
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

    @property
    def shape(self) -> Shape:
        """Return channels, height, width of every row."""
        return self.store.shape

    @property
    def is_table(self) -> bool:
        """Return whether rows are standardised columns instead of pixels."""
        return self.scale is not None

    @property
    def class_count(self) -> int:
        """Return the number of classes; 0 where no labels are known."""
        if self.labels is None or not len(self.labels):
            return 0
        return len(self.classes) if self.classes else int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.store) if self.index is None else len(self.index)

    def id(self, row: int) -> str:
        """Return a row's name: a path inside the folder or zip, or `FILE[17]`."""
        return self.store.id(row if self.index is None else int(self.index[row]))

    def rows(self, indices: Sequence[int] | Tensor) -> Rows:
        """Return the rows of these numbers, in this order; one that cannot be read has a status."""
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
        """Return the first n rows, or all where there are fewer."""
        return self if n >= len(self) else self.subset(range(n))

    def fingerprint(self) -> str:
        """Return a hash of the rows' content, labels, order and shape, not of their place."""
        digest = hashlib.sha256(self.store.digest())
        digest.update(repr(self.shape).encode())
        for tensor in (self.index, self.labels):
            digest.update(b"-" if tensor is None else tensor.numpy().tobytes())
        if self.scale is not None:
            for tensor in self.scale:
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def _as_index(indices: Sequence[int] | Tensor) -> Tensor:
    if isinstance(indices, range):
        return torch.arange(indices.start, indices.stop, indices.step)
    return torch.as_tensor(indices, dtype=torch.int64)


def split(
    images: Images, validation: float, seed: int, purpose: str = "split"
) -> tuple[Images, Images]:
    """Return the rows to train on and those held out, each in its old order.

    Args:
        validation: held-out share of the rows if below 1, else their number.
        seed: with the purpose and the number of rows, all that the choice depends on.

    Raises:
        DataError: a number that leaves nothing to train on.
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
    """Return the rows to train on, those that choose the epoch, and those for calibration.

    Args:
        calibration: share or number of all rows.
        validation: share or number of the rest.

    Raises:
        DataError: numbers that leave nothing to train on.
    """
    rest, aside = split(images, calibration, seed, "calibration")
    return *split(rest, validation, seed), aside


def order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order (n,) in which an epoch sees its rows; it depends on these three alone."""
    return torch.randperm(n, generator=generator(seed, "order", epoch))


def epoch_batches(
    images: Images,
    size: int,
    seed: int,
    epoch: int,
    first: int = 0,
    own: Callable[[Tensor], Tensor] = lambda indices: indices,
) -> Iterator[tuple[Rows, Tensor]]:
    """Yield the rows and the row numbers of an epoch's batches, reading one ahead.

    Args:
        first: number of the batch to begin with.
        own: which of a batch's row numbers to read, where other processes read the rest.

    Raises:
        DataError: a row that cannot be used.
    """
    chosen = torch.split(order(len(images), seed, epoch), size)[first:]
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(images.rows, own(chosen[0]))
        for present, indices in zip_longest(chosen, chosen[1:]):
            rows = following.result()
            if indices is not None:
                following = reader.submit(images.rows, own(indices))
            require_ok(rows, images)
            yield rows, present


def require_ok(rows: Rows, images: Images) -> None:
    """Let rows pass that can all be used.

    Raises:
        DataError: one cannot; it says how many, which is the first, and why.
    """
    bad = [i for i, status in enumerate(rows.status) if status != "ok"]
    if not bad:
        return
    number = int(rows.index_B[bad[0]])
    which = "" if len(bad) == 1 else f"{len(bad)} of {len(rows.status)} rows cannot be used; first "
    raise DataError(
        f"{images.source}: {which}row {number}, {images.id(number)}: {rows.reason[bad[0]]}",
        "Training needs every row: repair or remove those that cannot be read",
    )
