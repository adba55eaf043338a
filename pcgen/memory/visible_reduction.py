"""A network as seen through one mask: the visible data in as few units as the layer above has.

Hidden data are dropped from the energy, so a network without them has the same energy. Above a
linear data layer what is left is reduced as in `reduced`, here in float64 and with a ridge, because
a memory's weights are often dependent and a mask leaves few of them:

    1/2 ||y - R z||^2 = pi/2 ||x - b - W z||^2 - constant
    R'R = W' pi W + ridge,   R'y = W' pi (x - b)
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.model.layers import Dense
from pcgen.model.network import Network

# As a share of the mean square of the weights: directions that data cannot tell from nothing.
_RIDGE = 1e-12


class Visible:
    """What a mask leaves of a network.

    Attributes:
        network: the same above the data, of which only the visible part is left, in fewer units.
    """

    def __init__(self, whole: Network, visible_D: Tensor) -> None:
        """Take a network that `is_reducible`, and which data units are visible."""
        layer = whole.layers[0]
        assert layer.bias is not None
        self.visible_D = visible_D
        precision = whole.log_precisions[0].double().exp().expand(whole.sizes[0])[visible_D]
        weight_VU = layer.weight[visible_D].double()
        self.bias_V = layer.bias[visible_D].double()
        self.weighted_VU = weight_VU * precision[:, None]
        gram_UU = weight_VU.T @ self.weighted_VU
        gram_UU.diagonal().add_(
            _RIDGE * gram_UU.diagonal().mean() + torch.finfo(torch.float64).tiny
        )
        self.factor_UU = torch.linalg.cholesky(gram_UU)
        triangle_UU = self.factor_UU.T.to(layer.weight)
        data = Dense(triangle_UU, triangle_UU.new_zeros(len(triangle_UU)))
        unit = torch.zeros_like(whole.log_precisions[-1])
        self.network = Network(
            whole.table, [data, *whole.layers[1:]], [unit, *whole.log_precisions[1:]]
        )
        self.network.typical_latents = whole.typical_latents

    def project(self, data_BD: Tensor) -> Tensor:
        """Return y (B, U) of data (B, D), whose hidden units are not looked at."""
        seen_BV = data_BD[:, self.visible_D].double() - self.bias_V
        pulled_UB = (seen_BV @ self.weighted_VU).T
        solved_UB = torch.linalg.solve_triangular(self.factor_UU, pulled_UB, upper=False)
        return solved_UB.T.to(data_BD).contiguous()


def is_reducible(network: Network) -> bool:
    """Return whether `Visible` can take the network."""
    table = network.table
    return (
        isinstance(network.layers[0], Dense)
        and table.likelihood == "gaussian"
        and table.output == "linear"
        and not network.skips
        and not table.labels
    )
