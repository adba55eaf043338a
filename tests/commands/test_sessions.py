"""One call after another in one process: none depends on the one before, or leaves a trace."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pcgen
from pcgen.commands.outputs import default_output
from pcgen.commands.session import Session
from pcgen.config import InferenceTable
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import DataError, RecipeError
from pcgen.model import products

KEPT = Path(__file__).parents[1] / "golden" / "0.1.0"
QUICK = ["data.limit=40", "learning.epochs=1", "learning.batch_size=20", "inference.test_steps=5"]


def numbers(result: Any) -> Any:
    """Return the numbers of a result, without paths and times."""
    document = result.document()
    timed = ("seconds", "images_per_second", "checkpoint", "out", "picture")
    return json.loads(json.dumps({k: v for k, v in document.items() if k not in timed}))


# The memory that the tests use was written by an earlier version.
pytestmark = pytest.mark.filterwarnings("ignore::pcgen.PcgenWarning")


def calls(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return a call of every public function that opens a model or trains one."""
    run = pcgen.train("digits-ood", folder / "calibrated", settings=["learning.epochs=1"])
    memory = KEPT / "memory.safetensors"
    return {
        "train": lambda: pcgen.train(
            "digits", folder / f"{len(list(folder.iterdir()))}", settings=QUICK
        ),
        "check": lambda: pcgen.check("iris").sizes,
        "reconstruct": lambda: pcgen.reconstruct("digits", "digits:test", limit=5),
        "reconstruct a table": lambda: pcgen.reconstruct("iris", "iris", limit=5),
        "sample": lambda: pcgen.sample("iris", 4),
        "chains": lambda: pcgen.sample("iris", 4, mode="chain", burn_in=5, thin=2),
        "recall": lambda: pcgen.recall(memory, "digits", corrupt=["mask:top"], limit=5),
        "memorise": lambda: pcgen.memorise(memory, "digits:test", folder / "m", limit=2),
        "forget": lambda: pcgen.forget(memory, [3], folder / "f"),
        "classify": lambda: pcgen.classify("digits-classifier", "digits:test", limit=5),
        "calibrate": lambda: pcgen.ood_calibrate(run.run, "digits", folder / "d.safetensors"),
        "score": lambda: pcgen.ood_score("digits-ood", ["digits:test"]),
    }


def test_every_function_says_the_same_twice_with_others_in_between(tmp_path: Path) -> None:
    every = calls(tmp_path)
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    first = {name: call() for name, call in every.items()}
    for name, call in reversed(every.items()):
        again = call()
        if name != "check":
            assert numbers(again) == numbers(first[name]), name
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before, name


def test_products_are_the_models_own_while_it_runs_and_restored_afterwards(tmp_path: Path) -> None:
    seen = []

    def look(event: Any) -> None:
        seen.append(torch.get_float32_matmul_precision())

    words = [*QUICK, "inference.products=tf32"]
    pcgen.train("digits", tmp_path / "run", settings=words, on_progress=look)
    pcgen.reconstruct(tmp_path / "run", "digits:test", limit=3, on_progress=look)
    assert set(seen) == {"high"}
    seen.clear()
    words = [*QUICK, "inference.products=tf32", "classifier.channels=[4]"]
    pcgen.train("digits-classifier", tmp_path / "classes", settings=words)
    pcgen.classify(tmp_path / "classes", "digits:test", limit=3, on_progress=look)
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_files_may_be_named_by_strings_in_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    new = tmp_path / "new"
    pcgen.sample("iris", 3, out=str(new / "s" / "drawn.csv"))
    pcgen.classify("digits-classifier", "digits:test", limit=3, out=str(new / "c" / "labels.csv"))
    pcgen.reconstruct("digits", "digits:test", limit=3, out=str(new / "r"))
    memory = str(KEPT / "memory.safetensors")
    pcgen.recall(memory, "digits", corrupt=["mask:top"], limit=3, out=str(new / "m"))
    assert {path.name for path in new.rglob("*") if path.is_file()} == {
        "drawn.csv",
        "labels.csv",
        "reconstructions.png",
        "reconstructions.npz",
        "reconstructions.jsonl",
        "recalled.png",
        "recalled.npz",
        "recalled.jsonl",
    }


def test_arrays_and_tensors_are_data_as_files_are(tmp_path: Path) -> None:
    pixels = open_data("digits:test", limit=6)
    array = pixels.rows(range(6)).pixels_BD.numpy().reshape(6, 8, 8)
    np.save(tmp_path / "x.npy", array)
    expected = pcgen.reconstruct("digits", tmp_path / "x.npy").metrics["mse"]
    for data in (array, torch.from_numpy(array)):
        assert pcgen.reconstruct("digits", data).metrics["mse"] == expected
    scored = pcgen.ood_score("digits-ood", array)
    assert len(list(scored.rows())) == 6


def test_a_run_on_an_array_resumes_with_the_same_array_alone(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((40, 8, 8), np.float32)
    pcgen.train("digits", tmp_path / "run", data=array, settings=QUICK)
    with pytest.raises(DataError, match="was trained on an array"):
        pcgen.train(None, tmp_path / "run", resume=True)
    with pytest.raises(DataError, match="not the data"):
        pcgen.train(None, tmp_path / "run", resume=True, data=array[::-1].copy())
    assert pcgen.train(None, tmp_path / "run", resume=True, data=array).epochs == 1


def test_columns_of_the_recipe_hold_in_every_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["a,b,c,label"]
    for i in range(60):
        a, b = rng.normal(size=2) + i % 2
        lines.append(f"{a:.4f},{b:.4f},{rng.normal():.4f},{i % 2}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines))
    columns = ['data.columns=["b","a"]', "learning.epochs=2", "learning.batch_size=20"]
    words = [*columns, "classifier.kind=mlp", "classifier.hidden=[8]"]
    pcgen.train("digits-classifier", tmp_path / "c", data=str(table), settings=words)
    assert pcgen.classify(tmp_path / "c", table).document()["count"] == 60
    words = [*columns, "model.layers=[1,8]", "data.calibration=30"]
    pcgen.train("digits-ood", tmp_path / "o", data=str(table), settings=words)
    detector = pcgen.ood_calibrate(tmp_path / "o", table, tmp_path / "d.safetensors").detector
    rows = list(pcgen.ood_score(detector, table, fpr=0.2, guarantee="marginal").rows())
    assert [row["status"] for row in rows] == ["ok"] * 60


def test_the_threshold_of_the_recipe_holds_in_every_command(tmp_path: Path) -> None:
    words = ["data.threshold=0.5", "learning.epochs=1"]
    pcgen.train("digits-ood", tmp_path / "run", settings=words)
    pcgen.reconstruct(tmp_path / "run", "digits:test", limit=4, out=tmp_path / "out")
    inputs = np.load(tmp_path / "out" / "reconstructions.npz")["inputs"]
    assert set(np.unique(inputs)) == {0.0, 1.0}
    pcgen.ood_calibrate(tmp_path / "run", "digits", tmp_path / "d.safetensors")


def test_one_batch_an_epoch_has_a_time(tmp_path: Path) -> None:
    result = pcgen.check("digits", settings=["data.limit=40", "learning.batch_size=100"])
    assert result.batches == 1
    assert result.seconds_per_epoch > 0


def test_samples_of_given_inputs_say_how_many_inputs_were_used() -> None:
    result = pcgen.sample("iris", 1, given="iris", mask="petal length (cm)", burn_in=1, thin=1)
    assert result.document()["completed"] == 10
    assert len(result.samples.data_BD) == 10


def test_a_default_file_is_never_one_that_exists(tmp_path: Path) -> None:
    assert default_output("sample", "iris", tmp_path) == tmp_path / "samples.csv"
    assert default_output("sample", "digits", tmp_path) == tmp_path / "samples.png"
    (tmp_path / "scores.csv").write_text("")
    (tmp_path / "scores-2.csv.part").write_text("")
    assert default_output("ood-score", folder=tmp_path) == tmp_path / "scores-3.csv"


def test_a_report_is_a_function_too(tmp_path: Path) -> None:
    assert Path(pcgen.report(KEPT / "run", tmp_path / "page.html")).read_text().startswith("<!")


def test_other_arrays_than_the_one_trained_on_calibrate(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((200, 8, 8), np.float32)
    pcgen.train("digits-ood", tmp_path / "run", data=array[:80], settings=["learning.epochs=1"])
    result = pcgen.ood_calibrate(tmp_path / "run", array[80:], tmp_path / "d.safetensors")
    assert "other data" in result.document()["origin"]


def test_a_note_about_data_is_told_once_and_is_in_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def noted(*words: Any, **options: Any) -> Images:
        return replace(open_data(*words, **options), notes=("read so", "read so"))

    monkeypatch.setattr("pcgen.data.sources.open_data", noted)
    told: list[str] = []
    result = pcgen.reconstruct(
        "digits", "digits:test", limit=2, on_progress=lambda event: told.append(event.note)
    )
    assert [note for note in told if note] == ["Note: read so"]
    assert result.document()["notes"] == ["read so"]


@pytest.mark.parametrize(
    ("first", "exist", "chosen"),
    [
        ("torch", (True, True), "torch"),
        ("onednn", (True, True), "onednn"),
        ("onednn", (True, False), "torch"),
    ],
)
def test_a_group_multiplies_as_its_first_process_does(
    first: str, exist: tuple[bool, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    monkeypatch.setattr(products, "use", used.append)
    group = SimpleNamespace(gather=lambda own: [(first, exist[0]), (own[0], exist[1])])
    place = Session(torch.device("cpu"), group=group)  # type: ignore[arg-type]
    place.prepare(SimpleNamespace(largest_product=10**6), InferenceTable(), 100)
    assert used == [chosen]


def test_a_wrong_name_of_products_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PCGEN_PRODUCTS", "mkl")
    for call in (lambda: pcgen.reconstruct("digits", "digits:test", limit=1), pcgen.doctor):
        with pytest.raises(RecipeError, match="PCGEN_PRODUCTS=mkl") as error:
            call()
        assert error.value.exit_code == 2


def test_doctor_names_the_processor_and_the_rate_of_its_products() -> None:
    rows = {row["what"]: row for row in pcgen.doctor()}
    assert rows["processor"]["found"]
    assert rows["matrix products"]["state"] == "torch"
    assert re.match(r"torch \d+ GFLOP/s", rows["matrix products"]["found"])
