"""Inference with each image's own whole curvature, for networks whose energy is far from quadratic.

`newton` shares one average curvature among all images and leaves out that of the activations. That
is cheap, but at a minimum of a deep network with steep outputs it closes in slowly. Here the
Hessian of each image's energy is factored, layer by layer from the data to the latent:

    h_l = d2E_l/da_l2 = pi_l (f'^2 - eps_l f''),   s_l = pi_l f'
    D_l = pi_l + M_l + lambda,   M_1 = W_1' h_0 W_1
    M_{l+1} = W_{l+1}' (h_l - s_l D_l^-1 s_l) W_{l+1}

All D_l are positive exactly if the Hessian is. The step is the whole Newton step, damped by lambda
(Levenberg, 1944; Marquardt, 1963), which grows where a step would raise the energy or where the
Hessian is not positive, and shrinks after every other step. Near a minimum the steps converge
quadratically, and g' H^-1 g bounds the energy that is left.

A step of an image costs about U_1^2 D_0 multiplications, 50 to 100 times those of a `newton` step
on `mnist`. So the first steps are those of `newton`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcgen.errors import RecipeError
from pcgen.inference.certificate import drive_curvature
from pcgen.inference.directions import dot
from pcgen.inference.states import StateInference
from pcgen.model import products
from pcgen.model.activations import second_derivative
from pcgen.model.energy import Bernoulli, Gaussian, slope_of
from pcgen.model.layers import Dense
from pcgen.model.network import Network

# Steps of `newton` before the first one of an image's own curvature.
SHARED_STEPS = 30
# The first damping, as a share of the precision of layer 1, and its factors after a step that was
# refused and after another.
_DAMPING = 0.1
_MORE = 4.0
_LESS = 0.3
# Numbers that are held at once while the curvature above the data is computed (4 MiB).
_HELD = 2**20


class ExactInference(StateInference):
    """The states of one batch; after the first steps, each image moves by its own Hessian.

    Attributes:
        taken: steps so far.
        damping_B: lambda of each image.
    """

    def __init__(self, network: Network, *args: Any, **options: Any) -> None:
        super().__init__(network, *args, **options)
        self.taken = 0
        precision = network.log_precisions[1].exp().mean()
        self.damping_B = _DAMPING * precision * torch.ones_like(self.energy_B)

    def step(self) -> Tensor:
        self.taken += 1
        if self.taken <= SHARED_STEPS:
            return super().step()
        images = (~self.frozen_B).nonzero()[:, 0]
        decrement_B, steps = self._newton_step(images, self.damping_B[images])
        failed_B = ~decrement_B.isfinite()
        moves = [
            torch.zeros_like(states).index_copy_(0, images, -step.masked_fill(failed_B[:, None], 0))
            for states, step in zip(self.states[1:], steps, strict=False)
        ]
        before = self.position()
        self._advance(moves, self.drive_moves(moves), torch.ones_like(self.energy_B))
        refused_B = ~(self.energy_B <= before.energy_B)
        self.put_back(before, refused_B)
        longer_B = refused_B[images] | failed_B
        self.damping_B[images] *= torch.where(longer_B, _MORE, _LESS)
        return torch.full_like(self.energy_B, torch.inf).index_copy_(0, images, 0.5 * decrement_B)

    def excess_bound(self, images: Tensor, sharp: bool) -> Tensor:
        if self.taken <= SHARED_STEPS and not sharp:
            return super().excess_bound(images, sharp)
        return self._newton_step(images, torch.zeros_like(self.energy_B[images]))[0]

    def select(self, index: Tensor) -> None:
        super().select(index)
        self.damping_B = self.damping_B[index]

    def _newton_step(self, images: Tensor, damping_B: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return g' H^-1 g (B,) and H^-1 g (B, D_l) of these images; infinite if H is not positive.

        Args:
            damping_B: is added to the diagonal of H.
        """
        layers = self.network.layers
        slopes = [slope.index_select(0, images) for slope in self.slopes()]
        crosses = [self._cross(i, images) for i in range(1, self.last_free)]
        factors, failed_B = self._factors(images, damping_B, crosses)
        steps: list[Tensor] = []
        remainder_BU = slopes[0]
        for i, cross_BD in enumerate(crosses):
            steps.append(_solved(factors[i], remainder_BU))
            remainder_BU = layers[i + 1].pull_above(slopes[i + 1], -steps[-1] * cross_BD)
        steps.append(_solved(factors[-1], remainder_BU))
        for i in range(len(crosses) - 1, -1, -1):
            moved_BU = layers[i + 1].drive_move(steps[i + 1]) * crosses[i]
            steps[i] = steps[i] + _solved(factors[i], moved_BU)
        decrement_B = dot(slopes, steps).masked_fill(failed_B, torch.inf)
        return decrement_B.nan_to_num(torch.inf, torch.inf), steps

    def _factors(
        self, images: Tensor, damping_B: Tensor, crosses: list[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """Return the Cholesky factor (B, D_l, D_l) of each D_l, and whether there is none (B,)."""
        network = self.network
        factors: list[Tensor] = []
        failed_B = torch.zeros_like(damping_B, dtype=torch.bool)
        precisions = [p.exp() for p in network.log_precisions]
        for i, layer in enumerate(network.layers[: self.last_free]):
            matrix_DU = layer.matrix()
            block_BUU = _squared(matrix_DU, self._own_curvature(i, images))
            if i > 0:
                cross_BDU = crosses[i - 1][:, :, None] * matrix_DU
                half_BDU = torch.linalg.solve_triangular(factors[-1], cross_BDU, upper=False)
                block_BUU -= half_BDU.mT @ half_BDU
            block_BUU.diagonal(dim1=1, dim2=2).add_(precisions[i + 1] + damping_B[:, None])
            factor_BUU, wrong_B = torch.linalg.cholesky_ex(block_BUU)
            failed_B |= wrong_B > 0
            factors.append(factor_BUU)
        return factors, failed_B

    def _cross(self, i: int, images: Tensor) -> Tensor:
        """Return -d2E/da dx (B, D_i) of a hidden layer."""
        slope_BD = slope_of(self.terms[i]).index_select(0, images)
        return slope_BD * self.network.log_precisions[i].exp()

    def _own_curvature(self, i: int, images: Tensor) -> Tensor:
        """Return d2E/da2 (B, D_i) of a layer, with the curvature of its activation."""
        energy, terms = self.energies[i], self.terms[i].of(images)
        drive_BD = self.drives[i].index_select(0, images)
        mask_BD = None if i > 0 or self.mask_BD is None else self.mask_BD[images]
        own_BD = drive_curvature(energy, terms, mask_BD)
        assert own_BD is not None
        if isinstance(energy, Gaussian):
            # The pull is pi eps, which is 0 where data are hidden.
            own_BD = own_BD - terms.pull_BD * second_derivative(energy.activation, drive_BD)
        return own_BD


def require_whole_curvature(network: Network) -> None:
    """Refuse a network whose layers do not form a chain with a curvature that is known.

    Raises:
        RecipeError: convolutions, skip connections, labels, a mixture prior, or another likelihood.
    """
    dense = all(isinstance(layer, Dense) for layer in network.layers)
    known = isinstance(network.energies()[0], Gaussian | Bernoulli)
    plain = not network.skips and not network.table.labels and network.mixture is None
    plain = plain and network.upward is None
    if not (dense and known and plain):
        raise RecipeError(
            "inference.solver: exact-newton is for dense layers with a Gaussian or Bernoulli "
            "likelihood, without skip connections, labels, mixtures and an upward chain",
            "Use --set inference.solver=newton",
        )


def _squared(matrix_DU: Tensor, own_BD: Tensor) -> Tensor:
    """Return W' diag(own) W (B, U, U), of a few images at once."""
    data, units = matrix_DU.shape
    transposed_UD = matrix_DU.T.contiguous()
    squared_BUU = own_BD.new_empty(len(own_BD), units, units)
    at_once = max(1, _HELD // (data * units))
    for first in range(0, len(own_BD), at_once):
        rows_BUD = transposed_UD * own_BD[first : first + at_once, None]
        product_XU = products.product(rows_BUD.view(-1, data), matrix_DU)
        squared_BUU[first : first + at_once] = product_XU.view(-1, units, units)
    return squared_BUU


def _solved(factor_BUU: Tensor, right_BU: Tensor) -> Tensor:
    return torch.cholesky_solve(right_BU[:, :, None], factor_BUU)[:, :, 0]
