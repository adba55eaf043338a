"""The self-test: its changes, what it measures, and the warnings it gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pcgen
from pcgen.commands.session import open_detector
from pcgen.data.sources import open_data
from pcgen.device import generator
from pcgen.ood import self_test as tests
from pcgen.ood.detector import Detector
from pcgen.pages.scores_page import detector_page
from pcgen.storage import checkpoint


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(7, 1, 8, 8), (5, 3, 9, 4), (2, 3, 2, 2), (3, 1, 1, 6)])
def test_pictures_of_every_shape_are_changed_in_the_same_way_each_time(
    shape: tuple[int, ...],
) -> None:
    images = open_data(pixels(*shape))
    copies = dict(tests._copies(pixels(*shape), images, None))
    again = dict(tests._copies(pixels(*shape), images, None))
    assert {"noise", "negative", "blur"} <= copies.keys() <= tests.PICTURES.keys()
    assert ("turned by 90 degrees" in copies) == (min(shape[2:]) > 1)
    for name, copies_BD in copies.items():
        assert torch.equal(copies_BD, again[name])
        assert copies_BD.shape[1] == pixels(*shape)[0].numel()
        assert copies_BD.min() >= 0
        assert copies_BD.max() <= 1


def test_half_of_a_copy_is_its_original_and_half_is_another_picture() -> None:
    own = pixels(6, 3, 4, 5)
    copies = tests.half_of_another(own, generator(0))
    assert torch.equal(copies[:, :, :2], own[:, :, :2])
    lower = [half.tolist() for half in copies[:, :, 2:]]
    assert sorted(lower) == sorted(half.tolist() for half in own[:, :, 2:])


def test_copies_that_equal_their_originals_do_not_count() -> None:
    grey = torch.full((4, 1, 6, 6), 0.5)
    names = [name for name, _ in tests._copies(grey, open_data(grey), None)]
    assert names == ["noise"]
    half = dict(tests._copies(pixels(1, 1, 6, 6), open_data(pixels(1, 1, 6, 6)), None))
    assert "half of another picture" not in half


def test_copies_for_a_network_of_black_and_white_pictures_are_black_and_white() -> None:
    own = (pixels(5, 1, 6, 6) > 0.5).float()
    for _, copies_BD in tests._copies(own, open_data(own), 0.5):
        assert {*copies_BD.unique().tolist()} <= {0.0, 1.0}


def test_the_columns_of_a_table_are_exchanged_shifted_and_scaled() -> None:
    rows = pixels(50, 1, 1, 3)
    exchanged = tests.exchanged(rows, generator(0))
    assert torch.equal(exchanged.sort(0).values, rows.sort(0).values)
    assert not torch.equal(exchanged, rows)
    moved = (tests.shifted(rows, generator(0)) - rows).round()
    assert (moved.abs().sum(3) == 3).all()
    assert {*moved.unique().tolist()} == {-3.0, 0.0, 3.0}


def test_auroc_is_the_probability_of_the_higher_score_and_ties_count_half() -> None:
    known, unusual = torch.tensor([1.0, 2, 2, 3]).numpy(), torch.tensor([2.0, 5.0]).numpy()
    assert tests._auroc(unusual, known) == pytest.approx((2 / 4 + 4 / 4) / 2)


def test_the_stored_self_test_is_that_of_the_detector_and_its_numbers_stay(
    detector: Detector, detector_file: Path
) -> None:
    stored = detector.header["self_test"]
    assert stored["score"] == "pc-fisher"
    assert [row["change"] for row in stored["changes"]] == [*tests.PICTURES]
    assert all(row["count"] == 200 for row in stored["changes"])
    shares = {row["change"]: row["found"] for row in stored["changes"]}
    assert shares["negative"] == shares["pixels shuffled"] == 1
    # The calibration is not touched by it: scores of the calibration images keep their p-values.
    columns = detector.header["calibration"]
    assert len(detector.reference("pc-fisher")) == columns["part_b"]
    assert "Self-test" in [section.heading for section in detector_page(detector).sections]


def test_few_calibration_rows_are_tested_at_the_rate_that_they_allow(tmp_path: Path) -> None:
    values = open_data("digits:test").rows(range(60)).pixels_BD.reshape(60, 8, 8)
    found = pcgen.ood_calibrate("digits-ood", values, tmp_path / "d.safetensors").document()
    assert found["part_b"] == 18
    assert found["self_test"]["fpr"] == found["least_fpr"]["pac"]


@pytest.mark.parametrize("poor", [True, False])
def test_what_is_found_poorly_is_said_by_every_command_and_page(
    detector_file: Path, tmp_path: Path, poor: bool
) -> None:
    file = checkpoint.load(detector_file)
    stored = json.loads(json.dumps(file.header["self_test"]))
    if poor:
        stored["auroc"] = 0.62
        stored["changes"][0] |= {"found": 0.1, "auroc": 0.5}
    path = tmp_path / "d.safetensors"
    checkpoint.save(path, file.tensors, file.header | {"self_test": stored})
    result = pcgen.ood_score(path, "digits:test", tmp_path / "s.csv", scores=["pc-fisher"])
    words = " ".join(result.document()["warnings"])
    pages = [pcgen.report(each).read_text() for each in (tmp_path / "s.csv", path)]
    assert result.metadata["self_test"] == stored
    for text in ("mean AUROC 0.62", "few changed copies", "noise (10 %)"):
        assert (text in words) == poor
        assert [text in page for page in pages] == [poor, poor]
    other = pcgen.ood_score(path, "digits:test", scores=["free-energy"])
    assert "self-test" not in " ".join(other.document()["warnings"])


def test_a_detector_without_a_self_test_says_so(detector_file: Path, tmp_path: Path) -> None:
    file = checkpoint.load(detector_file)
    del file.header["self_test"]
    path = tmp_path / "old.safetensors"
    checkpoint.save(path, file.tensors, file.header)
    result = pcgen.ood_score(path, "digits:test")
    assert result.metadata["self_test"] is None
    assert "no self-test" in result.document()["self_test"]
    assert "No self-test" in detector_page(open_detector(path)).sections[1].text


def test_a_table_has_a_self_test_whatever_its_columns(tmp_path: Path) -> None:
    settings = ["model.output=linear", "model.layers=[1,4]", "learning.epochs=1"]
    settings += ["learning.batch_size=20", "data.calibration=0", "data.validation=0.5"]
    for width, names in ((1, [*tests.TABLES][1:]), (2, [*tests.TABLES])):
        rows = torch.randn(80, width, generator=torch.Generator().manual_seed(1))
        lines = [",".join(f"{value:.4f}" for value in row) for row in rows.tolist()]
        data = tmp_path / "t.csv"
        data.write_text("\n".join([",".join("abc"[:width]), *lines]) + "\n")
        pcgen.train("digits", tmp_path / f"run{width}", data=data, settings=settings)
        made = pcgen.ood_calibrate(tmp_path / f"run{width}", data, tmp_path / "d.safetensors")
        test = made.document()["self_test"]
        assert [row["change"] for row in test["changes"]] == names
        assert {row["count"] for row in test["changes"]} == {40}
