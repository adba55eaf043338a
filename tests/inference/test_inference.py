"""Inference: guarantees on random networks, closed forms on linear ones, independence of images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcgen.config import InferenceTable
from pcgen.inference.directions import Descent
from pcgen.inference.infer import infer
from pcgen.inference.preconditioners import BlockDiagonal, BlockTridiagonal
from pcgen.inference.solvers import prepare
from pcgen.inference.states import StateInference
from pcgen.model.network import Network
from pcgen.studies import depth
from tests import oracle

MAJORISE = InferenceTable(solver="majorise")
NEWTON = InferenceTable(solver="newton")
ERRORS = InferenceTable(solver="errors")
DESCENT = InferenceTable(solver="descent", rate=0.02, momentum=0.9)


def linear_hessian(network: Network) -> torch.Tensor:
    """Return d2E/dx2 over all free layers of a linear network, dense."""
    sizes = network.sizes[1:]
    ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
    hessian = torch.zeros(ends[-1], ends[-1], dtype=torch.float64)
    precisions = [
        p.exp().expand(s) for p, s in zip(network.log_precisions, network.sizes, strict=True)
    ]
    for i, inputs in enumerate(network.inputs):
        # The error of layer i as a matrix over all free states.
        error = torch.zeros(network.sizes[i], ends[-1], dtype=torch.float64)
        if i > 0:
            error[:, ends[i - 1] : ends[i]] = torch.eye(network.sizes[i])
        for source, layer in inputs:
            error[:, ends[source - 1] : ends[source]] -= layer.matrix()
        hessian += error.T @ (precisions[i][:, None] * error)
    hessian.diagonal()[ends[-2] :] += precisions[-1]
    return hessian


def linear_equilibrium(network: Network, data_BD: torch.Tensor) -> list[torch.Tensor]:
    """Return the closed-form equilibrium by one dense solve from zero states."""
    zero = [data_BD, *(data_BD.new_zeros(len(data_BD), s) for s in network.sizes[1:])]
    slopes = StateInference(network, zero, Descent(0.1, 0.0)).slopes()
    solution = -torch.linalg.solve(linear_hessian(network), torch.cat(slopes, 1).T).T
    return [data_BD, *solution.split(network.sizes[1:], 1)]


@pytest.mark.parametrize("table", [MAJORISE, NEWTON, ERRORS, DESCENT], ids=lambda t: t.solver)
@pytest.mark.parametrize("hidden", [1.0, 3.0])
@pytest.mark.parametrize("build", oracle.BUILDS)
def test_linear_network_reaches_its_closed_form_equilibrium_and_energy(
    table: InferenceTable, hidden: float, build: str
) -> None:
    network = oracle.network(
        activation="linear", hidden=hidden, latent=0.5, data=1.5, gain=0.7, **oracle.BUILDS[build]
    )
    data = oracle.data(network)
    expected = linear_equilibrium(network, data)
    found = infer(prepare(network, table), data, steps=2000 if table is DESCENT else 400)
    for a, b in zip(found.states, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.energy_B, network.energy(expected), rtol=1e-9, atol=1e-9)


def test_newton_needs_one_step_on_a_linear_network() -> None:
    network = oracle.network(activation="linear", hidden=50.0, latent=0.5)
    data = oracle.data(network)
    found = infer(prepare(network, NEWTON), data, steps=1)
    torch.testing.assert_close(found.energy_B, network.energy(linear_equilibrium(network, data)))


@pytest.mark.parametrize("layers", [4, 32])
def test_newton_needs_one_step_on_a_linear_chain_of_any_depth_with_both_ends_clamped(
    layers: int,
) -> None:
    network = oracle.network(layers=(5,) * layers, shape=5, activation="linear", latent=0.5)
    data, latent = oracle.data(network), torch.ones(3, 5, dtype=torch.float64)
    begun = prepare(network, NEWTON).begin(data[:3], latent_BD=latent, clamp_latent=True, steps=1)
    slopes = StateInference(network, begun.states, Descent(0.1, 0.0), None, True).slopes()
    assert torch.equal(begun.states[-1], latent)
    assert max(slope.abs().max() for slope in slopes) < 1e-6


@pytest.mark.parametrize("clamp_latent", [False, True])
def test_newton_needs_few_steps_on_a_deep_residual_network(clamp_latent: bool) -> None:
    at = depth.problem("residual", "clamped" if clamp_latent else "free", 32, 8, images=2)
    path = at.begin(prepare(at.network, NEWTON, reduced=False))
    energies = []
    for _ in range(16):
        path.step()
        energies.append(path.energy_B)
    assert (energies[7] <= 1.001 * energies[-1]).all()


@pytest.mark.parametrize("skips", [(), ([1, 3],)], ids=["chain", "path to the data"])
def test_block_tridiagonal_inverse_is_the_inverse_of_the_dense_hessian(
    skips: tuple[list[int], ...],
) -> None:
    network = oracle.network(
        activation="linear", latent=0.5, hidden=[3.0, 0.4], diagonal=True, skips=skips
    )
    states = oracle.states(network, oracle.data(network))
    slopes = states[1:]
    found = BlockTridiagonal(network)(slopes, network.terms(states))
    moves, drive_moves = found[: network.depth], found[network.depth :]
    expected = torch.linalg.solve(linear_hessian(network), torch.cat(slopes, 1).T).T
    torch.testing.assert_close(torch.cat(moves, 1), expected, rtol=1e-6, atol=1e-8)
    for i, drive_move in enumerate(drive_moves, start=1):
        torch.testing.assert_close(drive_move, network.drive_move(i, moves))
    assert len(drive_moves) == network.depth - 1


def test_twice_the_block_diagonal_bounds_the_hessian() -> None:
    network = oracle.network(activation="linear", latent=0.1, gain=3.0)
    eyes = [torch.eye(size, dtype=torch.float64) for size in network.sizes[1:]]
    inverse = torch.block_diag(*BlockDiagonal(network)(eyes))
    bound = 2 * torch.linalg.inv(inverse)
    assert torch.linalg.eigvalsh(bound - linear_hessian(network)).min() > -1e-9


@settings(max_examples=60, deadline=None)
@given(
    solver=st.sampled_from(["majorise", "newton", "errors"]),
    activation=st.sampled_from(oracle.ACTIVATIONS),
    output=st.sampled_from(["linear", "sigmoid", "relu"]),
    likelihood=st.sampled_from(["gaussian", "gaussian", "bernoulli", "categorical"]),
    gain=st.floats(0.1, 20.0),
    hidden=st.floats(1e-3, 1e4),
    latent=st.sampled_from([0.0, 1.0]),
    layers=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    path=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_inference_lowers_the_energy_of_every_image_at_every_step(
    solver: str,
    activation: str,
    output: str,
    likelihood: str,
    gain: float,
    hidden: float,
    latent: float,
    layers: list[int],
    path: bool,
    seed: int,
) -> None:
    network = oracle.network(
        layers=tuple(layers),
        skips=([0, len(layers)],) if path and len(layers) > 1 else (),
        activation=activation,
        output=output,
        likelihood=likelihood,
        gain=gain,
        hidden=hidden,
        latent=latent,
        seed=seed,
    )
    table = InferenceTable(solver=solver)
    inference = prepare(network, table).begin(oracle.data(network, seed=seed))
    first = inference.energy_B
    # A saturated unit's curvature may be 1e-13 of its bound: 22 refusals, each a quarter.
    for _ in range(40):
        before = inference.energy_B
        expected = inference.step()
        assert (inference.energy_B <= before + 1e-13 * before.abs()).all()
    assert inference.energy_B.isfinite().all()
    # Where there was something to win at the start, something was won.
    slopes_at_start = prepare(network, table).begin(oracle.data(network, seed=seed)).step()
    hopeful = slopes_at_start > 1e-6 * first.abs().clamp_min(1e-6)
    assert (inference.energy_B < first)[hopeful].all()
    assert expected.shape == first.shape


@pytest.mark.parametrize("activation", ["tanh", "gelu", "sigmoid"])
def test_all_solvers_find_the_same_minimum(activation: str) -> None:
    network = oracle.network(activation=activation, latent=1.0, gain=0.7)
    data = oracle.data(network)
    energies = [
        infer(prepare(network, table), data, steps=1000).energy_B
        for table in (MAJORISE, NEWTON, ERRORS)
    ]
    for found in energies[1:]:
        torch.testing.assert_close(found, energies[0], rtol=1e-8, atol=1e-8)
    descent = infer(prepare(network, DESCENT), data, steps=3000).energy_B
    torch.testing.assert_close(descent, energies[0], rtol=1e-6, atol=1e-6)


def test_thirty_layers_come_near_their_minimum_within_a_hundred_steps() -> None:
    network = oracle.network(layers=(16,) * 30, shape=16)
    data = oracle.data(network, 20)
    least = infer(prepare(network, NEWTON), data, steps=400).energy_B
    for table in (MAJORISE, NEWTON, ERRORS):
        found = infer(prepare(network, table), data, steps=100)
        assert (found.energy_B <= 1.01 * least).all(), table.solver


@pytest.mark.parametrize("table", [MAJORISE, NEWTON, ERRORS], ids=lambda t: t.solver)
def test_an_image_does_not_depend_on_the_images_beside_it(table: InferenceTable) -> None:
    network = oracle.network(latent=0.3, hidden=20.0)
    data = oracle.data(network, 40)
    make = prepare(network, table)
    whole = infer(make, data, steps=300, tolerance=1e-8)
    order = torch.arange(39, -1, -1)
    turned = infer(make, data[order], steps=300, tolerance=1e-8)
    alone = infer(make, data[7:8], steps=300, tolerance=1e-8)
    # Rounding may decide whether a last tiny move is taken: agreement is to the tolerance.
    torch.testing.assert_close(whole.energy_B, turned.energy_B[order], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(whole.energy_B[7:8], alone.energy_B, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(whole.states[-1], turned.states[-1][order], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("table", [MAJORISE, NEWTON, ERRORS, DESCENT], ids=lambda t: t.solver)
def test_a_nan_image_does_not_spread_to_its_batch(table: InferenceTable) -> None:
    network = oracle.network(latent=0.3)
    data = oracle.data(network)
    expected = infer(prepare(network, table), data, steps=20, tolerance=1e-9)
    data[2, 3] = torch.nan
    found = infer(prepare(network, table), data, steps=20, tolerance=1e-9)
    others = torch.arange(len(data)) != 2
    torch.testing.assert_close(found.states[-1][others], expected.states[-1][others])
    assert not found.converged_B[2]


def test_hidden_data_is_never_looked_at_and_equals_its_prediction_at_the_minimum() -> None:
    network = oracle.network(latent=0.5)
    data = oracle.data(network)
    mask = torch.ones_like(data)
    mask[:, 3:] = 0
    found = infer(prepare(network, MAJORISE), data, steps=300, mask_BD=mask)
    data[:, 3:] = torch.nan
    blind = infer(prepare(network, MAJORISE), data, steps=300, mask_BD=mask)
    assert torch.equal(found.energy_B, blind.energy_B)
    # The same minimum with the hidden data as free states: they sit on their prediction.
    latent_up = [s.clone().requires_grad_() for s in found.states[1:]]
    filled = torch.where(mask > 0, found.states[0], network.terms(found.states)[0].prediction_BD)
    energy = network.energy([filled, *latent_up])
    torch.testing.assert_close(energy, found.energy_B)
    for slope in torch.autograd.grad(energy.sum(), latent_up):
        assert slope.abs().max() < 1e-6


@pytest.mark.parametrize("table", [MAJORISE, NEWTON, ERRORS, DESCENT], ids=lambda t: t.solver)
def test_a_clamped_latent_does_not_move_and_the_rest_finds_its_minimum(
    table: InferenceTable,
) -> None:
    network = oracle.network()
    data = oracle.data(network)
    latent = torch.randn(len(data), 3, dtype=torch.float64)
    steps = 2000 if table is DESCENT else 300
    found = infer(prepare(network, table), data, steps=steps, latent_BD=latent, clamp_latent=True)
    assert torch.equal(found.states[-1], latent)
    assert torch.equal(found.states[0], data)
    free = [s.clone().requires_grad_() for s in found.states[1:-1]]
    energy = network.energy([data, *free, latent]).sum()
    for slope in torch.autograd.grad(energy, free):
        assert slope.abs().max() < 1e-5


def test_tolerance_stops_each_image_near_its_own_minimum() -> None:
    network = oracle.network(latent=0.1, hidden=10.0)
    data = oracle.data(network, 64)
    make = prepare(network, MAJORISE)
    best = infer(make, data, steps=3000)
    found = infer(make, data, steps=3000, tolerance=1e-5)
    assert found.converged_B.all()
    assert found.steps_B.max() < 300
    assert found.steps_B.unique().numel() > 1
    assert (found.energy_B <= best.energy_B * (1 + 1e-3) + 1e-9).all()


def test_descent_that_diverges_is_not_called_converged() -> None:
    network = oracle.network(hidden=1e4)
    table = InferenceTable(solver="descent", rate=1.0)
    found = infer(prepare(network, table), oracle.data(network), steps=2000, tolerance=1e-4)
    assert not found.converged_B.any()


@pytest.mark.parametrize("table", [MAJORISE, NEWTON, ERRORS, DESCENT], ids=lambda t: t.solver)
def test_all_steps_are_those_of_no_tolerance_which_only_says_who_rests(
    table: InferenceTable,
) -> None:
    network = oracle.network(latent=0.3, hidden=5.0)
    data = oracle.data(network, 40)
    make = prepare(network, table)
    whole = infer(make, data, steps=25)
    found = infer(make, data, steps=25, tolerance=1e-3, all_steps=True)
    if table is not ERRORS:  # which takes in the images' own curvature on the way
        for a, b in zip(found.states, whole.states, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert (found.energy_B <= 1.001 * whole.energy_B).all()
    assert (found.steps_B == 25).all()
    first = infer(make, data, steps=24)
    moved = (first.energy_B - found.energy_B).abs() > 1e-3 * found.energy_B.abs()
    assert not (found.converged_B & moved).any()
    patient = infer(make, data, steps=300, tolerance=1e-3, all_steps=True)
    assert patient.converged_B.all()
