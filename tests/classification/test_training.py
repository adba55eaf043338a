"""Classifiers: they learn by either rule, resume bit for bit, and say what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import pcgen
from pcgen.classification.training import ClassifierLearner, accuracy, initial_classifier
from pcgen.commands.progress import Event
from pcgen.commands.session import open_classifier
from pcgen.config import Recipe, from_dict
from pcgen.data.sources import open_data
from pcgen.errors import CheckpointError, DataError, RecipeError
from pcgen.learning.train import Batch, Training
from pcgen.storage import runs

CONVNET = ["classifier.channels=[4,8]", "classifier.hidden=[24]", "classifier.dropout=0.2"]
PC = [
    *("classifier.kind=mlp", "classifier.hidden=[24,16]", "classifier.rule=pc"),
    "inference.schedule=[[1,5],[2,3]]",
]
QUICK = ["data.source=digits", "data.validation=100", "learning.batch_size=50"]
FILES = ("model.safetensors", "last.safetensors")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small batches in several threads wait for longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recipe(**tables: Any) -> Recipe:
    learning = {"epochs": 4, "batch_size": 50, "rate": 1e-2, "warmup": 0}
    return from_dict(
        {"classifier": {"channels": [4, 8], "hidden": [24]}, **tables}
        | {"learning": learning | tables.get("learning", {})}
    )


@pytest.mark.parametrize(
    "table",
    [
        {"channels": [4, 8], "hidden": [24], "dropout": 0.2},
        {"kind": "mlp", "hidden": [32]},
        {"kind": "mlp", "hidden": [32, 24], "activation": "tanh", "rule": "pc"},
    ],
    ids=["convnet", "mlp", "pc"],
)
def test_a_classifier_learns_the_digits(table: dict[str, Any]) -> None:
    found = recipe(classifier=table, learning={"epochs": 8}, inference={"steps": 6})
    images, test = open_data("digits"), open_data("digits:test")
    training = Training(ClassifierLearner(initial_classifier(found, images, None), found))
    ends = [p for p in training.run(images, test) if p.ends_epoch]
    assert ends[-1].labelled is not None
    assert ends[-1].labelled.accuracy > 0.9
    assert ends[-1].labelled.error == pytest.approx(1 - ends[-1].labelled.accuracy)
    assert ends[-1].energy < 0.5 * ends[0].energy
    assert ends[-1].accuracy is not None
    assert ends[0].mse is None
    assert accuracy(training.network, test).energy == pytest.approx(ends[-1].labelled.energy)


def test_local_errors_agree_with_backprop_where_the_label_hardly_pulls() -> None:
    # With hidden precisions far above the label's pull, states stay at the feedforward values and
    # the local gradients are backprop's (Millidge et al., 2022; Rosenbaum, 2022).
    found = recipe(
        classifier={"kind": "mlp", "hidden": [20, 12], "rule": "pc"}, inference={"steps": 300}
    )
    images = open_data("digits", limit=40)
    training = Training(ClassifierLearner(initial_classifier(found, images, None), found))
    rows = images.rows(range(40))
    assert images.labels is not None
    network = training.network
    # A small label layer pulls little.
    network.dense[-1][0].mul_(1e-2)
    learner, batch = training.learner, Batch(rows, rows.index_B)
    assert isinstance(learner, ClassifierLearner)
    local, logits_BK = learner._local(rows.pixels_BD, images.labels, batch)
    backward, same_BK = learner._backprop(rows.pixels_BD, images.labels, batch)
    torch.testing.assert_close(logits_BK, same_BK)
    for ours, theirs in zip(local, backward, strict=True):
        alike = functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
        assert alike > 0.999


@pytest.mark.parametrize("settings", [CONVNET, PC], ids=["convnet", "pc"])
@pytest.mark.parametrize("stop_after", [2, 8])
def test_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], stop_after: int
) -> None:
    monkeypatch.setattr(runs, "_SAVE_EVERY", 0.0)
    words = [*QUICK, *settings, "data.limit=300", "learning.epochs=3"]
    pcgen.train("mnist-classifier", tmp_path / "whole", settings=words)
    seen = 0

    def crash(event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_after:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pcgen.train("mnist-classifier", tmp_path / "cut", settings=words, on_progress=crash)
    pcgen.train(None, tmp_path / "cut", resume=True)
    for name in FILES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    lines = runs.read_metrics(tmp_path / "cut")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[0].keys() >= {"energy", "accuracy", "validation"}


class Pair:
    """Stands for one of two processes: it remembers what it gives to the sum."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.given: list[torch.Tensor] = []

    def share(self, count: int) -> range:
        return range(count * self.rank // 2, count * (self.rank + 1) // 2)

    def sum_and_look(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        self.given = [tensor.clone() for tensor in tensors]
        return tensors


@pytest.mark.parametrize("table", [{"dropout": 0.4}, {"kind": "mlp", "rule": "pc"}])
def test_two_processes_give_the_gradient_of_one(table: dict[str, Any]) -> None:
    found = recipe(classifier={"channels": [4], "hidden": [24], **table})
    images = open_data("digits", limit=31)
    assert images.labels is not None
    whole = Pair(0)
    whole.share = lambda count: range(count)  # type: ignore[method-assign]
    for group in (whole, *(pair := [Pair(0), Pair(1)])):
        network = initial_classifier(found, images, None)
        learner = ClassifierLearner(network, found)
        learner.begin(images, None)
        rows = images.rows(group.share(31))
        learner.learn(Batch(rows, torch.arange(31), 0, 10, group))  # type: ignore[arg-type]
    for alone, first, second in zip(whole.given, pair[0].given, pair[1].given, strict=True):
        assert (first + second).numpy() == pytest.approx(alone.numpy(), abs=1e-5)


def test_the_checkpoint_says_what_it_is(tmp_path: Path) -> None:
    words = [*QUICK, *CONVNET, "data.limit=300", "learning.epochs=2"]
    result = pcgen.train("mnist-classifier", tmp_path / "run", settings=words)
    assert result.metrics.keys() >= {"accuracy", "error", "energy"}
    header = pcgen.info(tmp_path / "run")
    assert header["kind"] == "classifier"
    assert header["sizes"] == [64, 64, 32, 24, 10]
    found = open_classifier(tmp_path / "run")
    assert found.classes == list("0123456789")
    assert found.shape == (1, 8, 8)
    held_out = accuracy(found.network, open_data("digits:test"))
    assert held_out.accuracy == pytest.approx(result.metrics["accuracy"], abs=0.15)
    with pytest.raises(CheckpointError, match="is a classifier, not a predictive coding network"):
        pcgen.reconstruct(tmp_path / "run", "digits")
    with pytest.raises(CheckpointError, match="is a predictive coding network, not a classifier"):
        open_classifier("digits")
    checked = pcgen.check("mnist-classifier", settings=words)
    assert checked.parameters == header["parameters"]


def test_data_that_cannot_teach_labels_are_refused(tmp_path: Path) -> None:
    images = open_data("digits", limit=20)
    with pytest.raises(DataError, match="has no labels"):
        initial_classifier(recipe(), replace(images, labels=None), None)
    one = replace(images, labels=torch.zeros(20, dtype=torch.int64), classes=None)
    with pytest.raises(DataError, match="cannot be told apart"):
        initial_classifier(recipe(), one, None)
    np.save(tmp_path / "bare.npy", np.zeros((40, 8, 8), np.uint8))
    with pytest.raises(DataError, match="has no labels"):
        pcgen.train(
            "mnist-classifier",
            tmp_path / "run",
            data=str(tmp_path / "bare.npy"),
            settings=["data.validation=10"],
        )


def test_a_classifier_that_cannot_be_is_refused() -> None:
    images = open_data("digits", limit=20)
    with pytest.raises(RecipeError, match="pc is for an mlp"):
        initial_classifier(recipe(classifier={"rule": "pc"}), images, None)
    with pytest.raises(RecipeError, match="to nothing"):
        initial_classifier(recipe(classifier={"channels": [2] * 4}), images, None)
    with pytest.raises(RecipeError, match=r"did you mean classifier.hidden\?"):
        from_dict({"classifier": {"hiden": [3]}})


def test_a_recipe_without_a_classifier_shows_none() -> None:
    from pcgen.config import to_dict

    assert "classifier" not in to_dict(from_dict({}))
    assert from_dict(to_dict(recipe())) == recipe()
