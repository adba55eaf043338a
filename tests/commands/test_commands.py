"""The public functions, on tables and pictures as users have them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pcgen
from pcgen.commands.session import open_model
from pcgen.errors import DataError

QUICK = ["learning.epochs=2", "inference.steps=2", "inference.test_steps=20"]
TABLE = ["model.output=linear", "model.layers=[2,8]", "learning.batch_size=20"]


def test_a_table_trains_and_is_reconstructed_in_its_own_scale(tmp_path: Path) -> None:
    settings = [*QUICK, *TABLE, "learning.epochs=30", "learning.rate=0.01"]
    result = pcgen.train("digits", tmp_path / "run", data="iris", settings=settings)
    found = pcgen.reconstruct(tmp_path / "run", "iris", out=tmp_path / "out")
    # Two latents explain most of four standardised columns, whose variance is 1.
    assert found.metrics["mse"] < 0.5
    assert found.picture is None
    assert result.metrics["count"] > 0
    model = open_model(tmp_path / "run")
    assert model.scale is not None
    assert model.scale[0] == pytest.approx([5.84, 3.05, 3.76, 1.2], abs=0.2)


def test_an_unreadable_picture_is_a_row_and_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    for name in ("a.png", "c.png"):
        Image.fromarray(grey).save(folder / name)
    (folder / "b.png").write_text("no picture")
    found = pcgen.reconstruct("digits", str(folder))
    document = found.document()
    assert (document["count"], document["unreadable"]) == (2, 1)
    assert [row["status"] for row in found.rows()] == ["ok", "unreadable", "ok"]
    assert found.rows()[1]["reason"]


def test_check_writes_nothing_and_tells_the_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = pcgen.check("digits")
    assert found.sizes == [64, 64, 64, 16]
    assert found.parameters == 9408
    assert found.images + found.validation_images == 1438
    assert found.seconds_per_epoch > 0
    assert os.listdir(tmp_path) == []


def test_limit_takes_the_first_rows() -> None:
    few = pcgen.reconstruct("digits", "digits:test", limit=5)
    more = pcgen.reconstruct("digits", "digits:test", limit=9)
    assert few.document()["count"] == 5
    assert [row["id"] for row in few.rows()] == [row["id"] for row in more.rows()[:5]]
    energies = [row["energy"] for row in more.rows()[:5]]
    assert [row["energy"] for row in few.rows()] == pytest.approx(energies, rel=1e-4)


def test_recipes_and_doctor_tell_what_is_there() -> None:
    rows = {row["name"]: row for row in pcgen.recipes()}
    assert {"digits", "mnist", "fashion-mnist"} <= rows.keys()
    assert rows["mnist"]["model"] == "shipped"
    assert {"pcgen", "torch", "torchvision"} <= {row["what"] for row in pcgen.doctor()}


def test_where_nothing_can_be_read_the_first_reason_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((3, 8, 8), np.nan, np.float32))
    with pytest.raises(DataError, match=r"none of 3 inputs can be used; first, .*nan\.npy\[0\]"):
        pcgen.reconstruct("digits", str(tmp_path / "nan.npy"))
