"""What turns an energy's slope into a good direction: inverses of its curvature, shared by a batch.

They depend on the model alone, so one is made per weight update and no image's path depends on the
images beside it.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from pcgen.errors import RecipeError
from pcgen.model.layers import Dense, Layer, TransposedConvolution
from pcgen.model.network import Network

# Data units up to which a slope to each of them is carried through the network; more are probed.
_FEW_UNITS = 1024
_PROBES = 64
# Share of a layer's mean curvature that is added to all its directions. Directions without effect,
# of which deep networks and latents without a prior have many, would else be followed to infinity:
# 30 layers of tanh then stayed 4e-2 above the least energy, and came within 1e-2 in 5 steps so.
_DAMPING = 1e-3
# Entries of the largest matrix that a convolution is written as, 64 MiB.
_LARGEST_MATRIX = 2**24


class BlockDiagonal:
    """The inverse of an upper bound of each layer's own curvature, D_l = pi_l + W' bound W.

    Twice the block-diagonal part of a positive block-tridiagonal matrix bounds the matrix, and
    slopes never exceed their steepest, so x_l - 1/2 D_l^-1 dE/dx_l cannot raise the energy of a
    network that is linear between the two points. In the field's words: lateral connections that
    whiten each layer. Above a convolution they form a convolution too, and are inverted as one.
    """

    def __init__(self, network: Network, *, hidden_data: bool = False) -> None:
        """Take the network at its present weights; hidden data bounds nothing."""
        precisions = [p.exp() for p in network.log_precisions]
        bounds = [energy.bound().to(network.layers[0].weight) for energy in network.energies()]
        if hidden_data:
            bounds[0] = torch.zeros_like(bounds[0])
        self.inverse: list[_Block] = []
        for outputs, precision in zip(network.outputs[1:], precisions[1:], strict=True):
            layers = [(layer, bounds[target]) for target, layer in outputs]
            convolutions = [
                (layer, bound)
                for layer, bound in layers
                if isinstance(layer, TransposedConvolution)
            ]
            if len(convolutions) == len(layers):
                self.inverse.append(_Circulant(convolutions, precision))
            else:
                block = sum(_block(layer, bound) for layer, bound in layers)
                assert isinstance(block, Tensor)
                self.inverse.append(_Whole(_add_to_diagonal(block, precision)))

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return D^-1 slope for the layers 1.. that slopes are given for."""
        return [inverse(slope) for slope, inverse in zip(slopes, self.inverse, strict=False)]

    def root(self, noise: list[Tensor]) -> list[Tensor]:
        """Return draws from N(0, D^-1) for the layers 1.. that standard normals are given for."""
        return [inverse.root(xi) for xi, inverse in zip(noise, self.inverse, strict=False)]


class _Block(Protocol):
    """The inverse of one layer's block."""

    def __call__(self, slope_BU: Tensor) -> Tensor:
        """Return block^-1 slope."""

    def root(self, noise_BU: Tensor) -> Tensor:
        """Return draws from N(0, block^-1) made of standard normals."""


class _Whole:
    """The inverse of a matrix."""

    def __init__(self, block_UU: Tensor) -> None:
        self.inverse_UU = _inverse(block_UU, block_UU.diagonal().mean())

    def __call__(self, slope_BU: Tensor) -> Tensor:
        return slope_BU @ self.inverse_UU

    def root(self, noise_BU: Tensor) -> Tensor:
        return noise_BU @ self._factor_UU.T

    @cached_property
    def _factor_UU(self) -> Tensor:
        return torch.linalg.cholesky(self.inverse_UU)


class _Circulant:
    """The inverse of pi + W' bound W above transposed convolutions, frequency by frequency.

    W'W is a convolution of the map above with itself; were the map a torus, the Fourier transform
    would turn it into one small matrix (channels, channels) a frequency. At the borders that is an
    approximation, and every one of these matrices is positive, as a preconditioner must be.

    Source: the circulant preconditioners of Chan and Strang (1989), in blocks.
    """

    def __init__(
        self, layers: list[tuple[TransposedConvolution, Tensor]], precision: Tensor
    ) -> None:
        self.shape = layers[0][0].above
        total = sum(_torus_spectrum(layer) * bound.mean() for layer, bound in layers)
        assert isinstance(total, Tensor)
        eye = torch.eye(self.shape[0], dtype=total.dtype, device=total.device)
        # (F, C, C): the frequencies of a real transform, flattened.
        total = total + precision.mean() * eye
        scale = total.diagonal(dim1=1, dim2=2).real.mean()
        jitter = 10 * torch.finfo(precision.dtype).eps * scale
        self.inverse = torch.linalg.inv(total + jitter * eye).mT.contiguous()

    def __call__(self, slope_BU: Tensor) -> Tensor:
        return self._times(slope_BU, self.inverse)

    def root(self, noise_BU: Tensor) -> Tensor:
        return self._times(noise_BU, self._root)

    @cached_property
    def _root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.inverse)
        return (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mH

    def _times(self, slope_BU: Tensor, matrices_FCC: Tensor) -> Tensor:
        channels, height, width = self.shape
        waves = torch.fft.rfft2(slope_BU.reshape(-1, height, width, channels), dim=(1, 2))
        count, frequencies = len(slope_BU), waves.shape[1:3].numel()
        flat = waves.reshape(count, frequencies, channels).transpose(0, 1)
        solved = (flat @ matrices_FCC).transpose(0, 1).reshape(waves.shape)
        return torch.fft.irfft2(solved, (height, width), dim=(1, 2)).reshape(slope_BU.shape)


def _torus_spectrum(layer: TransposedConvolution) -> Tensor:
    """Return W'W on a torus at each frequency, (F, C, C) and Hermitian.

    On a torus the map below splits into stride^2 phases, each a convolution of the map above with
    a kernel; W'W is the sum of their squares.
    """
    height, width = layer.above[1:]
    phases = layer.phase_weight()
    side = phases.shape[-1]
    # Kernels wider than the map wrap around it.
    kernel = phases.new_zeros(*phases.shape[:2], height, width)
    for y in range(side):
        for x in range(side):
            kernel[:, :, (y - layer.reach) % height, (x - layer.reach) % width] += phases[
                :, :, y, x
            ]
    waves = torch.fft.rfft2(kernel).flatten(2).permute(2, 0, 1)
    return waves.mH @ waves


class BlockTridiagonal:
    """The inverse of the whole Gauss-Newton curvature, averaged over typical latents.

    The curvature couples neighbouring layers only, so its inverse costs one sweep from the latent
    to the data and one back (block Thomas; for linear networks this is Kalman smoothing over
    layers). It is damped (Levenberg, 1944) where the network is not linear. Skip connections count
    in their layers' own blocks, their coupling does not.

    Source: Innocenti et al. (2024) solve the linear network with a dense system; this is the
    block-sparse one, used as a preconditioner where the network is not linear.

    Raises:
        RecipeError: convolutions too large to be written as a matrix.
    """

    def __init__(self, network: Network) -> None:
        matrices = [_matrix(layer) for layer in network.layers]
        states = network.states_from(network.typical_latents)
        precisions = [p.exp() for p in network.log_precisions]
        energies = network.energies()
        curvatures = [
            energy.mean_curvature(network.drive(i, states)) for i, energy in enumerate(energies)
        ]
        linear = network.table.activation == network.table.output == "linear"
        self.inverse: list[Tensor] = []
        self.coupling: list[Tensor] = []
        carried = None
        for i in reversed(range(network.depth)):
            matrix, (cross, own) = matrices[i], curvatures[i]
            block = _add_to_diagonal(_squared(matrix, own), precisions[i + 1])
            for target, layer in network.outputs[i + 1][1:]:
                block += _squared(_matrix(layer), curvatures[target][1])
            if not linear:
                _add_to_diagonal(block, _DAMPING * block.diagonal().mean())
            steepest = (energies[i].bound() * matrix.square().sum(1)).sum() / len(block)
            inverse = _inverse(
                block if carried is None else block - carried, steepest + precisions[i + 1].mean()
            )
            cross_weight = -cross[:, None] * matrix
            coupling = cross_weight @ inverse
            carried = coupling @ cross_weight.T
            self.inverse.insert(0, inverse)
            self.coupling.insert(0, coupling)

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return H^-1 slope for the layers 1..L; one less where the latent is clamped."""
        depth = len(slopes)
        remainders = list(slopes)
        for i in range(depth - 1, 0, -1):
            remainders[i - 1] = slopes[i - 1].addmm(remainders[i], self.coupling[i].T, alpha=-1)
        solution = [remainders[0] @ self.inverse[0]]
        for i in range(1, depth):
            solved = remainders[i] @ self.inverse[i]
            solution.append(solved.addmm_(solution[-1], self.coupling[i], alpha=-1))
        return solution


class ErrorDiagonal:
    """The inverse curvature over errors: whole for the latent, diagonal for the hidden errors.

    In error coordinates the curvature is pi_l, plus J' pi_0 J of the slopes J from a layer to the
    data, taken at the mean slopes of typical latents. Where hidden precisions are high, the
    errors' part is nearly pi_l, and what is left of the coupling is small.

    The diagonal of J' pi_0 J is summed over the data's units where those are few, and over random
    signs of them otherwise (Bekas, Kokiopoulou and Saad, 2007).
    """

    def __init__(self, network: Network) -> None:
        states = network.states_from(network.typical_latents)
        precisions = [p.exp() for p in network.log_precisions]
        curvatures = [
            energy.mean_curvature(network.drive(i, states))
            for i, energy in enumerate(network.energies())
        ]
        own = curvatures[0][1]
        # The mean slope of each hidden layer's prediction, from the latent's side.
        slopes = [cross / pi for (cross, _), pi in zip(curvatures, precisions, strict=False)]
        carried = [_probes(own) * own.sqrt()]
        self.hidden: list[Tensor] = []
        for i in range(1, network.depth):
            arrived = network.adjoint(i, carried)
            self.hidden.append(1 / (precisions[i] + arrived.square().sum(0)))
            carried.append(arrived * slopes[i])
        curvature = _add_to_diagonal(_squared_jacobian(network, slopes, own), precisions[-1])
        # The average of J'J is more than the average J squared: damp what this leaves out.
        _add_to_diagonal(curvature, 1e-3 * curvature.diagonal().mean())
        self.latent = _inverse(curvature, curvature.diagonal().mean())

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return the direction for eps_1.. upwards and, where it is free, the latent."""
        depth = len(self.hidden)
        steps = [slope * inverse for slope, inverse in zip(slopes, self.hidden, strict=False)]
        return steps + [slope @ self.latent for slope in slopes[depth:]]


def latent_curvature(network: Network) -> Tensor:
    """Return the curvature (L, L) of the data's energy over the latent, of typical latents."""
    states = network.states_from(network.typical_latents)
    precisions = [p.exp() for p in network.log_precisions]
    curvatures = [
        energy.mean_curvature(network.drive(i, states))
        for i, energy in enumerate(network.energies())
    ]
    slopes = [cross / pi for (cross, _), pi in zip(curvatures, precisions, strict=False)]
    return _squared_jacobian(network, slopes, curvatures[0][1])


def _squared_jacobian(network: Network, slopes: list[Tensor], own_D: Tensor) -> Tensor:
    """Return J' own J (L, L), J the slopes from the latent to the data's drive."""
    weight = network.layers[-1].weight
    moves = [weight] * network.depth
    moves[-1] = torch.eye(network.sizes[-1], dtype=weight.dtype, device=weight.device)
    for i in range(network.depth - 1, 0, -1):
        moves[i - 1] = slopes[i] * network.drive_move(i, moves)
    jacobian = network.drive_move(0, moves)
    return (jacobian * own_D) @ jacobian.T


def _probes(like_D: Tensor) -> Tensor:
    """Return rows (R, D) whose squares sum to the identity's diagonal, exactly or on average."""
    if len(like_D) <= _FEW_UNITS:
        return torch.eye(len(like_D), dtype=like_D.dtype, device=like_D.device)
    source = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (_PROBES, len(like_D)), generator=source) * 2 - 1
    return signs.to(like_D) / math.sqrt(_PROBES)


def too_large(network: Network) -> bool:
    """Return whether a convolution is too large to be written as a matrix."""
    maps = [*network.layers, *(skip.layer for skip in network.skips)]
    return any(isinstance(m, TransposedConvolution) and _entries(m) > _LARGEST_MATRIX for m in maps)


def _entries(layer: Layer) -> int:
    return math.prod(layer.above) * math.prod(layer.below)


def _matrix(layer: Layer) -> Tensor:
    """Return the layer's map (D, U).

    Raises:
        RecipeError: a convolution too large for that.
    """
    if isinstance(layer, TransposedConvolution) and _entries(layer) > _LARGEST_MATRIX:
        raise RecipeError(
            f"inference.solver: newton writes convolutions as matrices, and that from "
            f"{list(layer.above)} to {list(layer.below)} is too large",
            "Use --set inference.solver=majorise or errors",
        )
    return layer.matrix()


def _squared(matrix_DU: Tensor, curvature_D: Tensor) -> Tensor:
    """Return matrix' diag(curvature) matrix, (U, U)."""
    return matrix_DU.T @ (curvature_D.expand(len(matrix_DU))[:, None] * matrix_DU)


def _block(layer: Layer, bound: Tensor) -> Tensor:
    if isinstance(layer, Dense) and bound.ndim == 0:
        return layer.gram().mul_(bound)
    return _squared(_matrix(layer), bound)


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
