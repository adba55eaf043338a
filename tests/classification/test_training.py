"""Classifiers: they learn by either rule, resume bit for bit, and say what they are."""

from __future__ import annotations

import math
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
from pcgen.inference.directions import Descent
from pcgen.inference.solvers import Method, prepare
from pcgen.inference.states import StateInference
from pcgen.learning.gradients import weight_gradients
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


def test_a_largest_norm_holds_for_the_weights_of_a_classifier() -> None:
    images = open_data("digits", limit=100)
    found = recipe(learning={"epochs": 1, "max_norm": 0.2})
    learner = ClassifierLearner(initial_classifier(found, images, None), found)
    for _ in Training(learner).run(images, None):
        pass
    for layer in learner.states.layers:
        below, above = layer.weight.shape[:2]
        others = [dim for dim in range(layer.weight.ndim) if dim != 1]
        norms = torch.linalg.vector_norm(layer.weight, dim=others) / math.sqrt(below / above)
        # Random starting weights are above.
        assert 0.19 < norms.max() < 0.20001


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
    ((local, logits_BK),) = learner._local(rows.pixels_BD, images.labels, batch)
    ((backward, same_BK),) = learner._backprop(rows.pixels_BD, images.labels, batch)
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
    for table, words in {
        "leaves nothing of an image of 8x8": {"channels": [2] * 4},
        "classifier.pool: 1 values for 2 convolutions": {"pool": [2]},
        r"skips: \[0, 1\] must lead from a map": {"skips": [[0, 1]]},
        r"skips: \[1, 3\] .* 2 the last map and 4 the classes": {"skips": [[1, 3]]},
        r"skips: \[0, 2\] must lead from a map": {"kind": "mlp", "skips": [[0, 2]]},
        "skips: .* leads from 8x8 to 6x6": {"padding": [1, 0], "pool": 1, "skips": [[0, 2]]},
    }.items():
        with pytest.raises(RecipeError, match=table):
            initial_classifier(recipe(classifier=words), images, None)
    with pytest.raises(RecipeError, match=r"did you mean classifier.hidden\?"):
        from_dict({"classifier": {"hiden": [3]}})


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"nudging": "positive"}, "classifier.nudging: backprop has no inference"),
        ({"start": "zero"}, "classifier.start: backprop has no inference"),
        ({"rule": "pc", "nudging": "negative"}, "negative makes negative probabilities"),
        ({"rule": "pc", "nudging": "centred"}, "centred makes negative probabilities"),
        ({"rule": "pc", "kind": "mlp", "hidden": []}, "no states to infer"),
        ({"rule": "pc", "strength": 1.5}, "classifier.strength"),
    ],
)
def test_settings_of_a_classifier_that_make_no_sense_together_are_refused(
    tables: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        from_dict({"classifier": tables})
    with pytest.raises(RecipeError, match=r"learning.incremental: backprop has no inference"):
        from_dict({"classifier": {}, "learning": {"incremental": True}})
    convnet = {"kind": "convnet", "rule": "pc"}
    with pytest.raises(RecipeError, match=r"inference.solver: newton does not know convolutions"):
        from_dict({"classifier": convnet, "inference": {"solver": "newton"}})


VARIANTS: dict[str, dict[str, Any]] = {
    "PC-CE": {},
    "PN-CE": {"nudging": "positive", "strength": 0.4},
    "PC-SE": {"likelihood": "gaussian"},
    "PN": {"likelihood": "gaussian", "nudging": "positive", "strength": 0.4},
    "NN": {"likelihood": "gaussian", "nudging": "negative", "strength": 0.2},
    "CN": {"likelihood": "gaussian", "nudging": "centred", "strength": 0.2, "growth": 0.1},
    "normal": {"likelihood": "gaussian", "start": "normal"},
    "centred inputs": {"likelihood": "gaussian", "inputs": "centred", "precision": 2.0},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "mlp") for name in VARIANTS), ("PC-CE", "convnet"), ("NN", "convnet")],
)
def test_every_variant_learns_the_digits(name: str, kind: str) -> None:
    shape = {"hidden": [32, 24]} if kind == "mlp" else {"channels": [6, 12], "hidden": []}
    table = {"kind": kind, "rule": "pc", "activation": "gelu", "weights": "uniform", **shape}
    found = recipe(
        classifier=table | VARIANTS[name],
        learning={"epochs": 6, "rate": 2e-2},
        inference={"solver": "descent", "rate": 0.1, "steps": 4},
    )
    images, test = open_data("digits"), open_data("digits:test")
    training = Training(ClassifierLearner(initial_classifier(found, images, None), found))
    for _ in training.run(images, None):
        pass
    # Random states are far from what weights must learn in six epochs.
    assert accuracy(training.network, test).accuracy > (0.3 if name == "normal" else 0.85)


def small(**table: Any) -> tuple[ClassifierLearner, torch.Tensor, Batch]:
    """Return a learner in float64 with a batch of 20 digits."""
    images = open_data("digits", limit=20)
    found = recipe(classifier={"rule": "pc", "activation": "gelu", **table})
    network = initial_classifier(found, images, None).to("cpu", torch.float64)
    learner = ClassifierLearner(network, found)
    learner.begin(images, None)
    rows = images.rows(range(20))
    rows = replace(rows, pixels_BD=rows.pixels_BD.double())
    return learner, rows.pixels_BD, Batch(rows, rows.index_B)


SHAPES: list[dict[str, Any]] = [
    {"kind": "mlp", "hidden": [12, 9]},
    {"channels": [3, 5], "hidden": [7]},
    {"channels": [3, 5, 4], "pool": [3, 1, 1], "padding": [1, 1, 1], "hidden": [], "stride": 1},
    {"channels": [3, 5], "pool": 1, "stride": [2, 1], "padding": [1, 0], "hidden": []},
    {"channels": [3, 4, 3, 3], "pool": [2, 1, 1, 2], "skips": [[1, 3], [0, 2], [2, 4]]},
    {"channels": [3, 4, 3], "pool": 1, "stride": [1, 2, 1], "skips": [[1, 3], [0, 2]]},
    {"channels": [3, 4], "hidden": [6], "skips": [[0, 4], [1, 4], [2, 4]]},
]


@pytest.mark.parametrize("table", SHAPES)
@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_the_network_of_a_classifier_predicts_its_responses(
    table: dict[str, Any], likelihood: str
) -> None:
    learner, data_BD, _ = small(**table, likelihood=likelihood)
    network = learner.states
    states = network.states_from(learner.network.inputs(data_BD))
    assert [state.shape[1] for state in reversed(states)] == learner.network.sizes
    torch.testing.assert_close(network.drive(0, states), learner.network.logits(data_BD))
    features_BF = learner.network.features(data_BD)
    torch.testing.assert_close(states[1], features_BF[:, : states[1].shape[1]])
    labels_BK = functional.one_hot(learner.labels, 10).double()
    energy_B = network.energy([labels_BK, *states[1:]])
    energies_BK = learner.network.energies(network.drive(0, states))
    torch.testing.assert_close(energy_B, (energies_BK * labels_BK).sum(1))


@pytest.mark.parametrize("table", SHAPES)
def test_slopes_of_states_and_weights_equal_autograd(table: dict[str, Any]) -> None:
    learner, data_BD, _ = small(**table, precision=1.7)
    network = learner.states
    states = network.states_from(data_BD)
    source = torch.Generator().manual_seed(1)
    states[0] = functional.one_hot(learner.labels, 10).double()
    for i in range(1, network.depth):
        states[i] = states[i] + torch.randn(states[i].shape, generator=source).double()
    inference = Method(network, StateInference, lambda: Descent(0.1, 0.5)).at(states, None, True)
    slopes = [inference.slope(i) for i in range(1, network.depth)]
    gradients = weight_gradients(network, states, inference.terms)
    with torch.enable_grad():
        free = [state.requires_grad_() for state in states[1:-1]]
        weights = [tensor.requires_grad_() for tensor in network.weights()]
        total = network.energy([states[0], *free, states[-1]])
        expected = torch.autograd.grad(total.sum(), [*free, *weights])
    for ours, theirs in zip(slopes, expected, strict=False):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(gradients, expected[len(free) :], strict=True):
        torch.testing.assert_close(ours * len(data_BD), theirs)


@pytest.mark.parametrize("table", SHAPES)
def test_inference_lowers_the_energy_of_every_image_and_majorise_most(
    table: dict[str, Any],
) -> None:
    learner, data_BD, _ = small(**table)
    network = learner.states
    labels_BK = functional.one_hot(learner.labels, 10).double()
    ends = []
    for solver in ("majorise", "descent"):
        words = from_dict({"inference": {"solver": solver, "rate": 0.1}}).inference
        method = prepare(network, words)
        inference = method.at(network.states_from(data_BD, labels_BK), None, clamp_latent=True)
        first_B = inference.energy_B
        for _ in range(60):
            inference.step()
        assert (inference.energy_B < first_B).all()
        fresh = method.at(inference.states, None, clamp_latent=True)
        torch.testing.assert_close(fresh.energy_B, inference.energy_B)
        ends.append(inference.energy_B.mean())
    # Where two responses of a window are equally large, the energy has a kink, over which the fixed
    # steps of descent go to and fro.
    assert ends[0] < 1.01 * ends[1]


def test_a_nudged_label_pulls_by_its_strength_and_keeps_its_sign() -> None:
    learner, data_BD, batch = small(
        kind="mlp", hidden=[9], likelihood="gaussian", nudging="centred", strength=0.3, growth=0.5
    )
    assert [learner.strength(epoch) for epoch in range(4)] == [0.3, -0.8, 1.0, -1.0]
    for epoch in (0, 1):
        batch = replace(batch, epoch=epoch)
        ((gradients, _),) = learner._local(data_BD, learner.labels, batch)
        ((backward, _),) = learner._backprop(data_BD, learner.labels, batch)
        # The weights go down the loss whichever way the label is nudged.
        for ours, theirs in zip(gradients, backward, strict=True):
            assert functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.8


def test_incremental_learning_updates_after_every_step() -> None:
    learner, _, batch = small(kind="mlp", hidden=[9])
    learner.recipe = from_dict(
        {
            "classifier": {"rule": "pc", "kind": "mlp"},
            "learning": {"incremental": True},
            "inference": {"solver": "descent", "schedule": [[1, 5]]},
        }
    )
    before = [tensor.clone() for tensor in learner.network.weights()]
    # States and weights move together: at the forward states, only the label layer has an error.
    first, _ = next(learner.gradients(batch))
    assert not first[0].any()
    assert first[-2].any()
    energy, right = learner.learn(batch)
    assert learner.updates == 5
    assert energy > 0
    assert 0 <= right <= 20
    for old, new in zip(before, learner.network.weights(), strict=True):
        assert not torch.equal(old, new)


CONVNETS = {
    "cifar10-pc-classifier": 4,
    "cifar10-vgg5": 4,
    "cifar100-vgg5": 4,
    "cifar10-vgg7": 6,
    "cifar10-vgg9": 8,
    "cifar10-vgg19": 16,
    "cifar10-vgg19-skip": 16,
    "cifar10-resnet18": 17,
}
"""The convolutions of each recipe of colour pictures."""


@pytest.mark.parametrize("name", CONVNETS)
def test_the_recipes_of_colour_pictures_take_any_number_of_classes(
    name: str, tmp_path: Path
) -> None:
    source = np.random.default_rng(0)
    pictures = source.integers(0, 256, (120, 32, 32, 3), np.uint8)
    data = tmp_path / "cifar100.npz"
    np.savez(data, images=pictures, labels=np.arange(120) % 100)
    words = [f"classifier.channels={[2] * CONVNETS[name]}", "learning.epochs=1"]
    if "vgg19" in name:
        words.append("classifier.hidden=[8]")
    words += ["inference.steps=2", "data.validation=20"]
    pcgen.train(name, tmp_path / "run", data=data, settings=words)
    result = pcgen.classify(tmp_path / "run", data, limit=5)
    assert [row["status"] for row in result.rows()] == ["ok"] * 5
    assert "energy_99" in result.rows()[0]


@pytest.mark.data
def test_the_recipe_of_cifar100_learns_cifar10(real_data: Path, tmp_path: Path) -> None:
    rows = open_data("cifar10", data_dir=real_data).rows(range(0, 20_000, 20))
    pictures = rows.pixels_BD.view(-1, 3, 32, 32).permute(0, 2, 3, 1).numpy()
    data = tmp_path / "cifar.npz"
    np.savez(data, images=pictures, labels=rows.labels_B)
    words = ["classifier.channels=[8,8,16,16]", "data.validation=200", "learning.epochs=3"]
    words += ["learning.batch_size=20", "learning.rate=3e-3", "learning.warmup=0"]
    result = pcgen.train("cifar100-vgg5", tmp_path / "run", data=data, settings=words)
    # Chance is 0.1, with a standard deviation of 0.02.
    assert result.metrics["accuracy"] > 0.16


def test_a_recipe_without_a_classifier_shows_none() -> None:
    from pcgen.config import to_dict

    assert "classifier" not in to_dict(from_dict({}))
    assert from_dict(to_dict(recipe())) == recipe()
