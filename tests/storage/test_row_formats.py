"""Files of rows: every format gives the same values back."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcgen.data.cells import cell_of, text_of
from pcgen.errors import RunError
from pcgen.storage.row_formats import read_rows, require_format, write_rows
from tests.storage.test_files import full

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


FORMULAS = ["=cmd.png", "@SUM(1).png", "+1.png", "-2.png", "\tx", "\rx", "\nx", "\uff1d1"]
OTHERS = ["'quoted'", "'=x", "''+1", "'", "a\rb", 'a"b', "a,b\r\n", "1", "plain=.png", "\u2028x"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".npz"])
def test_every_name_is_one_record_and_comes_back(tmp_path: Path, ending: str) -> None:
    rows = [
        {"id": name, "status": "ok", "reason": name, "class": name, "energy": -0.5}
        for name in [*FORMULAS, *OTHERS]
    ]
    path = tmp_path / f"rows{ending}"
    write_rows(rows, list(rows[0]), path)
    assert list(read_rows(path)) == rows


def test_no_text_in_a_csv_is_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [{"id": name, "energy": -0.5} for name in [*FORMULAS, *OTHERS]]
    write_rows(rows, ["id", "energy"], path)
    with path.open(newline="") as file:
        header, *records = csv.reader(file)
    assert header == ["id", "energy"]
    assert len(records) == len(rows)
    for (cell, energy), name in zip(records, [*FORMULAS, *OTHERS], strict=True):
        assert cell[0] not in "=+-@\t\r\n\uff1d"
        assert energy == "-0.5"
        assert cell.endswith(name)


@given(st.text())
def test_any_text_comes_back_from_its_cell(text: str) -> None:
    cell = cell_of(text)
    assert text_of(cell) == text
    assert cell == text or text.lstrip("'")[0] in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


def test_a_table_of_another_version_without_apostrophes_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,status,score\n=x.png,ok,1.5\n'tis.png,ok,-1\n")
    assert [row["id"] for row in read_rows(path)] == ["=x.png", "'tis.png"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"id,score\n1,2,3\n"),
        ("b.csv", b"id,score\nx,y\n"),
        ("c.csv", b"id\n" + b"x" * 200_000),
        ("d.csv", b"\xff\xfe"),
        ("e.jsonl", b"[" * 100_000),
        ("f.jsonl", b"\x00"),
        ("g.npz", b"PK\x03\x04 cut"),
        ("h.npz", b""),
    ],
)
def test_a_file_of_other_content_holds_no_scored_rows(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match="holds no scored rows"):
        list(read_rows(tmp_path / name))


def test_rows_and_their_metadata_are_replaced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    write_rows(LABELLED, list(LABELLED[0]), path, {"count": 2})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert before.keys() == {"rows.csv", "rows.csv.meta.json"}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_rows(LABELLED[:1], list(LABELLED[0]), path, {"count": 1})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
