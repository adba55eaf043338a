"""Tables: csv in its varieties, standardised columns, and cells that are not numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcgen.data.images import Images
from pcgen.data.sources import open_data

from .pictures import refusal


def opened(folder: Path, text: str | bytes, **options: Any) -> Images:
    path = folder / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_data(str(path), **options)


def in_own_units(images: Images) -> list[list[float]]:
    assert images.scale is not None
    mean, deviation = images.scale
    values = images.rows(range(len(images))).pixels_BD * deviation + mean
    return [[round(value, 4) for value in row] for row in values.tolist()]


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,10\n2,20\n3,60\n",
        "1,10\n2,20\n3,60",
        "a;b\r\n1;10\r\n2;20\r\n3;60\r\n",
        "\ufeffa\tb\n1\t10\n2\t20\n3\t60\n",
        'a,"b"\n1,"10"\n2,"20"\n\n3,"60"\n',
        "a, b\n1, 10\n2, 20\n3, 60\n\n",
    ],
)
def test_csv_varieties_hold_the_same_numbers(tmp_path: Path, text: str) -> None:
    images = opened(tmp_path, text)
    assert images.is_table
    assert images.shape == (1, 1, 2)
    assert in_own_units(images) == [[1, 10], [2, 20], [3, 60]]
    assert images.columns in (["a", "b"], ["column1", "column2"])


def test_columns_are_standardised_and_constant_ones_become_0(tmp_path: Path) -> None:
    images = opened(tmp_path, "a,b\n1,5\n2,5\n3,5\n4,5\n")
    values = images.rows(range(4)).pixels_BD
    torch.testing.assert_close(values[:, 0].mean(), torch.tensor(0.0))
    torch.testing.assert_close(values[:, 0].std(correction=0), torch.tensor(1.0))
    assert not values[:, 1].any()


def test_large_offsets_keep_their_small_differences(tmp_path: Path) -> None:
    images = opened(tmp_path, "t\n1e9\n1000000001\n1000000002\n")
    assert images.rows(range(3)).pixels_BD[:, 0].tolist() == pytest.approx(
        [-1.2247, 0, 1.2247], 1e-3
    )


def test_a_models_own_scale_takes_the_place_of_the_datas(tmp_path: Path) -> None:
    images = opened(
        tmp_path, "a,b\n1,10\n2,20\n", like=(1, 1, 2), like_scale=[[1.0, 0.0], [2.0, 10.0]]
    )
    assert images.rows(range(2)).pixels_BD.tolist() == [[0, 1], [0.5, 2]]


@pytest.mark.parametrize("name", ["label", "Target", "class", "LABELS"])
def test_a_column_of_labels_is_no_number(tmp_path: Path, name: str) -> None:
    images = opened(tmp_path, f"a,{name},b\n1,cat,10\n2,dog,20\n3,cat,60\n")
    assert images.columns == ["a", "b"]
    assert images.classes == ["cat", "dog"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 0]
    assert f"labels: column {name!r}" in images.notes[0]


def test_a_word_where_a_number_belongs_is_named_by_line_and_column(tmp_path: Path) -> None:
    error = refusal(lambda: opened(tmp_path, "a,b\n1,2\n3,four\n"), "line 3", "column b", "'four'")
    assert "label" in error.hint


def test_a_first_line_of_numbers_and_a_word_is_no_header(tmp_path: Path) -> None:
    refusal(lambda: opened(tmp_path, "5.1,3.5,setosa\n4.9,3.0,setosa\n"), "line 1", "column3")


def test_a_missing_cell_is_a_rows_status_and_not_in_the_scale(tmp_path: Path) -> None:
    images = opened(tmp_path, "a,b\n1,2\n,4\n3,NA\n3,1e300\n")
    rows = images.rows(range(4))
    assert rows.status == ["ok", "nonfinite", "nonfinite", "nonfinite"]
    assert "1 of 2" in rows.reason[1]
    assert images.scale is not None
    assert images.scale[0][0].item() == pytest.approx(7 / 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no rows"]),
        ("\n\n", ["no rows"]),
        ("a,b\n", ["no rows"]),
        ("a,b\n1,2\n3\n", ["line 3", "1 cells", "2"]),
        ("a,b\n1,2,3\n", ["line 2", "3 cells"]),
        ("label\ncat\n", ["no columns"]),
        (b"\xff\xfe\x00\x01", ["not text"]),
        (b"a,b\n1,\x00\n", ["line 2"]),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    refusal(lambda: opened(tmp_path, text), *words)


def test_a_table_of_other_columns_than_the_models_is_refused(tmp_path: Path) -> None:
    scale = [[0.0] * 4, [1.0] * 4]
    refusal(
        lambda: opened(tmp_path, "1,2\n3,4\n", like=(1, 1, 4), like_scale=scale), "2 columns", "4"
    )
    refusal(lambda: open_data("digits", like=(1, 1, 4), like_scale=scale), "takes rows of 4")
    refusal(lambda: open_data("iris", like=(1, 8, 8)), "4 columns", "1x8x8")


def test_a_csv_of_pixels_becomes_images_where_a_size_is_asked_for(tmp_path: Path) -> None:
    text = "label,p0,p1,p2,p3\n5,0,255,51,0\n3,0,0,0,255\n"
    for options in ({"size": (2, 2)}, {"like": (1, 2, 2)}):
        images = opened(tmp_path, text, **options)
        assert images.shape == (1, 2, 2)
        assert not images.is_table
        assert images.rows([0]).pixels_BD[0].tolist() == pytest.approx([0, 1, 0.2, 0])
        assert images.labels is not None
        assert (images.classes, images.labels.tolist()) == (["3", "5"], [1, 0])


def test_iris_is_a_table_with_classes() -> None:
    iris = open_data("iris")
    assert (len(iris), iris.shape, iris.is_table) == (150, (1, 1, 4), True)
    assert iris.classes == ["setosa", "versicolor", "virginica"]
    assert iris.columns is not None
    assert len(iris.columns) == 4
    assert in_own_units(iris)[0] == [5.1, 3.5, 1.4, 0.2]


def test_an_npy_in_a_tables_own_units_is_read_with_the_models_scale(tmp_path: Path) -> None:
    iris = open_data("iris")
    assert iris.scale is not None
    np.save(tmp_path / "x.npy", np.array(in_own_units(iris)[:3]))
    again = open_data(str(tmp_path / "x.npy"), like=iris.shape, like_scale=iris.scale)
    torch.testing.assert_close(again.rows([0, 1, 2]).pixels_BD, iris.rows([0, 1, 2]).pixels_BD)


def test_limit_takes_the_first_rows_and_their_scale(tmp_path: Path) -> None:
    images = opened(tmp_path, "a\n1\n3\n100\n", limit=2)
    assert images.rows(range(2)).pixels_BD[:, 0].tolist() == [-1, 1]
