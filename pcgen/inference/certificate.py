"""A bound of the energy that states can still lose: the certificate that inference has converged.

Any states are determined by u = (eps_1, ..., eps_{L-1}, z): the hidden errors and the latent. The
energy is the same, and so are its stationary points, but its curvature in u has a known lower
bound. With J the slope of the data's drive in u, C the curvature of the data's energy in its drive,
and Pi the precisions of hidden errors and prior, the Gauss-Newton curvature is A = Pi + J'CJ. It
leaves out the curvature of the activations. While this takes away no more than half of A,

    excess <= g' A^-1 g,   g the slope in u,

and g' A^-1 g has two upper bounds, of which the smaller one is taken:

* A >= Pi, so it is at most sum_l |g_l|^2 / pi_l. This takes one sweep of slopes.
* Let P keep of J'CJ only the latent's own block, P = Pi + J_z' C J_z. If no hidden error moves the
  data more than its precision times sigma, J_e' C J_e <= sigma Pi_e, then for all u and t > 0

      |J_z z|^2 <= (1 + t) |J u|^2 + (1 + 1/t) sigma |eps|^2    (norms with C and Pi_e),

  and with t^2 = sigma (1 + t) this is P <= (1 + t) A. So it is at most (1 + t) g' P^-1 g. This
  takes the slope of the data in every latent unit, and also holds without a prior. Here A is close
  to the whole curvature, so that it is tested how far the activations take it away.

For linear networks the excess is at most half of this. Far from a minimum, the number is no bound.
Saddles are stationary points too. docs/results/inference.md compares it with float64 runs.

Source: the Newton decrement (Boyd and Vandenberghe, 2004, section 9.5) and the bound of strongly
convex functions (section 9.1), in the coordinates of Goemaere et al. (2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcgen.inference.coordinates import determined_states, error_slopes
from pcgen.inference.directions import dot
from pcgen.inference.preconditioners import drive_slopes, torus_spectrum
from pcgen.model.energy import Bernoulli, Gaussian, LayerEnergy, Terms, slope_of, weighted_square
from pcgen.model.layers import Dense, Layer, TransposedConvolution
from pcgen.model.network import Network

# The curvature of an image's latent is computed up to this many multiplications, and as a help for
# the solver up to this many times those of all layers' maps. `mnist` has 11 million, 90 times.
LARGEST_CURVATURE = 2**28
CHEAP = 200
# The share by which the slope falls in a move counts as this if it is less: the slope of an image
# at its minimum is rounding alone.
_LEAST_FALL = 0.05
# Numbers of a slope of data in latents that are held at once (16 MiB).
_HELD = 2**22


@dataclass(frozen=True, slots=True)
class LatentCurvature:
    """The curvature of each image's latent, with the hidden errors fixed.

    Attributes:
        own_BLL: J_z' C J_z.
        stretch_B: 1 + t, by which P may exceed the whole curvature.
    """

    own_BLL: Tensor
    stretch_B: Tensor

    def solve(self, slope_BL: Tensor, precision: Tensor) -> Tensor:
        """Return (J_z' C J_z + Pi_z)^-1 g_z (B, L); infinite where the matrix is singular."""
        factor_BLL, failed_B = self._factor(precision)
        solved_BL = torch.cholesky_solve(slope_BL[:, :, None], factor_BLL)[:, :, 0]
        return solved_BL.masked_fill(failed_B[:, None] > 0, torch.inf)

    def inverse(self, precision: Tensor, damping: float, instead_LL: Tensor) -> Tensor:
        """Return the damped inverse (B, L, L), and a shared one where an image's is singular."""
        mean_B = self.own_BLL.diagonal(dim1=1, dim2=2).mean(1)
        factor_BLL, failed_B = self._factor(precision + damping * mean_B[:, None])
        failed = failed_B[:, None, None] > 0
        # A factor with a zero on its diagonal would be an error for the whole batch.
        factor_BLL = torch.where(failed, torch.eye(len(instead_LL)).to(instead_LL), factor_BLL)
        inverse_BLL = torch.cholesky_inverse(factor_BLL)
        return torch.where(failed, instead_LL, inverse_BLL)

    def _factor(self, diagonal: Tensor) -> tuple[Tensor, Tensor]:
        matrix_BLL = self.own_BLL.clone()
        entries_BL = matrix_BLL.diagonal(dim1=1, dim2=2)
        jitter = 10 * torch.finfo(matrix_BLL.dtype).eps
        entries_BL += diagonal + jitter * entries_BL.mean(1, keepdim=True)
        return torch.linalg.cholesky_ex(matrix_BLL)


class Certificate:
    """The bounds at a network's present weights, which must not change."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def plain_bound(self, slopes: Sequence[Tensor]) -> Tensor:
        """Return the bound (B,) by the precisions alone.

        Args:
            slopes: dE/du (B, D_l) from `error_slopes`; without the latent's, it is clamped.
        """
        bound_B = torch.zeros_like(slopes[0][:, 0])
        for slope, precision in zip(slopes, self._precisions, strict=False):
            bound_B = bound_B + weighted_square(slope, 1 / precision)
        return bound_B.nan_to_num(torch.inf, torch.inf)

    def sharp_bound(
        self,
        states: Sequence[Tensor],
        terms: Sequence[Terms],
        slopes: Sequence[Tensor],
        curvature: LatentCurvature,
        mask_BD: Tensor | None,
    ) -> Tensor:
        """Return the bound (B,) by the precisions and the curvature of each image's latent.

        It is larger where the activations' curvature takes away more than half of A along the
        move P^-1 g: where the slope along this move does not fall by half at its end. The factor
        is squared, because there the curvature also changes along the way.

        Args:
            states: (B, D_l) of all layers, data first; `terms` are theirs, and `slopes` too.
        """
        network = self.network
        *hidden, prior = self._precisions
        moves = [slope / pi for slope, pi in zip(slopes, hidden, strict=False)]
        moves.append(curvature.solve(slopes[-1], prior))
        decrement_B = dot(slopes, moves)
        errors = [
            state - term.prediction_BD - move
            for state, term, move in zip(states[1:], terms[1:], moves, strict=False)
        ]
        latent_BL = states[-1] - moves[-1]
        _, moved = determined_states(network, states[0], latent_BL, errors, mask_BD)
        pull_BL = network.prior_terms(latent_BL)[1]
        left_B = dot(error_slopes(network, moved, pull_BL, network.depth), moves)
        fallen_B = (1 - left_B / decrement_B).nan_to_num(1.0).clamp(_LEAST_FALL, 0.5)
        bound_B = curvature.stretch_B * decrement_B * (0.5 / fallen_B).square()
        return bound_B.nan_to_num(torch.inf, torch.inf)

    def latent_curvature(
        self, terms: Sequence[Terms], mask_BD: Tensor | None
    ) -> LatentCurvature | None:
        """Return each image's curvature of the latent; None where it is too large or not known."""
        network, latents = self.network, self.network.sizes[-1]
        own_BD = drive_curvature(network.energies()[0], terms[0], mask_BD)
        if own_BD is None or self._multiply_adds > LARGEST_CURVATURE:
            return None
        root_BD = own_BD.sqrt()
        images = torch.arange(len(root_BD), device=root_BD.device)
        parts = [
            _squared_slopes(network, [term.of(index) for term in terms], root_BD[index])
            for index in torch.split(images, max(1, _HELD // (latents * max(network.sizes))))
        ]
        sigma_B = self._largest_share(terms, root_BD)
        stretch_B = 1 + 0.5 * (sigma_B + (sigma_B.square() + 4 * sigma_B).sqrt())
        return LatentCurvature(torch.cat(parts), stretch_B)

    def _largest_share(self, terms: Sequence[Terms], root_BD: Tensor) -> Tensor:
        """Return sigma (B,): how much more hidden errors move the data than precisions allow.

        It multiplies the norms of the layers' matrices and the largest slopes of the units.
        """
        reach = [root_BD.amax(1)]
        sigma_B = torch.zeros_like(reach[0])
        for i in range(1, self.network.depth):
            arrived_B = torch.zeros_like(sigma_B)
            for (target, _), norm in zip(self.network.outputs[i], self._norms[i], strict=True):
                arrived_B = arrived_B + norm * reach[target]
            sigma_B = sigma_B + arrived_B.square() / self._precisions[i - 1].min()
            reach.append(arrived_B * slope_of(terms[i]).abs().amax(1))
        return sigma_B

    @property
    def is_cheap(self) -> bool:
        """Return whether the curvature of an image's latent costs no more than some steps."""
        step = sum(layer.multiply_adds for layer in self.network.layers)
        return self._multiply_adds <= min(LARGEST_CURVATURE, CHEAP * step)

    @property
    def _multiply_adds(self) -> int:
        """Return the multiplications of the curvature of one image's latent."""
        latents, data = self.network.sizes[-1], self.network.sizes[0]
        slopes = sum(layer.multiply_adds for layer in self.network.layers)
        return latents * (slopes + data * latents)

    @cached_property
    def has_prior(self) -> bool:
        """Return whether the prior alone bounds the latent's curvature."""
        return bool(self._precisions[-1] > 0)

    @cached_property
    def _precisions(self) -> list[Tensor]:
        """Return the precisions of the hidden errors and the least one of the prior."""
        hidden = [energy.precision for energy in self.network.hidden_energies()]
        return [*hidden, self.network.least_prior_precision()]

    @cached_property
    def _norms(self) -> list[list[Tensor]]:
        """Return the norms of the maps out of each layer."""
        return [[_norm(layer) for _, layer in outputs] for outputs in self.network.outputs]


def _squared_slopes(network: Network, terms: Sequence[Terms], root_BD: Tensor) -> Tensor:
    """Return J_z' C J_z (B, L, L)."""
    slopes = [root_BD, *(slope_of(term) for term in terms[1:])]
    jacobian = drive_slopes(network, slopes, network.depth).view(-1, *root_BD.shape) * root_BD
    jacobian_BLD = jacobian.transpose(0, 1)
    return jacobian_BLD @ jacobian_BLD.mT


def _norm(layer: Layer) -> Tensor:
    """Return the largest factor by which a layer's map lengthens a vector.

    For a convolution it is that on a torus, without borders.
    """
    if isinstance(layer, Dense):
        return torch.linalg.eigvalsh(layer.gram())[-1].clamp_min(0).sqrt()
    if isinstance(layer, TransposedConvolution):
        return torch.linalg.eigvalsh(torus_spectrum(layer)).max().clamp_min(0).sqrt()
    return torch.linalg.matrix_norm(layer.matrix(), 2)


def drive_curvature(energy: LayerEnergy, terms: Terms, mask_BD: Tensor | None) -> Tensor | None:
    """Return the curvature of each unit's energy in its drive (B, D); None if not known.

    It is the Gauss-Newton approximation, without the curvature of the activation.
    """
    if isinstance(energy, Gaussian):
        own_BD = energy.precision * slope_of(terms).square()
    elif isinstance(energy, Bernoulli):
        own_BD = terms.prediction_BD * (1 - terms.prediction_BD)
    else:
        return None
    return own_BD if mask_BD is None else own_BD * mask_BD
