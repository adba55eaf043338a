"""The bound of the energy that inference can still win, against runs to the end in float64."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.inference import certificate
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.inference.states import Inference
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from tests import oracle

MAJORISE = InferenceTable(solver="majorise")
NEWTON = InferenceTable(solver="newton")
ERRORS = InferenceTable(solver="errors")
DESCENT = InferenceTable(solver="descent", rate=0.02, momentum=0.9)


def both_bounds(inference: Inference) -> tuple[Tensor, Tensor]:
    images = torch.arange(len(inference.energy_B))
    return inference.excess_bound(images, False), inference.excess_bound(images, True)


def end_from(network: Network, states: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the energy to which these states fall, and how far the latent moves on the way."""
    inference = prepare(network, ERRORS).at(states, None, clamp_latent=False)
    for _ in range(200):
        inference.step()
    return inference.energy_B, (inference.states[-1] - states[-1]).norm(dim=1)


@pytest.mark.parametrize("build", oracle.BUILDS)
@pytest.mark.parametrize("table", [NEWTON, ERRORS], ids=lambda t: t.solver)
def test_no_linear_network_is_further_from_its_minimum_than_the_bound(
    table: InferenceTable, build: str
) -> None:
    network = oracle.network(
        activation="linear", hidden=5.0, latent=0.5, gain=0.7, **oracle.BUILDS[build]
    )
    states = oracle.states(network, oracle.data(network, 8))
    inference = prepare(network, table).at(states, None, clamp_latent=False)
    excess = inference.energy_B - end_from(network, states)[0]
    for bound in both_bounds(inference):
        assert (bound >= 2 * excess * (1 - 1e-10)).all()
        assert bound.isfinite().all()


def test_without_hidden_layers_the_sharp_bound_is_twice_the_excess_energy() -> None:
    network = oracle.network(layers=(3,), activation="linear", latent=0.0)
    states = oracle.states(network, oracle.data(network))
    inference = prepare(network, ERRORS).at(states, None, clamp_latent=False)
    excess = inference.energy_B - end_from(network, states)[0]
    # Without a prior only the sharp bound is finite, so it is the one in both.
    for bound in both_bounds(inference):
        torch.testing.assert_close(bound, 2 * excess, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("table", [MAJORISE, NEWTON, ERRORS, DESCENT], ids=lambda t: t.solver)
@pytest.mark.parametrize("hidden", [1.0, 1000.0])
@pytest.mark.parametrize(
    ("likelihood", "latent"), [("gaussian", 0.0), ("gaussian", 0.1), ("bernoulli", 0.1)]
)
def test_what_is_called_converged_cannot_lose_more_energy_than_it_says(
    table: InferenceTable, hidden: float, latent: float, likelihood: str
) -> None:
    network = oracle.network(likelihood=likelihood, hidden=hidden, latent=latent, gain=1.5)
    if table is DESCENT:
        table = msgspec.structs.replace(table, rate=min(0.02, 0.2 / hidden))
    found = infer(prepare(network, table), oracle.data(network, 8), steps=100, tolerance=1e-4)
    least, distance = end_from(network, found.states)
    # A saddle is a stationary point, and rounding leads away from it.
    stayed = found.converged_B & (distance < 1)
    assert (found.energy_B - least <= found.excess_bound_B + 1e-10)[stayed].all()
    assert stayed.sum() >= found.converged_B.sum() - 1
    assert (found.excess_bound_B <= 1e-4 * found.energy_B.abs())[found.converged_B].all()
    if latent and (table is ERRORS or (table is NEWTON and hidden == 1)):
        assert found.converged_B.all()


def test_a_solver_that_hardly_moves_far_from_the_minimum_has_not_converged() -> None:
    network = oracle.network(hidden=1e5, latent=0.1, gain=1.5)
    data = oracle.data(network, 20)
    method = prepare(network, MAJORISE)
    before, after = (infer(method, data, steps=n, tolerance=1e-4) for n in (60, 61))
    least = infer(prepare(network, ERRORS), data, steps=400).energy_B
    resting = (before.energy_B - after.energy_B) <= 1e-4 * after.energy_B
    far = after.energy_B > 1.01 * least
    assert (resting & far).sum() >= 5
    assert not after.converged_B[far].any()


def test_a_clamped_latent_is_left_out_of_the_bound() -> None:
    network = oracle.network(hidden=3.0)
    data, latent = oracle.data(network), torch.randn(6, 3, dtype=torch.float64)
    method = prepare(network, ERRORS)
    few, many = (
        infer(method, data, steps=n, tolerance=1e-9, latent_BD=latent, clamp_latent=True)
        for n in (4, 300)
    )
    assert many.converged_B.all()
    assert (few.energy_B - many.energy_B <= few.excess_bound_B).all()


def test_a_mixture_is_as_precise_as_its_widest_component() -> None:
    network = oracle.network(hidden=3.0)
    assert network.least_prior_precision() == network.latent_precision()
    roots = torch.stack([2 * torch.eye(3), 3 * torch.eye(3)]).double()
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    network.mixture = Mixture(zeros - 0.6931471805599453, zeros[:, 0], torch.zeros(2, 3), roots)
    assert network.least_prior_precision() == pytest.approx(4.0)


def test_images_too_large_for_their_own_curvature_are_certified_by_the_prior_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certificate, "LARGEST_CURVATURE", 0)
    data = oracle.data(oracle.network(), 20)
    with_prior = oracle.network(latent=1.0)
    found = infer(prepare(with_prior, ERRORS), data, steps=200, tolerance=1e-4)
    assert found.converged_B.all()
    without = oracle.network(latent=0.0)
    found = infer(prepare(without, ERRORS), data, steps=200, tolerance=1e-4)
    assert not found.converged_B.any()
    assert (found.excess_bound_B == torch.inf).all()


def test_an_image_whose_latent_has_no_curvature_takes_the_shared_one() -> None:
    own = torch.stack([2 * torch.eye(3), torch.zeros(3, 3)])
    curvature = certificate.LatentCurvature(own, torch.ones(2))
    inverse = curvature.inverse(torch.tensor(0.0), 0.0, 7 * torch.eye(3))
    torch.testing.assert_close(inverse, torch.stack([0.5 * torch.eye(3), 7 * torch.eye(3)]))
