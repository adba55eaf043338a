"""Local least squares: exact where it can be, the regression where it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pcgen.errors import RecipeError
from pcgen.memory.least_squares import fit, fit_precisions, regress, require_dense
from pcgen.model.layers import Dense
from tests import oracle


def draw(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def layer(below: int, above: int) -> Dense:
    return Dense(draw(below, above, seed=1), draw(below, seed=2))


def test_fewer_images_than_units_are_fitted_exactly() -> None:
    found, above_BU, target_BD = layer(9, 12), draw(7, 12), draw(7, 9, seed=3)
    regress(found, target_BD - found.drive(above_BU), above_BU)
    assert torch.allclose(found.drive(above_BU), target_BD, atol=1e-6)


def test_more_images_than_units_get_the_least_squares_of_linear_algebra() -> None:
    found, above_BU, target_BD = layer(9, 5), draw(40, 5), draw(40, 9, seed=3)
    regress(found, target_BD - found.drive(above_BU), above_BU)
    features = torch.cat([above_BU, torch.ones(40, 1, dtype=torch.float64)], 1)
    expected = torch.linalg.lstsq(features, target_BD).solution
    assert torch.allclose(found.weight, expected[:-1].T, atol=1e-7)
    assert found.bias is not None
    assert torch.allclose(found.bias, expected[-1], atol=1e-7)


def test_of_all_exact_changes_the_least_is_made() -> None:
    found, above_BU, change_BD = layer(9, 12), draw(4, 12), draw(4, 9, seed=3)
    before = found.weight.clone()
    regress(found, change_BD, above_BU)
    # The least change lies in the span of the activities.
    change = found.weight - before
    span = torch.linalg.qr(above_BU.T).Q
    assert torch.allclose(change, change @ span @ span.T, atol=1e-7)


def test_equal_images_do_no_harm() -> None:
    found, above_BU = layer(9, 12), draw(4, 12).repeat(2, 1)
    target_BD = draw(4, 9, seed=3).repeat(2, 1)
    regress(found, target_BD - found.drive(above_BU), above_BU)
    assert torch.allclose(found.drive(above_BU), target_BD, atol=1e-5)


@pytest.mark.parametrize("activation", oracle.ACTIVATIONS)
def test_a_fit_lowers_the_energy(activation: str) -> None:
    network = oracle.network(layers=(3, 5, 6), shape=12, activation=activation)
    data_BD = oracle.data(network, count=30)
    states = network.states_from(0.5 * draw(30, 3), data_BD)
    states = [states[0], *(x + 0.2 * draw(*x.shape, seed=5) for x in states[1:])]
    before = network.energy(states).mean()
    for _ in range(3):
        fit(network, states, network.terms(states))
        after = network.energy(states).mean()
        assert after < before + 1e-9
        before = after


def test_a_bernoulli_layer_is_fitted_through_its_bound() -> None:
    network = oracle.network(layers=(3, 20), shape=12, likelihood="bernoulli")
    data_BD = oracle.data(network, count=10).round()
    states = network.states_from(draw(10, 3), data_BD)
    energies = []
    for _ in range(20):
        energies.append(float(network.energy(states).mean()))
        fit(network, states, network.terms(states))
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < 0.1 * energies[0]


@pytest.mark.parametrize("diagonal", [False, True])
def test_precisions_become_the_inverse_squared_errors_down_to_the_floor(diagonal: bool) -> None:
    network = oracle.network(layers=(3, 5), learned=True, diagonal=diagonal)
    states = oracle.states(network, oracle.data(network, count=50))
    terms = network.terms(states)
    fit_precisions(network, states, terms, 1e-9)
    squared = (states[0] - terms[0].prediction_BD).square()
    expected = squared.mean(0) if diagonal else squared.mean()
    assert torch.allclose(network.log_precisions[0].exp(), 1 / expected)
    fit_precisions(network, states, terms, 1e3)
    assert torch.allclose(network.log_precisions[1].exp(), torch.tensor(1e-3).double())


@pytest.mark.parametrize(
    "found",
    [
        oracle.network(skips=([0, 2],)),
        oracle.network(layers=([2, 2, 2],), shape=(2, 8, 8), kernel=4),
    ],
    ids=["skips", "convolutions"],
)
def test_what_is_not_dense_is_said(found: object) -> None:
    with pytest.raises(RecipeError, match="learns dense layers"):
        require_dense(found)  # type: ignore[arg-type]
