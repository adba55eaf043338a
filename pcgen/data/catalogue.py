"""The data sets known by name: what each is, and where it is looked for. Imports nothing large."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pcgen.errors import DataError

_DIGITS = tuple("0123456789")
_FASHION = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set known by name.

    Attributes:
        kind: how it is read: `idx` and `files` by pcgen, the others by that library.
        places: files or folders in a data folder, the first that is there is used; {} stands for
            the split's own word.
        splits: each split's word in file names, the default first.
        count: images of each split, where it is whole.
        download: the name of torchvision's class, where that can fetch it.
        hint: how to get it, where torchvision cannot.
    """

    name: str
    kind: Literal["idx", "files", "torchvision", "sklearn"]
    shape: tuple[int, int, int]
    count: dict[str, int]
    places: tuple[str, ...] = ()
    splits: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    download: str = ""
    hint: str = ""


NOTES = {"cifar10-jpeg.zip": "re-encoded as JPEG, not the original pixels"}
"""What must be said beside a number measured on a file that stands in for the original."""

_TRAIN_TEST = {"train": "train", "test": "t10k"}


def _idx(
    name: str,
    folder: str,
    count: dict[str, int],
    *,
    prefixes: dict[str, str] = _TRAIN_TEST,
    classes: tuple[str, ...] | None = _DIGITS,
    download: str = "",
    hint: str = "",
) -> DataSet:
    places = (f"{folder}/raw/{{}}-images-idx3-ubyte", f"{folder}/{{}}-images-idx3-ubyte")
    return DataSet(
        name,
        "idx",
        (1, 28, 28),
        count,
        tuple(place + end for place in places for end in ("", ".gz")),
        prefixes,
        classes,
        download,
        hint,
    )


_MNIST_LIKE = {"train": 60_000, "test": 10_000}
_LETTERS = (*_DIGITS, *"ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")

DATA_SETS = {
    found.name: found
    for found in (
        DataSet(
            "digits",
            "sklearn",
            (1, 8, 8),
            {"train": 1438, "test": 359},
            splits={"train": "train", "test": "test"},
            classes=_DIGITS,
        ),
        DataSet("iris", "sklearn", (1, 1, 4), {"train": 150}),
        _idx("mnist", "MNIST", _MNIST_LIKE, download="MNIST"),
        _idx(
            "fashion-mnist",
            "FashionMNIST",
            _MNIST_LIKE,
            classes=_FASHION,
            download="FashionMNIST",
        ),
        _idx("kmnist", "KMNIST", _MNIST_LIKE, classes=None, download="KMNIST"),
        _idx(
            "emnist",
            "EMNIST",
            {"train": 112_800, "test": 18_800},
            prefixes={"train": "emnist-balanced-train", "test": "emnist-balanced-test"},
            classes=_LETTERS,
            download="EMNIST",
        ),
        _idx(
            "kannada-mnist",
            "KannadaMNIST",
            _MNIST_LIKE,
            hint="Get it from github.com/vinayprabhu/Kannada_MNIST",
        ),
        _idx(
            "dig-mnist",
            "DigMNIST",
            {"test": 10_000},
            hint="Get it from github.com/vinayprabhu/Kannada_MNIST",
        ),
        _idx("usps", "USPS", {"test": 2_007}, hint="28x28 IDX files; pcgen downloads none"),
        _idx(
            "omniglot",
            "Omniglot",
            {"test": 2_720},
            classes=None,
            hint="28x28 IDX files made of github.com/brendenlake/omniglot; pcgen downloads none",
        ),
        DataSet(
            "cifar10",
            "torchvision",
            (3, 32, 32),
            {"train": 50_000, "test": 10_000},
            ("cifar-10-batches-py", "cifar10", "cifar10.zip", "cifar10-jpeg.zip"),
            {"train": "train", "test": "test"},
            download="CIFAR10",
        ),
        DataSet(
            "svhn",
            "torchvision",
            (3, 32, 32),
            {"train": 73_257, "test": 26_032},
            ("{}_32x32.mat", "SVHN/{}_32x32.mat"),
            {"train": "train", "test": "test"},
            _DIGITS,
            "SVHN",
        ),
        DataSet(
            "tiny-imagenet",
            "files",
            (3, 64, 64),
            {"train": 100_000, "val": 10_000},
            ("tiny-imagenet-200", "tiny-imagenet-200.zip", "tiny-imagenet-200-subset.zip"),
            {"train": "train", "val": "val"},
            hint="Get http://cs231n.stanford.edu/tiny-imagenet-200.zip; it is read as it is",
        ),
    )
}


def folders(data_dir: Path | None) -> Iterator[Path]:
    """Yield the folders that data sets are looked for in: --data-dir, PCGEN_DATA, the user's cache.

    Raises:
        DataError: --data-dir or PCGEN_DATA that is no folder.
    """
    environment = os.environ.get("PCGEN_DATA")
    for name, folder in (("--data-dir", data_dir), ("PCGEN_DATA", environment)):
        if folder:
            path = Path(folder).expanduser()
            if not path.is_dir():
                raise DataError(f"{name} {folder}: no such folder")
            yield path
    yield cache()


def cache() -> Path:
    """Return the user's folder of downloaded data."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pcgen"


def find(data_set: DataSet, split: str, data_dir: Path | None) -> Path | None:
    """Return the file or folder of a data set's split, or None where it is nowhere."""
    for folder in folders(data_dir):
        for place in data_set.places:
            path = folder / place.format(data_set.splits[split])
            if path.exists():
                return path
    return None


def split_of(data_set: DataSet, asked: str, data_dir: Path | None) -> str:
    """Return the split to read: the one asked for, else the default; else, for a set that cannot be
    downloaded, the first that is there.

    Raises:
        DataError: a split that the data set does not have.
    """
    known = {"valid": "val", "validation": "val"}.get(asked, asked)
    if asked and known not in data_set.splits:
        there = ", ".join(data_set.splits)
        raise DataError(
            f"{data_set.name}:{asked}: {data_set.name} has "
            + (f"the splits {there}" if there else "no splits"),
            f"Example: {data_set.name}" + (f":{[*data_set.splits][-1]}" if there else ""),
        )
    if asked or not data_set.splits:
        return known
    if data_set.download:
        return next(iter(data_set.splits))
    there_are = (split for split in data_set.splits if find(data_set, split, data_dir))
    return next(there_are, next(iter(data_set.splits)))


def listing(data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Return a row for every data set: name, kind, shape, count of each split, where it is."""
    rows = []
    for data_set in DATA_SETS.values():
        channels, height, width = data_set.shape
        is_table = data_set.name == "iris"
        colour = "grey" if channels == 1 else "RGB"
        count = " + ".join(f"{n} {split}" for split, n in data_set.count.items())
        rows.append(
            {
                "name": data_set.name,
                "kind": "table" if is_table else "images",
                "shape": f"{width} columns" if is_table else f"{height}x{width} {colour}",
                "count": count if data_set.splits else str(sum(data_set.count.values())),
                "where": _where(data_set, data_dir),
            }
        )
    return rows


def _where(data_set: DataSet, data_dir: Path | None) -> str:
    if data_set.kind == "sklearn":
        return "embedded (scikit-learn)"
    found = {split: find(data_set, split, data_dir) for split in data_set.splits}
    there = {split: path for split, path in found.items() if path is not None}
    if not there:
        return "downloaded on first use" if data_set.download else data_set.hint
    path = next(iter(there.values()))
    where = path.parent if data_set.kind == "idx" else path
    notes = [] if len(there) == len(found) else [f"{', '.join(there)} only"]
    notes += [NOTES[path.name]] if path.name in NOTES else []
    return str(where) + (f" ({'; '.join(notes)})" if notes else "")
