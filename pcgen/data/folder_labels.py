"""Splits (train/, val/, test/) and classes (sub-folders, Tiny ImageNet's lists) from paths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcgen.data.files import Files
from pcgen.errors import DataError

_SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


def _wrapper_depth(names: Sequence[str]) -> int:
    """Return the number of leading folders that hold everything, as `photos/` in a photos.zip.

    Neither a split's folder nor the last folder before the pictures counts, because they may name a
    split or a class.
    """
    parts = [name.split("/")[:-1] for name in (min(names), max(names))]
    shortest = min(name.count("/") for name in names)
    depth = 0
    while depth < shortest - 1 and parts[0][depth] == parts[1][depth]:
        if parts[0][depth] in _SPLITS:
            break
        depth += 1
    return depth


def rows_of_split(names: Sequence[str], split: str, source: str) -> list[int]:
    """Return the row numbers of a split, or of all rows for an empty split.

    Raises:
        DataError: there is no such split.
    """
    if not split:
        return list(range(len(names)))
    depth = _wrapper_depth(names)
    splits = [_SPLITS.get(name.split("/")[depth], "") for name in names]
    split = _SPLITS.get(split, split)
    rows = [row for row, own in enumerate(splits) if own == split]
    if not rows:
        known = ", ".join(sorted(set(splits) - {""})) or "no splits"
        raise DataError(f"{source}: no split {split} in it; it has {known}")
    return rows


def classes_of(files: Files) -> tuple[Tensor | None, list[str] | None]:
    """Return a label for every file and the classes' names; None and None if a file has no class.

    The class is the first folder below the split: train/CLASS/x.png or, in Tiny ImageNet,
    train/CLASS/images/x.JPEG. The classes of its val/images/x.JPEG are in val/val_annotations.txt.
    """
    depth = _wrapper_depth(files.names)
    listed: dict[str, dict[str, str]] = {}
    names: list[str] = []
    for path in files.names:
        parts = path.split("/")
        folders = parts[depth:-1]
        if folders and folders[0] in _SPLITS:
            folders = folders[1:]
        if folders == ["images"]:
            split = "/".join(parts[:-2])
            if split not in listed:
                listed[split] = _annotations(files, split)
            folders = [listed[split][parts[-1]]] if parts[-1] in listed[split] else []
        if not folders:
            return None, None
        names.append(folders[0])
    classes = sorted(set(names))
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[name] for name in names]), classes


def in_turn(labels: Tensor) -> list[int]:
    """Return all row numbers: the first row of every class, then the second of every class, ..."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels[order]]
    rows: list[int] = rank.argsort(stable=True).tolist()
    return rows


def _annotations(files: Files, split: str) -> dict[str, str]:
    """Return the class of each picture in Tiny ImageNet's list."""
    text = files.text_of(f"{split}/val_annotations.txt" if split else "val_annotations.txt")
    lines = (line.split("\t") for line in (text or "").splitlines())
    return {cells[0]: cells[1] for cells in lines if len(cells) > 1}
