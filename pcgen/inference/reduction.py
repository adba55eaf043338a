"""Fewer data units with the same energy, where the data are a linear image of the layer above.

The data x enter such an energy only through their projection onto the weights W, so a step need
not look at the pixels. With data precision pi and the upper triangle R of R'R = W' pi W:

    pi/2 ||x - b - W z||^2 = 1/2 ||y - R z||^2 + 1/2 ||r||^2,   R'y = W' pi (x - b)

R has as many rows as there are units above. The residual r is constant: no state above explains it.
With skip connections to the data, W are all maps into the data layer side by side, and z the states
of all their layers; the columns of R are then shared out to the maps again.
Hidden data are dropped from the energy, so a mask that all images share drops rows of W.

Source: the least-squares reduction of Golub (1965), by normal equations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from pcgen.inference.states import Inference
from pcgen.model.energy import Terms
from pcgen.model.layers import Dense, gram
from pcgen.model.network import Network, Skip

# The reduction is worth its preparation from this many data units per unit above on.
_WORTH = 1.5


class Triangle(Dense):
    """Columns of R as a layer, whose gram matrix is known already."""

    def __init__(self, columns_PU: Tensor, gram_UU: Tensor, *, bias: bool) -> None:
        columns_PU = columns_PU.contiguous()
        super().__init__(columns_PU, columns_PU.new_zeros(len(columns_PU)) if bias else None)
        self._gram_UU = gram_UU.contiguous()

    def gram(self) -> Tensor:
        return self._gram_UU.clone()


class Reduction:
    """A network's data layer in fewer units, at the network's present weights.

    Attributes:
        whole: the network.
        network: the same above the data, which have as many units as there are above in `layer`.
    """

    def __init__(
        self,
        whole: Network,
        layer: Dense,
        precision: Tensor,
        gram_UU: Tensor,
        triangle_UU: Tensor,
        visible_D: Tensor | None,
    ) -> None:
        """Keep what `reduce` computed.

        Args:
            layer: all maps to the visible data side by side, in the number type of the reduction.
            precision: of the visible data, () or (V,).
            gram_UU: W' pi W.
            triangle_UU: R.
            visible_D: which data units are visible; all of them without it.
        """
        self.whole = whole
        self.layer = layer
        self.precision = precision
        self.triangle_UU = triangle_UU
        self.visible_D = visible_D
        like = whole.layers[0].weight
        unit = torch.zeros_like(whole.latent_precision())
        widths = [whole.sizes[source] for source, _ in whole.inputs[0]]
        triangles = _shared_out(triangle_UU.to(like), gram_UU.to(like), widths)
        data_layer = next(triangles)
        skips = [
            skip if skip.target else Skip(skip.source, 0, next(triangles)) for skip in whole.skips
        ]
        self.network = Network.of(
            whole.table,
            [data_layer, *whole.layers[1:]],
            [unit, *whole.log_precisions[1:]],
            skips,
        )
        self.network.typical_latents = whole.typical_latents
        self.network.mixture = whole.mixture

    def project(self, data_BD: Tensor) -> Tensor:
        """Return y (B, U); hidden data units are never looked at."""
        assert self.layer.bias is not None
        centred_BV = self._visible(data_BD) - self.layer.bias
        weighted_BU = self.layer.adjoint(centred_BV * self.precision)
        y_BU = torch.linalg.solve_triangular(self.triangle_UU, weighted_BU, upper=True, left=False)
        return y_BU.to(data_BD)

    def rest(self, data_BD: Tensor, y_BU: Tensor) -> Tensor:
        """Return the energy (B,) of the residual r, in nats."""
        y_BU = y_BU.to(self.triangle_UU)
        nearest_BU = torch.linalg.solve_triangular(
            self.triangle_UU.T, y_BU, upper=False, left=False
        )
        rest_BV = self._visible(data_BD) - self.layer.drive(nearest_BU)
        return (0.5 * torch.linalg.vecdot(rest_BV, rest_BV * self.precision)).to(data_BD)

    def _visible(self, data_BD: Tensor) -> Tensor:
        if self.visible_D is None:
            return data_BD
        return data_BD[:, self.visible_D].to(self.layer.weight.dtype)


def reduce(
    network: Network, visible_D: Tensor | None = None, *, ridge: float = 0.0
) -> Reduction | None:
    """Return the network in fewer data units; None where that is impossible or does not pay.

    Args:
        visible_D: which data units all images show. The reduction is then computed in float64,
            whatever it pays, because a mask leaves few and nearly dependent rows of W.
        ridge: added to the diagonal of W' pi W, as a share of its mean.
    """
    layer, table = _side_by_side(network), network.table
    if layer is None:
        return None
    if table.likelihood != "gaussian" or table.output != "linear":
        return None
    precision = network.log_precisions[0].exp()
    if visible_D is not None:
        assert layer.bias is not None
        layer = Dense(layer.weight[visible_D].double(), layer.bias[visible_D].double())
        precision = precision.double()
        precision = precision[visible_D] if precision.ndim else precision
    elif network.sizes[0] < _WORTH * layer.weight.shape[1]:
        return None
    gram_UU = _weighted_gram(layer, precision)
    if ridge:
        gram_UU.diagonal().add_(ridge * gram_UU.diagonal().mean())
    factor_UU, failed = torch.linalg.cholesky_ex(gram_UU)
    # Weights that are nearly dependent keep their pixels.
    if failed.item():
        return None
    return Reduction(network, layer, precision, gram_UU, factor_UU.T, visible_D)


def _shared_out(triangle_PP: Tensor, gram_PP: Tensor, widths: list[int]) -> Iterator[Triangle]:
    """Yield the columns of R for each map into the data layer, in the order of `inputs`."""
    first = 0
    for width in widths:
        own = slice(first, first + width)
        yield Triangle(triangle_PP[:, own], gram_PP[own, own], bias=first == 0)
        first += width


def _side_by_side(network: Network) -> Dense | None:
    """Return all maps into the data layer as one; None if one of them is no dense map."""
    maps = [layer for _, layer in network.inputs[0] if isinstance(layer, Dense)]
    if len(maps) < len(network.inputs[0]):
        return None
    if len(maps) == 1:
        return maps[0]
    return Dense(torch.cat([layer.weight for layer in maps], 1), maps[0].bias)


def _weighted_gram(layer: Dense, precision: Tensor) -> Tensor:
    """Return W' pi W (U, U), pi () or (D,)."""
    if precision.ndim == 0:
        return layer.gram().mul_(precision)
    weight_DU = layer.weight * precision.sqrt()[:, None]
    return gram(weight_DU, weight_DU.new_empty(weight_DU.shape[1], weight_DU.shape[1]))


class ReducedInference:
    """The states of one batch whose data are reduced; the same interface as `StateInference`.

    The weights must not change until it has ended.
    """

    def __init__(
        self,
        reduction: Reduction,
        begin: Callable[[list[Tensor]], Inference],
        states: list[Tensor],
    ) -> None:
        """Begin at states (B, D_l) of all layers, data first; `begin` gets the reduced ones."""
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
        """Return the energy of the residual, computed when an energy is first needed."""
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

    def refines_at(self, step: int) -> bool:
        return self.inner.refines_at(step)

    def excess_bound(self, images: Tensor, sharp: bool) -> Tensor:
        return self.inner.excess_bound(images, sharp)

    def refresh(self) -> None:
        raise AssertionError("a reduction belongs to the weights it was made from")

    def select(self, index: Tensor) -> None:
        self.data_BD, self.rest_B = self.data_BD.index_select(0, index), self.rest_B[index]
        self.inner.select(index)
