"""A fitted prior: the same energies in other coordinates."""

from __future__ import annotations

import msgspec
import pytest
import torch

from pcgen.config import InferenceTable
from pcgen.errors import RecipeError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.memory.latent_prior import fit_latent_prior
from pcgen.model.network import Network
from tests import oracle


def latents_of(network: Network) -> torch.Tensor:
    """Return correlated latents (400, L) around 2."""
    source = torch.Generator().manual_seed(0)
    size = network.sizes[-1]
    mixing = torch.randn(size, size, generator=source)
    return (torch.randn(400, size, generator=source) @ mixing).double() + 2


@pytest.mark.parametrize("skips", [(), ([0, 2],)])
def test_the_energy_is_that_of_a_full_gaussian_prior(skips: tuple[list[int], ...]) -> None:
    network = oracle.network(skips=skips)
    latents = latents_of(network)
    mean, covariance = latents.mean(0), torch.cov(latents.T, correction=0)
    covariance.diagonal().add_(1e-4 * covariance.diagonal().mean())
    fitted = fit_latent_prior(network, latents)
    states = oracle.states(fitted, oracle.data(fitted))
    centred = states[-1] @ torch.linalg.cholesky(covariance).T
    prior = 0.5 * (centred * torch.linalg.solve(covariance, centred.T).T).sum(1)
    expected = network.energy([*states[:-1], mean + centred]) + prior
    assert torch.allclose(fitted.energy(states), expected, rtol=1e-9)


def test_a_linear_start_begins_where_it_did() -> None:
    plain = oracle.network()
    table = msgspec.structs.replace(plain.table, start="linear")
    network = Network.of(table, plain.layers, plain.log_precisions)
    assert network.start is not None
    network.start.copy_(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))
    latents = latents_of(network)
    fitted = fit_latent_prior(network, latents)
    data = oracle.data(network)
    before = network.states_from(network.start_latent(data), data)
    after = fitted.states_from(fitted.start_latent(data), data)
    assert torch.allclose(before[1], after[1])
    assert torch.allclose(before[2], after[2])


def test_the_prior_pulls_the_equilibrium_to_the_latents_mean() -> None:
    network = oracle.network()
    fitted = fit_latent_prior(network, latents_of(network))
    data = oracle.data(network)
    table = InferenceTable(solver="majorise")
    weak = infer(prepare(network, table), data, steps=600)
    strong = infer(prepare(fitted, table), data, steps=600)
    assert (strong.energy_B >= weak.energy_B - 1e-9).all()
    assert strong.states[-1].square().mean() < 4


def test_a_map_has_no_such_prior() -> None:
    network = oracle.network(layers=([2, 2, 2], [3, 4, 4]), shape=(2, 8, 8), kernel=[4, 3])
    with pytest.raises(RecipeError, match="not to a map"):
        fit_latent_prior(network, torch.randn(20, 8).double())
