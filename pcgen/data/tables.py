"""Tables of numbers, from .csv files or arrays; every column is standardised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.arrays import ArrayStore, images_of
from pcgen.data.csv_files import columns_at, read_csv, used_columns
from pcgen.data.images import Images
from pcgen.data.labels import labels_of
from pcgen.data.request import DataRequest
from pcgen.errors import DataError

Array = NDArray[Any]
Scale = tuple[Tensor, Tensor]


def table_of(
    values: Array,
    columns: list[str],
    name: str,
    request: DataRequest,
    *,
    labels: Array | None = None,
    classes: Sequence[str] | None = None,
) -> Images:
    """Return a table whose columns are standardised: (value - mean) / standard deviation.

    Args:
        values: (N, D) in the columns' own units. The means and deviations ignore NaN.

    Raises:
        DataError: the number of columns is not the model's, or a column asked for is missing.
    """
    chosen = used_columns(columns, range(len(columns)), request)
    values, columns = columns_at(values, chosen), [columns[i] for i in chosen]
    width = values.shape[1]
    if not width:
        raise DataError(f"{request.source}: has no columns of numbers")
    if request.like is not None and request.row_width != width:
        takes = request.row_width or "images of " + "x".join(map(str, request.like))
        raise DataError(f"{request.source}: has {width} columns, the model takes {takes}")
    numbers, names, notes = labels_of(labels, classes, len(values), request)
    # A number too large for float32 counts as infinite; the means and deviations ignore it.
    values = np.where(np.abs(values) > np.finfo(np.float32).max, np.inf, values)[: request.limit]
    scale = _scale(values) if request.like_scale is None else _as_scale(request.like_scale)
    with np.errstate(over="ignore", invalid="ignore"):
        standardised = (values - scale[0].numpy()) / scale[1].numpy()
    shape = (1, 1, width)
    return Images(
        name,
        request.source,
        ArrayStore(standardised, name, shape, False, 1.0, shape, pixels=False),
        labels=numbers,
        classes=names,
        columns=columns,
        scale=scale,
        preprocessing={"columns": "standardised: (value - mean) / standard deviation"},
        notes=notes,
    )


def open_csv(path: Path, request: DataRequest) -> Images:
    """Return a .csv file as a table; as images if the request has a size or a model of images.

    Raises:
        DataError: the file is no table of numbers, or does not fit the model.
    """
    table = read_csv(path, request)
    values, columns, labels = table.numbers, table.columns, table.labels
    request = replace(request, labels=table.label, columns=columns)
    if request.like_scale is None and (request.like or request.size):
        images = images_of(values, path.name, request, labels=labels)
    else:
        images = table_of(values, columns, path.name, request, labels=labels)
    assert isinstance(images.store, ArrayStore)
    store = replace(images.store, lines=table.lines)
    notes = (*table.notes, *images.notes)
    return replace(images, store=store, columns=columns, notes=notes)


def _scale(values_ND: Array) -> Scale:
    """Return the mean and the standard deviation of each column; 1 for a constant column."""
    finite = np.isfinite(values_ND)
    count = np.maximum(finite.sum(0), 1)
    mean = np.where(finite, values_ND, 0).sum(0) / count
    deviation = np.sqrt((np.where(finite, values_ND - mean, 0) ** 2).sum(0) / count)
    deviation[deviation <= 1e-12 * np.maximum(np.abs(mean), 1e-300)] = 1.0
    return torch.from_numpy(mean), torch.from_numpy(deviation)


def _as_scale(like_scale: Sequence[Any]) -> Scale:
    mean, deviation = (torch.as_tensor(row, dtype=torch.float64) for row in like_scale)
    return mean, deviation


def require_complete(images: Images) -> None:
    """Raise DataError if a row of a table or an array is missing a number.

    So a training refuses such data whatever its seed, also where the row is only held out.
    """
    store = images.store
    rows = store.incomplete() if isinstance(store, ArrayStore) else []
    if not len(rows):
        return
    first = images.store.id(int(rows[0]))
    _, _, reason = images.store.read(torch.tensor(rows[:1]))
    count = f"{len(rows)} of {len(store)} rows cannot be used; first " if len(rows) > 1 else ""
    raise DataError(
        f"{images.source}: {count}{first}: {reason[0]}",
        "Remove such rows, fill their cells, or name the other columns: --set data.columns",
    )
