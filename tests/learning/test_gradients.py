"""Local gradients against autograd, for every kind of layer."""

from __future__ import annotations

import pytest
import torch

from pcgen.learning.gradients import backprop_gradients, precision_gradients, weight_gradients
from tests import oracle
from tests.model.test_energy import KINDS


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weight_gradients_equal_autograd(kind: dict) -> None:
    network = oracle.network(**kind)
    states = oracle.states(network, oracle.data(network))
    for weight in network.weights():
        weight.requires_grad_()
    expected = torch.autograd.grad(network.energy(states).mean(), network.weights())
    for weight in network.weights():
        weight.requires_grad_(False)
    found = weight_gradients(network, states, network.terms(states))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", [*KINDS, *oracle.BUILDS.values()], ids=str)
def test_backprop_gradients_equal_autograd_through_the_whole_decoder(kind: dict) -> None:
    network = oracle.network(**kind)
    data = oracle.data(network)
    latent = oracle.states(network, data)[-1]
    found = backprop_gradients(network, data, latent)
    for weight in network.weights():
        weight.requires_grad_()
    energies = network.terms(network.states_from(latent, data))[0].energy_B
    expected = torch.autograd.grad(energies.mean(), network.weights())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_precision_gradients_equal_autograd(diagonal: bool, likelihood: str) -> None:
    network = oracle.network(
        learned=True, diagonal=diagonal, hidden=[2.0, 0.3], likelihood=likelihood
    )
    states = oracle.states(network, oracle.data(network))
    found = precision_gradients(network, states, network.terms(states))
    first = 0 if likelihood == "gaussian" else 1
    learnt = network.log_precisions[first:-1]
    for log_precision in learnt:
        log_precision.requires_grad_()
    expected = torch.autograd.grad(network.energy(states).mean(), learnt)
    assert (first == 0) == (found[0] is not None)
    for a, b in zip(found[first:], expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_layers_gradient_uses_its_own_error_and_the_activity_above_only() -> None:
    network = oracle.network()
    states = oracle.states(network, oracle.data(network))
    before = weight_gradients(network, states, network.terms(states))
    states[-1] += 1.0  # the latent: it drives layer 2 only
    after = weight_gradients(network, states, network.terms(states))
    assert all(torch.equal(a, b) for a, b in zip(before[:4], after[:4], strict=True))
    assert not torch.equal(before[4], after[4])
