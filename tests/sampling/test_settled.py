"""Gaussians around the modes: in every component of the prior, and where the density is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pcgen.benchmarks.sampling.ais import bounds, simulate
from pcgen.config import InferenceTable
from pcgen.inference.solvers import Method, prepare
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from pcgen.sampling.laplace import laplace_modes
from pcgen.sampling.modes import Modes
from pcgen.sampling.settled import find_modes
from tests import oracle

PLACES = torch.linspace(-12, 12, 6001, dtype=torch.float64)[:, None]


def method(network: Network) -> Method:
    return prepare(network, InferenceTable(solver="errors"))


def one_latent(means: list[float], roots: list[float]) -> Network:
    """Return a network of one latent, six binary units of data, and equally likely components."""
    network = oracle.network(layers=(1,), shape=6, likelihood="bernoulli", latent=1.0, gain=2.0)
    prior = Mixture.standard(len(means), 1, 0, network.layers[0].weight)
    prior.means_KL.copy_(torch.tensor(means)[:, None])
    prior.roots_KLL.copy_(torch.tensor(roots)[:, None, None])
    network.mixture = prior
    return network


def log_joint(network: Network, data_BD: Tensor) -> Tensor:
    """Return log p(data, z) (B, N) at `PLACES`."""
    drives = network.drive(0, [PLACES, PLACES])
    costs_BN = torch.nn.functional.softplus(drives).sum(1) - data_BD @ drives.T
    return -costs_BN - network.prior_energy(PLACES) - 0.5 * math.log(2 * math.pi)


def found(modes: Modes | None) -> Modes:
    assert modes is not None
    return modes


def test_a_component_is_kept_whose_mode_is_in_another() -> None:
    """The deepest mode is the narrow component's; most of the density may be the wide one's."""
    network = one_latent([0.0, 0.5], [60.0, 0.5])
    rows = simulate(network, 40, seed=0)
    modes = found(laplace_modes(method(network), rows.data_BD, None, 0))
    assert (modes.components_BJ.sort(1).values == torch.tensor([0, 1])).all()
    both = bounds(method(network), rows, chains=20, temperatures=30)
    truth_B = log_joint(network, rows.data_BD).logsumexp(1) + math.log(24 / 6000)
    assert both.upper_B is not None
    for estimate_B in (both.lower_B, both.upper_B):
        torch.testing.assert_close(estimate_B, truth_B, rtol=0, atol=0.25)
        assert abs(float((estimate_B - truth_B).mean())) < 0.03


def test_a_settled_gaussian_lies_where_the_density_does() -> None:
    network = one_latent([0.0], [0.4])
    rows = simulate(network, 60, seed=1)
    share_BN = log_joint(network, rows.data_BD).softmax(1)
    mean_B = share_BN @ PLACES[:, 0]
    deviation_B = (share_BN @ PLACES[:, 0].square() - mean_B.square()).sqrt()
    first = found(laplace_modes(method(network), rows.data_BD, None, 0))
    settled = found(find_modes(method(network), rows.data_BD, None, 0))
    off, now_off = (
        float(((modes.centres[0][:, 0, 0] - mean_B) / deviation_B).abs().mean())
        for modes in (first, settled)
    )
    assert now_off < 0.7 * off


@pytest.mark.parametrize("rows", [1, 3])
def test_the_modes_of_a_row_do_not_depend_on_other_rows(rows: int) -> None:
    network = oracle.network(layers=(2, 3), shape=4, hidden=5.0, latent=0.7, data=8.0)
    data_BD = oracle.data(network, 5)
    mask_BD = torch.ones_like(data_BD)
    mask_BD[:, :2] = 0
    whole = found(find_modes(method(network), data_BD, mask_BD, 0))
    part = found(find_modes(method(network), data_BD[:rows], mask_BD[:rows], 0))
    for a, b in zip(
        [*whole.centres, whole.roots_BJLL], [*part.centres, part.roots_BJLL], strict=True
    ):
        torch.testing.assert_close(a[:rows], b)
