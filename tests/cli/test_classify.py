"""`pcgen classify`: a row for every input, the label of least energy, and what is no classifier."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import pcgen
from pcgen.cli.main import cli


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["classify", *map(str, words)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("classifier") / "run"
    pcgen.train("digits-classifier", folder, settings=["learning.epochs=15"])
    return folder


def test_labels_go_to_a_file_with_the_energy_of_each(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    result = run(model, "digits:test", "--out", out, "--json", "-q")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["command"] == "classify"
    assert document["count"] == 359
    assert document["accuracy"] > 0.9
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 359
    for row in rows:
        energies = [float(row[f"energy_{k}"]) for k in range(10)]
        assert int(row["label"]) == energies.index(min(energies))
        assert float(row["energy"]) == min(energies)
        assert sum(math.exp(-energy) for energy in energies) == pytest.approx(1)
    assert document["energy"] == pytest.approx(np.mean([float(row["energy"]) for row in rows]))


def test_an_unreadable_picture_is_a_row(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_text("no picture")
    result = run(model, folder, "--jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["status"] for row in rows] == ["ok", "unreadable"]
    assert rows[1]["label"] is None
    assert "Could not be read: 1" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("digits", "digits:test"), "is a predictive coding network, not a classifier"),
        (("MODEL", "digits:test", "--out", "x.txt"), "cannot be written in this format"),
        (("MODEL", "iris"), "has 4 columns, the model takes images of 1x8x8"),
        (("no-such-model", "digits"), "no such checkpoint"),
    ],
)
def test_what_cannot_be_classified_is_said(words: tuple[str, ...], says: str, model: Path) -> None:
    result = run(*(model if word == "MODEL" else word for word in words))
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_a_picture_that_none_of_can_be_read_is_an_error(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((2, 8, 8), np.nan, np.float32))
    result = run(model, tmp_path / "nan.npy")
    assert result.exit_code == 1
    assert "none of 2 inputs can be used" in result.stderr


def test_the_report_of_a_classifiers_run_shows_its_accuracy(model: Path) -> None:
    result = CliRunner().invoke(cli, ["report", str(model)])
    assert result.exit_code == 0, result.output
    page = next(model.glob("*.html")).read_text()
    assert "Accuracy" in page
    assert "MSE per pixel" not in page
