"""The published memory: its descent is that of autograd, and its stable rate does not diverge."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from pcgen.benchmarks.memory.published import (
    SETTINGS,
    Settings,
    published_recall,
    published_training,
    stable_rate,
)
from pcgen.data.sources import open_data
from pcgen.memory.corruptions import Cues
from pcgen.model.network import Network
from tests import oracle
from tests.memory.test_training import recipe


def by_autograd(network: Network, cues: Cues, steps: int, rate: float) -> Tensor:
    """Return the data layer after the steps, with every pixel as a state of its own."""
    start_BD = cues.pixels_BD
    states = [start_BD, *(start_BD.new_zeros(6, size) for size in network.sizes[1:])]
    for _ in range(steps):
        states = [x.detach().requires_grad_() for x in states]
        with torch.enable_grad():
            terms = network.terms(states)
            energy = sum(
                0.5 * (x - term.prediction_BD).square().sum()
                for x, term in zip(states, terms, strict=False)
            )
            slopes = torch.autograd.grad(energy, states)
        states = [x.detach() - rate * slope for x, slope in zip(states, slopes, strict=True)]
        if cues.noise == 0:
            states[0] = torch.where(cues.visible_BD, start_BD, states[0])
    return states[0].clamp(0, 1)


def cues(network: Network, noise: float) -> Cues:
    start_BD = oracle.data(network)
    visible_BD = torch.ones_like(start_BD, dtype=torch.bool)
    if noise == 0:
        visible_BD[:, 3:] = False
    return Cues(start_BD, visible_BD, noise)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_recall_is_the_descent_of_all_states_at_unit_precisions(
    noise: float, activation: str
) -> None:
    network = oracle.network(hidden=50.0, activation=activation)
    query = cues(network, noise)
    expected = by_autograd(network, query, 7, 0.05)
    assert torch.allclose(published_recall(network, query, 7, 0.05), expected)


def test_visible_pixels_of_a_mask_are_put_back() -> None:
    network = oracle.network()
    query = cues(network, 0.0)
    kept = published_recall(network, query, 7, 0.05)
    assert torch.equal(kept[:, :3], query.pixels_BD[:, :3].clamp(0, 1))


def test_the_stable_rate_does_not_diverge_and_a_few_times_it_does() -> None:
    network = oracle.network(activation="linear", gain=10.0)
    query, rate = cues(network, 0.1), stable_rate(network)
    assert published_recall(network, query, 2000, rate).isfinite().all()
    assert not published_recall(network, query, 2000, 4 * rate).isfinite().all()


def test_training_memorises() -> None:
    data = open_data("digits", limit=8)
    settings = Settings(0.05, 5e-3, 20, 100)
    training = published_training(recipe(), data, 32, 0, settings)
    # As many steps as it takes for eight digits.
    learner = training.learner
    learning = msgspec.structs.replace(learner.recipe.learning, epochs=60)
    learner.recipe = msgspec.structs.replace(learner.recipe, learning=learning)
    with torch.no_grad():
        errors = [progress.mse for progress in training.run(data, None)]
    assert errors[0] is not None
    assert errors[-1] is not None
    assert errors[-1] < 0.1 * errors[0]
    assert [p.item() for p in training.network.log_precisions] == [0, 0, 0, -torch.inf]


def test_published_rates_are_divided_by_the_batch_that_they_are_a_mean_over() -> None:
    # The published rate .4 is for the mean energy of 50 images.
    assert SETTINGS["noise:0.2", 50][512] == Settings(0.008, 5e-4, 100, 2000)
