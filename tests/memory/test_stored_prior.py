"""The prior of stored latents: its slope and minima, and retrieval that never raises the energy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.inference.errors import ErrorInference
from pcgen.inference.infer import infer
from pcgen.inference.reduction import Reduction, reduce
from pcgen.inference.solvers import Method, prepare
from pcgen.memory.stored_prior import MemoryNetwork, Retrieval, Seen, stored_terms
from pcgen.model.network import Network
from tests import oracle


def stored(count: int = 5, units: int = 3) -> Tensor:
    source = torch.Generator().manual_seed(3)
    return 2 * torch.randn(count, units, generator=source, dtype=torch.float64)


def memory() -> Network:
    return oracle.network(hidden=10.0, data=5.0, latent=1.0)


def solver(network: Network, stored_NL: Tensor, precision: float = 1.0) -> Method:
    table = InferenceTable(solver="errors")
    return prepare(MemoryNetwork(network, stored_NL, precision), table, reduced=False)


def seen_through(network: Network, visible_D: Tensor) -> Reduction:
    reduction = reduce(network, visible_D, ridge=1e-12)
    assert reduction is not None
    return reduction


def test_the_energy_and_the_slope_are_those_of_the_mixture() -> None:
    precision = torch.tensor(1.7, dtype=torch.float64)
    latent_BL = stored(7, 3).flip(0).requires_grad_()
    with torch.enable_grad():
        density_B = torch.exp(-0.5 * precision * torch.cdist(latent_BL, stored()).square())
        expected_B = -density_B.mean(1).log()
        (slope_BL,) = torch.autograd.grad(expected_B.sum(), latent_BL)
    energy_B, pull_BL = stored_terms(latent_BL.detach(), stored(), precision)
    assert torch.allclose(energy_B, expected_B)
    assert torch.allclose(pull_BL, slope_BL)


def test_far_components_do_not_overflow() -> None:
    far_BL = torch.full((2, 3), 1e6, dtype=torch.float64)
    energy_B, pull_BL = stored_terms(far_BL, stored(), torch.tensor(1e6).double())
    assert energy_B.isfinite().all()
    assert pull_BL.isfinite().all()


def test_a_stored_latent_far_from_the_others_is_a_minimum() -> None:
    energy_B, pull_BL = stored_terms(stored(), stored(), torch.tensor(1e3).double())
    assert torch.allclose(pull_BL, torch.zeros_like(pull_BL), atol=1e-8)
    assert torch.allclose(energy_B, torch.full_like(energy_B, math.log(5)))


def test_slopes_are_those_of_autograd() -> None:
    method = solver(memory(), stored(), 4.0)
    network = method.network
    data_BD = oracle.data(network)
    states = network.states_from(stored(6, 3), data_BD)
    inference = method.at(states, None, False)
    assert isinstance(inference, ErrorInference)
    latent_BL = states[-1].clone().requires_grad_()
    with torch.enable_grad():
        energy_B = network.energy(network.states_from(latent_BL, data_BD))
        (slope_BL,) = torch.autograd.grad(energy_B.sum(), latent_BL)
    assert torch.allclose(inference.energy_B, energy_B.detach())
    assert torch.allclose(inference.slopes()[-1], slope_BL)


def test_no_image_s_energy_ever_rises() -> None:
    method = solver(memory(), stored(), 50.0)
    data_BD = oracle.data(method.network)
    states = method.network.states_from(torch.zeros(6, 3).double(), data_BD)
    inference = method.at(states, None, False)
    for _ in range(15):
        before_B = inference.energy_B
        inference.step()
        assert (inference.energy_B <= before_B).all()


def test_images_leave_a_batch_without_a_change_to_the_others() -> None:
    network = memory()
    # Data that are easy and data that are hard to explain.
    data_BD = (
        oracle.data(network) * torch.tensor([0.0, 0.1, 1.0, 3.0, 10.0, 30.0])[:, None].double()
    )
    method = solver(network, stored(), 4.0)
    whole = infer(method, data_BD, steps=60, tolerance=1e-7)
    alone = infer(method, data_BD[2:3], steps=60, tolerance=1e-7)
    assert torch.allclose(whole.energy_B[2:3], alone.energy_B, rtol=1e-10)
    assert whole.steps_B[2] == alone.steps_B[0]
    assert len(set(whole.steps_B.tolist())) > 1


def test_retrieval_goes_to_the_stored_latent_that_made_the_data_and_nowhere_worse() -> None:
    network = memory()
    latents = stored()
    data_BD = network.decode(latents)
    near_BL = latents + 0.1 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    method = solver(network, latents, 100.0)
    retrieval = Retrieval(method, Seen(network, latents, decodes=False), latents)
    found_BL = retrieval(network.states_from(near_BL, data_BD), None)
    assert torch.allclose(found_BL, latents, atol=1e-6)
    # Where every stored latent explains the data worse, the images stay where they are.
    away = -100 * data_BD
    kept_BL = retrieval(network.states_from(near_BL, away), None)
    energies = [
        method.at(network.states_from(z, away), None, False).energy_B for z in (near_BL, kept_BL)
    ]
    assert (energies[1] <= energies[0]).all()


def test_the_nearest_stored_latent_is_that_of_least_data_energy_where_decoding_is_linear() -> None:
    network = oracle.network(activation="linear", data=3.0, hidden=1e8, latent=1.0)
    visible_D = torch.arange(7) < 2
    reduction = seen_through(network, visible_D)
    seen = reduction.network
    latents, data_BD = stored(40), oracle.data(network)
    y_BU = reduction.project(data_BD)
    gaussian = infer(prepare(seen, InferenceTable(solver="newton")), y_BU, steps=50)
    method = solver(seen, latents)
    difference = (network.decode(latents) - data_BD[:, None])[:, :, visible_D]
    for decodes in (False, True):
        retrieval = Retrieval(method, Seen(seen, latents, decodes=decodes), latents)
        found = retrieval.nearest(gaussian.states)[:, 0]
        assert torch.equal(found, difference.square().sum(2).argmin(1))


def test_decoded_latents_are_compared_where_decoding_is_not_linear() -> None:
    network = oracle.network(layers=(3, 9), shape=20, gain=3.0, hidden=1e8, latent=1.0)
    latents, data_BD = stored(40), oracle.data(network)
    visible_D = torch.arange(20) % 2 > 0
    reduction = seen_through(network, visible_D)
    y_BU = reduction.project(data_BD)
    # Wherever the Gaussian's latent is.
    states = reduction.network.states_from(torch.zeros(6, 3).double(), y_BU)
    method = solver(reduction.network, latents)
    decoded = Seen(reduction.network, latents, decodes=True)
    nearest = Retrieval(method, decoded, latents).nearest(states)[:, 0]
    seen = (network.decode(latents) - data_BD[:, None])[:, :, visible_D]
    assert torch.equal(nearest, seen.square().sum(2).argmin(1))
