"""The held-out log-likelihood of a table's rows: the network's, beside Gaussian mixtures'."""

from __future__ import annotations

import math

import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pcgen.learning.credit import parameters
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.noise import SampleNoise

# Draws of the layers above the first hidden one, and how many of them meet the rows at once.
_DRAWS = 100_000
_CHUNK = 5_000
# Components of the mixtures: those of the published comparison with 17 numbers, and as many as the
# network's prior has. A mixture of as many numbers as the network has would need more components
# than there are rows; the largest has one for each distinct row.
_FEW = 3


def log_density(network: Network, data_BD: Tensor, seed: int, draws: int = _DRAWS) -> Tensor:
    """Return log p(data) (B,) in nats per row.

        p(x) = mean over x_2, .., x_L of N(x; W f(a_1) + b, 1 / pi_0 + W W' / pi_1)

    The layers from the second upwards are drawn from the network; the errors of the first one and
    of the data are integrated exactly. For data of few columns this is as good as exact: the
    standard error of a density is about 1 % with 100,000 draws.

    Args:
        network: with Gaussian data that depend linearly on at least two hidden layers.
    """
    assert network.table.likelihood == "gaussian"
    assert network.table.output == "linear"
    assert network.depth > 1
    first = network.layers[0].matrix()
    covariance_DD = first / network.log_precisions[1].exp() @ first.T
    covariance_DD = covariance_DD + (-network.log_precisions[0]).exp() * torch.eye(len(first))
    root_DD = torch.linalg.cholesky(covariance_DD)
    whitened_BD = torch.linalg.solve_triangular(root_DD, data_BD.T, upper=False).T
    like = [data_BD.new_empty(0, size) for size in network.sizes[1 : network.latent + 1]]
    parts = []
    for begin in range(0, draws, _CHUNK):
        numbers = range(begin, min(begin + _CHUNK, draws))
        states = draw_states(network, SampleNoise(seed, "density", numbers, like))
        states[1] = network.energies()[1].predict(network.drive(1, states))
        mean_SD = torch.linalg.solve_triangular(root_DD, network.drive(0, states).T, upper=False).T
        distance_BS = torch.cdist(whitened_BD, mean_SD).square()
        parts.append(torch.logsumexp(-0.5 * distance_BS, 1))
    constant = root_DD.diagonal().log().sum() + 0.5 * len(first) * math.log(2 * math.pi)
    return torch.logsumexp(torch.stack(parts), 0) - math.log(draws) - constant


def held_out(
    network: Network, train_ND: Tensor, test_BD: Tensor, seed: int
) -> dict[str, tuple[float, int]]:
    """Return the mean log-likelihood of the test rows, and all learned numbers, for each method.

    The mixtures are scikit-learn's with full covariances, and with the network's noise of the data
    as their least variance.
    """
    causes = 1 if network.mixture is None else len(network.mixture.means_KL)
    own = float(log_density(network, test_BD, seed).mean())
    found = {"pcn": (own, parameters(network)["whole"])}
    least = float((-network.log_precisions[0]).exp().mean())
    distinct = len({tuple(row) for row in train_ND.tolist()})
    names = {
        f"{_FEW} components": _FEW,
        f"{causes} components, as many as the network's": causes,
        "one component a row": distinct,
    }
    for name, components in names.items():
        mixture = GaussianMixture(components, reg_covar=least, n_init=5, random_state=seed)
        mixture.fit(train_ND.numpy())
        columns = train_ND.shape[1]
        numbers = components * (1 + columns + columns * (columns + 1) // 2) - 1
        value = float(mixture.score(test_BD.numpy()))
        found[f"Gaussian mixture, {name}"] = (value, numbers)
    return found
