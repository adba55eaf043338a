"""Data sets known by name: found in a data folder, else downloaded; two come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pcgen.data.arrays import images_of
from pcgen.data.catalogue import NOTES, DataSet, cache, find, split_of
from pcgen.data.files import FolderFiles, ZipFiles
from pcgen.data.folders import open_files
from pcgen.data.idx import labels_beside, read_idx
from pcgen.data.images import Images
from pcgen.data.request import DataRequest
from pcgen.data.tables import table_of
from pcgen.errors import DataError


def open_named(
    data_set: DataSet, asked: str, request: DataRequest, data_dir: Path | None, download: bool
) -> Images:
    """Return a data set's split; without one, its training split, or else the one that is there.

    Raises:
        DataError: no such split, or it is nowhere and cannot be downloaded.
    """
    split = split_of(data_set, asked, data_dir)
    if data_set.kind == "sklearn":
        return _digits(split, request) if data_set.name == "digits" else _iris(request)
    path = find(data_set, split, data_dir)
    if path is None and data_set.download and download:
        from pcgen.data import vision

        vision.download(data_set.download, split, cache())
        path = find(data_set, split, data_dir)
    if path is None:
        raise _nowhere(data_set, split, data_dir)
    if data_set.kind == "idx":
        return _idx(data_set, path, request)
    if path.is_dir() and path.name != "cifar-10-batches-py":
        return open_files(FolderFiles.of(path), data_set.name, request, split=split)
    if path.suffix == ".zip":
        images = open_files(ZipFiles(path), data_set.name, request, split=split)
        if path.name in NOTES:
            images.preprocessing["note"] = NOTES[path.name]
        return images
    from pcgen.data import vision

    pixels, labels = vision.pixels(data_set.download, split, path.parent)
    return images_of(pixels, path.name, request, labels=labels, classes=data_set.classes)


def _nowhere(data_set: DataSet, split: str, data_dir: Path | None) -> DataError:
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


def _idx(data_set: DataSet, path: Path, request: DataRequest) -> Images:
    pixels = read_idx(path, request.limit)
    if data_set.name == "emnist":
        pixels = pixels.transpose(0, 2, 1)  # its images are stored lying on their side
    beside = labels_beside(path)
    labels = None if beside is None else read_idx(beside, request.limit)
    return images_of(pixels, path.name, request, labels=labels, classes=data_set.classes)


def _digits(split: str, request: DataRequest) -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    # scikit-learn names no split: every fifth image is the test set.
    chosen = (np.arange(len(found.target)) % 5 == 4) == (split == "test")
    return images_of(
        found.images[chosen].astype(np.uint8),
        "digits",
        request,
        labels=found.target[chosen],
        classes=list("0123456789"),
        divisor=16.0,
    )


def _iris(request: DataRequest) -> Images:
    from sklearn.datasets import load_iris

    found = load_iris()
    return table_of(
        found.data,
        list(found.feature_names),
        "iris",
        request,
        labels=found.target,
        classes=[str(name) for name in found.target_names],
    )
