"""What turns an energy's slope into a good direction: inverses of its curvature, shared by a batch.

They depend on the model alone, so one is made per weight update and no image's path depends on the
images beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.model.network import Network


class BlockDiagonal:
    """The inverse of an upper bound of each layer's own curvature, D_l = pi_l + W' bound W.

    Twice the block-diagonal part of a positive block-tridiagonal matrix bounds the matrix, and
    slopes never exceed their steepest, so x_l - 1/2 D_l^-1 dE/dx_l cannot raise the energy of a
    network that is linear between the two points. In the field's words: lateral connections that
    whiten each layer.
    """

    def __init__(self, network: Network) -> None:
        precisions = [p.exp() for p in network.log_precisions]
        self.inverse = []
        for layer, energy, precision in zip(
            network.layers, network.energies(), precisions[1:], strict=True
        ):
            block = _add_to_diagonal(layer.block(energy.bound().to(layer.weight)), precision)
            self.inverse.append(_inverse(block, block.diagonal().mean()))

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return D^-1 slope for the layers 1.. that slopes are given for."""
        return [slope @ inverse for slope, inverse in zip(slopes, self.inverse, strict=False)]


class BlockTridiagonal:
    """The inverse of the whole Gauss-Newton curvature, averaged over typical latents.

    The curvature couples neighbouring layers only, so its inverse costs one sweep from the latent
    to the data and one back (block Thomas; for linear networks this is Kalman smoothing over
    layers).

    Source: Innocenti et al. (2024) solve the linear network with a dense system; this is the
    block-sparse one, used as a preconditioner where the network is not linear.
    """

    def __init__(self, network: Network) -> None:
        states = network.states_from(network.typical_latents)
        precisions = [p.exp() for p in network.log_precisions]
        self.inverse: list[Tensor] = []
        self.coupling: list[Tensor] = []
        carried = None
        for i, energy in reversed(list(enumerate(network.energies()))):
            layer = network.layers[i]
            cross, own = energy.mean_curvature(layer.drive(states[i + 1]))
            block = _add_to_diagonal(layer.block(own), precisions[i + 1])
            steepest = (energy.bound() * layer.weight.square().sum(1)).sum() / len(block)
            inverse = _inverse(
                block if carried is None else block - carried, steepest + precisions[i + 1].mean()
            )
            cross_weight = -cross[:, None] * layer.weight
            coupling = cross_weight @ inverse
            carried = coupling @ cross_weight.T
            self.inverse.insert(0, inverse)
            self.coupling.insert(0, coupling)

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return H^-1 slope for the layers 1..L; one less where the latent is clamped."""
        depth = len(slopes)
        remainders = list(slopes)
        for i in range(depth - 1, 0, -1):
            remainders[i - 1] = slopes[i - 1] - remainders[i] @ self.coupling[i].T
        solution = [remainders[0] @ self.inverse[0]]
        for i in range(1, depth):
            solution.append(remainders[i] @ self.inverse[i] - solution[-1] @ self.coupling[i])
        return solution


class ErrorDiagonal:
    """The inverse curvature over errors: whole for the latent, diagonal for the hidden errors.

    In error coordinates the curvature is pi_l, plus J' pi_0 J of the slopes J from a layer to the
    data, taken at the mean slopes of typical latents. Where hidden precisions are high, the
    errors' part is nearly pi_l, and what is left of the coupling is small.
    """

    def __init__(self, network: Network) -> None:
        states = network.states_from(network.typical_latents)
        energies = network.energies()
        precisions = [p.exp() for p in network.log_precisions]
        drive = network.layers[0].drive(states[1])
        own = energies[0].mean_curvature(drive)[1]
        jacobian = own.sqrt()[:, None] * network.layers[0].weight
        self.hidden: list[Tensor] = []
        for i in range(1, network.depth):
            self.hidden.append(1 / (precisions[i] + jacobian.square().sum(0)))
            cross = energies[i].mean_curvature(network.layers[i].drive(states[i + 1]))[0]
            jacobian = jacobian * (cross / precisions[i]) @ network.layers[i].weight
        curvature = _add_to_diagonal(jacobian.T @ jacobian, precisions[-1])
        # The average of J'J is more than the average J squared: damp what this leaves out.
        _add_to_diagonal(curvature, 1e-3 * curvature.diagonal().mean())
        self.latent = _inverse(curvature, curvature.diagonal().mean())

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return the direction for eps_1.. upwards and, where it is free, the latent."""
        depth = len(self.hidden)
        steps = [slope * inverse for slope, inverse in zip(slopes, self.hidden, strict=False)]
        return steps + [slope @ self.latent for slope in slopes[depth:]]


def _add_to_diagonal(matrix: Tensor, values: Tensor) -> Tensor:
    matrix.diagonal().add_(values)
    return matrix


def _inverse(matrix: Tensor, scale: Tensor) -> Tensor:
    """Return the inverse of a positive matrix whose flat directions a jitter keeps finite.

    A latent without a prior has flat directions, and units that are silent at the typical latents
    have no curvature there. The jitter is what rounding cannot tell from 0 at that scale; where all
    is flat any scale will do, since the length of a move is searched.
    """
    scale = scale.clamp_min(1e-12)
    jitter = 10 * torch.finfo(matrix.dtype).eps
    while True:
        factor, failed = torch.linalg.cholesky_ex(_add_to_diagonal(matrix, jitter * scale))
        if not failed.item() or jitter > 1:
            return torch.cholesky_inverse(factor)
        jitter *= 10
