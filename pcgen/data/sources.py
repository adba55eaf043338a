"""From what a user writes, a name or a path, to `Images`."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.data.catalogue import listing as listing
from pcgen.errors import DataError

if TYPE_CHECKING:
    from pcgen.data.images import Images, Shape
    from pcgen.data.request import Wanted

_KINDS = "pcgen reads pictures, folders and zips of them, IDX, .npy, .npz and .csv"


def open_data(
    data: str,
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    download: bool = True,
    like: Shape | None = None,
    like_scale: Sequence[Any] | None = None,
    memory: int = 2**30,
    native: Shape | None = None,
    columns: Sequence[str] | None = None,
) -> Images:
    """Return the images or the table that a name or a path stands for.

    Args:
        data: a data set's name with an optional split (`mnist:test`), a picture, a folder or zip of
            pictures (with an optional split too), IDX, .npy, .npz, .csv, or `-`: paths on stdin.
        data_dir: where names are looked up first; then PCGEN_DATA, then the user's cache.
        limit: the first so many rows only.
        size: height and width to bring images to.
        channels: 1 or 3, to bring images to.
        download: whether a name that is nowhere may be fetched.
        like: a model's (C, H, W), which images are brought to and a table must have.
        like_scale: a table model's means and deviations, instead of those of the data.
        memory: bytes of decoded pictures, or of an array mapped from disk, to keep.
        native: the only (C, H, W) that images may have before they are brought to a shape; a
            picture of another is a row with a status, an array an error.
        columns: names of a table's columns to take, in this order; a model's own (with `like`)
            where the table has them all.

    Raises:
        DataError: data that cannot be found, read, or brought to the shape.

    Example:
        >>> from pcgen.data.sources import open_data
        >>> images = open_data("digits", limit=100)
        >>> len(images), images.shape
        (100, (1, 8, 8))
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit {limit}: at least 1 row is needed")
    from pcgen.data.request import Wanted

    like = None if like is None else (like[0], like[1], like[2])
    wanted = Wanted(data, limit, size, channels, like, like_scale, memory, native, columns)
    images = _open(data, wanted, data_dir, download)
    if like_scale is not None and not images.is_table:
        raise DataError(f"{data}: holds images, the model takes a table of numbers")
    if like_scale is None and like is not None and images.is_table:
        raise DataError(f"{data}: holds a table of numbers, the model takes images")
    return images.head(limit) if limit is not None else images


def open_inputs(
    inputs: Sequence[str],
    *,
    data_dir: Path | None = None,
    like: Shape,
    like_scale: Sequence[Any] | None = None,
    native: Shape | None = None,
    memory: int = 2**26,
) -> list[Images]:
    """Return the data of several names or paths, in order; pictures beside one another together.

    Raises:
        DataError: what `open_data` says of one of them.
    """
    from pcgen.data.decode import SUFFIXES
    from pcgen.data.files import FolderFiles
    from pcgen.data.folders import open_files
    from pcgen.data.request import Wanted

    def is_picture(data: str) -> bool:
        return data.lower().endswith(SUFFIXES) and Path(data).is_file()

    found = []
    for together, group in groupby(inputs, is_picture):
        names = list(group)
        if together and like_scale is None and len(names) > 1:
            wanted = Wanted("pictures", like=like, native=native, memory=memory)
            found.append(open_files(FolderFiles(None, names), "pictures", wanted))
            continue
        found += [
            open_data(
                name,
                data_dir=data_dir,
                like=like,
                like_scale=like_scale,
                native=native,
                memory=memory,
            )
            for name in names
        ]
    return found


def _open(data: str, wanted: Wanted, data_dir: Path | None, download: bool) -> Images:
    from pcgen.data.catalogue import DATA_SETS

    name, _, split = data.partition(":")
    if name in DATA_SETS:
        from pcgen.data.named import open_named

        return open_named(DATA_SETS[name], split, wanted, data_dir, download)
    if data == "-":
        return _stdin(wanted)
    if not data:
        raise DataError(
            "no data are named", "Name a data set or a path; train takes it with --data"
        )
    path, split = Path(data), ""
    if not _exists(path) and ":" in data:
        before, _, after = data.rpartition(":")
        if _exists(Path(before)):
            path, split = Path(before), after
    if not _exists(path):
        raise _not_found(data, name)
    try:
        return _path(path, split, wanted)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no path can have
        return False


def _not_found(data: str, name: str) -> DataError:
    from pcgen.data.catalogue import DATA_SETS

    if "/" in data or Path(data).suffix:
        return DataError(f"{data}: no such file or folder")
    near = difflib.get_close_matches(name.lower(), DATA_SETS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}? " if near else ""
    return DataError(
        f"{data}: no data set of that name, and no such file or folder",
        f"{hint}Show them: pcgen datasets",
    )


def _stdin(wanted: Wanted) -> Images:
    """Return the pictures that standard input names, one a line."""
    from pcgen.data.files import FolderFiles
    from pcgen.data.folders import open_files

    names = [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line]
    if not names:
        raise DataError("-: standard input named no files", "find photos -name '*.png' | pcgen ...")
    return open_files(FolderFiles(None, names[: wanted.limit]), "stdin", wanted)


def _path(path: Path, split: str, wanted: Wanted) -> Images:
    from pcgen.data.decode import SUFFIXES
    from pcgen.data.files import FolderFiles, ZipFiles
    from pcgen.data.folders import open_files

    if path.is_dir():
        return open_files(FolderFiles.of(path), path.name, wanted, split=split)
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return open_files(ZipFiles(path), path.name, wanted, split=split)
    if split:
        raise DataError(f"{wanted.source}: {path.name} has no splits")
    if suffix in SUFFIXES:
        return open_files(FolderFiles(None, [str(path)]), path.name, wanted)
    if suffix in (".csv", ".tsv"):
        from pcgen.data.tables import open_csv

        return open_csv(path, wanted)
    if suffix in (".npy", ".npz"):
        return _numpy(path, wanted)
    if suffix in (".gz", ".idx") or "idx" in path.name or _looks_like_idx(path):
        return _idx(path, wanted)
    raise DataError(f"{path}: not a kind of file that pcgen reads", _KINDS)


def _numpy(path: Path, wanted: Wanted) -> Images:
    from pcgen.data.arrays import images_of
    from pcgen.data.numpy_files import read_npy, read_npz
    from pcgen.data.tables import table_of

    array, labels = (read_npy(path), None) if path.suffix.lower() == ".npy" else read_npz(path)
    if wanted.like_scale is not None and array.ndim == 2:
        columns = [f"column{i + 1}" for i in range(array.shape[1])]
        return table_of(array, columns, path.name, wanted, labels=labels)
    return images_of(array, path.name, wanted, labels=labels)


def _idx(path: Path, wanted: Wanted) -> Images:
    from pcgen.data.arrays import images_of
    from pcgen.data.idx import labels_beside, read_idx

    labels = labels_beside(path)
    return images_of(
        read_idx(path, wanted.limit),
        path.name,
        wanted,
        labels=None if labels is None else read_idx(labels, wanted.limit),
    )


def _looks_like_idx(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"\0\0", b"\x1f\x8b")
