"""Golden energies: no change moves a number, and files of earlier versions still load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pcgen
from pcgen.config import from_dict
from tests.golden import energies

HERE = Path(__file__).parent
KEPT = HERE / "0.1.0"
GOLDEN = json.loads((HERE / "golden.json").read_text())


@pytest.mark.parametrize("group", ["solvers", "trained", "unusual", "embedded"])
def test_golden_numbers_are_what_they_were_to_six_digits(group: str) -> None:
    compare(group)


@pytest.mark.data
@pytest.mark.slow
def test_golden_numbers_of_the_shipped_models_on_real_data(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCGEN_DATA", str(real_data))
    compare("real")


def compare(group: str) -> None:
    compute = dict(energies.everything(data_is_there=True))[group]
    with torch.no_grad():
        found = compute()
    assert found.keys() == GOLDEN[group].keys()
    for name, value in found.items():
        assert value == pytest.approx(GOLDEN[group][name], rel=1e-6, abs=1e-10), name


@pytest.mark.filterwarnings("ignore::pcgen.PcgenWarning")
def test_an_interrupted_run_of_version_0_1_0_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in (KEPT / "run").iterdir():
        (run / file.name).write_bytes(file.read_bytes())
    result = pcgen.train(None, run, resume=True)
    assert result.epochs == 3
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert result.metrics["mse"] == pytest.approx(GOLDEN["kept"]["resumed_mse"], rel=1e-4)


@pytest.mark.filterwarnings("ignore::pcgen.PcgenWarning")
def test_models_of_version_0_1_0_load_and_say_the_same() -> None:
    kept = GOLDEN["kept"]
    reconstructed = pcgen.reconstruct(KEPT / "run", "digits:test", limit=20)
    assert reconstructed.metrics["mse"] == pytest.approx(kept["reconstruct_mse"], rel=1e-4)
    classified = pcgen.classify(KEPT / "classifier.safetensors", "digits:test", limit=20)
    assert classified.document()["energy"] == pytest.approx(kept["classify_energy"], rel=1e-4)
    recalled = pcgen.recall(KEPT / "memory.safetensors", "digits", limit=20, corrupt=["noise:0.2"])
    assert recalled.metrics["mse"] == pytest.approx(kept["recall_mse"], rel=1e-3)
    drawn = pcgen.sample(KEPT / "sampler.safetensors", 4)
    assert float(drawn.samples.data_BD.sum()) == pytest.approx(kept["sample_sum"], rel=1e-4)
    scored = pcgen.ood_score(KEPT / "detector.safetensors", ["digits:test"])
    scores = [row["free_energy_nats"] for row in scored.rows()]
    assert sum(scores) / len(scores) == pytest.approx(kept["free_energy"], rel=1e-4)


@pytest.mark.parametrize("name", sorted(p.name for p in KEPT.glob("*.safetensors")))
def test_a_kept_recipe_is_a_recipe_of_today(name: str) -> None:
    header = pcgen.info(KEPT / name)
    assert from_dict(header.get("model", header)["recipe"]).name
