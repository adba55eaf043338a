"""The training loop: energies fall, incremental PC learns, precisions find the noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from pcgen.config import LearningTable, Recipe, from_dict
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import DivergenceError, RecipeError
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.optimiser import rate_at
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Batch, Learner, Progress, Training
from pcgen.learning.validate import measure, reconstructions
from pcgen.model.network import Network


def recipe(**tables: dict[str, Any]) -> Recipe:
    return from_dict({"model": {"layers": [8, 16]}, **tables})


def trained(found: Recipe, images: Images | None = None) -> tuple[Training, list[Progress]]:
    images = images or open_data("digits", limit=200)
    sample_BD = sample(images, found.seed)
    network = initial_network(found, sample_BD, images.shape)
    training = Training(PredictiveCoding(network, found, sample_BD))
    with torch.no_grad():
        return training, [p for p in training.run(images, None) if p.ends_epoch]


@pytest.mark.parametrize("solver", ["descent", "majorise", "newton", "errors"])
@pytest.mark.parametrize("incremental", [False, True])
def test_training_halves_the_energy(solver: str, incremental: bool) -> None:
    steps = 5
    found = recipe(
        inference={"solver": solver, "steps": steps},
        learning={
            "epochs": 20,
            "batch_size": 50,
            "rate": 1e-2,
            "warmup": 0,
            "incremental": incremental,
        },
    )
    training, epochs = trained(found)
    assert epochs[-1].energy < 0.5 * epochs[0].energy
    assert training.counters["updates"] == 20 * 4 * (steps if incremental else 1)


def test_a_learned_precision_finds_the_variance_of_the_errors() -> None:
    precision = {"learned": True, "rate": 0.05, "warmup": 2, "latent": 1.0}
    found = recipe(
        model={"layers": [4], "precision": precision},
        learning={"epochs": 60, "batch_size": 50, "rate": 3e-3},
    )
    training, epochs = trained(found)
    # At the optimum the log-precision's slope is zero: precision times squared error is 1.
    precision_found = training.network.log_precisions[0].exp().item()
    assert precision_found * epochs[-1].mse == pytest.approx(1.0, rel=0.05)


def test_a_learned_precision_keeps_to_its_floor() -> None:
    precision = {"learned": True, "rate": 1.0, "warmup": 0, "floor": 0.5, "latent": 1.0}
    found = recipe(
        model={"layers": [4], "precision": precision}, learning={"epochs": 5, "batch_size": 50}
    )
    training, _ = trained(found)
    assert training.network.log_precisions[0].exp().item() == pytest.approx(2.0)


def test_fixed_precisions_stay() -> None:
    training, _ = trained(recipe(learning={"epochs": 2}))
    assert all(p.item() == 0.0 for p in training.network.log_precisions[:-1])


@pytest.mark.parametrize("largest", [0.0, 1.02])
def test_the_norms_of_units_stay_within_their_limit(largest: float) -> None:
    learning = {"epochs": 10, "batch_size": 50, "rate": 1e-2, "max_norm": largest}
    training, _ = trained(recipe(learning=learning))
    network = training.learner.network
    assert isinstance(network, Network)
    over = []
    for layer in network.layers:
        below, units = layer.weight.shape
        norms = torch.linalg.vector_norm(layer.weight, dim=0) / math.sqrt(below / units)
        over.append(float(norms.max()))
    assert (max(over) < 1.0201) == bool(largest)


def test_a_divergence_names_the_batch_and_the_way_out() -> None:
    found = recipe(
        inference={"solver": "descent", "rate": 1e6},
        learning={"epochs": 3, "batch_size": 50},
    )
    with pytest.raises(DivergenceError, match=r"epoch \d, batch \d") as caught:
        trained(found)
    assert "inference.solver=majorise" in caught.value.hint


def test_what_is_measured_does_not_depend_on_the_batches_or_their_order() -> None:
    images = open_data("digits:test", limit=60)
    found = recipe(inference={"steps": 3, "test_steps": 30}, learning={"epochs": 2})
    training, _ = trained(found)
    with torch.no_grad():
        whole = measure(training.network, images, found.inference)
        turned = measure(training.network, images.subset(range(59, -1, -1)), found.inference)
        parts = [
            measure(training.network, images.subset(range(first, first + 20)), found.inference)
            for first in (0, 20, 40)
        ]
    assert turned.energy == pytest.approx(whole.energy, rel=1e-5)
    assert sum(part.energy for part in parts) / 3 == pytest.approx(whole.energy, rel=1e-5)
    assert sum(part.mse for part in parts) / 3 == pytest.approx(whole.mse, rel=1e-4)


def test_the_error_from_the_last_hidden_layer_includes_skip_connections() -> None:
    images = open_data("digits", limit=20)
    found = recipe(model={"layers": [6, 12], "skips": [[0, 2]]}, inference={"test_steps": 5})
    network = initial_network(found, sample(images, 0), images.shape)
    network.skips[0].layer.weight.add_(0.3)
    (batch,) = reconstructions(network, images, found.inference)
    expected_BD = network.terms(batch.equilibrium.states)[0].prediction_BD
    torch.testing.assert_close(batch.last_hidden_BD, expected_BD.clamp(0, 1))


def test_the_rate_rises_and_falls_as_the_schedule_says() -> None:
    table = LearningTable(rate=2.0, warmup=4)
    assert rate_at(table, 0, 100) == pytest.approx(0.5)
    assert rate_at(table, 50, 100) == pytest.approx(1.0)
    assert rate_at(table, 100, 100) == pytest.approx(0.02)
    constant = LearningTable(rate=2.0, warmup=0, schedule="constant")
    assert {rate_at(constant, update, 100) for update in (0, 50, 100)} == {2.0}


class Recorder(Learner):
    """Keeps the rows of every batch."""

    def __init__(self, found: Recipe) -> None:
        super().__init__(None, found)
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def learn(self, batch: Batch) -> tuple[float, float]:
        self.seen.append((batch.whole_B, batch.rows.pixels_BD))
        return 0.0, 0.0

    def described(self, *_: object) -> dict[str, Any]:
        return {}


def test_each_epoch_mirrors_another_half_of_the_images() -> None:
    images = open_data("digits", limit=100)
    learner = Recorder(recipe(learning={"mirror": True, "epochs": 6, "batch_size": 100}))
    list(Training(learner).run(images, None))
    mirror_images = torch.stack([image.flip(1).flatten() for image in pixels(images)])
    chosen = torch.zeros(6, 100, dtype=torch.bool)
    for epoch, (rows_B, pixels_BD) in enumerate(learner.seen):
        chosen[epoch, rows_B] = (pixels_BD == mirror_images[rows_B]).all(1)
        kept = ~chosen[epoch, rows_B]
        assert torch.equal(pixels_BD[kept], images.rows(rows_B[kept]).pixels_BD)
    assert bool(((chosen.sum(1) > 30) & (chosen.sum(1) < 70)).all())
    assert len(chosen.unique(dim=0)) == 6


def test_each_epoch_shifts_every_image_anew_and_black_comes_in() -> None:
    images = open_data("digits", limit=100)
    learner = Recorder(recipe(learning={"shift": 2, "epochs": 3, "batch_size": 100}))
    list(Training(learner).run(images, None))
    moves = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    padded = functional.pad(pixels(images), [2] * 4)
    moved = torch.stack(
        [padded[:, 2 - y : 10 - y, 2 - x : 10 - x].flatten(1) for y, x in moves], dim=1
    )
    found = [
        (pixels_BD[:, None] == moved[rows_B]).all(2)[rows_B.argsort()].int().argmax(1)
        for rows_B, pixels_BD in learner.seen
    ]
    for (rows_B, pixels_BD), chosen in zip(learner.seen, found, strict=True):
        ordered_BD = pixels_BD[rows_B.argsort()]
        assert torch.equal(ordered_BD, moved[torch.arange(100), chosen])
        assert len(chosen.unique()) > 15
    assert not torch.equal(found[0], found[1])


def pixels(images: Images) -> torch.Tensor:
    return images.rows(range(len(images))).pixels_BD.view(-1, *images.shape[1:])


def test_a_mirrored_recipe_begins_at_the_mean_of_both_sides() -> None:
    images, found = open_data("digits", limit=50), recipe(learning={"mirror": True})
    first = initial_network(found, sample(images, 0), images.shape).layers[0].bias
    mean = pixels(images).mean(0)
    torch.testing.assert_close(first.view(8, 8), 0.5 * (mean + mean.flip(1)))


@pytest.mark.parametrize(
    "tables",
    [{"inference": {"keep_latents": True}}, {"learning": {"memory": True}}],
    ids=["kept latents", "memory"],
)
def test_what_is_kept_for_an_image_is_not_mirrored(tables: dict[str, Any]) -> None:
    learning = {"mirror": True, **tables.pop("learning", {})}
    learner = Recorder(recipe(learning=learning, **tables))
    with pytest.raises(RecipeError, match="only pictures can be mirrored"):
        list(Training(learner).run(open_data("digits", limit=20), None))


def test_rows_of_a_table_are_not_mirrored() -> None:
    with pytest.raises(RecipeError, match="only pictures can be mirrored"):
        list(Training(Recorder(recipe(learning={"mirror": True}))).run(open_data("iris"), None))
    with pytest.raises(RecipeError, match=r"learning.shift: only pictures can be shifted"):
        list(Training(Recorder(recipe(learning={"shift": 1}))).run(open_data("iris"), None))


@pytest.mark.parametrize(
    ("output", "likelihood"),
    [("linear", "gaussian"), ("sigmoid", "gaussian"), ("linear", "bernoulli")],
)
def test_the_first_prediction_is_the_mean_of_the_data(output: str, likelihood: str) -> None:
    images = open_data("digits")
    found = recipe(model={"layers": [4], "output": output, "likelihood": likelihood})
    sample_BD = sample(images, 0)
    network = initial_network(found, sample_BD, images.shape)
    first = network.decode(torch.zeros(1, 4))[0]
    assert torch.allclose(first, sample_BD.mean(0).clamp(0.01, 0.99), atol=0.011)
    assert math.isclose(len(sample_BD), len(images))
