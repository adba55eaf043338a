"""Open data: a name, a path, or an array becomes `Images`."""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.config import ARRAY
from pcgen.data.arrays import images_of, in_native_order, require_layout
from pcgen.data.catalogue import BUILT_IN
from pcgen.data.catalogue import listing as listing
from pcgen.data.decode import SUFFIXES
from pcgen.data.files import FolderFiles, ZipFiles
from pcgen.data.fit import binarised
from pcgen.data.folders import open_files
from pcgen.data.foreign import refuse_foreign
from pcgen.data.idx import looks_like_idx, read_images
from pcgen.data.images import Images, Shape
from pcgen.data.named import open_named
from pcgen.data.numpy_files import read_numpy
from pcgen.data.reading import open_regular, reading
from pcgen.data.request import DataRequest
from pcgen.data.tables import open_csv, table_of
from pcgen.errors import DataError
from pcgen.registry import DATA_SETS

Array: TypeAlias = NDArray[np.generic]
Data: TypeAlias = str | Path | Array | Tensor

_MOST_NAMES = 2**28
_KINDS = "pcgen reads pictures, folders and zips of them, IDX, .npy, .npz, .csv and .csv.gz"


def open_data(
    data: Data,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    download: bool = True,
    like: Shape | None = None,
    like_scale: Sequence[Any] | None = None,
    memory: int = 2**30,
    native_size: tuple[int, int] | None = None,
    columns: Sequence[str] | None = None,
    threshold: float | None = None,
    labels: str | None = None,
    value_range: Sequence[float] | None = None,
    by_class: bool = False,
) -> Images:
    """Return the images or the table that a name, a path or an array stands for.

    Args:
        data: one of these:

            * a data set's name with an optional split, as `mnist:test`;
            * a path (`str` or `Path`) of a picture, a folder or zip of pictures (with an optional
              split too), or an IDX, .npy, .npz, .csv or .csv.gz file;
            * `-`, for the paths that standard input names, one a line;
            * a NumPy array or a torch tensor, on any device: images (N, H, W), (N, H, W, C) or
              (N, C, H, W), rows (N, D), or a single image; (3, H, W) is a single image where 3
              channels are asked for. Its values are in [0, 1], or whole numbers up to 255. A table
              model takes (N, D) in the columns' own units.
        data_dir: the folder in which names are looked up first; then PCGEN_DATA, then the user's
            cache.
        limit: take the first so many rows only.
        size: bring images to this height and width.
        channels: bring images to 1 or 3 channels.
        download: fetch a data set that is in none of the folders.
        like: a model's (C, H, W); images are brought to it, a table must have it.
        like_scale: a table model's means and deviations, used instead of those of the data.
        memory: bytes of decoded pictures, or of an array mapped from disk, to keep in memory.
        native_size: the only height and width that images may have before they are brought to a
            shape. A picture of another size is a row with a status, an array of another size an
            error. `pcgen.data.fit` has the reason.
        columns: the names of the table's columns to take, in this order. With `like`, a table
            without these names is taken as it is.
        threshold: pixels above it become 1 and the others 0, once an image has its final size.
        labels: the name of the column, or of the array in a .npz file, that holds the labels. If it
            is empty, none does. Without it, the name is label, labels, class or target.
        value_range: the numbers in the files that are black and white. Without it they follow from
            the kind of number. Data sets known by name have their own.
        by_class: of pictures in a folder for each class, the limit takes the first of every class
            in turn.

    Raises:
        DataError: data that cannot be found, read, or brought to the shape.

    Example:
        >>> from pcgen.data.sources import open_data
        >>> images = open_data("digits", limit=100)
        >>> len(images), images.shape
        (100, (1, 8, 8))
        >>> import torch
        >>> open_data(torch.rand(5, 3, 32, 32), size=(16, 16)).shape
        (3, 16, 16)
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: at least 1 row is needed")
    like = None if like is None else (like[0], like[1], like[2])
    request = DataRequest(
        *("", limit, size, channels, like, like_scale, memory, native_size, columns, threshold),
        labels=labels,
        value_range=_as_range(value_range),
        by_class=by_class,
    )
    return _open(data, request, data_dir, download)


def open_inputs(
    inputs: Data | Sequence[Data],
    *,
    data_dir: str | Path | None = None,
    memory: int = 2**26,
    value_range: Sequence[float] | None = None,
    **rules: Any,
) -> list[Images]:
    """Return the data of each input, in order; pictures in a row are joined to one table.

    Args:
        inputs: names, paths or arrays, or a single one; see `open_data` for these and the rest.
        rules: other arguments of `open_data` that say what a model takes.

    Raises:
        DataError: an input that cannot be found, read, or brought to the shape.
    """

    def is_picture(data: Data) -> bool:
        if not isinstance(data, str | Path):
            return False
        return str(data).lower().endswith(SUFFIXES) and Path(data).is_file()

    is_single = isinstance(inputs, str | Path) or _as_array(inputs) is not None
    several = cast("Sequence[Data]", [inputs] if is_single else inputs)
    request = DataRequest("pictures", memory=memory, value_range=_as_range(value_range), **rules)
    tables = []
    for are_pictures, group in groupby(several, is_picture):
        members = list(group)
        if are_pictures and request.like_scale is None and len(members) > 1:
            files = FolderFiles(None, [str(path) for path in members])
            tables.append(_finish(open_files(files, "pictures", request), request))
        else:
            tables += [_open(data, request, data_dir, download=True) for data in members]
    return tables


def _as_range(value_range: Sequence[float] | None) -> tuple[float, float] | None:
    if value_range is None:
        return None
    black, white = value_range
    if not -math.inf < black < white < math.inf:
        raise DataError(
            f"data.range [{black:g}, {white:g}]: black comes first, and is the smaller number",
            "Example: --set data.range=[0,4095]",
        )
    return float(black), float(white)


def _open(data: Data, request: DataRequest, data_dir: str | Path | None, download: bool) -> Images:
    """Return the data, which fit the kind of model in the request."""
    array = _as_array(data)
    if array is not None:
        request = replace(request, source=ARRAY)
        return _finish(_of_array(array, ARRAY, request), request)
    if not isinstance(data, str | Path):
        raise DataError(
            f"{type(data).__name__}: data are a name, a path, a NumPy array or a torch tensor"
        )
    request = replace(request, source=str(data))
    folder = None if data_dir is None else Path(data_dir)
    return _finish(_of_name(data, request, folder, download), request)


def _finish(images: Images, request: DataRequest) -> Images:
    """Return the images as black and white where that is asked for, and no more than the limit.

    Raises:
        DataError: a table for a model of images, images for a model of tables, or no labels of the
            name that is asked for.
    """
    if request.like_scale is not None and not images.is_table:
        raise DataError(f"{request.source}: holds images, the model takes a table of numbers")
    if request.like_scale is None and request.like is not None and images.is_table:
        raise DataError(f"{request.source}: holds a table of numbers, the model takes images")
    if request.labels and request.like is None and images.labels is None:
        raise DataError(f"{request.source}: has no labels {request.labels!r} (data.labels)")
    if request.value_range is not None and images.is_table:
        raise DataError(
            f"{request.source}: a table, whose columns are standardised: leave out data.range"
        )
    if request.threshold is not None:
        images = binarised(images, request.threshold)
    return images if request.limit is None else images.head(request.limit)


def _as_array(data: Any) -> Array | None:
    """Return a NumPy array or a torch tensor as a NumPy array; None where it is neither."""
    if isinstance(data, torch.Tensor):
        values = data.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return data if isinstance(data, np.ndarray) else None


def _of_name(
    data: str | Path, request: DataRequest, data_dir: Path | None, download: bool
) -> Images:
    """Return the data of a name or a path.

    A `Path` is never a name. A built-in name goes before a path that exists, and this path before a
    name that a user has registered.
    """
    name, _, split = request.source.partition(":")
    is_text = isinstance(data, str)
    if is_text and name in BUILT_IN:
        with reading(request.source):
            return open_named(BUILT_IN[name], split, request, data_dir, download)
    if data == "-":
        return _stdin(request)
    if not data:
        raise DataError(
            "no data are named", "Name a data set or a path; train takes it with --data"
        )
    path, path_split = Path(data), ""
    before, colon, after = request.source.rpartition(":")
    if not _exists(path) and colon and _exists(Path(before)):
        path, path_split = Path(before), after
    if not _exists(path):
        if is_text and name in DATA_SETS:
            return _registered(name, split, request, data_dir)
        raise _not_found(request.source, name)
    with reading(str(path)):
        return _path(path, path_split, request)


def _registered(name: str, split: str, request: DataRequest, data_dir: Path | None) -> Images:
    """Return the data of a user's data set; see `pcgen.register_data_set`."""
    data, labels = DATA_SETS.get(name)(split), None
    if isinstance(data, tuple):
        data, labels = data
    array = _as_array(data)
    if array is not None:
        return _of_array(array, name, request, None if labels is None else np.asarray(labels))
    if isinstance(data, str | Path):
        return _of_name(Path(data), replace(request, source=str(data)), data_dir, download=False)
    raise DataError(
        f"{name}: its function returned {type(data).__name__}, not an array or a path",
        "Return images, or a tuple of images and labels, or a path",
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no path can have
        return False


def _not_found(data: str, name: str) -> DataError:
    if "/" in data or Path(data).suffix:
        return DataError(f"{data}: no such file or folder", "Data sets by name: pcgen datasets")
    near = difflib.get_close_matches(name.lower(), DATA_SETS.names(), n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    return DataError(
        f"{data}: no data set of that name, and no such file or folder",
        f"{hint}Show them: pcgen datasets",
    )


def _stdin(request: DataRequest) -> Images:
    """Return the pictures that standard input names, one a line."""
    listed = sys.stdin.buffer.read(_MOST_NAMES + 1)
    if len(listed) > _MOST_NAMES:
        raise DataError(f"-: standard input gave more than {_MOST_NAMES} bytes of names")
    names = [os.fsdecode(line) for line in listed.splitlines() if line]
    if not names:
        raise DataError("-: standard input named no files", "find photos -name '*.png' | pcgen ...")
    return open_files(FolderFiles(None, names[: request.limit]), "stdin", request)


def _path(path: Path, split: str, request: DataRequest) -> Images:
    """Return the data of a file or a folder that exists."""
    if path.is_dir():
        return open_files(FolderFiles.of(path), path.name, request, split=split)
    open_regular(path).close()
    refuse_foreign(path)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return open_files(ZipFiles(path), path.name, request, split=split)
    if split:
        raise DataError(f"{request.source}: {path.name} has no splits")
    if suffix in SUFFIXES:
        return open_files(FolderFiles(None, [str(path)]), path.name, request)
    if path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv")):
        return open_csv(path, request)
    check = partial(require_layout, request=request)
    if suffix in (".npy", ".npz"):
        array, labels, key = read_numpy(path, check, request.labels)
        images = _of_array(array, path.name, replace(request, labels=key), labels)
        note = () if images.labels is None else (f"{request.source}: labels: array {key!r}",)
        return replace(images, notes=(*note, *images.notes))
    if looks_like_idx(path):
        array, labels = read_images(path, request.limit, check)
    else:
        raise DataError(f"{path}: not a kind of file that pcgen reads", _KINDS)
    return _of_array(array, path.name, request, labels)


def _of_array(array: Array, name: str, request: DataRequest, labels: Array | None = None) -> Images:
    """Return the images of an array, or its rows where the model takes a table."""
    array = in_native_order(array)
    if request.like_scale is not None and array.ndim == 2 and array.dtype.kind in "buif":
        columns = [f"column{i + 1}" for i in range(array.shape[1])]
        return table_of(array, columns, name, request, labels=labels)
    return images_of(array, name, request, labels=labels)
