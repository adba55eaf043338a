"""Which rows calibrate, what the file holds, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import pcgen
from pcgen.commands.session import open_classifier, open_detector, open_model
from pcgen.data.images import parts
from pcgen.data.sources import open_data
from pcgen.errors import CalibrationError, CheckpointError, DataError
from pcgen.ood import conformal as calibration
from pcgen.ood.calibrate import rows_for
from pcgen.ood.detector import COMBINED, Detector, save
from pcgen.ood.scores import TABLE_SCORES
from pcgen.storage import checkpoint
from pcgen.storage.checkpoint import Model
from tests.data.pictures import random_pixels


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("digits")


def test_of_the_training_data_the_rows_held_out_calibrate(model: Model) -> None:
    images = open_data("digits")
    rows = rows_for(images, model)
    kept, chose, _ = parts(images, 0.15, 0, 0)
    assert rows.fit.fingerprint() == kept.fingerprint() == model.header["data"]["fingerprint"]
    assert rows.held_out.fingerprint() == chose.fingerprint()
    assert "chose the epoch" in rows.origin


def test_rows_set_aside_calibrate_where_there_are_any(tmp_path: Path) -> None:
    settings = ["data.calibration=200", "learning.epochs=1"]
    pcgen.train("digits", tmp_path / "run", settings=settings)
    result = pcgen.ood_calibrate(tmp_path / "run", "digits", tmp_path / "d.safetensors")
    document = result.document()
    assert document["origin"] == "set aside before training"
    # The rows that chose the epoch shape the combined score, so all rows set aside calibrate it.
    assert (document["fit"], document["part_a"], document["part_b"]) == (1052, 186, 200)
    assert document["needed"][0]["rows_pac"] == 59
    assert document["rates"] == [0.05]
    warned = pcgen.ood_score(tmp_path / "d.safetensors", "digits:test").document()["warnings"]
    assert not any("epoch" in words for words in warned)


def test_other_data_are_divided(model: Model) -> None:
    images = open_data("digits:test")
    rows = rows_for(images, model)
    together = [*rows.fit.index.tolist(), *rows.held_out.index.tolist()]  # type: ignore[union-attr]
    assert sorted(together) == list(range(359))
    assert len(rows.fit) == round(0.4 * 359)
    assert "other data" in rows.origin


def test_data_that_cannot_be_told_from_the_training_rows_are_refused(
    model: Model, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match="another state of these data"):
        rows_for(open_data("digits", limit=1000), model)
    settings = ["data.validation=0", "learning.epochs=1"]
    pcgen.train("digits", tmp_path / "run", settings=settings)
    with pytest.raises(CalibrationError, match="leaves none to calibrate") as caught:
        pcgen.ood_calibrate(tmp_path / "run", "digits", tmp_path / "d.safetensors")
    assert "data.calibration" in caught.value.hint


def test_a_few_unreadable_rows_are_counted_and_too_few_are_refused(tmp_path: Path) -> None:
    values = open_data("digits:test").rows(range(300)).pixels_BD.reshape(300, 8, 8).numpy()
    values[::10] = np.nan
    np.save(tmp_path / "x.npy", values)
    found = pcgen.ood_calibrate("digits", str(tmp_path / "x.npy"), tmp_path / "d.safetensors")
    document = found.document()
    assert document["unreadable"] > 0
    assert document["part_a"] + document["part_b"] + document["unreadable"] == 180
    np.save(tmp_path / "y.npy", np.full((9, 8, 8), np.nan))
    with pytest.raises(DataError, match="two images or more"):
        pcgen.ood_calibrate("digits", str(tmp_path / "y.npy"), tmp_path / "e.safetensors")


def test_a_file_gives_back_the_detector_to_the_bit(
    detector: Detector, detector_file: Path, tmp_path: Path
) -> None:
    save(tmp_path / "again.safetensors", detector)
    again = open_detector(tmp_path / "again.safetensors")
    assert again.names == detector.names
    data_BD = open_data("digits:test").rows(range(50)).pixels_BD
    for ours, theirs in zip(detector.scorers, again.scorers, strict=True):
        found, wanted = theirs(data_BD), ours(data_BD)
        assert all((found[name] == wanted[name]).all() for name in wanted)
    for name in detector.names:
        assert (again.reference(name) == detector.reference(name)).all()
    assert pcgen.info(detector_file)["kind"] == "detector"


def test_calibration_scores_are_stored_in_float32_without_loss(
    detector: Detector, detector_file: Path, tmp_path: Path
) -> None:
    tensors = checkpoint.load(detector_file).tensors
    types = {tensor.dtype for name, tensor in tensors.items() if name.startswith("calibration.")}
    assert types == {torch.uint8, torch.float32}
    # A value with more digits, as of a table's score in float64, keeps them.
    detector.columns["free-energy"][0] = 1 / 3
    save(tmp_path / "d.safetensors", detector)
    stored = checkpoint.load(tmp_path / "d.safetensors").tensors["calibration.free-energy"]
    assert float(stored[0]) == 1 / 3


@pytest.mark.parametrize("is_apart", [True, False])
def test_the_combined_score_s_p_values_come_from_the_other_part(
    detector: Detector, is_apart: bool
) -> None:
    known = detector.header["calibration"]
    known["part_a_is_apart"] = is_apart
    assert len(detector.reference(COMBINED)) == known["part_b"]
    # Rows that chose the epoch give no p-values at all.
    both = known["part_b"] + (0 if is_apart else known["part_a"])
    assert len(detector.reference("free-energy")) == both
    parts_NJ = np.column_stack([detector.columns[name] for name in detector.components])
    is_alarm_J = [name in detector.alarms for name in detector.components]
    part_b, part_a = parts_NJ[known["part_a"] :], parts_NJ[: known["part_a"]]
    wanted = calibration.fisher(part_b, part_a, is_alarm_J)
    assert detector.reference(COMBINED) == pytest.approx(wanted)


def test_a_detector_s_file_opens_as_its_model(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save(path, detector)
    model = checkpoint.load_model(path)
    assert model.recipe == detector.model.recipe
    assert model.shape == detector.model.shape
    assert checkpoint.read_model_header(path)["recipe"] == detector.model.header["recipe"]
    with pytest.raises(CheckpointError, match="a predictive coding network"):
        open_classifier(path)
    wanted = detector.model.network.tensors()
    assert all(torch.equal(tensor, wanted[n]) for n, tensor in model.network.tensors().items())


def test_a_checkpoint_that_is_no_detector_is_refused_with_the_command_that_makes_one() -> None:
    from pcgen import shipped

    path = shipped.model_path("digits")
    with pytest.raises(CheckpointError, match="a model, not a detector") as caught:
        pcgen.ood_score(str(path), "digits:test")
    assert "pcgen ood-calibrate" in caught.value.hint


@pytest.mark.parametrize("prefix", ["model.", "calibration."])
def test_a_detector_from_another_model_or_calibration_is_refused(
    detector_file: Path, tmp_path: Path, prefix: str
) -> None:
    found = checkpoint.load(detector_file)
    name = next(name for name in found.tensors if name.startswith(prefix))
    found.tensors[name][..., 0] += 1
    forged = tmp_path / "forged.safetensors"
    checkpoint.save(forged, found.tensors, found.header)
    with pytest.raises(CalibrationError, match=r"another model|not those it was made with"):
        open_detector(forged)
    # Without our header's own hash the damage is seen even earlier.
    with safe_open(str(detector_file), "pt") as file:
        save_file(found.tensors, forged, file.metadata())
    with pytest.raises(CheckpointError, match="not those that were saved"):
        open_detector(forged)


def test_a_table_s_columns_are_taken_by_name_and_must_be_the_model_s(tmp_path: Path) -> None:
    settings = ["model.output=linear", "model.layers=[2,8]", "learning.epochs=5"]
    settings += ["learning.batch_size=20", "data.calibration=0", "data.validation=0.5"]
    pcgen.train("digits", tmp_path / "run", data="iris", settings=settings)
    out = tmp_path / "d.safetensors"
    pcgen.ood_calibrate(tmp_path / "run", "iris", out)
    names = [f"{part} {side} (cm)" for part in ("sepal", "petal") for side in ("length", "width")]
    (tmp_path / "x.csv").write_text(",".join(names) + "\n5,3,1.4,0.2\n90,3,1.4,0.2\n")
    rows = list(pcgen.ood_score(out, str(tmp_path / "x.csv"), guarantee="marginal").rows())
    assert [row["is_ood"] for row in rows] == [False, True]
    (tmp_path / "y.csv").write_text(",".join(reversed(names)) + "\n0.2,1.4,3,5\n")
    (turned,) = pcgen.ood_score(out, str(tmp_path / "y.csv"), guarantee="marginal").rows()
    # A row scored alone differs by rounding; columns in the wrong places would differ by far more.
    assert turned["score"] == pytest.approx(rows[0]["score"], rel=1e-2)
    (tmp_path / "w.csv").write_text("a,b,c,d\n0.2,1.4,3,5\n")
    with pytest.raises(pcgen.DataError, match=r"no column 'sepal length .*does not know 'a'"):
        pcgen.ood_score(out, str(tmp_path / "w.csv"), guarantee="marginal")
    np.save(tmp_path / "z.npy", random_pixels(3, 5))
    with pytest.raises(pcgen.DataError, match="5 columns, the model takes 4"):
        pcgen.ood_score(out, str(tmp_path / "z.npy"), guarantee="marginal")


def test_an_own_table_becomes_a_detector_whose_first_score_is_the_table_s_energy(
    tmp_path: Path,
) -> None:
    source = np.random.default_rng(0)
    first_N, noise_N = source.normal(size=(2, 200))
    known = tmp_path / "known.csv"
    lines = [f"{a:.6f},{a + 0.1 * e:.6f},7" for a, e in zip(first_N, noise_N, strict=True)]
    known.write_text("\n".join(["a,b,same", *lines]) + "\n")
    pcgen.train("table", tmp_path / "run", data=known, settings=["learning.epochs=1"])
    out = tmp_path / "d.safetensors"
    document = pcgen.ood_calibrate(tmp_path / "run", known, out).document()
    assert document["scores"][:2] == ["table-energy", COMBINED]
    # All rows set aside give p-values, and 59 allow 5 %.
    assert document["part_b"] == 60
    assert document["rates"] == [0.05]
    assert document["needed"][0]["rows_pac"] == 59
    assert document["self_test"]["score"] == "table-energy"
    # Each column alone is usual; together they are not.
    new = tmp_path / "new.csv"
    new.write_text("a,b,same\n0.5,0.5,7\n1.5,-1.5,7\n")
    rows = list(pcgen.ood_score(out, new).rows())
    assert [row["is_ood"] for row in rows] == [False, True]
    assert rows[1]["table_energy"] == rows[1]["table_mixture"] + rows[1]["table_memory"]
    # Every model in the file is the one that was fitted.
    (scorer,) = open_detector(out).scorers_of("table-energy")
    assert {*scorer.names} == {*TABLE_SCORES}


def test_a_table_s_score_is_refused_for_pictures(detector_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="table-energy: is a score of tables"):
        pcgen.ood_calibrate("digits-ood", "digits", tmp_path / "d", scores=["table-energy"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of a network and a classifier that set the same rows aside."""
    folder = tmp_path_factory.mktemp("both")
    settings = ["learning.epochs=2", "data.calibration=240"]
    pcgen.train("digits", folder / "model", settings=settings)
    settings += ["classifier.channels=[4]", "classifier.hidden=[16]", "data.validation=100"]
    pcgen.train("mnist-classifier", folder / "classifier", data="digits", settings=settings)
    return folder


def test_a_classifier_s_scores_stand_beside_the_network_s(both: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    pcgen.ood_calibrate(both / "model", "digits", out, classifier=both / "classifier")
    detector = open_detector(out)
    assert detector.names[0] == COMBINED
    assert {"msp", "odin", "mahalanobis", "knn"} <= {*detector.names}
    assert not {"msp", "odin"} & {*detector.components}
    rows = list(pcgen.ood_score(out, "digits:test", scores=["msp", "energy-lse"]).rows())
    assert all(row["score"] == row["msp"] for row in rows)
    assert np.mean([row["is_ood"] for row in rows]) < 0.12
    assert rows[0]["energy_lse"] is not None


def test_a_classifier_that_was_trained_on_the_calibration_rows_is_refused(
    both: Path, tmp_path: Path
) -> None:
    settings = ["learning.epochs=1", "data.validation=100", "data.calibration=0"]
    pcgen.train("mnist-classifier", tmp_path / "run", data="digits", settings=settings)
    with pytest.raises(CalibrationError, match="rows of digits that calibrate") as caught:
        pcgen.ood_calibrate(
            both / "model", "digits", tmp_path / "d.safetensors", classifier=tmp_path / "run"
        )
    assert "data.calibration" in caught.value.hint
