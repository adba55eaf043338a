"""Recall: what was stored comes back, what was not is seen to be unknown."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.sources import open_data
from pcgen.memory.corruptions import Cues, corruption_of
from pcgen.memory.recall import Memory, Prior, Recalled, recall
from pcgen.memory.restore import restore
from pcgen.memory.training import Memorising
from tests.memory.test_training import images, memorised, recipe

SHAPE = (1, 8, 8)
# Half a digit is 32 pixels: with more images than that, a half is not enough to tell them apart.
COUNT = 16
TABLE = InferenceTable(test_steps=50)


@pytest.fixture(scope="module")
def trained() -> Memorising:
    return memorised(recipe(), images(COUNT))


@pytest.fixture(scope="module")
def memory(trained: Memorising) -> Memory:
    return Memory.of(trained.network, trained.latents_NL)


def pixels(source: str = "digits", count: int = COUNT) -> Tensor:
    return open_data(source, limit=count).rows(range(count)).pixels_BD


def cues(word: str, data_BD: Tensor | None = None) -> Cues:
    data_BD = pixels() if data_BD is None else data_BD
    return corruption_of([word], SHAPE).cues(data_BD, range(len(data_BD)), SHAPE, 0)


def recalled(
    memory: Memory, found: Cues, prior: Prior = "lookup", table: InferenceTable = TABLE
) -> Recalled:
    with torch.no_grad():
        return recall(memory, found, table, prior=prior)


def error(found: Recalled) -> float:
    return (found.images_BD - pixels()).square().mean().item()


@pytest.mark.parametrize(
    ("word", "largest"),
    [("noise:0.2", 1e-3), ("mask:bottom", 1e-4), ("mask:50%", 1e-4), ("occlude:2", 1e-4)],
)
def test_stored_images_come_back_within_fifty_steps(
    memory: Memory, word: str, largest: float
) -> None:
    found = recalled(memory, cues(word))
    assert error(found) < largest
    assert torch.equal(found.item_B, torch.arange(COUNT))
    assert found.known_B.all()
    assert found.steps_B.max() <= 50


@pytest.mark.parametrize("solver", ["majorise", "newton"])
def test_every_solver_recalls(memory: Memory, solver: str) -> None:
    table = InferenceTable(test_solver=solver, test_steps=50)
    found = recalled(memory, cues("mask:bottom"), table=table)
    assert error(found) < 1e-4
    assert torch.equal(found.item_B, torch.arange(COUNT))


def test_the_look_up_restores_more_than_the_gaussian_and_that_more_than_no_prior(
    memory: Memory,
) -> None:
    errors = [error(recalled(memory, cues("noise:0.2"), p)) for p in ("lookup", "gaussian", "none")]
    assert errors[0] < 0.1 * errors[1]
    assert errors[1] < errors[2]
    assert errors[2] < 0.04


@pytest.fixture(scope="module")
def linear() -> tuple[Memory, int]:
    """A memory of more images than its one layer has units."""
    count = 60
    made = memorised(recipe({"layers": [48]}), images(count))
    return Memory.of(made.network, made.latents_NL, made.errors_N), count


def test_groups_restore_stored_halves_and_no_single_latent_is_tried(
    linear: tuple[Memory, int],
) -> None:
    memory, count = linear
    data_BD = pixels(count=count)
    by_groups, by_one = (
        recalled(memory, cues("mask:bottom", data_BD), p) for p in ("groups", "gaussian")
    )
    assert (by_groups.item_B == torch.arange(count)).double().mean() > 0.95
    assert by_groups.known_B.double().mean() > 0.9
    errors = [(found.images_BD - data_BD).square().mean().item() for found in (by_groups, by_one)]
    assert errors[0] < 0.2 * errors[1]
    assert by_groups.steps_B.max() <= 50


def test_unknown_cues_are_completed_and_known_ones_looked_up(memory: Memory) -> None:
    stored, other = cues("mask:bottom"), cues("mask:bottom", pixels("digits:test", 100))
    looked_up, found = recalled(memory, stored), recalled(memory, stored, "auto")
    assert torch.equal(found.images_BD, looked_up.images_BD)
    assert not found.completed_B.any()
    missed, completed = (recalled(memory, other, p) for p in ("lookup", "auto"))
    assert torch.equal(completed.completed_B, ~missed.known_B)
    assert completed.completed_B.all()
    truth_BD = pixels("digits:test", 100)
    errors = [(r.images_BD - truth_BD).square().mean().item() for r in (completed, missed)]
    assert errors[0] < 0.8 * errors[1]
    shown = other.visible_BD[0]
    mean_colour = (truth_BD[:, ~shown] - truth_BD[:, shown].mean(1, keepdim=True)).square().mean()
    # Of all pixels: the visible half is exact.
    assert errors[0] < 0.5 * 0.5 * mean_colour.item()


def test_images_that_were_never_stored_are_unknown(memory: Memory) -> None:
    other = pixels("digits:test")
    for word in ("none", "noise:0.1", "mask:bottom"):
        stored, unknown = recalled(memory, cues(word)), recalled(memory, cues(word, other))
        assert stored.energy_B.max() < unknown.energy_B.min()
        assert not unknown.known_B.any()


def test_what_hidden_layers_are_bent_to_explain_is_unknown_too(trained: Memorising) -> None:
    network = trained.network.to("cpu")
    for log_precision in network.log_precisions[1:-1]:
        log_precision.fill_(math.log(1e3))
    loose = Memory.of(network, trained.latents_NL)
    found = recalled(loose, cues("mask:bottom", pixels("digits:test")))
    # Half a nat a visible pixel is what noise leaves: the data alone would say "known".
    assert (found.unexplained_B < 16).any()
    assert not found.known_B.any()
    assert recalled(loose, cues("mask:bottom")).known_B.all()


def test_noise_leaves_as_much_unexplained_as_it_is_large(memory: Memory) -> None:
    found = recalled(memory, cues("noise:0.2"))
    # Half a nat for each pixel: the mean of a chi-squared variable.
    assert found.unexplained_B.mean().item() == pytest.approx(32, rel=0.1)
    assert found.likelihood_B.median().item() == pytest.approx(0.5, abs=0.25)


def test_a_batch_recalls_what_each_cue_recalls_alone(memory: Memory) -> None:
    whole = cues("occlude:2")
    found = recalled(memory, whole)
    alone = recalled(memory, Cues(whole.pixels_BD[3:4], whole.visible_BD[3:4], 0.0))
    assert torch.allclose(found.images_BD[3:4], alone.images_BD, atol=1e-4)
    assert found.item_B[3] == alone.item_B[0]


def test_a_shared_mask_recalls_the_same_seen_in_fewer_units_or_with_all_pixels(
    memory: Memory,
) -> None:
    shared = cues("mask:left")
    other = shared.visible_BD.clone()
    other[-1, 0] = ~other[-1, 0]
    reduced = recalled(memory, shared)
    whole = recalled(memory, Cues(shared.pixels_BD, other, 0.0))
    assert torch.allclose(reduced.images_BD[:-1], whole.images_BD[:-1], atol=1e-3)


def test_visible_pixels_are_kept_unless_they_are_noisy(memory: Memory) -> None:
    exact = cues("mask:left")
    found = recalled(memory, exact)
    assert torch.equal(found.images_BD[exact.visible_BD], exact.pixels_BD[exact.visible_BD])
    noisy = recalled(memory, cues("noise:0.2"))
    assert not torch.isclose(noisy.images_BD, cues("noise:0.2").pixels_BD).any(1).all()


def test_a_convolutional_memory_recalls() -> None:
    precision = {"hidden": 100.0, "latent": 0.01, "learned": True, "warmup": 0}
    model = {"layers": [16, [16, 2, 2], [16, 4, 4]], "precision": precision}
    table = recipe(model, optimiser="adamw", epochs=150, batch_size=40, rate=1e-2)
    made = memorised(table, images(10))
    memory = Memory.of(made.network, made.latents_NL)
    data_BD = pixels(count=10)
    found = recalled(memory, cues("mask:bottom", data_BD))
    assert torch.equal(found.item_B, torch.arange(10))
    assert (found.images_BD - data_BD).square().mean() < 1e-4
    assert found.known_B.all()
    assert not recalled(memory, cues("mask:bottom", pixels("digits:test"))).known_B.any()


def test_steps_are_kept_to(memory: Memory) -> None:
    for steps in (1, 2, 7, 20):
        table = msgspec.structs.replace(TABLE, test_steps=steps, tolerance=0.0)
        with torch.no_grad():
            found = recall(memory, cues("noise:0.2"), table)
        assert found.steps_B.max() <= steps


def test_errors_are_of_all_and_of_the_hidden_pixels(memory: Memory) -> None:
    data = images(12)
    with torch.no_grad():
        found = restore(
            memory, data, corruption_of(["mask:bottom"], SHAPE), TABLE, prior="gaussian"
        )
    # The visible half is exact.
    assert found.metrics["mse"] == pytest.approx(0.5 * found.metrics["mse_hidden"], rel=1e-4)
    assert found.metrics["count"] == len(found.rows) == 12
    assert "originals" in found.pictures
    with torch.no_grad():
        bare = restore(memory, data, corruption_of(["none"], SHAPE), TABLE)
    assert bare.metrics["mse"] is None
    assert "originals" not in bare.pictures
