"""The mixture prior: its slope, its minima, and retrieval that never raises the energy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.memory.mixture import MixtureErrors, Retrieval, mixture, prepare_mixture
from pcgen.memory.visible_reduction import Visible, is_reducible
from pcgen.model.network import Network
from tests import oracle


def stored(count: int = 5, units: int = 3) -> Tensor:
    source = torch.Generator().manual_seed(3)
    return 2 * torch.randn(count, units, generator=source, dtype=torch.float64)


def memory(precision: float = 4.0) -> Network:
    return oracle.network(hidden=10.0, data=5.0, latent=precision)


def test_the_energy_and_the_centre_are_those_of_the_mixture() -> None:
    precision = torch.tensor(1.7, dtype=torch.float64)
    latent_BL = stored(7, 3).flip(0).requires_grad_()
    with torch.enable_grad():
        density_B = torch.exp(-0.5 * precision * torch.cdist(latent_BL, stored()).square())
        expected_B = -density_B.mean(1).log()
        (slope_BL,) = torch.autograd.grad(expected_B.sum(), latent_BL)
    energy_B, centre_BL = mixture(latent_BL.detach(), stored(), precision)
    assert torch.allclose(energy_B, expected_B)
    assert torch.allclose(precision * (latent_BL.detach() - centre_BL), slope_BL)


def test_far_components_do_not_overflow() -> None:
    far_BL = torch.full((2, 3), 1e6, dtype=torch.float64)
    energy_B, centre_BL = mixture(far_BL, stored(), torch.tensor(1e6).double())
    assert energy_B.isfinite().all()
    assert centre_BL.isfinite().all()


def test_a_stored_latent_far_from_the_others_is_a_minimum() -> None:
    energy_B, centre_BL = mixture(stored(), stored(), torch.tensor(1e3).double())
    assert torch.allclose(centre_BL, stored())
    assert torch.allclose(energy_B, torch.full_like(energy_B, math.log(5)))


def test_slopes_are_those_of_autograd() -> None:
    network = memory()
    data_BD = oracle.data(network)
    states = network.states_from(stored(6, 3), data_BD)
    found = prepare_mixture(network, stored()).at(states, None, False)
    assert isinstance(found, MixtureErrors)
    latent_BL = states[-1].clone().requires_grad_()
    with torch.enable_grad():
        moved = network.states_from(latent_BL, data_BD)
        rest = sum(terms.energy_B for terms in network.terms(moved))
        prior_B, _ = mixture(latent_BL, stored(), network.latent_precision())
        energy_B = rest + prior_B
        (slope_BL,) = torch.autograd.grad(energy_B.sum(), latent_BL)
    assert torch.allclose(found.energy_B, energy_B.detach())
    assert torch.allclose(found.slopes()[-1], slope_BL)


def test_no_image_s_energy_ever_rises() -> None:
    network = memory(50.0)
    data_BD = oracle.data(network)
    found = prepare_mixture(network, stored()).at(
        network.states_from(torch.zeros(6, 3).double(), data_BD), None, False
    )
    for _ in range(15):
        before_B = found.energy_B
        found.step()
        assert (found.energy_B <= before_B).all()


def test_images_leave_a_batch_without_a_change_to_the_others() -> None:
    network = memory()
    # Data that are easy and data that are hard to explain.
    data_BD = (
        oracle.data(network) * torch.tensor([0.0, 0.1, 1.0, 3.0, 10.0, 30.0])[:, None].double()
    )
    method = prepare_mixture(network, stored())
    whole = infer(method, data_BD, steps=60, tolerance=1e-7)
    alone = infer(method, data_BD[2:3], steps=60, tolerance=1e-7)
    assert torch.allclose(whole.energy_B[2:3], alone.energy_B, rtol=1e-10)
    assert whole.steps_B[2] == alone.steps_B[0]
    assert len(set(whole.steps_B.tolist())) > 1


def test_retrieval_goes_to_the_stored_latent_that_made_the_data_and_nowhere_worse() -> None:
    network = memory(100.0)
    latents = stored()
    data_BD = network.decode(latents)
    near_BL = latents + 0.1 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    method = prepare_mixture(network, latents)
    retrieval = Retrieval(method, memory(1.0), latents)
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
    seen = Visible(network, visible_D).network
    latents, data_BD = stored(40), oracle.data(network)
    y_BU = Visible(network, visible_D).project(data_BD)
    gaussian = infer(prepare(seen, InferenceTable(solver="newton")), y_BU, steps=50)
    method = prepare_mixture(seen, latents)
    difference = (network.decode(latents) - data_BD[:, None])[:, :, visible_D]
    for decodes in (False, True):
        found = Retrieval(method, seen, latents, decodes=decodes).nearest(gaussian.states)[:, 0]
        assert torch.equal(found, difference.square().sum(2).argmin(1))


def test_decoded_latents_are_compared_where_decoding_is_not_linear() -> None:
    network = oracle.network(layers=(3, 9), shape=20, gain=3.0, hidden=1e8, latent=1.0)
    latents, data_BD = stored(40), oracle.data(network)
    visible = Visible(network, torch.arange(20) % 2 > 0)
    y_BU = visible.project(data_BD)
    # Wherever the Gaussian's latent is.
    states = visible.network.states_from(torch.zeros(6, 3).double(), y_BU)
    method = prepare_mixture(visible.network, latents)
    found = Retrieval(method, visible.network, latents, decodes=True).nearest(states)[:, 0]
    seen = (network.decode(latents) - data_BD[:, None])[:, :, visible.visible_D]
    assert torch.equal(found, seen.square().sum(2).argmin(1))


def wide() -> Network:
    return oracle.network(layers=(4, 6), shape=20, diagonal=True)


def test_a_visible_part_has_the_energy_of_the_mask_up_to_a_constant() -> None:
    network, visible_D = wide(), torch.arange(20) % 3 > 0
    data_BD = oracle.data(network)
    found = Visible(network, visible_D)
    y_BU = found.project(data_BD)
    mask_BD = visible_D.double().expand(6, -1)
    differences = []
    for seed in (1, 2, 3):
        hidden = oracle.states(network, data_BD, seed)[1:]
        whole_B = network.energy([data_BD, *hidden], mask_BD) - network.log_det(mask_BD)
        seen_B = found.network.energy([y_BU, *hidden]) - found.network.log_det()
        differences.append(whole_B - seen_B)
    assert torch.allclose(differences[0], differences[1], rtol=1e-6)
    assert torch.allclose(differences[0], differences[2], rtol=1e-6)


def test_hidden_data_are_not_looked_at() -> None:
    network, visible_D = wide(), torch.arange(20) % 3 > 0
    data_BD = oracle.data(network)
    found = Visible(network, visible_D)
    other_BD = data_BD.where(visible_D, 1e9)
    assert torch.equal(found.project(data_BD), found.project(other_BD))


def test_a_mask_that_leaves_less_than_the_units_above_is_no_hindrance() -> None:
    network, visible_D = wide(), torch.arange(20) < 3
    data_BD = oracle.data(network)
    found = Visible(network, visible_D)
    assert found.project(data_BD).isfinite().all()
    assert found.network.sizes == [6, 6, 4]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"output": "sigmoid"}, False),
        ({"likelihood": "bernoulli"}, False),
        ({"skips": ([0, 2],)}, False),
        ({"layers": (3, [2, 2, 2]), "shape": (2, 8, 8), "kernel": 4}, False),
    ],
)
def test_only_a_dense_linear_data_layer_is_reduced(
    changes: dict[str, object], expected: bool
) -> None:
    assert is_reducible(oracle.network(**changes)) == expected  # type: ignore[arg-type]
