"""Headers, indexes, decimal signs and label columns of .csv files, and what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.data.tables import require_complete

from .pictures import refusal
from .test_tables import in_own_units, opened

FLOATS = [[0.25, 1.5, -2.125, 0.75], [1.125, -0.5, 0.375, 2.5], [0.625, 0.125, 1.25, -3.5]]


def lines(rows: Any, first: str = "", start: int | None = None) -> str:
    """Return rows as the lines of a .csv file; with `start`, an index column from there."""
    index = [""] * len(rows) if start is None else [f"{start + i}," for i in range(len(rows))]
    body = (i + ",".join(map(str, row)) for i, row in zip(index, rows, strict=True))
    return "\n".join([*([first] if first else []), *body]) + "\n"


def whole(columns: int, seed: int = 0) -> list[list[int]]:
    table: list[list[int]] = np.random.default_rng(seed).integers(0, 100, (40, columns)).tolist()
    return table


MODEL: dict[str, Any] = {
    "like": (1, 1, 2),
    "like_scale": [[0.0, 0.0], [1.0, 1.0]],
    "columns": ["a", "b"],
}


def said(images: Images, *words: str) -> None:
    text = "\n".join(images.notes)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("first", "rows"),
    [
        ("0,1,2,3", FLOATS),
        ("0,1,2,3", whole(4)),
        ("0,1", whole(2)),
        ("1,2,3", [row[:3] for row in FLOATS]),
        ("2001,2002,2003", whole(3)),
        ("2001,2002", whole(2)),
        ("1990,1995,2000,2005", whole(4)),
        ('"0","1","2","3"', FLOATS),
    ],
)
def test_a_first_line_of_numbers_that_count_up_is_a_header(
    tmp_path: Path, first: str, rows: list[list[float]]
) -> None:
    images = opened(tmp_path, lines(rows, first))
    assert images.columns == first.replace('"', "").split(",")
    assert in_own_units(images) == rows
    said(images, "names the columns")


@pytest.mark.parametrize(
    "rows",
    [
        FLOATS,
        [[0, 1], [1, 0], [1, 1], [0, 0]],
        [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
        [[0, 1], [1, 3], [2, 9], [3, 27]],
        [[4, 5, 3], [1, 2, 2], [3, 3, 1], [5, 5, 5]],
        [[7], [9], [12]],
    ],
)
def test_a_file_without_a_header_loses_no_row_and_says_so(
    tmp_path: Path, rows: list[list[float]]
) -> None:
    images = opened(tmp_path, lines(rows))
    assert in_own_units(images) == rows
    assert images.columns == [f"column{i + 1}" for i in range(len(rows[0]))]
    said(images, "no header", "column1")


@pytest.mark.parametrize(
    ("first", "start", "columns"),
    [
        (",a,b,c,d", 0, ["a", "b", "c", "d"]),
        ('"","a","b","c","d"', 1, ["a", "b", "c", "d"]),
        ("Unnamed: 0,a,b,c,d", 500, ["a", "b", "c", "d"]),
        (",0,1,2,3", 0, ["0", "1", "2", "3"]),
    ],
)
def test_an_index_column_is_left_out_and_said(
    tmp_path: Path, first: str, start: int, columns: list[str]
) -> None:
    images = opened(tmp_path, lines(FLOATS, first, start))
    assert images.columns == columns
    assert in_own_units(images) == FLOATS
    said(images, "numbers the rows; it is left out")


def test_a_column_without_a_name_is_left_out_only_if_it_holds_nothing(tmp_path: Path) -> None:
    images = opened(tmp_path, ",a,\n0.5,1,\n0.5,2,\n")
    assert images.columns == ["column1", "a"]
    said(images, "it is called column1", "column 3 has neither a name nor values")
    words = opened(tmp_path, ",a\nMazda,1\nFiat,2\n")
    assert words.columns == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "a;b\n1,5;10\n2;20,25\n",
        "sep=;\na;b\n1,5;10\n2;20,25\n",
        "a\tb\n1,5\t10\n2\t20,25\n",
        'a,b\n"1,5","10"\n"2","20,25"\n',
        "1,5;10\n2;20,25\n",
        "a;b;label\n1,5;10;cat\n2;20,25;dog\n",
        '"a, mm";b\n1,5;10\n2;20,25\n',
    ],
)
def test_decimal_commas_are_read_and_said(tmp_path: Path, text: str) -> None:
    images = opened(tmp_path, text)
    assert in_own_units(images) == [[1.5, 10], [2, 20.25]]
    said(images, "decimal commas")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a;b\n1,5;2\n3.5;4\n", ["line 2, column a: '1,5'", "decimal point"]),
        ("a\tb\n1,500\t2\n2,250\t4\n", ["line 2, column a: '1,500'", "1.5 or 1500"]),
        ('a,b\n"1,500",2\n', ["'1,500'", "1.5 or 1500"]),
        ('a,b\n"1,500.5",2\n', ["'1,500.5' is not a number"]),
        ("a;b\n1.500,5;2\n", ["'1.500,5' is not a number"]),
    ],
)
def test_numbers_that_can_mean_two_things_are_refused(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    assert (
        "without marks between the thousands"
        in refusal(lambda: opened(tmp_path, text), *words).hint
    )


def test_a_header_with_a_line_break_keeps_the_lines_right(tmp_path: Path) -> None:
    images = opened(tmp_path, '"a\n(cm)",b\n1,2\n3,4\n')
    assert images.columns == ["a\n(cm)", "b"]
    assert in_own_units(images) == [[1, 2], [3, 4]]
    refusal(lambda: opened(tmp_path, '"a\n(cm)",b\n1,2\n3,x\n'), "line 4, column b")


def test_a_column_y_is_no_label_unless_it_is_named(tmp_path: Path) -> None:
    text = "x,y,z\n1,7,3\n2,5,4\n"
    numbers = opened(tmp_path, text)
    assert numbers.columns == ["x", "y", "z"]
    assert numbers.labels is None
    said(numbers, "data.labels=y")
    labelled = opened(tmp_path, text, labels="y")
    assert labelled.columns == ["x", "z"]
    assert (labelled.classes, labelled.labels.tolist()) == (["5", "7"], [1, 0])  # type: ignore[union-attr]
    said(labelled, "labels: column 'y'")
    error = refusal(lambda: opened(tmp_path, "x,y\n1,cat\n"), "line 2, column y", "'cat'")
    assert "data.labels=y" in error.hint
    refusal(lambda: opened(tmp_path, text, labels="w"), "no column 'w'")


def test_fractions_are_no_labels_and_their_column_is_named(tmp_path: Path) -> None:
    text = "x,target\n1,0.5\n2,0.25\n"
    error = refusal(lambda: opened(tmp_path, text), "'target'", "0.5", "whole numbers or words")
    assert 'data.labels=""' in error.hint
    for options in ({"labels": ""}, {"columns": ["x", "target"]}):
        assert opened(tmp_path, text, **options).columns == ["x", "target"]
    refusal(lambda: opened(tmp_path, "x,label\n1,a\n2,\n"), "line 3: no label in column 'label'")
    refusal(lambda: opened(tmp_path, "x,label,target\n1,a,b\n"), "'label' or 'target'")


@pytest.mark.parametrize(
    ("cells", "classes", "labels"),
    [
        (["-1", "1", "-1"], ["-1", "1"], [0, 1, 0]),
        (["99999", "10001", "99999"], ["10001", "99999"], [1, 0, 1]),
        (["10", "9", "10"], ["9", "10"], [1, 0, 1]),
        (["2.0", "1.0", "3.0"], ["1", "2", "3"], [1, 0, 2]),
        (["1", "0", "2"], None, [1, 0, 2]),
        (["b", "a", "b"], ["a", "b"], [1, 0, 1]),
    ],
)
def test_values_of_labels_are_names_of_classes(
    tmp_path: Path, cells: list[str], classes: list[str] | None, labels: list[int]
) -> None:
    images = opened(tmp_path, lines([[i, cell] for i, cell in enumerate(cells)], "x,label"))
    assert images.labels is not None
    assert (images.classes, images.labels.tolist()) == (classes, labels)
    assert images.class_count == len(set(cells))


def test_a_model_takes_columns_by_name_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    images = opened(tmp_path, "b,note,a\n1,x,2\n3,y,4\n", **MODEL)
    assert in_own_units(images) == [[2, 1], [4, 3]]
    said(images, "left out, because the model does not know it: column 'note'")
    error = refusal(lambda: opened(tmp_path, "b,c\n1,2\n", **MODEL), "no column 'a'", "'c'")
    assert error.hint == "The model takes: a, b"
    bare = opened(tmp_path, "1,2\n3,4\n", **MODEL)
    assert in_own_units(bare) == [[1, 2], [3, 4]]
    said(bare, "no header", "the model's order")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    refusal(lambda: opened(tmp_path, "a,a,b\n1,2,3\n"), "two columns are named 'a'")


def test_labels_that_a_model_does_not_need_never_stop_it(tmp_path: Path) -> None:
    for text in ("a,b,y\n1,2,0.5\n", "a,b,label\n1,2,\n"):
        images = opened(tmp_path, text, **MODEL)
        assert images.labels is None
        said(images, "left out")
    # A model that does not know a column y may have learnt its labels from it.
    assert opened(tmp_path, "a,b,y\n1,2,cat\n", **MODEL).classes == ["cat"]


def test_pixels_of_a_table_are_taken_by_name_where_the_model_has_their_names(
    tmp_path: Path,
) -> None:
    images = opened(tmp_path, "p1,p0\n255,0\n", like=(1, 1, 2), columns=["p0", "p1"])
    assert images.rows([0]).pixels_BD.tolist() == [[0, 1]]
    others = opened(tmp_path, "q1,q0\n255,0\n", like=(1, 1, 2), columns=["p0", "p1"])
    assert others.rows([0]).pixels_BD.tolist() == [[1, 0]]


@pytest.mark.parametrize("cell", ["", "NaN", "NA", "inf", "1e39"])
def test_a_table_with_a_missing_number_is_refused_by_the_line_of_its_file(
    tmp_path: Path, cell: str
) -> None:
    images = opened(tmp_path, f"a,b\n1,2\n\n3,{cell}\n5,6\n7,{cell}\n")
    refusal(lambda: require_complete(images), "2 of 4 rows", "t.csv[1]: line 4: 1 of 2 values")
    require_complete(opened(tmp_path, "a,b\n1,2\n"))


def test_an_array_with_a_missing_number_is_refused_too(tmp_path: Path) -> None:
    array = np.zeros((5, 2, 2), np.float32)
    array[3, 1, 1] = np.nan
    refusal(lambda: require_complete(open_data(array)), "array[3]", "1 of 4 values")


def test_one_hot_labels_are_read_and_other_rows_of_labels_named(tmp_path: Path) -> None:
    x, kinds = np.zeros((4, 2, 2), np.uint8), torch.tensor([2, 0, 0, 1])
    path = tmp_path / "x.npz"

    def saved(labels: Any) -> str:
        np.savez(path, x=x, y=labels)
        return str(path)

    one_hot = torch.nn.functional.one_hot(kinds, 4).numpy()
    for labels in (one_hot, one_hot.astype(bool), one_hot.astype(np.float32)):
        images = open_data(saved(labels))
        assert images.labels is not None
        assert images.labels.tolist() == kinds.tolist()
        assert images.class_count == 4
    said(images, "labels: array 'y'")
    for labels in (one_hot * 0.5, 1 - one_hot, np.zeros((4, 3))):
        refusal(lambda labels=labels: open_data(saved(labels)), "shape 4x", "nor one-hot")
    refusal(lambda: open_data(saved(one_hot[:3])), "3 labels of shape 3x4 for 4 rows")
    refusal(lambda: open_data(saved(np.full(4, 0.5))), "labels 'y' hold 0.5")
    assert open_data(saved(np.full(4, 0.5)), labels="").labels is None
    named = open_data(saved(np.array([10001, 99999, -1, -1])))
    assert named.classes == ["-1", "10001", "99999"]
