"""The mixture prior: torch's own mixture and autograd are the oracles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from pcgen.config import InferenceTable
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.model.prior import Mixture
from tests import oracle


def mixture(components: int = 3, units: int = 2, classes: int = 2) -> Mixture:
    source = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    spread = normal(components, units, 2 * units)
    return Mixture(
        normal(classes, components).log_softmax(1),
        normal(classes).log_softmax(0),
        2 * normal(components, units),
        torch.linalg.cholesky(spread @ spread.mT / units),
    )


def distribution(prior: Mixture) -> MixtureSameFamily:
    precision = prior.roots_KLL @ prior.roots_KLL.mT
    parts = MultivariateNormal(prior.means_KL, precision_matrix=precision)
    return MixtureSameFamily(Categorical(logits=prior.log_weights()), parts)


def test_energy_and_pull_are_those_of_the_density() -> None:
    prior = mixture()
    latent = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        density = distribution(prior).log_prob(latent)
        (slope,) = torch.autograd.grad(density.sum(), latent)
    expected = -density - math.log(2 * math.pi)
    energy, pull = prior.terms(latent.detach())
    torch.testing.assert_close(energy, expected.detach())
    torch.testing.assert_close(prior.energy(latent.detach()), expected.detach())
    torch.testing.assert_close(pull, -slope)


def test_equal_standard_causes_are_the_simple_prior() -> None:
    latent = torch.randn(4, 3)
    prior = Mixture.standard(5, 3, 2, latent)
    energy, pull = prior.terms(latent)
    torch.testing.assert_close(energy, 0.5 * latent.square().sum(1))
    torch.testing.assert_close(pull, latent)
    move = torch.randn(4, 3)
    torch.testing.assert_close(prior.curvature(latent, move), move.square().sum(1))


def test_energies_follow_changes_in_place_of_the_latent_and_of_the_prior() -> None:
    prior, latent = mixture(), torch.randn(4, 2, dtype=torch.float64)
    before = prior.energy(latent)
    prior.means_KL.add_(1.0)
    assert not torch.allclose(prior.energy(latent), before)
    latent.add_(1.0)
    torch.testing.assert_close(prior.energy(latent), before)


def test_draws_have_the_moments_of_each_class() -> None:
    prior = mixture()
    source = torch.Generator().manual_seed(1)
    normal = torch.randn(20_000, 2, generator=source, dtype=torch.float64)
    uniform = torch.rand(20_000, generator=source, dtype=torch.float64)
    for classes in (None, torch.ones(20_000, dtype=torch.long)):
        drawn = prior.draw(normal, uniform, classes)
        rows = prior.log_weights() if classes is None else prior.log_weights_YK[1]
        weights = rows.exp()
        mean = weights @ prior.means_KL
        precision = prior.roots_KLL @ prior.roots_KLL.mT
        within = torch.einsum("k,klm->lm", weights, torch.linalg.inv(precision))
        centred = prior.means_KL - mean
        covariance = within + torch.einsum("k,kl,km->lm", weights, centred, centred)
        error = (covariance.diagonal() / len(drawn)).sqrt()
        assert ((drawn.mean(0) - mean).abs() < 3.5 * error).all()
        torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0.08, atol=0.08)


def test_a_temperature_widens_each_component_and_flattens_the_weights() -> None:
    prior = mixture(components=1)
    normal, uniform = torch.randn(6, 2, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    cold, hot = (prior.draw(normal, uniform, None, temperature) for temperature in (1.0, 4.0))
    torch.testing.assert_close(hot - prior.means_KL, 2 * (cold - prior.means_KL))
    far = Mixture.standard(2, 1, 0, normal)
    far.means_KL.copy_(torch.tensor([[-1e3], [1e3]]))
    far.log_weights_YK.copy_(torch.tensor([[0.9, 0.1]]).log())
    uniform = torch.linspace(0, 1, 1001, dtype=torch.float64)
    drawn = far.draw(torch.zeros(1001, 1, dtype=torch.float64), uniform, None, temperature=2.0)
    # The roots of .9 and .1 stand to each other as 3 to 1.
    assert (drawn > 0).double().mean().item() == pytest.approx(0.25, abs=2e-3)


def test_all_solvers_find_the_same_minimum_under_a_mixture() -> None:
    network = oracle.network(activation="tanh", latent=1.0, gain=0.7)
    network.mixture = mixture(units=3)
    data = oracle.data(network)
    energies = [
        infer(prepare(network, InferenceTable(solver=solver)), data, steps=600).energy_B
        for solver in ("majorise", "newton", "errors")
    ]
    for found in energies[1:]:
        torch.testing.assert_close(found, energies[0], rtol=1e-6, atol=1e-6)
