"""A mixture of Gaussians over the states given data, around the modes of their density.

The hidden errors and the latent, u = (eps_1, .., eps_{L-1}, z), have the density exp(-E(u)). The
latent's prior is a mixture, so exp(-E(u)) = sum_k exp(-E_k(u)), with a term for each component.
Each has few modes, as a rule one, and near a mode it is nearly a Gaussian. Hidden errors have their
own precision there, and the latent has A_j:

    q(u) = sum_j w_j N(z; z_j, A_j^-1) prod_l N(eps_l; eps_lj, 1 / pi_l)

The modes of E itself would not do. Its deepest one lies in a component that is narrow, and most of
the density may lie in a wide component far from it.

Nothing that uses q needs it to be right: chains test what they propose from it, and annealing
begins at it. The better it is, the less they have to do. `laplace` finds the modes, and `settled`
improves the Gaussians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcgen.model.energy import Terms
from pcgen.model.network import Network
from pcgen.model.prior import Mixture
from pcgen.sampling.langevin import Layers


@dataclass(frozen=True, slots=True)
class Modes:
    """The Gaussians around the modes of B rows, J for each row.

    Attributes:
        log_weights_BJ: falling; -inf where a row has fewer modes.
        components_BJ: the component of the prior that each is a mode of.
        centres: (B, J, D_l) of the errors from layer 1 upwards, and of the latent.
        roots_BJLL: P, lower triangular; the latent's precision is P P'.
        precisions: of the hidden errors, () or (D_l,).
    """

    log_weights_BJ: Tensor
    components_BJ: Tensor
    centres: Layers
    roots_BJLL: Tensor
    precisions: list[Tensor]

    def of(self, rows_B: Tensor) -> Modes:
        """Return the modes of these rows, for example one row for each chain."""
        return self._at((rows_B,))

    def _at(self, place: tuple[Tensor, ...]) -> Modes:
        return Modes(
            self.log_weights_BJ[place],
            self.components_BJ[place],
            [centre[place] for centre in self.centres],
            self.roots_BJLL[place],
            self.precisions,
        )

    def ordered(self, number_BJ: Tensor) -> Modes:
        """Return the modes with these numbers, for each row."""
        every_B1 = torch.arange(len(number_BJ), device=number_BJ.device)[:, None]
        return self._at((every_B1, number_BJ))

    def largest(self, count: int) -> Modes:
        """Return the modes with the largest weights, for each row."""
        weights_BJ, number_BJ = self.log_weights_BJ.topk(min(count, self.log_weights_BJ.shape[1]))
        return replace(self.ordered(number_BJ), log_weights_BJ=weights_BJ.log_softmax(1))

    def within(self, rows_B: Tensor, component_B: Tensor) -> tuple[Modes, Tensor]:
        """Return the modes of one component for each of these rows, and their numbers (B, W)."""
        own_BJ = self.components_BJ[rows_B] == component_B[:, None]
        own_BJ &= self.log_weights_BJ[rows_B] > -math.inf
        most = int(own_BJ.sum(1).max())
        place_BW = own_BJ.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
        kept = self._at((rows_B[:, None], place_BW))
        weights_BW = kept.log_weights_BJ.masked_fill(~own_BJ.gather(1, place_BW), -math.inf)
        return replace(kept, log_weights_BJ=weights_BW), place_BW

    def of_latents(self) -> Modes:
        """Return the modes of the latent alone, where there are no hidden errors."""
        return replace(self, centres=self.centres[-1:], precisions=[])

    def around(self, chosen_B: Tensor, rows_B: Tensor | None = None) -> Around:
        """Return the Gaussian of one mode of each row, or of each of these rows."""
        if rows_B is None:
            rows_B = torch.arange(len(chosen_B), device=chosen_B.device)
        centres = [centre[rows_B, chosen_B] for centre in self.centres]
        return Around(centres, self.roots_BJLL[rows_B, chosen_B], self.precisions)

    def log_density(self, errors: Layers) -> Tensor:
        """Return log q(u) (B,) in nats, without the constants that do not depend on u.

        Args:
            errors: (B, D_l) of layer 1 upwards, then the latent.
        """
        joint_BJ, _ = self._log_joint(errors[-1])
        for error, centre, precision in zip(errors, self.centres, self.precisions, strict=False):
            squares_BJ = (error[:, None] - centre).square().mul(precision).sum(2)
            joint_BJ = joint_BJ - 0.5 * squares_BJ
        return torch.logsumexp(joint_BJ, 1)

    def log_shares(self, latent_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return each mode's log probability (B, J) given the latent, and its slopes (B, J, L)."""
        joint_BJ, slopes_BJL = self._log_joint(latent_BL)
        mean_B1L = joint_BJ.softmax(1)[:, None] @ slopes_BJL
        return joint_BJ.log_softmax(1), slopes_BJL - mean_B1L

    def _log_joint(self, latent_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return log w_j N(z; z_j, A_j^-1) (B, J) without the 2 pi, and its slopes (B, J, L)."""
        offsets_BJL = latent_BL[:, None] - self.centres[-1]
        whitened_BJL = (offsets_BJL[:, :, None] @ self.roots_BJLL)[:, :, 0]
        log_det_BJ = self.roots_BJLL.diagonal(dim1=2, dim2=3).log().sum(2)
        joint_BJ = self.log_weights_BJ + log_det_BJ - 0.5 * whitened_BJL.square().sum(2)
        slopes_BJL = -(self.roots_BJLL @ whitened_BJL[..., None])[..., 0]
        return joint_BJ, slopes_BJL


@dataclass(frozen=True, slots=True)
class Around:
    """One Gaussian for each of B chains, as a map u = centre + C xi of standard normal numbers.

    Attributes:
        centres: (B, D_l) of the errors from layer 1 upwards, and of the latent.
        roots_BLL: P, lower triangular; C = P'^-1 for the latent.
        precisions: of the hidden errors, () or (D_l,); C = 1 / sqrt(pi).
    """

    centres: Layers
    roots_BLL: Tensor
    precisions: list[Tensor]

    def point(self, xi: Layers) -> Layers:
        """Return u for standard normal numbers (B, D_l)."""
        hidden = [
            centre + x * precision.rsqrt()
            for centre, x, precision in zip(self.centres, xi, self.precisions, strict=False)
        ]
        offset_BL = torch.linalg.solve_triangular(self.roots_BLL.mT, xi[-1][..., None], upper=True)
        return [*hidden, self.centres[-1] + offset_BL[..., 0]]

    def whitened(self, errors: Layers) -> Layers:
        """Return the numbers xi from which `point` makes these errors and this latent."""
        hidden = [
            (error - centre) * precision.sqrt()
            for error, centre, precision in zip(errors, self.centres, self.precisions, strict=False)
        ]
        offset_BL = errors[-1] - self.centres[-1]
        return [*hidden, (offset_BL[:, None] @ self.roots_BLL)[:, 0]]

    def slopes(self, slopes: Layers) -> Layers:
        """Return the slopes in xi (B, D_l), from those in u."""
        hidden = [
            slope * precision.rsqrt()
            for slope, precision in zip(slopes, self.precisions, strict=False)
        ]
        latent_BL1 = torch.linalg.solve_triangular(
            self.roots_BLL, slopes[-1][..., None], upper=False
        )
        return [*hidden, latent_BL1[..., 0]]

    def slopes_of(self, slopes: Layers) -> Layers:
        """Return the slopes in u (B, D_l), from those in xi."""
        hidden = [
            slope * precision.sqrt()
            for slope, precision in zip(slopes, self.precisions, strict=False)
        ]
        return [*hidden, (self.roots_BLL @ slopes[-1][..., None])[..., 0]]

    def log_volume(self) -> Tensor:
        """Return log det C (B,)."""
        total_B = -self.roots_BLL.diagonal(dim1=1, dim2=2).log().sum(1)
        for centre, precision in zip(self.centres, self.precisions, strict=False):
            total_B = total_B - 0.5 * precision.log().expand(centre.shape[1]).sum()
        return total_B


def components(network: Network) -> Mixture:
    """Return the latent's prior as a mixture; N(0, 1 / pi) has one component."""
    if network.mixture is not None:
        return network.mixture
    latents = network.sizes[-1]
    prior = Mixture.standard(1, latents, 0, network.layers[0].weight)
    prior.roots_KLL.mul_((0.5 * network.log_precisions[-1]).exp().expand(latents))
    return prior


def component_terms(
    prior: Mixture, latent_BL: Tensor, component_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return -log p(k, z) (B,) of one component for each row, without the 2 pi, and its slope."""
    roots_BLL = prior.roots_KLL[component_B]
    whitened_BL = ((latent_BL - prior.means_KL[component_B])[:, None] @ roots_BLL)[:, 0]
    log_det_K = prior.roots_KLL.diagonal(dim1=1, dim2=2).log().sum(1)
    energy_B = 0.5 * whitened_BL.square().sum(1) - (prior.log_weights() + log_det_K)[component_B]
    return energy_B, (roots_BLL @ whitened_BL[:, :, None])[:, :, 0]


def hidden_errors(states: list[Tensor], terms: list[Terms]) -> Layers:
    """Return the errors (B, D_l) of the layers between data and latent, from layer 1 upwards."""
    return [state - term.prediction_BD for state, term in zip(states[1:-1], terms[1:], strict=True)]
