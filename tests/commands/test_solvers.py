"""A model is trained with `inference.solver`, and validated and used with `inference.test_solver`.

So are the steps of training, which `inference.schedule` changes from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pcgen
from pcgen.classification.network import build_classifier
from pcgen.cli.main import cli
from pcgen.config import ClassifierTable, InferenceTable, from_dict
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.ood.scores.classifier import label_energy
from pcgen.registry import SOLVERS

QUICK = [
    "data.limit=60",
    "data.validation=10",
    "learning.batch_size=60",
    "learning.epochs=1",
    "model.layers=[4,8]",
    "model.precision.latent=1",
    "inference.solver=majorise",
    "inference.test_solver=newton",
    "inference.steps=2",
    "inference.test_steps=5",
]
MEMORY = [*QUICK, "data.validation=0", "learning.memory=true"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("solvers") / "run"
    pcgen.train("digits", out, settings=QUICK)
    return out


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the solvers that the test prepares, filled while it runs."""
    names: set[str] = set()

    def watched(name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any) -> Any:
            names.add(name)
            return make(*arguments)

        return watch

    for name in ("majorise", "newton", "errors"):
        monkeypatch.setitem(SOLVERS._values, name, watched(name, SOLVERS.get(name)))
    return names


@pytest.mark.parametrize(("held_out", "solvers"), [(0, {"majorise"}), (10, {"majorise", "newton"})])
def test_training_takes_the_solver_and_validation_the_test_solver(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    used: set[str],
    held_out: int,
    solvers: set[str],
) -> None:
    # The report at the end of a run takes both.
    monkeypatch.setattr("pcgen.commands.train._credit", lambda *arguments: None)
    found = pcgen.train("digits", tmp_path, settings=[*QUICK, f"data.validation={held_out}"])
    assert used == solvers
    assert found.document()["inference"]["solver"] == "newton"


def test_reconstruct_takes_the_test_solver(model: Path, used: set[str]) -> None:
    found = pcgen.reconstruct(model, "digits:test", limit=3)
    assert used == {"newton"}
    assert found.document()["inference"]["solver"] == "newton"


def test_a_detector_scores_with_the_solver_that_calibrated_it(
    model: Path, tmp_path: Path, used: set[str]
) -> None:
    detector = tmp_path / "detector.safetensors"
    pcgen.ood_calibrate(model, "digits:test", detector)
    assert used == {"newton"}
    used.clear()
    scored = pcgen.ood_score(detector, "digits:test", fpr=0.5, guarantee="marginal")
    assert used == {"newton"}
    assert scored.document()["inference"]["solver"] == "newton"


def test_sample_takes_the_test_solver_to_begin_and_a_flag_changes_it(
    model: Path, used: set[str], tmp_path: Path
) -> None:
    words = ["sample", model, "-n", 1, "--given", "digits:test", "--mask", "top", "--limit", 1]
    words += ["--mode", "chain", "--burn-in", 1, "--thin", 1, "--out", tmp_path / "x.npz", "-q"]
    for flag, solver in (("", "newton"), ("errors", "errors")):
        used.clear()
        more = ["--set", f"inference.test_solver={flag}"] if flag else []
        with pytest.raises(SystemExit) as ended:
            cli.main([*map(str, words), *more])
        assert ended.value.code == 0
        assert used == {solver}


@pytest.mark.parametrize("named", ["", "newton"])
def test_recall_takes_errors_where_no_test_solver_is_named(
    tmp_path: Path, used: set[str], named: str
) -> None:
    settings = [*MEMORY, f'inference.test_solver="{named}"']
    pcgen.train("digits", tmp_path, settings=settings)
    used.clear()
    found = pcgen.recall(tmp_path, "digits", corrupt=["mask:top"], limit=3)
    assert used == {named or "errors"}
    assert found.document()["inference"]["solver"] == (named or "errors")


def test_a_classifier_s_label_energy_takes_the_test_solver(used: set[str]) -> None:
    table = ClassifierTable(kind="mlp", hidden=[4], rule="pc")
    network = build_classifier(table, (1, 8, 8), 3, generator(0))
    label_energy(network, torch.rand(2, 64), InferenceTable(test_solver="newton", test_steps=2))
    assert used == {"newton"}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the inference steps of each batch, filled while the test trains."""
    counts: list[int] = []
    inferred = PredictiveCoding._inferred

    def watch(learner: PredictiveCoding, data_BD: torch.Tensor, batch: Any) -> Iterator[Any]:
        before = learner.updates
        yield from inferred(learner, data_BD, batch)
        counts.append(learner.updates - before)

    monkeypatch.setattr(PredictiveCoding, "_inferred", watch)
    return counts


def test_the_steps_of_a_batch_follow_the_schedule(tmp_path: Path, steps: list[int]) -> None:
    # With incremental learning every inference step is a weight update.
    settings = ["learning.epochs=5", "learning.incremental=true", "inference.steps=2"]
    settings += ["data.validation=0", "inference.schedule=[[2,1],[4,3]]"]
    pcgen.train("digits", tmp_path, settings=[*QUICK, *settings])
    assert steps == [2, 1, 1, 3, 3]


def test_the_rate_falls_over_all_updates_of_a_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = set()
    step = pcgen.learning.optimiser.WeightSteps.step

    def watch(self: Any, gradients: Any, update: int, total: int) -> None:
        totals.add(total)
        step(self, gradients, update, total)

    monkeypatch.setattr(pcgen.learning.optimiser.WeightSteps, "step", watch)
    settings = ["learning.epochs=3", "learning.incremental=true", "learning.batch_size=30"]
    settings += ["data.validation=0", "inference.schedule=[[1,1],[3,4]]"]
    pcgen.train("digits", tmp_path, settings=[*QUICK, *settings])
    assert totals == {2 * (1 + 1 + 4)}


def test_training_says_how_many_steps_it_takes(tmp_path: Path) -> None:
    notes: list[str] = []
    settings = ["learning.epochs=2", "inference.schedule=[[2,7]]"]
    pcgen.train(
        "digits",
        tmp_path,
        settings=[*QUICK, *settings],
        on_progress=lambda event: notes.append(event.note),
    )
    first, second = (note for note in notes if note.startswith("epoch"))
    assert ", 2 inference steps" in first
    assert ", 7 inference steps" in second
    checked = pcgen.check("digits", settings=[*QUICK, *settings])
    assert "epoch 1, with 2 inference steps" in " ".join(checked.notes)


@pytest.mark.parametrize(
    "schedule",
    [[[10, 5], [1, 20]], [[1, 5], [1, 20]], [[0.5, 5], [0.2, 20]], [[0.5, 5], [2, 20]]],
)
def test_a_schedule_that_does_not_rise_is_refused(schedule: list[list[float]]) -> None:
    with pytest.raises(RecipeError, match=r"inference.schedule: .* neither rising shares"):
        from_dict({"inference": {"schedule": schedule}})


@pytest.mark.parametrize("epochs", [5, 15, 60])
def test_a_schedule_in_shares_of_the_run_follows_its_length(epochs: int) -> None:
    recipe = from_dict(
        {
            "inference": {"steps": 4, "schedule": [[0.6, 16], [0.8, 32]]},
            "learning": {"epochs": epochs},
        }
    )
    steps = [recipe.steps_in(epoch) for epoch in range(1, epochs + 1)]
    fifth = epochs // 5
    assert steps == [4] * 3 * fifth + [16] * fifth + [32] * fifth


@pytest.mark.parametrize(
    "schedule", [[[0, 5]], [[1, 0]], [[1]], [[1, 2, 3]], [5], 5, [[1, 2.5]], [[1.5, 3]]]
)
def test_a_schedule_that_is_no_pairs_of_counts_is_refused(schedule: object) -> None:
    with pytest.raises(RecipeError, match=r"recipe: inference.schedule.*expected"):
        from_dict({"inference": {"schedule": schedule}})


def test_a_sampler_refuses_a_schedule_which_it_would_not_follow(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"inference.schedule: goes with .*, not with kinetic"):
        pcgen.train("iris", tmp_path, settings=["inference.schedule=[[1,5]]"])


@pytest.mark.parametrize("starts", [[], [1.5], [-0.5], 0.5])
def test_starts_are_shares_from_0_to_1(starts: object) -> None:
    with pytest.raises(RecipeError, match=r"recipe: inference.starts.*expected"):
        from_dict({"model": {"start": "linear"}, "inference": {"starts": starts}})


def test_starts_need_a_linear_start_and_a_solver_that_descends(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"inference.starts: needs a linear start"):
        from_dict({"inference": {"starts": [0, 0.5, 1]}})
    settings = ["inference.starts=[0,0.5,1]", "model.start=linear"]
    with pytest.raises(RecipeError, match=r"inference.starts: goes with .*, not with kinetic"):
        pcgen.train("iris", tmp_path, settings=settings)
    pcgen.train("digits", tmp_path / "run", settings=[*QUICK, *settings])


def test_reconstruct_infers_as_its_settings_say() -> None:
    settings = ["inference.test_solver=exact-newton", "inference.test_steps=3"]
    found = pcgen.reconstruct("digits", "digits:test", limit=10, settings=settings)
    inference = found.document()["inference"]
    assert (inference["solver"], inference["steps"]) == ("exact-newton", 3)
    assert inference["mean_steps"] <= 3
    with pytest.raises(RecipeError, match=r"learning.epochs=2: .* only inference"):
        pcgen.reconstruct("digits", "digits:test", limit=1, settings=["learning.epochs=2"])
