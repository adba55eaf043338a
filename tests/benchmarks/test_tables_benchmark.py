"""The benchmark of unusual rows: its protocol, its rows and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pcgen
from pcgen.benchmarks.tables import benchmark
from pcgen.benchmarks.tables.benchmark import Outcome, parts_of, rows_of
from pcgen.errors import DataError, RecipeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "ADBench").mkdir()
    for name in ("1_one", "2_two"):
        usual, unusual = rng.normal(size=(60, 3)), rng.normal(5, 1, size=(10, 3))
        y = np.repeat([0, 1], [60, 10])
        np.savez(tmp_path / "ADBench" / f"{name}.npz", X=np.concatenate([usual, unusual]), y=y)
    return tmp_path


def test_no_row_is_both_known_and_new(folder: Path) -> None:
    known, usual, unusual = parts_of(folder / "ADBench" / "1_one.npz", 0, 25)
    assert (len(known), len(usual), len(unusual)) == (25, 25, 10)
    rows = {tuple(row) for part in (known, usual, unusual) for row in part}
    assert len(rows) == 60


def test_every_method_finds_what_is_far_away(folder: Path) -> None:
    rows = pcgen.bench_tables(
        ["one"], splits=1, methods=["pcgen", "knn", "linear"], data_dir=folder
    )
    auroc = {row["method"]: row["value"] for row in rows if row["metric"] == "auroc"}
    assert {"pcgen", "pcgen, memory alone", "kNN(1)", "Mahalanobis"} <= set(auroc)
    assert min(auroc.values()) > 0.9
    notes = [row["note"] for row in rows if row["metric"] == "alarms"]
    assert len(notes) == 6
    assert all(note.startswith("promised 0.05") for note in notes)


def test_the_page_shows_the_means_first_and_each_table_in_the_order_of_its_number(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "ADBench" / "1_one.npz").rename(folder / "ADBench" / "10_one.npz")
    rows = pcgen.bench_tables(
        splits=1, methods=["pcgen", "knn"], data_dir=folder, out=tmp_path / "out"
    )
    page = (tmp_path / "out" / "index.html").read_text()
    places = [page.index(word) for word in ("mean of tables: auroc", "2_two", "10_one")]
    assert places == sorted(places)
    assert page.count("<svg") == 3
    assert len(json.loads((tmp_path / "out" / "tables.json").read_text())) == len(rows)


def test_differences_are_to_ours_and_paired_by_tables() -> None:
    outcomes = [
        Outcome(table, 0, method, auroc, 0.5, None, 100, 1.0)
        for table, values in (("a", (0.8, 0.7)), ("b", (0.9, 0.6)))
        for method, auroc in zip(("pcgen", "kNN(1)"), values, strict=True)
    ]
    (row,) = [
        row
        for row in rows_of(outcomes)
        if (row["dataset"], row["method"], row["metric"]) == (benchmark.ALL, "kNN(1)", "auroc")
    ]
    assert row["difference"] == pytest.approx(-0.2)
    assert row["standard_error"] == pytest.approx(0.1)


def test_a_wrong_name_is_answered_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no table three"):
        pcgen.bench_tables(["three"], data_dir=folder)
    with pytest.raises(RecipeError, match="no methods nonsense"):
        pcgen.bench_tables(methods=["nonsense"], data_dir=folder)
