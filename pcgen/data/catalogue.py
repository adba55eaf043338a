"""The built-in data sets: their shapes, and the places of their files. Imports nothing large."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pcgen.errors import DataError
from pcgen.registry import DATA_SETS, load_plugins

_DIGITS = tuple("0123456789")
_FASHION = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set known by name.

    Attributes:
        kind: pcgen reads `idx` and `files` itself, and the others by the library of that name.
        count: the number of images of each split of the whole set.
        places: files or folders within a data folder, of which the first that exists is used; {} is
            replaced by the split's word in file names.
        splits: for each split its word in file names; the first split is the default.
        download: the name of the class of torchvision that downloads it, if there is one.
        hint: how to get it if torchvision cannot download it.
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
"""Notes for every number that is measured on a file that replaces the original data."""

_TRAIN_TEST = {"train": "train", "test": "t10k"}
_MNIST_LIKE = {"train": 60_000, "test": 10_000}


def _idx(
    name: str,
    folder: str,
    *,
    count: dict[str, int] = _MNIST_LIKE,
    prefixes: dict[str, str] = _TRAIN_TEST,
    classes: tuple[str, ...] | None = _DIGITS,
    hint: str = "",
) -> DataSet:
    """Return a data set of 28x28 IDX files; torchvision downloads those that have no hint."""
    places = (f"{folder}/raw/{{}}-images-idx3-ubyte", f"{folder}/{{}}-images-idx3-ubyte")
    return DataSet(
        *(name, "idx", (1, 28, 28), count),
        places=tuple(place + end for place in places for end in ("", ".gz")),
        splits=prefixes,
        classes=classes,
        download="" if hint else folder,
        hint=hint,
    )


_KANNADA = "Get it from github.com/vinayprabhu/Kannada_MNIST"
_LETTERS = (*_DIGITS, *"ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")

BUILT_IN = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            "digits",
            "sklearn",
            (1, 8, 8),
            {"train": 1438, "test": 359},
            splits={"train": "train", "test": "test"},
            classes=_DIGITS,
        ),
        DataSet("iris", "sklearn", (1, 1, 4), {"train": 150}),
        _idx("mnist", "MNIST"),
        _idx("fashion-mnist", "FashionMNIST", classes=_FASHION),
        _idx("kmnist", "KMNIST", classes=None),
        _idx(
            "emnist",
            "EMNIST",
            count={"train": 112_800, "test": 18_800},
            prefixes={"train": "emnist-balanced-train", "test": "emnist-balanced-test"},
            classes=_LETTERS,
        ),
        _idx("kannada-mnist", "KannadaMNIST", hint=_KANNADA),
        _idx("dig-mnist", "DigMNIST", count={"test": 10_000}, hint=_KANNADA),
        _idx("usps", "USPS", count={"test": 2_007}, hint="28x28 IDX files; pcgen downloads none"),
        _idx(
            "omniglot",
            "Omniglot",
            count={"test": 2_720},
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
            "cifar100",
            "torchvision",
            (3, 32, 32),
            {"train": 50_000, "test": 10_000},
            ("cifar-100-python",),
            {"train": "train", "test": "test"},
            download="CIFAR100",
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

# What people take each set for, in a few words.
_USES = {
    "digits": "first tries",
    "iris": "first tries with a table",
    "mnist": "every task",
    "fashion-mnist": "every task",
    "kmnist": "unusual beside mnist",
    "emnist": "letters, unusual beside mnist",
    "kannada-mnist": "unusual beside mnist",
    "dig-mnist": "unusual beside mnist",
    "usps": "digits of another source",
    "omniglot": "unusual beside mnist",
    "cifar10": "reconstruct, ood-score",
    "cifar100": "classify",
    "svhn": "unusual beside cifar10",
    "tiny-imagenet": "recall, reconstruct",
}


DATA_SETS.define(BUILT_IN)


def folders(data_dir: Path | None) -> Iterator[Path]:
    """Yield the folders that may hold data sets: --data-dir, PCGEN_DATA, then the user's cache.

    Raises:
        DataError: --data-dir or PCGEN_DATA is no folder.
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
    """Return the file or folder of a data set's split, or None if it is in no data folder."""
    for folder in folders(data_dir):
        places = data_set.places
        if data_set.download and folder == cache():  # packed, as their checksums were published
            places = tuple(sorted(places, key=lambda place: not place.endswith(".gz")))
        for place in places:
            path = folder / place.format(data_set.splits[split])
            if path.exists():
                return path
    return None


def split_of(data_set: DataSet, split: str, data_dir: Path | None) -> str:
    """Return the name of the split to read.

    An empty `split` stands for the default split. If the set cannot be downloaded, it stands for
    the first split that is in a data folder.

    Raises:
        DataError: the data set has no such split.
    """
    name = {"valid": "val", "validation": "val"}.get(split, split)
    if split and name not in data_set.splits:
        known = ", ".join(data_set.splits)
        raise DataError(
            f"{data_set.name}:{split}: {data_set.name} has "
            + (f"the splits {known}" if known else "no splits"),
            f"Example: {data_set.name}" + (f":{[*data_set.splits][-1]}" if known else ""),
        )
    if split or not data_set.splits:
        return name
    default = next(iter(data_set.splits))
    if data_set.download:
        return default
    return next((s for s in data_set.splits if find(data_set, s, data_dir)), default)


_REGISTERED = {"shape": "", "count": "", "for": "your own tasks", "where": "your code"}


def listing(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Return a row for every data set: its content, its use, and its place."""
    folder = None if data_dir is None else Path(data_dir)
    load_plugins()
    return [
        _row(BUILT_IN[name], folder)
        if name in BUILT_IN
        else {"name": name, "kind": "registered", **_REGISTERED}
        for name in DATA_SETS.names()
    ]


def _row(data_set: DataSet, data_dir: Path | None) -> dict[str, Any]:
    channels, height, width = data_set.shape
    is_table = data_set.name == "iris"
    colour = "grey" if channels == 1 else "RGB"
    count = " + ".join(f"{n} {split}" for split, n in data_set.count.items())
    return {
        "name": data_set.name,
        "kind": "table" if is_table else "images",
        "shape": f"{width} columns" if is_table else f"{height}x{width} {colour}",
        "count": count if data_set.splits else str(sum(data_set.count.values())),
        "for": _USES[data_set.name],
        "where": _where(data_set, data_dir),
    }


def _where(data_set: DataSet, data_dir: Path | None) -> str:
    """Return the place of a data set's files, or how to get them."""
    if data_set.kind == "sklearn":
        return "embedded (scikit-learn)"
    paths = {split: find(data_set, split, data_dir) for split in data_set.splits}
    present = {split: path for split, path in paths.items() if path is not None}
    if not present:
        return "downloaded on first use" if data_set.download else data_set.hint
    path = next(iter(present.values()))
    where = path.parent if data_set.kind == "idx" else path
    notes = [] if len(present) == len(paths) else [f"{', '.join(present)} only"]
    notes += [NOTES[path.name]] if path.name in NOTES else []
    return str(where) + (f" ({'; '.join(notes)})" if notes else "")
