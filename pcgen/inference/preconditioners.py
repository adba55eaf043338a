"""Preconditioners: inverses of the energy's curvature, which turn its slope into a good direction.

They depend on the model alone. One is made per weight update and used for all images, so that no
image's path depends on the images beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from pcgen.errors import RecipeError
from pcgen.model import products
from pcgen.model.energy import Terms, slope_of
from pcgen.model.layers import Convolution, Dense, Layer, TransposedConvolution
from pcgen.model.network import Network

# The diagonal of a product is computed exactly up to this many data units, and estimated from this
# many random vectors beyond.
EXACT_UNITS = 1024
PROBES = 64
# The share of a layer's mean curvature that is added in every direction. Deep networks, and latents
# without a prior, have directions without any effect on the data, and moves along them would be
# far too long.
DAMPING = 1e-3
# The damping of a free latent without a prior, as a share of the precision of the layer below. Its
# curvature may be nearly 0 far from the data, and its moves then too long for all layers: 30 layers
# of tanh ended at 4.88 nats instead of 1.70. From 0.001 to 1 they came to 1.70 in 20 steps.
WITHOUT_PRIOR = 0.01
# A convolution is written as a matrix if that has at most this many entries (64 MiB).
LARGEST_MATRIX = 2**24


class BlockDiagonal:
    """The inverse of an upper bound of each layer's own curvature, D_l = pi_l + W' bound W.

    A positive block-tridiagonal matrix is at most twice its block-diagonal part, and no slope of an
    activation exceeds its bound. So the step x_l - 1/2 D_l^-1 dE/dx_l cannot raise the energy of a
    network that is linear between the two points. Above a convolution the block is a convolution
    too, and is inverted as one.
    """

    def __init__(self, network: Network, *, hidden_data: bool = False) -> None:
        """Prepare for the network's present weights. Hidden data have no curvature."""
        bounds = [energy.bound().to(network.layers[0].weight) for energy in network.energies()]
        if hidden_data:
            bounds[0] = torch.zeros_like(bounds[0])
        self.network, self.bounds = network, bounds
        self._made: list[_Block] = []

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return D^-1 slope for each given slope (B, D_l), from layer 1 upwards."""
        return [
            inverse(slope) for slope, inverse in zip(slopes, self._inverse(slopes), strict=True)
        ]

    def root(self, noise: list[Tensor]) -> list[Tensor]:
        """Return draws from N(0, D^-1), made of standard normal numbers (B, D_l), layer 1 first."""
        return [inverse.root(xi) for xi, inverse in zip(noise, self._inverse(noise), strict=True)]

    def _inverse(self, layers: list[Tensor]) -> list[_Block]:
        """Return the inverses of these layers; a clamped layer's is never made."""
        for i in range(len(self._made) + 1, len(layers) + 1):
            self._made.append(self._block(i))
        return self._made[: len(layers)]

    def _block(self, i: int) -> _Block:
        precision = self.network.log_precisions[i].exp()
        layers = [(layer, self.bounds[target]) for target, layer in self.network.outputs[i]]
        convolutions = [
            (layer, bound)
            for layer, bound in layers
            if isinstance(layer, TransposedConvolution | Convolution)
        ]
        if len(convolutions) == len(layers):
            return _Circulant(convolutions, precision)
        block = sum(_block(layer, bound) for layer, bound in layers)
        assert isinstance(block, Tensor)
        return _Whole(_add_to_diagonal(block, precision))


class _Block(Protocol):
    """The inverse of one layer's block."""

    def __call__(self, slope_BU: Tensor) -> Tensor:
        """Return block^-1 slope."""

    def root(self, noise_BU: Tensor) -> Tensor:
        """Return draws from N(0, block^-1), made of standard normal numbers."""


class _Whole:
    """The inverse of a matrix."""

    def __init__(self, block_UU: Tensor) -> None:
        self.inverse_UU = _inverse(block_UU, block_UU.diagonal().mean())

    def __call__(self, slope_BU: Tensor) -> Tensor:
        return products.product(slope_BU, self.inverse_UU)

    def root(self, noise_BU: Tensor) -> Tensor:
        return products.linear(noise_BU, self._factor_UU)

    @cached_property
    def _factor_UU(self) -> Tensor:
        return torch.linalg.cholesky(self.inverse_UU)


class _Circulant:
    """The inverse of pi + W' bound W above transposed convolutions, frequency by frequency.

    W'W is a convolution on the map above. If opposite borders of the map were joined (a torus), the
    Fourier transform would turn it into one small matrix (channels, channels) for each frequency.
    At the real borders this is an approximation. All these matrices are positive, as those of a
    preconditioner must be.

    Source: the circulant preconditioners of Chan and Strang (1989), in blocks.
    """

    def __init__(
        self,
        layers: Sequence[tuple[TransposedConvolution | Convolution, Tensor]],
        precision: Tensor,
    ) -> None:
        self.shape = layers[0][0].above
        total = sum(torus_spectrum(layer) * bound.mean() for layer, bound in layers)
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


def torus_spectrum(layer: TransposedConvolution | Convolution) -> Tensor:
    """Return W'W on a torus, one Hermitian matrix for each frequency: (F, C, C).

    The map below consists of stride^2 phases, each a convolution of the map above with a kernel.
    W'W is the sum of their squares.
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
    """The inverse of the whole Gauss-Newton curvature, with each image's own coupling of layers.

    Layers couple with their neighbours only, so the curvature is factored layer by layer, from the
    data to the latent (for linear networks this is the Riccati recursion of optimal control):

        D_l = pi_l + M_l,   M_1 = W_1' c W_1,   M_{l+1} = W_{l+1}' S_l K_l S_l W_{l+1}
        K_l = pi_l - pi_l D_l^-1 pi_l = M_l D_l^-1 pi_l

    with the data's curvature c and the slopes S_l of the activations. K_l is the cost of moving a
    prediction when all layers below follow; it is small far from the data. So an average of M_l
    over typical latents serves all images. Their coupling S_l W_{l+1} is taken at each image's own
    states, because in a product of L couplings small errors would add up. The product of the
    factors is positive whatever the slopes are.

    The uppermost factor is left out where the latent is clamped. M_l is damped (Levenberg, 1944)
    where the network is not linear. Skip connections count in the blocks of their layers. One from
    layer 2 to the data also couples the layers 1 and 2, by Q = W_1' c W_skip beside -pi_1 S_1 W_2;
    the coupling of the others is left out.

    Source: Innocenti et al. (2024) solve a linear network as one dense system. This is the sparse
    form of that system, used as a preconditioner for other networks too.

    Raises:
        RecipeError: a convolution is too large to be written as a matrix.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        precisions = [p.exp() for p in network.log_precisions]
        energies, states = network.energies(), network.states_from(network.typical_latents)
        drives = [network.drive(i, states) for i in range(network.depth)]
        owns = [e.mean_curvature(drive)[1] for e, drive in zip(energies, drives, strict=True)]
        linear = network.table.activation == network.table.output == "linear"
        if not linear:
            *_, below, prior = precisions
            precisions[-1] = torch.where(prior > 0, prior, WITHOUT_PRIOR * below.mean())
        self.hidden = network.hidden_energies()
        self.inverse: list[Tensor] = []
        self.coupling_UL = _coupling_by_data(network, owns[0])
        cost: Tensor | None = None
        slopes_RD = network.typical_latents
        for i, layer in enumerate(network.layers):
            matrix, precision = _matrix(layer), precisions[i + 1]
            if cost is None:
                block = _squared(matrix, owns[0])
            else:
                block = products.transposed_product(matrix, products.product(cost, matrix))
            if i == 1 and self.coupling_UL is not None:
                mean_D = slopes_RD.mean(0) * precisions[1]
                block += _won_by_coupling(
                    self.coupling_UL, self.inverse[0], mean_D[:, None] * matrix
                )
            for target, skip in network.outputs[i + 1][1:]:
                block += _squared(_matrix(skip), owns[target])
            if not linear:
                _add_to_diagonal(block, DAMPING * block.diagonal().mean())
            largest = (energies[i].bound() * matrix.square().sum(1)).sum() / len(block)
            scale = largest + precision.mean()
            self.inverse.append(_inverse(_add_to_diagonal(block.clone(), precision), scale))
            if i + 1 < network.depth:
                slopes_RD = slope_of(energies[i + 1].terms(states[i + 1], drives[i + 1], None))
                cost = products.product(block, self.inverse[i]) * precision
                cost = 0.5 * (cost + cost.T) * _second_moment(slopes_RD)

    def __call__(self, slopes: list[Tensor], terms: Sequence[Terms]) -> list[Tensor]:
        """Return H^-1 slope for layers 1 to L, or to L - 1 where the latent is clamped.

        After them come the changes of the drives from layer 1 up, which the factors need anyway.

        Args:
            terms: of all layers, data first, at the states where the slopes were taken.
        """
        layers, inverse = self.network.layers, self.inverse
        # The derivatives -d2E/da dx of the hidden layers.
        crosses = [
            energy.weighted(slope_of(term))
            for energy, term in zip(self.hidden, terms[1:], strict=True)
        ]
        solution: list[Tensor] = []
        remainder = slopes[0]
        for i in range(1, len(slopes)):
            solution.append(products.product(remainder, inverse[i - 1]))
            remainder = layers[i].adjoint(solution[-1] * crosses[i - 1]).add_(slopes[i])
            if i == 1 and self.coupling_UL is not None:
                remainder -= products.product(solution[-1], self.coupling_UL)
        solution.append(products.product(remainder, inverse[len(slopes) - 1]))
        drives: list[Tensor] = []
        for i in range(len(slopes) - 1, 0, -1):
            drives.insert(0, layers[i].drive_move(solution[i]))
            pull = drives[0] * crosses[i - 1]
            if i == 1 and self.coupling_UL is not None:
                pull -= products.linear(solution[1], self.coupling_UL)
            solution[i - 1].add_(products.product(pull, inverse[i - 1]))
        # Skip connections to hidden layers would add to these drives.
        return solution if any(s.target for s in self.network.skips) else solution + drives


def _coupling_by_data(network: Network, own_D: Tensor) -> Tensor | None:
    """Return Q = W_1' c W_skip (D_1, D_2) of a skip from layer 2 to the data; None without one."""
    total: Tensor | None = None
    for skip in network.skips:
        if (skip.source, skip.target) == (2, 0):
            weighted_DL = own_D.expand(network.sizes[0])[:, None] * _matrix(skip.layer)
            part = products.transposed_product(_matrix(network.layers[0]), weighted_DL)
            total = part if total is None else total + part
    return total


def _won_by_coupling(coupling_UL: Tensor, inverse_UU: Tensor, mean_UL: Tensor) -> Tensor:
    """Return what the coupling Q by the data adds to layer 2's factor, (D_2, D_2).

    The factor is H_22 - H_21 D_1^-1 H_12 with H_12 = Q - pi_1 S_1 W_2. Here are the terms with Q.

    Args:
        mean_UL: pi_1 S_1 W_2 at the mean slopes.
    """
    solved_UL = products.product(inverse_UU, coupling_UL)
    crossed_LL = products.transposed_product(mean_UL, solved_UL)
    return crossed_LL + crossed_LL.T - products.transposed_product(coupling_UL, solved_UL)


class ErrorDiagonal:
    """The inverse curvature over errors: a matrix for the latent, diagonals for hidden errors.

    In error coordinates the curvature is pi_l plus J' pi_0 J, where J is the slope of the data in
    the errors of layer l, at the mean slopes of typical latents. Where hidden precisions are high
    the hidden errors' curvature is nearly pi_l, so that leaving out their coupling costs little.
    `sampling.mass_matrices.ErrorMass` takes the mean of J'J instead, for a stable step everywhere.
    """

    def __init__(self, network: Network) -> None:
        slopes, own_D, precisions = _mean_slopes(network)
        arrived = error_signals(network, slopes, _probes(own_D), network.depth)
        self.hidden = [
            1 / (precision + signal.square().sum(0))
            for precision, signal in zip(precisions[1:], arrived, strict=False)
        ]
        curvature = _add_to_diagonal(_squared_jacobian(network, slopes, own_D), precisions[-1])
        # The mean of J'J is larger than the square of the mean J: the damping makes up for it.
        _add_to_diagonal(curvature, DAMPING * curvature.diagonal().mean())
        self.latent = _inverse(curvature, curvature.diagonal().mean())

    def __call__(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return the direction of the errors, layer 1 first, and of the latent if it is free."""
        depth = len(self.hidden)
        steps = [slope * inverse for slope, inverse in zip(slopes, self.hidden, strict=False)]
        return steps + [products.product(slope, self.latent) for slope in slopes[depth:]]


def latent_curvature(network: Network) -> Tensor:
    """Return the curvature (D_L, D_L) of the data's energy in the latent, at typical latents."""
    slopes, own_D, _ = _mean_slopes(network)
    return _squared_jacobian(network, slopes, own_D)


def error_signals(network: Network, slopes: list[Tensor], signal: Tensor, top: int) -> list[Tensor]:
    """Return how a signal from the data's drive arrives at the layers 1 to top - 1, (R, D_l).

    Args:
        signal: (R, D_0), or (D_0,) for the rows of a diagonal matrix.
        slopes: of the prediction in the drive, for each layer; the data layer's is not used.
    """
    carried, arrived = [signal.diag() if signal.ndim == 1 else signal], []
    for i in range(1, top):
        if i == 1 and signal.ndim == 1 and isinstance(network.layers[0], Dense):
            # The product with a diagonal matrix, without its zeros.
            arrived.append(signal[:, None] * network.layers[0].weight)
        else:
            arrived.append(network.adjoint(i, carried))
        carried.append(arrived[-1] * slopes[i])
    return arrived


def drive_slopes(network: Network, slopes: list[Tensor], top: int) -> Tensor:
    """Return the slopes (U * S, D_0) of the data's drive in each of the U units of layer `top`.

    Args:
        slopes: of the prediction in the drive, for each layer: (S, D_l) at S places, or (D_l,) at
            one. The rows go through all places of a unit before the next unit.
    """
    weight, units = network.layers[0].weight, network.sizes[top]
    places = len(slopes[-1]) if slopes[-1].ndim > 1 else 1
    eye = torch.eye(units, dtype=weight.dtype, device=weight.device)
    moves = [eye.repeat_interleave(places, 0)] * top
    for i in range(top - 1, 0, -1):
        slope = slopes[i].repeat(units, 1) if places > 1 else slopes[i]
        moves[i - 1] = slope * network.drive_move(i, moves)
    return network.drive_move(0, moves)


def _mean_curvatures(network: Network) -> list[tuple[Tensor, Tensor]]:
    """Return each layer's `mean_curvature` at typical latents."""
    states = network.states_from(network.typical_latents)
    return [
        energy.mean_curvature(network.drive(i, states))
        for i, energy in enumerate(network.energies())
    ]


def _mean_slopes(network: Network) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Return mean slopes (D_l,), the data's curvature (D_0,) in its drive, and all precisions."""
    precisions = [p.exp() for p in network.log_precisions]
    curvatures = _mean_curvatures(network)
    slopes = [cross / pi for (cross, _), pi in zip(curvatures, precisions, strict=False)]
    return slopes, curvatures[0][1], precisions


def _squared_jacobian(network: Network, slopes: list[Tensor], own_D: Tensor) -> Tensor:
    """Return J' own J (D_L, D_L) with the slopes J from the uppermost layer to the data's drive."""
    jacobian = drive_slopes(network, slopes, network.depth)
    return products.linear(jacobian * own_D, jacobian)


def _probes(own_D: Tensor) -> Tensor:
    """Return the data's curvature in its drive as signals: the mean of their squares is own_D.

    They are a diagonal matrix, given as (D,), where units are few. Else they are rows (R, D) of
    random signs (Bekas, Kokiopoulou and Saad, 2007), with products that average to 0.
    """
    if len(own_D) <= EXACT_UNITS:
        return own_D.sqrt()
    source = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (PROBES, len(own_D)), generator=source) * 2 - 1
    return signs.to(own_D) * (own_D.sqrt() / math.sqrt(PROBES))


def _entries(layer: Layer) -> int:
    return math.prod(layer.above) * math.prod(layer.below)


def _matrix(layer: Layer) -> Tensor:
    """Return the layer's map as a matrix (D, U).

    Raises:
        RecipeError: the matrix of a convolution would be too large.
    """
    if not isinstance(layer, Dense) and _entries(layer) > LARGEST_MATRIX:
        raise RecipeError(
            f"inference.solver: newton writes convolutions as matrices, and the one from "
            f"{list(layer.above)} to {list(layer.below)} would be too large",
            "Use --set inference.solver=majorise or errors",
        )
    return layer.matrix()


def _second_moment(slopes_RD: Tensor) -> Tensor:
    """Return the mean of s s' (D, D) over rows."""
    return products.transposed_product(slopes_RD, slopes_RD) / len(slopes_RD)


def _squared(matrix_DU: Tensor, curvature_D: Tensor) -> Tensor:
    """Return matrix' diag(curvature) matrix, (U, U)."""
    weighted_DU = curvature_D.expand(len(matrix_DU))[:, None] * matrix_DU
    return products.transposed_product(matrix_DU, weighted_DU)


def _block(layer: Layer, bound: Tensor) -> Tensor:
    if isinstance(layer, Dense) and bound.ndim == 0:
        return layer.gram().mul_(bound)
    return _squared(_matrix(layer), bound)


def _add_to_diagonal(matrix: Tensor, values: Tensor) -> Tensor:
    matrix.diagonal().add_(values)
    return matrix


def _inverse(matrix: Tensor, scale: Tensor) -> Tensor:
    """Return the inverse of a positive matrix, with a small jitter on its diagonal.

    Some directions have no curvature: of a latent without a prior, and of units that are silent at
    the typical latents. The jitter keeps the inverse finite there. It is as small as rounding at
    the scale of the curvature. If the whole matrix is 0, any scale works, because the length of a
    move is searched.
    """
    scale = scale.clamp_min(1e-12)
    jitter = 10 * torch.finfo(matrix.dtype).eps
    while True:
        factor, failed = torch.linalg.cholesky_ex(_add_to_diagonal(matrix, jitter * scale))
        if not failed.item() or jitter > 1:
            return torch.cholesky_inverse(factor)
        jitter *= 10
