"""The prior of groups: its Gaussians, and their evidence by the dense formula."""

from __future__ import annotations

import math

import torch
from torch.distributions import MultivariateNormal

from pcgen.config import InferenceTable
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.memory.group_prior import GROUP, Evidence, groups_of
from pcgen.memory.stored_prior import Seen
from tests import oracle

COUNT = 2 * GROUP + 5


def latents() -> torch.Tensor:
    source = torch.Generator().manual_seed(4)
    scale = 1 + torch.arange(COUNT)[:, None] // (GROUP + 1)
    return scale * torch.randn(COUNT, 3, generator=source, dtype=torch.float64)


def test_every_stored_latent_is_in_one_group() -> None:
    groups = groups_of(latents())
    assert torch.equal(torch.cat([group.latents_NL for group in groups]), latents())
    assert [group.first for group in groups] == [0, 15, 30]


def test_the_best_group_is_that_of_the_largest_marginal_likelihood() -> None:
    network = oracle.network(layers=(3,), shape=7, data=1.0, latent=1.0)
    stored = latents()
    groups = groups_of(stored)
    data_BD = network.decode(stored[::4]) + 0.3 * oracle.data(network)[:1]
    layer = network.layers[0]
    log_p = []
    for group in groups:
        factor_CL = group.factor(group.latents_NL)
        covariance = layer.weight @ factor_CL.T @ factor_CL @ layer.weight.T
        covariance += torch.eye(7, dtype=torch.float64)
        mean_D = network.decode(group.mean_L[None])[0]
        share = math.log(len(group.latents_NL) / len(stored))
        log_p.append(MultivariateNormal(mean_D, covariance).log_prob(data_BD) + share)
    expected = torch.stack(log_p, 1).argmax(1)
    assert len(expected.unique()) > 1
    for decodes in (True, False):
        seen = Seen(network, stored, decodes=decodes)
        states = infer(prepare(network, InferenceTable(solver="newton")), data_BD, steps=50).states
        evidence = Evidence([group.part(seen.rows_NP) for group in groups], own=seen.own)
        assert torch.equal(evidence.best(seen.target(states)), expected)


def test_the_network_over_a_group_s_weights_decodes_its_latents() -> None:
    network = oracle.network(layers=(3, 5), shape=7)
    group = groups_of(latents())[1]
    over = group.over(network)
    count = len(group.latents_NL)
    weights_NN = math.sqrt(count) * torch.eye(count, dtype=torch.float64)
    decoded = over.decode(weights_NN - weights_NN.mean(0))
    assert torch.allclose(decoded, network.decode(group.latents_NL))
    assert torch.allclose(group.latent(weights_NN - weights_NN.mean(0)), group.latents_NL)
