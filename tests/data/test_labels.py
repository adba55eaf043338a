"""Classes of data and of a model are matched by name; labels of old models keep their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pcgen.data.labels import in_classes_of, matched, with_values
from pcgen.data.sources import open_data

from .pictures import random_pixels, write_idx


@pytest.mark.parametrize(
    ("names", "known", "positions"),
    [
        (["zero", "one"], ["one", "zero"], [1, 0]),
        (["Zero", " ONE"], ["one", "zero"], [1, 0]),
        (["Zero", "zero"], ["one", "zero"], [None, 1]),
        (["zero"], ["Zero", "ZERO"], [None]),
        (["ZERO"], ["Zero", "ZERO"], [1]),
        (["cafe\u0301"], ["CAF\u00c9"], [0]),
        (["two", "1"], ["one", "zero"], [None, None]),
        (["-1", "1"], ["1", "-1"], [1, 0]),
    ],
)
def test_classes_are_matched_by_name_and_by_case_only_without_doubt(
    names: list[str], known: list[str], positions: list[int | None]
) -> None:
    assert matched(names, known) == positions


def test_labels_become_the_models_numbers_or_a_reason_names_the_unknown_class() -> None:
    digits = replace(
        open_data("digits", limit=3), labels=torch.tensor([2, 0, 2]), classes=["b", "x", "a"]
    )
    labels, reason = in_classes_of(digits, ["a", "b", "c"])
    assert labels is not None
    # No row has the class x.
    assert (labels.tolist(), reason) == ([0, 1, 0], "")
    labels, reason = in_classes_of(replace(digits, classes=["b", "x", "q"]), ["a", "b"])
    assert labels is None
    assert "no accuracy, because the model knows no class 'q'. It knows 'a', 'b'" in reason
    assert in_classes_of(replace(digits, labels=None), ["a"]) == (None, "")
    numbers = replace(digits, labels=torch.tensor([7, 0, 3]), classes=None)
    labels, _ = in_classes_of(numbers, [str(k) for k in range(9, -1, -1)])
    assert labels is not None
    assert labels.tolist() == [2, 9, 6]


def test_a_limit_does_not_renumber_the_classes(tmp_path: Path) -> None:
    x, y = random_pixels(6, 4, 4), np.array([3, 5, 3, 9, 5, 3], np.uint8)
    path = write_idx(tmp_path / "a-images-idx3-ubyte", x)
    write_idx(tmp_path / "a-labels-idx1-ubyte", y)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    for source in (path, tmp_path / "x.npz"):
        whole, part = open_data(source), open_data(source, limit=3)
        assert part.classes == whole.classes == ["3", "5", "9"]
        assert part.labels is not None
        assert part.labels.tolist() == [0, 1, 0]


def test_labels_with_values_are_those_of_version_0_1_0() -> None:
    digits = open_data("digits", limit=3)
    own = replace(digits, labels=torch.tensor([1, 0, 1]), classes=["-1", "12"])
    assert own.labels is not None
    old = with_values(own)
    assert old.labels is not None
    assert (old.classes, old.labels.tolist()) == (None, [12, -1, 12])
    words = replace(own, classes=["a", "12"])
    assert with_values(words) is words
