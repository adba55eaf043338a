"""Labels: their values name classes, and the classes of data are matched with a model's by name."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcgen.data.images import Images
from pcgen.data.request import DataRequest
from pcgen.errors import DataError

Array = NDArray[Any]


def labels_of(
    labels: Array | None, classes: Sequence[str] | None, count: int, request: DataRequest
) -> tuple[Tensor | None, list[str] | None, tuple[str, ...]]:
    """Return labels as int64, the names of the classes, and notes; up to the request's limit.

    The distinct values are the classes, in the order of numbers or of the alphabet. Whole numbers
    from 0 without a gap need no names. One-hot rows (N, K) are read too. Labels that cannot be
    used are a note if the data are for a model, which does not need them.

    Args:
        classes: the names of labels that are numbers.
        count: the number of rows; a request with a limit may have more labels than rows.

    Raises:
        DataError: not one label for each row, or a label that is missing or a fraction.
    """
    names = list(classes) if classes else None
    if labels is None:
        return None, names, ()
    try:
        numbers, names = _numbered(labels, names, count, request)
    except DataError as error:
        if request.like is None:
            raise
        return None, None, (f"{error.message}. They are left out",)
    return torch.from_numpy(numbers.astype(np.int64))[:count][: request.limit], names, ()


def _numbered(
    labels: Array, names: list[str] | None, count: int, request: DataRequest
) -> tuple[Array, list[str] | None]:
    """Return the number of each label's class, and the names of the classes."""
    where = f"{request.source}: labels" + (f" {request.labels!r}" if request.labels else "")
    if labels.ndim > 1 and labels.size == len(labels):
        labels = labels.reshape(-1)
    has_all = len(labels) == count or (count == request.limit and len(labels) > count)
    if labels.ndim == 2 and has_all and labels.dtype.kind in "biuf":
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise DataError(
                f"{where} of shape {'x'.join(map(str, labels.shape))} are neither one label a row "
                "nor one-hot (a single 1 in each row, the rest 0)"
            )
        return labels.argmax(1), names or [str(k) for k in range(labels.shape[1])]
    if labels.ndim != 1 or not has_all:
        shape = f" of shape {'x'.join(map(str, labels.shape))}" if labels.ndim != 1 else ""
        raise DataError(f"{request.source}: {len(labels)} labels{shape} for {count} rows")
    if labels.dtype.kind not in "biuf":
        words, numbers = np.unique(labels.astype(str), return_inverse=True)
        return numbers, names or words.tolist()
    fractions = labels[labels != np.trunc(labels)] if labels.dtype.kind == "f" else labels[:0]
    if len(fractions):
        raise DataError(
            f"{where} hold {fractions[0]:g}: classes are whole numbers or words",
            'If they are no classes: --set data.labels=""',
        )
    if names is not None:
        return labels, names
    values, numbers = np.unique(labels, return_inverse=True)
    if (values == np.arange(len(values))).all():
        return numbers, None
    return numbers, [str(int(value)) for value in values]


def with_values(images: Images) -> Images:
    """Return the images with labels that are whole numbers as they are, without class names.

    Models of version 0.1.0 learnt such labels, and the fingerprints of their data hold them.
    """
    names = images.classes or []
    if images.labels is None or not names or not all(_is_whole(name) for name in names):
        return images
    return replace(images, labels=torch.tensor([*map(int, names)])[images.labels], classes=None)


def _is_whole(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdigit() and len(name) < 19


def matched(names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """Return for each name its position among the known ones; None for an unknown name.

    An equal name goes first. Then upper and lower case are the same, if that leaves no doubt.
    """
    exact = {name: position for position, name in enumerate(known)}
    folded = [_folded(name) for name in known]
    times, times_known = Counter(map(_folded, names)), Counter(folded)

    def position(name: str) -> int | None:
        key = _folded(name)
        if name in exact:
            return exact[name]
        return folded.index(key) if times[key] == times_known[key] == 1 else None

    return [position(name) for name in names]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


def in_classes_of(images: Images, known: Sequence[str]) -> tuple[Tensor | None, str]:
    """Return the labels (N,) as numbers of the known classes, or None and the reason.

    The reason is empty if the images have no labels.
    """
    if images.labels is None:
        return None, ""
    names = images.classes or [str(number) for number in range(images.class_count)]
    numbers = matched(names, known)
    used = sorted(set(images.labels.tolist()))
    unknown = [names[label] for label in used if numbers[label] is None]
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        return None, (
            f"{images.source}: no accuracy, because the model knows no class {shown}. It knows "
            + ", ".join(map(repr, known[:10]))
            + (", ..." if len(known) > 10 else "")
        )
    table = torch.tensor([-1 if number is None else number for number in numbers])
    return table[images.labels], ""
