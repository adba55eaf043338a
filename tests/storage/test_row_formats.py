"""Files of rows: every format gives the same values back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pcgen.errors import RunError
from pcgen.storage.row_formats import read_rows, require_format, write_rows

LABELLED = [
    {"id": "a.png", "status": "ok", "reason": None, "label": 3, "class": "cat", "energy": 0.5},
    {"id": "b.png", "status": "unreadable", "reason": "cut", "label": None, "class": None}
    | {"energy": None},
]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".npz"])
def test_rows_come_back_as_they_were_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    write_rows(LABELLED, list(LABELLED[0]), path)
    assert list(read_rows(path)) == LABELLED


def test_labels_in_an_npz_are_integers_and_classes_are_text(tmp_path: Path) -> None:
    write_rows(LABELLED, list(LABELLED[0]), tmp_path / "rows.npz")
    with np.load(tmp_path / "rows.npz") as arrays:
        assert arrays["label"].dtype.kind == "i"
        assert arrays["label"].tolist() == [3, -1]
        assert arrays["class"].tolist() == ["cat", ""]
        assert np.isnan(arrays["energy"][1])


def test_an_unknown_ending_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RunError, match=r"rows\.txt") as caught:
        require_format(Path("rows.txt"))
    assert ".csv, .jsonl, .npz" in caught.value.hint
