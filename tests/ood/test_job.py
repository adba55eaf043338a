"""Rows for every input, whatever it is; files that are whole at any time."""

from __future__ import annotations

import json
import os
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pcgen
from pcgen.commands.ood_score import ScoringInterrupted
from pcgen.data.sources import open_data
from pcgen.errors import CalibrationError, CheckpointError, DataError, PcgenError, RunError
from pcgen.ood import conformal as calibration
from pcgen.ood.detector import Detector
from pcgen.ood.job import Job
from pcgen.ood.provenance import Tally, warnings
from pcgen.ood.rows import Question, most_unusual
from pcgen.ood.scoring import scored
from pcgen.storage.row_formats import read_rows
from pcgen.storage.rows_file import RowsFile, claimed
from tests.data.pictures import png, random_pixels, write_idx

FIRST = [
    "id",
    "source",
    "status",
    "score",
    "score_name",
    "p_value",
    "threshold",
    "is_ood",
    "q_value_bh",
]


def digits(count: int) -> np.ndarray:
    pixels = open_data("digits:test").rows(range(count)).pixels_BD
    return (pixels * 255).round().numpy().astype(np.uint8).reshape(count, 8, 8)


def rows_of(detector: Path, *inputs: str | Path, **options: Any) -> list[dict[str, Any]]:
    return list(pcgen.ood_score(detector, [str(i) for i in inputs], **options).rows())


def test_every_input_is_a_row_in_order_with_the_promised_columns(detector_file: Path) -> None:
    rows = rows_of(detector_file, "digits:test")
    assert list(rows[0])[:9] == FIRST
    assert {"free_energy_nats", "bits_per_dim", "energy_layer_0", "converged"} <= rows[0].keys()
    assert [row["id"] for row in rows] == [f"digits[{i}]" for i in range(359)]
    for row in rows:
        assert row["is_ood"] == (row["score"] > row["threshold"])
        assert 0 < row["p_value"] <= 1
        assert row["bits_per_dim"] == pytest.approx(row["free_energy_nats"] / 64 / np.log(2))


def test_strange_images_are_flagged_and_known_ones_are_not(
    detector_file: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "noise.npy", random_pixels(50, 8, 8))
    strange = rows_of(detector_file, tmp_path / "noise.npy")
    assert np.mean([row["is_ood"] for row in strange]) > 0.9
    known = pcgen.ood_score(detector_file, "digits:test")
    assert known.document()["flagged"] <= 0.1 * 359


@pytest.mark.parametrize("batch_size", [1, 7, 20])
@pytest.mark.parametrize("solver", ["majorise", "newton", "errors"])
def test_a_score_depends_on_its_image_alone_whatever_the_batch(
    detectors: dict[str, Detector], solver: str, batch_size: int
) -> None:
    detector = detectors[solver]
    # One or two rows are multiplied by other routines, which round otherwise.
    bound = 0.1 if solver == "errors" and batch_size < 20 else 1e-3
    assert detector.model.recipe.inference.for_use().solver == solver
    images = open_data("digits:test", limit=40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    (whole,) = scored(detector.scorers, images, batch_size=40)
    batches = list(scored(detector.scorers, images.subset(order), batch_size=batch_size))
    for name in detector.names[1:]:
        found = np.concatenate([batch.columns[name] for batch in batches])
        wanted = whole.columns[name][order]
        assert found == pytest.approx(wanted, abs=bound * wanted.std())


def test_scores_that_rounding_moves_are_warned_of(detectors: dict[str, Detector]) -> None:
    images = [open_data("digits:test", limit=3)]
    question = Question(("pc-fisher",))
    warned = {name: warnings(found, images, question, Tally()) for name, found in detectors.items()}
    assert not any("rounding" in words for words in warned["majorise"] + warned["newton"])
    assert any("solver = errors: rounding" in words for words in warned["errors"])


def test_a_score_does_not_depend_on_the_number_of_threads(detector: Detector) -> None:
    images = open_data("digits:test", limit=100)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            (batch,) = scored(detector.scorers, images)
        finally:
            torch.set_num_threads(before)
        found.append(batch.columns)
    for name in detector.names[1:]:
        one, two = (columns[name] for columns in found)
        assert two == pytest.approx(one, abs=1e-3 * one.std())


def test_the_three_files_say_the_same(detector_file: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for i, pixels in enumerate(digits(5)):
        (tmp_path / "x" / f"{i}.png").write_bytes(png(pixels))
    (tmp_path / "x" / "bad.png").write_text("no picture")
    found = {
        end: rows_of(detector_file, tmp_path / "x", out=tmp_path / f"rows.{end}")
        for end in ("csv", "jsonl", "npz")
    }
    assert found["csv"] == found["jsonl"]
    assert found["npz"] == found["jsonl"]
    with np.load(tmp_path / "rows.npz") as arrays:
        assert arrays["status"].tolist() == ["ok"] * 5 + ["unreadable"]
        assert np.isnan(arrays["score"][5])
        assert arrays["is_ood"].dtype == bool
    assert {p.name for p in tmp_path.glob("rows*")} == {
        f"rows.{end}{more}" for end in ("csv", "jsonl", "npz") for more in ("", ".meta.json")
    }


def test_the_meta_file_says_what_the_numbers_depend_on(detector_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    result = pcgen.ood_score(detector_file, "digits:test", out, argv=["pcgen", "ood-score"])
    meta = json.loads((tmp_path / "rows.csv.meta.json").read_text())
    assert meta == result.metadata
    assert meta["complete"]
    assert meta["argv"] == ["pcgen", "ood-score"]
    for table in ("detector", "model", "calibration"):
        assert len(meta[table]["sha256"]) == 64
    assert meta["inference"].keys() == {"solver", "steps", "tolerance", "converged"}
    assert meta["counts"]["inputs"] == meta["counts"]["ok"] == 359
    rate = meta["alarm_rate"]
    assert rate["ci_low"] <= rate["value"] <= rate["ci_high"]
    assert "431 calibration inputs" in meta["statement"]
    assert meta["thresholds"].keys() == set(meta["scores"])


def test_strange_files_are_rows_with_a_status_and_the_rest_is_scored(
    detector_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    pixels = digits(4)
    (folder / "a.png").write_bytes(png(pixels[0]))
    (folder / "b-deep.png").write_bytes(png(pixels[1].astype(np.uint16) * 257))
    Image.fromarray(random_pixels(8, 8, 4), "CMYK").save(folder / "c-cmyk.tif")
    frames = [Image.fromarray(frame) for frame in pixels[2:4]]
    frames[0].save(folder / "d-moving.gif", save_all=True, append_images=frames[1:])
    (folder / "e-point.png").write_bytes(png(random_pixels(1, 1)))
    (folder / "f-bomb.png").write_bytes(bomb())
    (folder / "g-cut.png").write_bytes(png(pixels[0])[:40])
    (folder / "h\nnewline.png").write_bytes(png(pixels[0]))
    rows = {row["id"]: row for row in rows_of(detector_file, folder, out=tmp_path / "r.csv")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.png": "ok",
        "b-deep.png": "ok",
        "c-cmyk.tif": "ok",
        "d-moving.gif": "ok",
        "e-point.png": "shape",
        "f-bomb.png": "unreadable",
        "g-cut.png": "unreadable",
        "h\nnewline.png": "ok",
    }
    # Some processors round the rows of one product differently.
    assert rows["h\nnewline.png"]["score"] == pytest.approx(rows["a.png"]["score"], rel=1e-6)
    assert all(bool(row["reason"]) == (row["status"] != "ok") for row in rows.values())
    brought = rows_of(detector_file, folder, resize=True)
    assert [row["status"] for row in brought] == ["ok"] * 5 + ["unreadable"] * 2 + ["ok"]


def bomb() -> bytes:
    """Return a PNG that announces 10^10 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_one_corrupt_picture_of_many_costs_no_other(detector_file: Path, tmp_path: Path) -> None:
    whole = digits(359)
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for i in range(2000):
            archive.writestr(f"{i:05}.png", b"x" if i == 1234 else png(whole[i % 359]))
    rows = rows_of(detector_file, tmp_path / "many.zip")
    assert [i for i, row in enumerate(rows) if row["status"] != "ok"] == [1234]
    assert len(rows) == 2000
    again, first = rows[359]["free_energy_nats"], rows[0]["free_energy_nats"]
    assert again == pytest.approx(first, rel=1e-3)


def test_values_that_are_no_numbers_are_rows_with_a_status(
    detector_file: Path, tmp_path: Path
) -> None:
    values = digits(3).astype(np.float32) / 255
    values[1, 2, 3] = np.nan
    np.save(tmp_path / "x.npy", values)
    rows = rows_of(detector_file, tmp_path / "x.npy")
    assert [row["status"] for row in rows] == ["ok", "nonfinite", "ok"]
    assert rows[1]["score"] is rows[1]["is_ood"] is None


def test_inputs_of_every_kind_keep_their_order(
    detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = digits(4)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(pixels[i]))
    write_idx(tmp_path / "x.idx.gz", pixels[3:])
    listed = (f"{tmp_path / '0.png'}\n".encode(), b"no-such.png\n")

    class Stdin:
        class buffer:  # noqa: N801
            read = staticmethod(lambda size=-1: b"".join(listed))

    monkeypatch.setattr(sys, "stdin", Stdin)
    inputs = [tmp_path / "2.png", tmp_path / "1.png", tmp_path / "x.idx.gz", "-"]
    rows = rows_of(detector_file, *inputs)
    assert [Path(row["id"]).name for row in rows] == [
        "2.png",
        "1.png",
        "x.idx.gz[0]",
        "0.png",
        "no-such.png",
    ]
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["unreadable"]
    every = rows_of(detector_file, "digits:test")
    # The files have 8 bits a pixel, the embedded images 17 levels.
    wanted = [every[i]["free_energy_nats"] for i in (2, 1, 3, 0)]
    assert [row["free_energy_nats"] for row in rows[:4]] == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", "", "holds no rows"),
        ("header.csv", "a,b\n", "no rows"),
        ("x.txt", "text", "not a kind of file"),
        ("missing/", None, "no such file"),
    ],
)
def test_inputs_that_cannot_be_opened_are_an_error(
    detector_file: Path, tmp_path: Path, name: str, content: str | None, words: str
) -> None:
    path = str(tmp_path / name) + ("x" if name.endswith("/") else "")
    if content is not None:
        Path(path).write_text(content)
    with pytest.raises(DataError, match=words):
        pcgen.ood_score(detector_file, path, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_inputs_prepared_otherwise_than_in_calibration_are_refused(
    detector_file: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "large.npy", random_pixels(5, 16, 16))
    with pytest.raises(DataError, match="16x16, must be 8x8") as caught:
        pcgen.ood_score(detector_file, str(tmp_path / "large.npy"))
    assert "--resize" in caught.value.hint
    (tmp_path / "x.png").write_bytes(png(random_pixels(9, 9)))
    with pytest.raises(DataError, match="none of 1 inputs") as caught:
        pcgen.ood_score(detector_file, str(tmp_path / "x.png"))
    assert "--resize" in caught.value.hint
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_text("no picture")
    for name in ("b.png", "c.png"):
        (folder / name).write_bytes(png(random_pixels(9, 9)))
    with pytest.raises(DataError, match=r"none of 3 inputs .* b\.png: is 9x9") as caught:
        pcgen.ood_score(detector_file, str(folder))
    assert "--resize" in caught.value.hint
    result = pcgen.ood_score(detector_file, str(tmp_path / "large.npy"), resize=True)
    assert "does not hold for inputs" in result.document()["statement"]
    assert "large.npy" in result.document()["warnings"][0]


def test_grey_pictures_among_coloured_ones_train_calibrate_and_are_scored(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    for i in range(130):
        # Opening a folder looks at every second picture, so that it meets coloured ones alone.
        pixels = random_pixels(4, 4, seed=i) if i % 2 else random_pixels(4, 4, 3, seed=i)
        Image.fromarray(pixels).save(folder / f"{i:03}.jpg")
    settings = ["learning.epochs=1", "model.layers=[4]", "data.calibration=50", "data.validation=0"]
    pcgen.train("digits", out, data=str(folder), settings=settings, device="cpu")
    detector = tmp_path / "detector.safetensors"
    pcgen.ood_calibrate(out, str(folder), detector, device="cpu")
    result = pcgen.ood_score(detector, str(folder), guarantee="marginal")
    assert {row["status"] for row in result.rows()} == {"ok"}
    assert "outside" not in result.document()["statement"]


def test_a_score_s_own_columns_and_verdict_can_be_asked_for(detector_file: Path) -> None:
    first, second = "free-energy", "pc-fisher"
    (row, *_) = rows_of(detector_file, "digits:test", scores=[first, second])
    assert row["score_name"] == first
    assert row["score"] == row["free_energy"]
    assert "pc_fisher" in row
    with pytest.raises(CalibrationError, match="no score nonsense") as caught:
        rows_of(detector_file, "digits:test", scores=["nonsense"])
    assert first in caught.value.hint


def test_too_few_calibration_inputs_are_refused_before_anything_is_scored(
    detector_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match="598 are needed"):
        pcgen.ood_score(detector_file, "digits:test", tmp_path / "x.csv", fpr=0.005)
    assert os.listdir(tmp_path) == []
    found = pcgen.ood_score(detector_file, "digits:test", fpr=0.005, guarantee="marginal")
    assert "On average" in found.document()["statement"]


def test_flagging_by_q_value_is_benjamini_hochberg(detector_file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", random_pixels(100, 8, 8))
    result = pcgen.ood_score(detector_file, ["digits:test", str(tmp_path / "noise.npy")], fdr=0.1)
    rows = list(result.rows())
    wanted = calibration.benjamini_hochberg([row["p_value"] for row in rows])
    assert [row["q_value_bh"] for row in rows] == pytest.approx(wanted)
    assert all(row["is_ood"] == (row["q_value_bh"] <= 0.1) for row in rows)
    assert all(row["is_ood"] == (row["score"] > row["threshold"]) for row in rows)
    assert "Benjamini-Hochberg" in result.document()["statement"]
    assert any("before any is flagged" in words for words in result.document()["warnings"])


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    whole = Job.steps

    def some(self: Job, *arguments: Any) -> Any:
        for i, step in enumerate(whole(self, *arguments)):
            if i == steps:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(Job, "steps", some)


def test_an_interruption_leaves_whole_rows_and_resume_ends_as_if_there_was_none(
    detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ["digits", "digits:test"]
    pcgen.ood_score(detector_file, inputs, tmp_path / "whole.csv")
    out = tmp_path / "rows.csv"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(ScoringInterrupted) as caught:
            pcgen.ood_score(detector_file, inputs, out)
    said, hint = caught.value.args
    assert said == f"Interrupted. 1,000 of 1,797 rows are in {out}"
    assert "--resume" in hint
    assert len(list(read_rows(out))) == 1000
    assert not json.loads((tmp_path / "rows.csv.meta.json").read_text())["complete"]
    # As a kill in the middle of a line leaves it.
    with (tmp_path / "rows.csv.part").open("a") as file:
        file.write('{"id": "digi')
    pcgen.ood_score(detector_file, inputs, out, resume=True)
    found, whole = list(read_rows(out)), list(read_rows(tmp_path / "whole.csv"))
    assert [row["id"] for row in found] == [row["id"] for row in whole]
    for name in ("free_energy_nats", "threshold"):
        assert [r[name] for r in found] == pytest.approx([r[name] for r in whole], rel=1e-3)
    wanted = calibration.benjamini_hochberg([row["p_value"] for row in found])
    assert [row["q_value_bh"] for row in found] == pytest.approx(wanted)
    assert json.loads((tmp_path / "rows.csv.meta.json").read_text())["complete"]
    assert not (tmp_path / "rows.csv.part").exists()


def test_resume_refuses_what_was_begun_otherwise(
    detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.csv"
    with pytest.raises(RunError, match="nothing to resume"):
        pcgen.ood_score(detector_file, "digits", out, resume=True)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(ScoringInterrupted):
            pcgen.ood_score(detector_file, "digits", out)
    with pytest.raises(RunError, match="another inputs, count"):
        pcgen.ood_score(detector_file, "digits:test", out, resume=True)
    other = tmp_path / "other.safetensors"
    pcgen.ood_calibrate("digits-ood", "digits:test", other)
    with pytest.raises(RunError, match="another detector"):
        pcgen.ood_score(other, "digits", out, resume=True)


def test_files_that_cannot_be_written_are_an_error(detector_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in ("rows.txt", "rows", tmp_path / "file" / "rows.csv"):
        with pytest.raises(RunError):
            pcgen.ood_score(detector_file, "digits:test", out)
    with pytest.raises(RunError):
        pcgen.ood_score(detector_file, "digits:test", heatmaps=tmp_path / "file")


def test_heat_maps_are_pictures_of_each_readable_input(detector_file: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for i, pixels in enumerate(digits(3)):
        (tmp_path / "x" / f"{i}.png").write_bytes(png(pixels) if i != 1 else b"")
    rows = rows_of(detector_file, tmp_path / "x", heatmaps=tmp_path / "maps")
    assert [row["heatmap"] for row in rows] == [
        str(tmp_path / "maps" / "0.png"),
        None,
        str(tmp_path / "maps" / "2.png"),
    ]
    with Image.open(rows[0]["heatmap"]) as picture:
        assert picture.size == (2 * 88 + 4, 88)


def test_heat_maps_are_not_drawn_over_the_inputs(detector_file: Path, tmp_path: Path) -> None:
    before = png(digits(1)[0])
    for name in ("0.png", "0.bmp"):
        (tmp_path / name).write_bytes(before)
    for inputs in (tmp_path, tmp_path / "0.bmp"):
        with pytest.raises(RunError, match=r"holds inputs|lies in the input"):
            rows_of(detector_file, inputs, heatmaps=tmp_path)
    assert (tmp_path / "0.png").read_bytes() == before


def test_the_most_unusual_rows_have_the_highest_scores(detector_file: Path, tmp_path: Path) -> None:
    values = np.concatenate([digits(20), random_pixels(3, 8, 8)]).astype(np.float32) / 255
    values[4] = np.nan
    np.save(tmp_path / "x.npy", values)
    rows = rows_of(detector_file, tmp_path / "x.npy")
    worst = most_unusual(iter(rows), 3)
    assert {row["id"] for row in worst} == {f"x.npy[{i}]" for i in (20, 21, 22)}
    assert worst == sorted(worst, key=lambda row: -row["score"])
    assert len(most_unusual(rows, 100)) == 22


def test_a_heat_map_s_scale_is_the_same_in_every_image(detector: Detector) -> None:
    errors = torch.tensor([[0.0, detector.heat_scale, 1e6]])
    assert detector.heat(errors)[0].tolist() == pytest.approx([0, 0.5, 1], abs=1e-4)
    images = open_data("digits:test")
    error_BD = detector.scorers[0].heatmap(images.rows(range(359)).pixels_BD)  # type: ignore[attr-defined]
    assert (error_BD > detector.heat_scale).float().mean() == pytest.approx(0.01, abs=0.008)


def test_a_question_is_answered_by_the_layer_that_is_surprised(detector: Detector) -> None:
    layers = detector.layers
    assert layers[0] == "energy_layer_0"
    known = {name: np.full(1, np.median(detector.columns[name])) for name in layers}
    for i, name in enumerate(layers):
        strange = known | {name: np.array([2 * detector.columns[name].max() + 1])}
        assert detector.surprised_layer(strange) == [i]


@pytest.mark.parametrize("question", [("pc-fisher", "pc-fisher"), ("free-energy",)])
def test_a_job_can_be_made_of_any_of_its_scores(
    detector: Detector, question: tuple[str, ...]
) -> None:
    job = Job.of(detector, [open_data("digits:test", limit=3)], Question(question))
    (step,) = job.steps()
    assert len(step.rows) == step.done == step.total == 3


def test_errors_are_pcgen_errors(tmp_path: Path) -> None:
    for detector in ("no-such-detector", tmp_path):
        with pytest.raises(CheckpointError) as caught:
            pcgen.ood_score(detector, "digits:test")
        assert isinstance(caught.value, PcgenError)
        assert "ood-calibrate" in caught.value.hint


def test_two_processes_do_not_write_one_file_of_rows(detector_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    holder = f"process {os.getpid()} on .* writes here"
    with claimed(out), pytest.raises(RunError, match=holder):
        pcgen.ood_score(detector_file, digits(5), out=out)
    pcgen.ood_score(detector_file, digits(5), out=out)
    assert sorted(os.listdir(tmp_path)) == ["scores.csv", "scores.csv.meta.json"]


def test_rows_that_another_program_changed_do_not_replace_a_file(
    detector_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.csv"
    out.write_text("good")
    usual = RowsFile.add

    def add_and_lose(store: RowsFile, rows: list[dict[str, Any]]) -> None:
        usual(store, rows[:-1])

    monkeypatch.setattr(RowsFile, "add", add_and_lose)
    with pytest.raises(RunError, match="4 rows where 5 were scored"):
        pcgen.ood_score(detector_file, digits(5), out=out)
    assert out.read_text() == "good"
