"""Open a data set by its name: from a data folder, by a download, or from scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcgen.data import vision
from pcgen.data.arrays import images_of
from pcgen.data.catalogue import NOTES, DataSet, cache, find, split_of
from pcgen.data.download import are_whole, ensure
from pcgen.data.files import FolderFiles, ZipFiles
from pcgen.data.folders import open_files
from pcgen.data.idx import read_images
from pcgen.data.images import Images
from pcgen.data.request import DataRequest
from pcgen.data.tables import table_of
from pcgen.errors import DataError

Array = NDArray[Any]


def open_named(
    data_set: DataSet, split: str, request: DataRequest, data_dir: Path | None, download: bool
) -> Images:
    """Return a split of a data set; `split_of` says which one an empty split stands for.

    Raises:
        DataError: the set has no such split, or is in no folder and cannot be downloaded.
    """
    split = split_of(data_set, split, data_dir)
    request = replace(request, value_range=None)  # a set that is known by name has its own
    if data_set.kind == "sklearn":
        return _digits(split, request) if data_set.name == "digits" else _iris(request)
    path = _verified(data_set, split, data_dir, download)
    if path is None:
        raise _not_here(data_set, split, data_dir)
    if path.is_dir() and path.name not in ("cifar-10-batches-py", "cifar-100-python"):
        return open_files(FolderFiles.of(path), data_set.name, request, split=split)
    if path.suffix == ".zip":
        images = open_files(ZipFiles(path), data_set.name, request, split=split)
        if path.name in NOTES:
            images.preprocessing["note"] = NOTES[path.name]
        return images
    if data_set.kind == "idx":
        pixels, labels = read_images(path, request.limit)
        if data_set.name == "emnist":
            pixels = pixels.transpose(0, 2, 1)  # its images are stored lying on their side
    else:
        pixels, labels = _torchvision_pixels(data_set, split, path, download)
    return images_of(pixels, path.name, request, labels=labels, classes=data_set.classes)


def _verified(data_set: DataSet, split: str, data_dir: Path | None, download: bool) -> Path | None:
    """Return the file or folder of a split, downloaded if need be; None if it is nowhere.

    Downloads of earlier calls are checked: packed files here, the others by torchvision.

    Raises:
        DataError: it cannot be downloaded.
    """
    path = find(data_set, split, data_dir)
    if not data_set.download or (path is None and not download):
        return path
    is_earlier = path is not None and path.parent.name == "raw" and path.suffix == ".gz"
    if path is not None and not (is_earlier and cache() in path.parents):
        return path
    name = f"{data_set.download}-{split}"
    if path is None or not are_whole(name, cache()):
        _ensure(data_set, split, download)
    return find(data_set, split, data_dir)


def _ensure(data_set: DataSet, split: str, fetch: bool) -> None:
    published = vision.published(data_set.download, split)
    ensure(f"{data_set.download}-{split}", published, cache(), fetch=fetch)


def _torchvision_pixels(
    data_set: DataSet, split: str, path: Path, download: bool
) -> tuple[Array, Array]:
    """Return images and labels as torchvision reads them; a damaged download is fetched again."""
    try:
        return vision.pixels(data_set.download, split, path.parent)
    except DataError:
        if not download or path.parent != cache():
            raise
    _ensure(data_set, split, download)
    return vision.pixels(data_set.download, split, path.parent)


def _not_here(data_set: DataSet, split: str, data_dir: Path | None) -> DataError:
    others = [s for s in data_set.splits if s != split and find(data_set, s, data_dir)]
    if others:
        return DataError(
            f"{data_set.name}:{split}: only {data_set.name}:{others[0]} is here",
            f"Use it: {data_set.name}:{others[0]}",
        )
    return DataError(
        f"{data_set.name}: not in --data-dir, PCGEN_DATA or {cache()}",
        data_set.hint or "Name the folder that holds it: --data-dir DIR",
    )


def _digits(split: str, request: DataRequest) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # scikit-learn has no split; every fifth image is the test set.
    chosen = (np.arange(len(digits.target)) % 5 == 4) == (split == "test")
    return images_of(
        digits.images[chosen].astype(np.uint8),
        "digits",
        request,
        labels=digits.target[chosen],
        classes=list("0123456789"),
        divisor=16.0,
    )


def _iris(request: DataRequest) -> Images:
    from sklearn.datasets import load_iris

    iris = load_iris()
    return table_of(
        iris.data,
        list(iris.feature_names),
        "iris",
        request,
        labels=iris.target,
        classes=[str(name) for name in iris.target_names],
    )
