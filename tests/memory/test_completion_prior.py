"""The prior of completion: its components, their evidence, and what it is good for."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from pcgen.config import InferenceTable
from pcgen.data.sources import open_data
from pcgen.inference.infer import infer
from pcgen.inference.preconditioners import latent_curvature
from pcgen.inference.solvers import prepare
from pcgen.memory import completion_prior
from pcgen.memory.completion_prior import Component, fit_completion_prior
from pcgen.memory.corruptions import corruption_of
from pcgen.memory.group_prior import Evidence
from pcgen.memory.recall import Memory, recall
from tests import oracle
from tests.memory.test_training import PRECISION, memorised, recipe


def components() -> list[Component]:
    source = torch.Generator().manual_seed(1)
    factors = 0.5 * torch.randn(3, 3, 3, generator=source, dtype=torch.float64) + torch.eye(3)
    means = 2 * torch.randn(3, 3, generator=source, dtype=torch.float64)
    weights = (0.2, 0.3, 0.5)
    return [Component(*one) for one in zip(weights, means, factors, strict=True)]


def test_the_best_component_is_that_of_the_largest_marginal_likelihood() -> None:
    network = oracle.network(layers=(3,), shape=7, data=1.0, latent=1.0)
    layer, data_BD, log_p = network.layers[0], [], []
    for one in components():
        data_BD.append(network.decode(one.mean_L + oracle.data(network, 4)[:, :3]))
    data_BD = torch.cat(data_BD)
    for one in components():
        root_DL = layer.weight @ one.factor_LL
        covariance = root_DL @ root_DL.T + torch.eye(7, dtype=torch.float64)
        mean_D = network.decode(one.mean_L[None])[0]
        p_B = MultivariateNormal(mean_D, covariance).log_prob(data_BD)
        log_p.append(p_B + math.log(one.weight))
    metric_LL = latent_curvature(network) + torch.eye(3, dtype=torch.float64)
    metric_LL = torch.linalg.cholesky(metric_LL)
    evidence = Evidence([one.part(metric_LL) for one in components()], own=1.0)
    states = infer(prepare(network, InferenceTable(solver="newton")), data_BD, steps=50).states
    expected = torch.stack(log_p, 1).argmax(1)
    assert len(expected.unique()) > 1
    assert torch.equal(evidence.best(states[-1] @ metric_LL), expected)


def test_the_network_over_a_component_decodes_its_latents() -> None:
    network = oracle.network(layers=(3, 5), shape=7)
    one = components()[0]
    inner_BL = oracle.data(network, 4)[:, :3]
    assert torch.allclose(one.over(network).decode(inner_BL), network.decode(one.latent(inner_BL)))


def test_few_stored_images_have_one_gaussian() -> None:
    network = oracle.network(layers=(3,), shape=7, latent=1.0)
    stored_NL = torch.randn(2 * completion_prior.PER_COMPONENT - 1, 3, dtype=torch.float64)
    assert fit_completion_prior(network, stored_NL) == []


def test_a_mixture_completes_unseen_halves_better_than_one_gaussian(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = open_data("digits")
    stored = data.subset(torch.arange(1200))
    model = {"layers": [64], "precision": PRECISION | {"warmup": 0}}
    trained = memorised(recipe(model, epochs=1, batch_size=1200), stored)
    truth_BD = data.rows(range(1200, 1400)).pixels_BD
    cues = corruption_of(["mask:bottom"], data.shape).cues(truth_BD, range(200), data.shape, 0)
    errors = []
    for images in (10_000, 100):
        monkeypatch.setattr(completion_prior, "PER_COMPONENT", images)
        memory = Memory.of(trained.network, trained.latents_NL, trained.errors_N)
        with torch.no_grad():
            recalled = recall(memory, cues, InferenceTable(test_steps=50), prior="auto")
        assert recalled.completed_B.all()
        errors.append(float((recalled.images_BD - truth_BD).square().mean()))
    assert errors[1] < 0.9 * errors[0]
