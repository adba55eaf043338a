"""A page takes over the pictures of its own folder, and no other file that a table names."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcgen import shipped
from pcgen.commands.report import report
from pcgen.errors import OutputError, RunError
from pcgen.pages import embedded
from pcgen.pages.page import Picture, Table
from pcgen.pages.pictures import Row, grid_png
from pcgen.storage.row_formats import metadata_path, write_rows

PNG = grid_png([Row("", np.zeros((1, 1, 8, 8)))])
METADATA: dict[str, Any] = {
    "counts": {"inputs": 1, "ok": 1, "flagged": 1},
    "alarm_rate": {"value": 1.0, "ci_low": 0.0, "ci_high": 1.0},
    "thresholds": {"pc-fisher": 1.0},
    "score": "pc-fisher",
    "statement": "A statement.",
    "warnings": [],
    "detector": {"path": "d.safetensors", "sha256": "0"},
    "fpr": 0.05,
    "fdr": None,
    "guarantee": "pac",
    "calibration": {"source": "digits"},
    "inference": {},
    "complete": True,
    "argv": ["pcgen"],
}


def table(path: Path, *heatmaps: str, **changes: Any) -> Path:
    """Write a table of scores whose rows name these heat maps, and return its path."""
    rows = [
        {"id": f"{i}.png", "source": "x", "status": "ok", "score": 1.0, "p_value": 0.5}
        | {"is_ood": True, "q_value_bh": 0.5, "surprised_layer": 0, "reason": None}
        | {"heatmap": name}
        | changes
        for i, name in enumerate(heatmaps)
    ]
    path.parent.mkdir(exist_ok=True)
    write_rows(rows, list(rows[0]), path, METADATA)
    return path


def embedded_files(page: Path) -> list[bytes]:
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', page.read_text())
    return [base64.b64decode(text) for text in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder for a table, with a heat map, and beside it a secret and a picture."""
    folder = tmp_path / "scored"
    (folder / "maps").mkdir(parents=True)
    (folder / "maps" / "0.png").write_bytes(PNG)
    (tmp_path / "secret").write_text("root:x:0:0")
    (tmp_path / "outside.png").write_bytes(PNG)
    return folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "not in the folder"),
        ("../secret", "not in the folder"),
        ("../outside.png", "not in the folder"),
        ("maps/../../outside.png", "not in the folder"),
        ("{tmp}/outside.png", "not in the folder"),
        ("link.png", "not in the folder"),
        ("linked/outside.png", "not in the folder"),
        ("text.png", "not a PNG"),
        ("scores.jsonl", "not a PNG"),
        ("cut.png", "damaged"),
        ("fifo.png", "no such file"),
        ("maps", "no such file"),
        ("none.png", "no such file"),
        ("large.png", "larger than"),
        ("bomb.png", "pixels"),
        ("a\0b.png", "cannot be read"),
        ("n" * 300, "cannot be read"),
        ("loop.png", "cannot be read"),
    ],
)
def test_only_a_png_of_the_table_s_folder_is_taken_over(
    folder: Path, name: str, reason: str
) -> None:
    (folder / "link.png").symlink_to("../outside.png")
    (folder / "linked").symlink_to("..")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "text.png").write_text("root:x:0:0")
    (folder / "cut.png").write_bytes(PNG[:-40])
    (folder / "large.png").write_bytes(PNG + bytes(embedded.MAX_BYTES))
    (folder / "bomb.png").write_bytes(PNG[:16] + b"\0\1\0\0" * 2 + PNG[24:])
    os.mkfifo(folder / "fifo.png")
    path = table(folder / "scores.jsonl", "maps/0.png", name.format(tmp=folder.parent))
    page = report(path)
    assert embedded_files(page) == [PNG]
    assert "root:x" not in page.read_text()
    assert reason in page.read_text()


def test_heat_maps_of_another_folder_are_shown_if_that_folder_is_named(folder: Path) -> None:
    maps = folder.parent / "elsewhere"
    maps.mkdir()
    (maps / "1.png").write_bytes(PNG)
    names = [str(maps / "1.png"), "/etc/passwd", str(folder.parent / "outside.png")]
    path = table(folder / "scores.csv", *names)
    assert embedded_files(report(path)) == []
    assert embedded_files(report(path, heatmaps=maps)) == [PNG]


def test_heat_maps_are_found_from_the_working_folder_and_from_the_table_s(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    by_working_folder = table(Path("scored/a.csv"), "scored/maps/0.png")
    assert embedded_files(report(by_working_folder)) == [PNG]
    monkeypatch.chdir("/")
    assert embedded_files(report(table(folder / "b.csv", "maps/0.png"))) == [PNG]


def test_a_picture_in_a_run_s_folder_that_leads_out_of_it_is_left_out(folder: Path) -> None:
    (folder / "x.png").symlink_to("/etc/passwd")
    shown = embedded.pictures([(folder / "x.png", "x"), (folder / "maps" / "0.png", "0")], [folder])
    assert [type(block) for block in shown] == [Picture, Table]


def test_nothing_that_a_table_names_is_a_tag_or_a_request(folder: Path) -> None:
    bad = '"><img src=http://x.example/y><script>alert(1)</script>'
    path = table(folder / "scores.jsonl", bad, id=bad, source=bad, reason=bad)
    metadata = METADATA | {"statement": bad, "warnings": [bad], "argv": [bad], "score": bad}
    metadata_path(path).write_text(json.dumps(metadata))
    text = report(path).read_text()
    assert "<script" not in text
    assert "<img src=http" not in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("metadata", "row"),
    [
        ({"fdr": "much"}, {}),
        ({"alarm_rate": None}, {}),
        ({"argv": [1]}, {}),
        ({"counts": {"flagged": 1}}, {}),
        ({}, {"p_value": "small"}),
    ],
)
def test_a_table_or_metadata_of_other_content_is_an_error_of_one_line(
    folder: Path, metadata: dict[str, Any], row: dict[str, Any]
) -> None:
    path = table(folder / "scores.csv", "maps/0.png", **row)
    metadata_path(path).write_text(json.dumps(METADATA | metadata))
    with pytest.raises(RunError, match=r"cannot be shown|holds no scored rows"):
        report(path)


def test_a_model_has_no_page_of_its_own() -> None:
    with pytest.raises(RunError, match="neither a detector nor scores") as caught:
        report(shipped.find_model("iris"), "page.html")
    assert "run's folder" in caught.value.hint


def test_a_page_never_replaces_what_it_is_made_of(folder: Path) -> None:
    path = table(folder / "scores.csv", "maps/0.png")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for name in ("scores.csv", "scores.csv.meta.json", "maps/0.png", "maps/new.png"):
        with pytest.raises(OutputError):
            report(path, folder / name)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
