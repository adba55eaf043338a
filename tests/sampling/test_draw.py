"""Drawing new data: where chains start, and what looking at them costs."""

from __future__ import annotations

import pytest
import torch

from pcgen.config import InferenceTable, Recipe, SamplingTable
from pcgen.data.images import Rows
from pcgen.learning.posterior import PosteriorLearning
from pcgen.model.prior import Mixture
from pcgen.sampling import diagnostics, draw
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.noise import SampleNoise
from tests import oracle


def test_chains_of_a_mixture_prior_start_hotter_than_the_prior() -> None:
    network = oracle.network(layers=(2, 3), shape=4, latent=1.0)
    network.mixture = Mixture.standard(3, 2, 0, network.layers[0].weight)
    like = [network.layers[0].weight.new_empty(0, size) for size in network.sizes[1:]]
    latents = [
        draw_states(network, SampleNoise(0, "t", range(4000), like), temperature=t)[network.latent]
        for t in (1.0, 4.0)
    ]
    torch.testing.assert_close(latents[1], 2 * latents[0])


def test_the_diagnostics_of_running_chains_rank_a_few_times_the_length_of_the_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranked = [0]
    ranks = diagnostics._ranks

    def counted(trace_SCQ: torch.Tensor) -> torch.Tensor:
        ranked[0] += len(trace_SCQ)
        return ranks(trace_SCQ)

    monkeypatch.setattr(diagnostics, "_ranks", counted)
    network = oracle.network(layers=(2,), shape=3, latent=1.0)
    table = InferenceTable(solver="kinetic", sampling=SamplingTable(coordinates="errors"))
    how = draw.Chained(2, burn_in=0, thin=1000)
    draw.chained(network, table, 2, 0, how, on_step=lambda *_: None)
    # Three rankings of a trace of 1000 steps in halves, and all earlier looks.
    assert ranked[0] <= 4 * 3 * 1000 / 2


def test_the_noise_of_a_sample_does_not_depend_on_how_many_steps_follow() -> None:
    network = oracle.network(layers=(2,), shape=3, latent=1.0)
    rows = Rows(torch.zeros(1, 3), ["ok"], [""], torch.tensor([5]))
    first = []
    for samples in (1, 9):
        table = InferenceTable(solver="kinetic", sampling=SamplingTable(samples=samples))
        learning = PosteriorLearning(network, Recipe(model=network.table, inference=table))
        first.append(learning._noise(torch.zeros(1, 3), rows, 1).draw()[0])
    assert torch.equal(*first)
