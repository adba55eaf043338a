"""What paths say: splits (train/, val/, test/) and classes (sub-folders, Tiny ImageNet's lists)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcgen.data.files import Files
from pcgen.errors import DataError

_SPLITS = {
    "train": "train",
    "test": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}


def _wrapper(names: Sequence[str]) -> int:
    """Return how many leading folders hold everything and say nothing: `photos/` in a photos.zip.

    A split's folder says something, and so does the last folder before the pictures.
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
    """Return the rows of a split, or all where none is asked for.

    Raises:
        DataError: there is no such split.
    """
    if not split:
        return list(range(len(names)))
    depth = _wrapper(names)
    of_row = [_SPLITS.get(name.split("/")[depth], "") for name in names]
    wanted = _SPLITS.get(split, split)
    keep = [row for row, found in enumerate(of_row) if found == wanted]
    if not keep:
        there = ", ".join(sorted(set(of_row) - {""})) or "no splits"
        raise DataError(f"{source}: no split {split} in it; it has {there}")
    return keep


def classes_of(files: Files) -> tuple[Tensor | None, list[str] | None]:
    """Return a label for every file and the classes' names; None where a file has no class.

    The class is the first folder below the split, as in train/CLASS/x.png and, in Tiny ImageNet,
    train/CLASS/images/x.JPEG; for its val/images/x.JPEG it stands in val/val_annotations.txt.
    """
    depth = _wrapper(files.names)
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


def _annotations(files: Files, split: str) -> dict[str, str]:
    """Return the class of each picture that Tiny ImageNet's list names."""
    text = files.text_of(f"{split}/val_annotations.txt" if split else "val_annotations.txt")
    lines = (line.split("\t") for line in (text or "").splitlines())
    return {cells[0]: cells[1] for cells in lines if len(cells) > 1}
