"""Fewer data units with the same energy, where the data is a linear image of the layer above.

The data x enters such an energy only through what the weights W can reach of it, so a step need
not look at the pixels. With data precision pi and the triangle R of R'R = W' pi W:

    pi/2 ||x - b - W z||^2 = 1/2 ||y - R z||^2 + 1/2 ||r||^2,   R'y = W' pi (x - b)

R takes as many rows as there are units above; r, what no state above explains, is constant.
Source: the least-squares reduction of Golub (1965), by normal equations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from pcgen.inference.states import Inference
from pcgen.model.energy import Terms
from pcgen.model.layers import Dense, gram
from pcgen.model.network import Network

# Data units per unit above, from which on the reduction is worth its preparation.
_WORTH = 1.5


class Triangle(Dense):
    """R, of which R'R is known."""

    def __init__(self, triangle_UU: Tensor, gram_UU: Tensor) -> None:
        super().__init__(triangle_UU, triangle_UU.new_zeros(len(triangle_UU)))
        self._gram_UU = gram_UU

    def gram(self) -> Tensor:
        return self._gram_UU.clone()


class Reduction:
    """A network's data layer in fewer units, at the network's present weights.

    Attributes:
        whole: the network.
        network: the same above the data, which has as many units as the layer above it.
    """

    def __init__(self, whole: Network, data: Triangle) -> None:
        """Take R, an upper triangle; `reduce` finds it."""
        self.whole = whole
        self.triangle_UU = data.weight
        unit = torch.zeros_like(whole.latent_precision())
        self.network = Network(
            whole.table,
            [data, *whole.layers[1:]],
            [unit, *whole.log_precisions[1:]],
            whole.skips,
        )
        self.network.typical_latents = whole.typical_latents
        self.network.mixture = whole.mixture

    def project(self, data_BD: Tensor) -> Tensor:
        """Return y (B, U)."""
        layer = self.whole.layers[0]
        assert layer.bias is not None
        centred_BD = data_BD - layer.bias
        weighted_BU = layer.adjoint(centred_BD * self.whole.log_precisions[0].exp())
        return torch.linalg.solve_triangular(self.triangle_UU, weighted_BU, upper=True, left=False)

    def rest(self, data_BD: Tensor, y_BU: Tensor) -> Tensor:
        """Return the energy (B,) of what no state above explains."""
        layer = self.whole.layers[0]
        nearest_BU = torch.linalg.solve_triangular(
            self.triangle_UU.T, y_BU, upper=False, left=False
        )
        rest_BD = data_BD - layer.drive(nearest_BU)
        return 0.5 * torch.linalg.vecdot(rest_BD, rest_BD * self.whole.log_precisions[0].exp())


def reduce(network: Network) -> Reduction | None:
    """Return the network in fewer data units; None where that is impossible or does not pay."""
    layer, table = network.layers[0], network.table
    possible = (
        isinstance(layer, Dense)
        and table.likelihood == "gaussian"
        and table.output == "linear"
        and len(network.inputs[0]) == 1
    )
    if not possible or network.sizes[0] < _WORTH * network.sizes[1]:
        return None
    assert isinstance(layer, Dense)
    gram_UU = _weighted_gram(layer, network.log_precisions[0])
    factor_UU, failed = torch.linalg.cholesky_ex(gram_UU)
    # Weights that are nearly dependent keep their pixels.
    return None if failed.item() else Reduction(network, Triangle(factor_UU.T, gram_UU))


def _weighted_gram(layer: Dense, log_precision: Tensor) -> Tensor:
    """Return W' pi W (U, U), pi () or (D,)."""
    if log_precision.ndim == 0:
        return layer.gram().mul_(log_precision.exp())
    weight_DU = layer.weight * (0.5 * log_precision).exp()[:, None]
    return gram(weight_DU, weight_DU.new_empty(weight_DU.shape[1], weight_DU.shape[1]))


class ReducedInference:
    """The states of one batch whose data a reduction stands for; the surface of `StateInference`.

    Its weights must stand still until it has ended.
    """

    def __init__(
        self,
        reduction: Reduction,
        begin: Callable[[list[Tensor]], Inference],
        states: list[Tensor],
    ) -> None:
        """Begin at states (B, D_l) of all layers, data first; `begin` takes the reduced ones."""
        self.network = reduction.whole
        self.reduction = reduction
        self.data_BD = states[0]
        self.inner = begin([reduction.project(states[0]), *states[1:]])
        self.last_free = self.inner.last_free
        self.mask_BD = None

    @property
    def states(self) -> list[Tensor]:
        return [self.data_BD, *self.inner.states[1:]]

    @property
    def energy_B(self) -> Tensor:
        return self.inner.energy_B + self.rest_B

    @cached_property
    def rest_B(self) -> Tensor:
        """Return the energy that no state explains; only who asks for energies pays for it."""
        return self.reduction.rest(self.data_BD, self.inner.states[0])

    @property
    def terms(self) -> list[Terms]:
        drive_BD = self.network.drive(0, self.states)
        data = self.network.energies()[0].terms(self.data_BD, drive_BD, None)
        return [data, *self.inner.terms[1:]]

    @property
    def frozen_B(self) -> Tensor:
        return self.inner.frozen_B

    @frozen_B.setter
    def frozen_B(self, frozen_B: Tensor) -> None:
        self.inner.frozen_B = frozen_B

    def step(self) -> Tensor:
        return self.inner.step()

    def refresh(self) -> None:
        raise AssertionError("a reduction belongs to the weights it was made from")

    def select(self, index: Tensor) -> None:
        self.data_BD, self.rest_B = self.data_BD[index], self.rest_B[index]
        self.inner.select(index)
