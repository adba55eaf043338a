"""Annealed importance sampling: the exact likelihood of linear Gaussian networks."""

from __future__ import annotations

import math

import torch

from pcgen.benchmarks.sampling.ais import log_likelihood
from pcgen.config import InferenceTable, SamplingTable
from tests import oracle
from tests.sampling.test_chains import free_moments

TABLE = InferenceTable(solver="kinetic", sampling=SamplingTable(coordinates="errors"))


def test_a_linear_network_has_its_closed_form_likelihood() -> None:
    network = oracle.network(
        layers=(2, 3), shape=4, activation="linear", hidden=5.0, latent=0.7, data=8.0
    )
    mean, covariance = free_moments(network)
    data = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(data)
    estimate = log_likelihood(network, TABLE, data, chains=100, temperatures=200)
    torch.testing.assert_close(estimate, exact, rtol=0, atol=0.12)


def test_a_bernoulli_network_has_the_likelihood_of_quadrature() -> None:
    network = oracle.network(layers=(1,), shape=6, likelihood="bernoulli", latent=1.0, gain=2.0)
    data = (oracle.data(network, 3) > 0.5).double()
    places = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    for row in data:
        energy = network.energy([row.expand(len(places), -1), places])
        exact = torch.logsumexp(-energy, 0) + math.log(18 / 4000) - 0.5 * math.log(2 * math.pi)
        estimate = log_likelihood(network, TABLE, row[None], chains=200, temperatures=100)
        assert abs(float(estimate) - float(exact)) < 0.05
