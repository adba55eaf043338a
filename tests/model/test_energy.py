"""The energy and its slopes, against autograd and against the likelihoods of torch."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, Normal

from pcgen.config import ModelTable, PrecisionTable
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.inference.directions import Descent
from pcgen.inference.states import StateInference
from pcgen.model import activations
from pcgen.model.network import build
from tests import oracle

KINDS = [
    *({"activation": name} for name in oracle.ACTIVATIONS),
    *({"output": name} for name in oracle.ACTIVATIONS),
    {"likelihood": "bernoulli"},
    {"likelihood": "categorical"},
    {"hidden": [3.0, 0.5], "data": 2.0, "latent": 0.7},
    {"diagonal": True, "learned": True, "latent": 1.0},
]


@pytest.mark.parametrize("name", oracle.ACTIVATIONS)
def test_slopes_of_activations_equal_autograd_and_their_bound_holds(name: str) -> None:
    activation = activations.activation(name)
    drive = torch.linspace(-6, 6, 4001, dtype=torch.float64, requires_grad=True)
    response = activation.value(drive)
    (expected,) = torch.autograd.grad(response.sum(), drive)
    kink = (drive.abs() - 1).abs() < 1e-9
    torch.testing.assert_close(activation.slope(drive, response).detach()[~kink], expected[~kink])
    assert expected.abs().max() <= activation.largest_slope * (1 + 1e-12)
    assert expected.abs().max() > 0.99 * activation.largest_slope


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_slopes_in_the_states_equal_autograd(kind: dict) -> None:
    network = oracle.network(**kind)
    states = oracle.states(network, oracle.data(network))
    for state in states[1:]:
        state.requires_grad_()
    expected = torch.autograd.grad(network.energy(states).sum(), states[1:])
    found = StateInference(network, [s.detach() for s in states], Descent(0.1, 0.0)).slopes()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_pull_of_the_data_layer_equals_autograd_in_the_data(kind: dict) -> None:
    network = oracle.network(**kind)
    states = oracle.states(network, oracle.data(network))
    states[0].requires_grad_()
    (expected,) = torch.autograd.grad(network.energy(states).sum(), states[0])
    torch.testing.assert_close(network.terms(states)[0].pull_BD.detach(), expected)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_masked_slopes_equal_autograd_of_the_visible_energy(kind: dict) -> None:
    network = oracle.network(**kind)
    data = oracle.data(network)
    states = oracle.states(network, data)
    mask = torch.ones_like(data)
    if network.table.likelihood == "categorical":
        mask[::2] = 0
    else:
        mask[:, ::3] = 0
    for state in states[1:]:
        state.requires_grad_()
    expected = torch.autograd.grad(network.energy(states, mask).sum(), states[1:])
    plain = [s.detach() for s in states]
    found = StateInference(network, plain, Descent(0.1, 0.0), mask).slopes()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_learned_gaussian_energy_is_minus_log_density_up_to_two_pi() -> None:
    network = oracle.network(learned=True, diagonal=True, latent=0.0)
    states = oracle.states(network, oracle.data(network))
    energy, constant = torch.zeros(()), 0.0
    for terms, log_precision, state in zip(
        network.terms(states), network.log_precisions, states, strict=False
    ):
        density = Normal(terms.prediction_BD, (-0.5 * log_precision).exp())
        energy = energy - density.log_prob(state).sum(1)
        constant += 0.5 * state.shape[1] * torch.log(torch.tensor(2 * torch.pi)).item()
    torch.testing.assert_close(network.energy(states), energy - constant)


def test_bernoulli_and_categorical_energies_are_minus_log_likelihoods() -> None:
    drive = torch.randn(5, 7, generator=generator(0)).double()
    binary = (torch.rand(5, 7, generator=generator(1)) > 0.5).double()
    one_hot = torch.eye(7, dtype=torch.float64)[:5]
    bernoulli = oracle.network(likelihood="bernoulli").energies()[0]
    categorical = oracle.network(likelihood="categorical").energies()[0]
    torch.testing.assert_close(
        bernoulli.terms(binary, drive, None).energy_B,
        -Bernoulli(logits=drive).log_prob(binary).sum(1),
    )
    torch.testing.assert_close(
        categorical.terms(one_hot, drive, None).energy_B,
        -Categorical(logits=drive).log_prob(one_hot.argmax(1)),
    )


@pytest.mark.parametrize("kind", KINDS[len(oracle.ACTIVATIONS) :], ids=str)
def test_curvature_along_a_move_is_the_gauss_newton_second_derivative(kind: dict) -> None:
    network = oracle.network(**{"activation": "linear", **kind})
    states = oracle.states(network, oracle.data(network))
    moves = oracle.states(network, states[0], seed=5)[1:]
    inference = StateInference(network, states, Descent(0.1, 0.0))
    drive_moves = [
        layer.drive_move(move) for layer, move in zip(network.layers, moves, strict=True)
    ]
    found = inference._curvature(moves, drive_moves)
    if network.table.likelihood == "gaussian" and network.table.output != "linear":
        # Gauss-Newton leaves the curvature of f out: compare with the energy of the linearised f.
        terms = inference.terms[0]
        change = terms.slope_BD * drive_moves[0]
        below = network.log_precisions[0].exp() * change.square().sum(1)
    else:
        below = _second(
            lambda t: (
                network.energies()[0]
                .terms(states[0], inference.drives[0] + t * drive_moves[0], None)
                .energy_B
            )
        )
    rest = _second(
        lambda t: (
            network.energy(
                [states[0]] + [s + t * m for s, m in zip(states[1:], moves, strict=True)]
            )
            - network.energies()[0]
            .terms(states[0], inference.drives[0] + t * drive_moves[0], None)
            .energy_B
        )
    )
    torch.testing.assert_close(found, below + rest, rtol=1e-5, atol=1e-5)


def _second(energy: object) -> torch.Tensor:
    h = 1e-3
    return (energy(h) - 2 * energy(0.0) + energy(-h)) / h**2  # type: ignore[operator]


def test_precisions_must_fit_the_layers() -> None:
    table = ModelTable(layers=[2, 3, 4], precision=PrecisionTable(hidden=[1.0, 2.0, 3.0]))
    with pytest.raises(RecipeError, match="3 values for 2 hidden layers"):
        build(table, 5, generator(0))
    table = ModelTable(likelihood="bernoulli", precision=PrecisionTable(data=4.0))
    with pytest.raises(RecipeError, match="bernoulli data layer has no precision"):
        build(table, 5, generator(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_fast", [False, True])
def test_tanh_is_exact_in_relative_terms(
    dtype: torch.dtype, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "has_fast_mkl", lambda: is_fast)
    sizes = torch.logspace(-12, 2, 5000, dtype=torch.float64).to(dtype)
    drive = torch.cat([-sizes, sizes])
    response = activations.activation("tanh").value(drive)
    rounding = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(response, torch.tanh(drive), rtol=rounding, atol=0.0)
