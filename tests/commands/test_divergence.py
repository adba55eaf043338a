"""Numbers that overflow although the inputs are good: an error before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pcgen
from pcgen import shipped
from pcgen.commands.outputs import require_finite
from pcgen.data.sources import open_data
from pcgen.errors import DivergenceError
from pcgen.ood.scoring import scored
from pcgen.registry import SCORES
from pcgen.storage import checkpoint
from tests.cli.test_commands import run

# The largest weight is finite, and its square is not.
HUGE = 1e30


def enlarged(path: Path, out: Path) -> Path:
    """Return a copy of a checkpoint whose weights are finite and huge."""
    file = checkpoint.load(path)
    tensors = {
        name: tensor * HUGE if name.endswith("weight") else tensor
        for name, tensor in file.tensors.items()
    }
    header = dict(file.header)
    if header["kind"] == "detector":
        own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        header["model"] = header["model"] | {"sha256": checkpoint.digest(own)}
    checkpoint.save(out, tensors, header)
    return out


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a model, a classifier, a memory and a detector whose energies overflow."""
    folder = tmp_path_factory.mktemp("huge")
    settings = ["data.limit=20", "data.validation=0", "learning.memory=true", "learning.epochs=1"]
    pcgen.train("digits", folder / "run", settings=[*settings, "model.output=linear"])
    pcgen.ood_calibrate("digits-ood", "digits:test", folder / "detector.safetensors")
    paths = {
        "model": shipped.find_model("digits"),
        "classifier": shipped.find_model("digits-classifier"),
        "memory": folder / "run" / "model.safetensors",
        "detector": folder / "detector.safetensors",
    }
    return {name: enlarged(path, folder / f"{name}-huge") for name, path in paths.items()}


CASES = {
    "reconstruct": ("model", "digits:test", "--limit", "3"),
    "sample": ("model", "-n", "3"),
    "sample, chains": ("model", "-n", "3", "--mode", "chain", "--burn-in", "1", "--thin", "1"),
    "classify": ("classifier", "digits:test", "--limit", "3"),
    "recall": ("memory", "digits", "--corrupt", "mask:top", "--limit", "3"),
    "recall, no prior": ("memory", "digits", "--corrupt", "noise:0.1", "--prior", "none"),
    "memorise": ("memory", "digits:test", "--limit", "3"),
    "ood-calibrate": ("model", "digits:test"),
    "ood-score": ("detector", "digits:test"),
}


@pytest.mark.parametrize("case", CASES)
def test_numbers_that_are_not_finite_are_an_error_and_no_file_is_left(
    models: dict[str, Path], tmp_path: Path, case: str
) -> None:
    command, (model, *words) = case.split(",")[0], CASES[case]
    out = tmp_path / {"sample": "x.png", "classify": "x.csv", "ood-score": "x.csv"}.get(
        command, "x"
    )
    result = run(command, models[model], *words, "--out", out, "--json", "-q")
    assert result.exit_code == 1
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["kind"] == "divergence"
    assert "finite" in error["message"]
    assert "learning.rate" in error["hint"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_python_function_raises_the_same_error(models: dict[str, Path]) -> None:
    with pytest.raises(DivergenceError, match="not finite"):
        pcgen.reconstruct(models["model"], "digits:test", limit=3)


def test_a_row_far_from_all_others_is_unusual_and_no_error(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    path, detector = tmp_path / "known.csv", tmp_path / "detector.safetensors"
    np.savetxt(path, rows, delimiter=",", header="a,b,c", comments="")
    settings = ["learning.epochs=1", "model.layers=[2,8]", "model.output=linear"]
    pcgen.train("digits-ood", tmp_path / "run", data=str(path), settings=settings)
    pcgen.ood_calibrate(tmp_path / "run", path, detector)
    (tmp_path / "new.csv").write_text("a,b,c\n0,0,0\n1e25,0,0\n")
    found = pcgen.ood_score(detector, tmp_path / "new.csv", fpr=0.5, guarantee="marginal")
    first, second = found.rows()
    assert second["score"] > first["score"]
    assert second["is_ood"]
    assert second["free_energy_nats"] is None


def test_a_number_that_does_not_exist_is_none_and_no_error() -> None:
    require_finite("row", {"mse": None, "count": 3, "id": "inf", "energy": 1.0})
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(DivergenceError, match="row: mse is not finite"):
            require_finite("row", {"mse": value})


def test_a_benchmark_prints_its_rows_before_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"dataset": "d", "method": "m", "metric": "mse", "value": float("nan")}]
    monkeypatch.setattr(pcgen, "bench_reconstruction", lambda *words, **more: rows, raising=False)
    result = run("bench", "reconstruction", "--json", "-q")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["table"][0]["value"] is None
    assert "bench reconstruction, m: value is not finite" in result.stderr


def test_a_user_s_own_score_may_be_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCORES, "_values", {**SCORES._values, "endless": None})

    def endless(data_BD: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"endless": torch.full((len(data_BD),), torch.inf)}

    (batch,) = scored([endless], open_data("digits:test", limit=3))  # type: ignore[list-item]
    assert np.isinf(batch.columns["endless"]).all()
    monkeypatch.undo()
    with pytest.raises(DivergenceError, match=r"digits:test\[0\]|digits\[0\]"):
        list(scored([endless], open_data("digits:test", limit=3)))  # type: ignore[list-item]
