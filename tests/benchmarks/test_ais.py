"""Annealing: likelihoods in closed form and by quadrature lie between the two bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pcgen.benchmarks.sampling.ais import bounds, simulate
from pcgen.config import InferenceTable
from pcgen.inference.solvers import Method, prepare
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from tests import oracle
from tests.sampling.test_chains import free_moments


def method(network: Network) -> Method:
    return prepare(network, InferenceTable(solver="errors"))


def linear() -> Network:
    return oracle.network(
        layers=(2, 3), shape=4, activation="linear", hidden=5.0, latent=0.7, data=8.0
    )


def exact(network: Network, data_BD: Tensor) -> Tensor:
    mean, covariance = free_moments(network)
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(data_BD)


def one_latent(seed: int = 0) -> Network:
    return oracle.network(
        layers=(1,), shape=6, likelihood="bernoulli", latent=1.0, gain=2.0, seed=seed
    )


def by_quadrature(network: Network, data_BD: Tensor) -> Tensor:
    """Return log p(data) (B,) of a network with one latent and no other hidden layer."""
    places = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    prior = network.prior_energy(places)
    drives = network.drive(0, [places, places])
    costs = torch.nn.functional.softplus(drives).sum(1) - data_BD @ drives.T
    step = math.log(18 / 4000) - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(-costs - prior, 1) + step


def two_causes() -> Network:
    """Return a network whose posterior has two modes that chains cannot pass between."""
    network = one_latent()
    network.layers[0].weight.mul_(0.05)
    prior = Mixture.standard(2, 1, 0, network.layers[0].weight)
    prior.means_KL.copy_(torch.tensor([[-4.0], [4.0]]))
    prior.roots_KLL.fill_(4.0)
    prior.log_weights_YK.copy_(torch.tensor([[0.3, 0.7]]).log())
    network.mixture = prior
    return network


def test_the_exact_likelihood_of_a_linear_network_lies_between_the_bounds() -> None:
    network = linear()
    rows = simulate(network, 40, seed=0)
    truth = exact(network, rows.data_BD)
    gaps = []
    for temperatures in (2, 10, 50):
        both = bounds(method(network), rows, chains=2, temperatures=temperatures)
        assert both.upper_B is not None
        low, high = both.lower_B - truth, both.upper_B - truth
        error = 3 * len(truth) ** -0.5
        # Both are noisy: they hold on average, with three standard errors.
        assert float(low.mean()) < error * float(low.std())
        assert float(high.mean()) > -error * float(high.std())
        gaps.append(float((both.upper_B - both.lower_B).mean()))
    assert gaps[0] > 2
    assert gaps[1] < 0.7 * gaps[0]
    assert gaps[2] < 0.5 * gaps[1]


@pytest.mark.parametrize("make", [one_latent, two_causes])
def test_a_bernoulli_network_has_the_likelihood_of_quadrature(make) -> None:  # type: ignore[no-untyped-def]
    network = make()
    rows = simulate(network, 40, seed=1)
    both = bounds(method(network), rows, chains=30, temperatures=10)
    truth = by_quadrature(network, rows.data_BD)
    assert both.upper_B is not None
    for estimate_B in (both.lower_B, both.upper_B):
        assert abs(float((estimate_B - truth).mean())) < 0.03
        torch.testing.assert_close(estimate_B, truth, rtol=0, atol=0.25)


def test_a_plain_decoder_has_no_noise_in_its_hidden_layers() -> None:
    """Held hidden layers are a function of the latent: one latent is integrated by quadrature."""
    network = oracle.network(layers=(1, 5), shape=6, likelihood="bernoulli", latent=1.0, gain=2.0)
    network.log_precisions[1].fill_(math.log(1e6))
    data = (oracle.data(network, 20) > 0.5).double()
    places = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    drives = network.drive(0, network.states_from(places))
    costs = torch.nn.functional.softplus(drives).sum(1) - data @ drives.T
    step = math.log(18 / 4000) - 0.5 * math.log(2 * math.pi)
    truth = torch.logsumexp(-costs - network.prior_energy(places), 1) + step
    found = bounds(method(network), data, chains=30, temperatures=40, held=True)
    torch.testing.assert_close(found.lower_B, truth, rtol=0, atol=0.3)
    assert abs(float((found.lower_B - truth).mean())) < 0.08
    assert found.upper_B is None
