"""The log-likelihood of a table's rows: closed form, and beside annealing."""

from __future__ import annotations

import torch

from pcgen.benchmarks.sampling.ais import bounds, simulate
from pcgen.benchmarks.sampling.density import held_out, log_density
from pcgen.model.prior import Mixture
from tests import oracle
from tests.benchmarks.test_ais import exact, linear, method


def test_a_linear_network_has_its_closed_form_density() -> None:
    network = linear()
    rows = simulate(network, 30, seed=2).data_BD[:, :4]
    found = log_density(network, rows, 0, draws=40_000)
    torch.testing.assert_close(found, exact(network, rows), rtol=0, atol=0.1)


def test_the_density_of_a_network_with_a_mixture_lies_between_the_bounds_of_annealing() -> None:
    network = oracle.network(layers=(2, 6, 5), shape=2, hidden=2000.0, latent=1.0, data=30.0)
    prior = Mixture.standard(2, 2, 0, network.layers[0].weight)
    prior.means_KL.copy_(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]))
    prior.roots_KLL.mul_(2.0)
    network.mixture = prior
    rows = simulate(network, 40, seed=3)
    found = log_density(network, rows.data_BD, 0, draws=40_000)
    both = bounds(method(network), rows, chains=8, temperatures=40)
    assert both.upper_B is not None
    assert float((both.lower_B - found).mean()) < 0.05
    assert float((both.upper_B - found).mean()) > -0.05
    assert float((both.lower_B - found).mean()) > -0.5


def test_rows_like_those_of_training_are_likely_under_mixtures_and_network() -> None:
    network = linear()
    rows = simulate(network, 80, seed=4).data_BD
    found = held_out(network, rows[:60], rows[60:], seed=0)
    truth = float(exact(network, rows[60:]).mean())
    (own, _), *mixtures = found.values()
    assert abs(own - truth) < 0.1
    # The network has made the rows: no mixture fitted to 60 of them can be better by much.
    assert all(value < truth + 0.2 for value, _ in mixtures)
    assert [numbers for _, numbers in mixtures] == [44, 14, 899]
