"""The modes of the states given data: a mixture of Gaussians, fitted where inference ends.

The hidden errors and the latent, u = (eps_1, .., eps_{L-1}, z), have the density exp(-E(u)).
Inference from many latents ends at its modes u_j, and near each of them the density is nearly that
of a Gaussian. Hidden errors have their own precision there, and the latent its curvature:

    q(u) = sum_j w_j N(z; z_j, (s A_j)^-1) prod_l N(eps_l; eps_lj, 1 / pi_l)
    A_j = J' C J + the precision of the prior at z_j,   w_j ~ exp(-E(u_j)) det(A_j)^-1/2

J is the slope of the data's drive in the latent, C the curvature of the data's energy in the drive.
Where data are hidden, C is 0. The factor s is 0.6, because the curvature is largest at a mode and
falls around it: draws from the posterior of `mnist-sampler` are 1.3 times as far from the mode,
in the latent, as with s = 1 (median of 12 images). Nothing that uses q needs it to be right: chains
test what they propose from it, and annealing begins at it. The better it is, the less they have to
do.

Source: Laplace's approximation (Tierney and Kadane, 1986), at several modes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.inference.infer import infer
from pcgen.inference.solvers import Method
from pcgen.model.energy import Terms
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.langevin import Layers
from pcgen.sampling.noise import SampleNoise

# Latents drawn from the prior; inference begins at those that predict a row's data best.
CANDIDATES = 2048
STARTS = 16
# Inference stops when it is as near to a mode as matters for a Gaussian around it.
STEPS = 60
TOLERANCE = 1e-4
# Ends nearer than this many standard deviations of the latent are one mode.
APART = 1.0
# Modes of a row that are kept, those of the largest weights. All modes together get an equal share
# of this much weight, because weights by Laplace's approximation can be far too small.
LARGEST = 8
EVEN = 0.1
# The factor s. With 0.5 and 0.7 the bounds of the likelihood have the same gap (12 images simulated
# from `mnist-sampler`), and with 1 a three times larger one.
WIDER = 0.6
# Rows whose starts go through inference at once.
_ROWS = 50


@dataclass(frozen=True, slots=True)
class Modes:
    """The Gaussians around the modes of B rows, J for each row.

    Attributes:
        log_weights_BJ: -inf where a row has fewer modes.
        centres: (B, J, D_l) of the errors from layer 1 upwards, and of the latent.
        roots_BJLL: P, lower triangular; the latent's precision is P P'.
        precisions: of the hidden errors, () or (D_l,).
    """

    log_weights_BJ: Tensor
    centres: Layers
    roots_BJLL: Tensor
    precisions: list[Tensor]

    def of(self, rows_B: Tensor) -> Modes:
        """Return the modes of these rows, for example one row for each chain."""
        centres = [centre[rows_B] for centre in self.centres]
        return Modes(self.log_weights_BJ[rows_B], centres, self.roots_BJLL[rows_B], self.precisions)

    def of_latents(self) -> Modes:
        """Return the modes of the latent alone, where there are no hidden errors."""
        return Modes(self.log_weights_BJ, self.centres[-1:], self.roots_BJLL, [])

    def around(self, chosen_B: Tensor) -> Around:
        """Return the Gaussian of one mode of each row."""
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

    def log_volume(self) -> Tensor:
        """Return log det C (B,)."""
        total_B = -self.roots_BLL.diagonal(dim1=1, dim2=2).log().sum(1)
        for centre, precision in zip(self.centres, self.precisions, strict=False):
            total_B = total_B - 0.5 * precision.log().expand(centre.shape[1]).sum()
        return total_B


def prior_starts(
    network: Network, data_BD: Tensor, mask_BD: Tensor | None, seed: int, count: int = STARTS
) -> Tensor:
    """Return latents (B, S, L) drawn from the prior and chosen by how well they predict the data.

    Each row's are drawn without replacement from the same candidates, in proportion to the
    likelihood of its data (Gumbel noise and a sort). So they also lie in modes that are less
    likely, as far as chains would be there.
    """
    like = [data_BD.new_empty(0, size) for size in network.sizes[1 : network.latent + 1]]
    noise = SampleNoise(seed, "starts", range(CANDIDATES), like)
    latents_NL = draw_states(network, noise)[network.latent]
    # The uniform numbers of that draw have chosen the components.
    noise.draw()
    gumbel_N = -(-noise.uniform_B.log()).log()
    drives_ND = network.drive(0, network.states_from(latents_NL))
    data, chosen = network.energies()[0], []
    for row in range(len(data_BD)):
        mask_ND = None if mask_BD is None else mask_BD[row].expand_as(drives_ND)
        energy_N = data.terms(data_BD[row].expand_as(drives_ND), drives_ND, mask_ND).energy_B
        chosen.append((gumbel_N - energy_N).topk(count).indices)
    return latents_NL[torch.stack(chosen)]


def find_modes(
    method: Method, data_BD: Tensor, mask_BD: Tensor | None, starts_BSL: Tensor
) -> Modes | None:
    """Return the Gaussians around the modes at which inference ends; None if C is not known.

    Args:
        method: the solver, prepared for the network.
        mask_BD: 1 visible, 0 hidden.
        starts_BSL: latents where inference begins.
    """
    network, parts = method.network, []
    for rows in torch.split(torch.arange(len(data_BD), device=data_BD.device), _ROWS):
        mask = None if mask_BD is None else mask_BD[rows]
        part = _ends(method, data_BD[rows], mask, starts_BSL[rows])
        if part is None:
            return None
        parts.append(part)
    weights, roots, *centres = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    precisions = [precision.exp() for precision in network.log_precisions[1 : network.depth]]
    return Modes(weights, centres, math.sqrt(WIDER) * roots, precisions)


def _ends(
    method: Method, data_BD: Tensor, mask_BD: Tensor | None, starts_BSL: Tensor
) -> tuple[Tensor, ...] | None:
    """Return the weights, roots and centres of the modes at which inference from the starts ends.

    They are (B, J), (B, J, L, L) and (B, J, D_l).
    """
    network, (rows, starts) = method.network, starts_BSL.shape[:2]
    data_ND = data_BD.repeat_interleave(starts, 0)
    mask_ND = None if mask_BD is None else mask_BD.repeat_interleave(starts, 0)
    end = infer(
        method,
        data_ND,
        steps=STEPS,
        tolerance=TOLERANCE,
        mask_BD=mask_ND,
        latent_BD=starts_BSL.flatten(0, 1),
    )
    terms = network.terms(end.states, mask_ND)
    curvature = method.certificate.latent_curvature(terms, mask_ND)
    if curvature is None:
        return None
    latent_NL = end.states[-1]
    precision_NLL = curvature.own_BLL + network.prior_precision(latent_NL)
    roots_NLL = torch.linalg.cholesky(precision_NLL)
    log_det_N = roots_NLL.diagonal(dim1=1, dim2=2).log().sum(1)
    evidence_BS = (-end.energy_B - log_det_N).view(rows, starts)
    order_BS = evidence_BS.argsort(1, descending=True)

    def ordered(tensor_N: Tensor) -> Tensor:
        picked = torch.arange(rows, device=order_BS.device)[:, None]
        return tensor_N.view(rows, starts, *tensor_N.shape[1:])[picked, order_BS]

    roots_BSLL, latent_BSL = ordered(roots_NLL), ordered(latent_NL)
    evidence_BS = ordered(evidence_BS.flatten())
    evidence_BS = evidence_BS.masked_fill(_repeated(latent_BSL, roots_BSLL), -math.inf)
    kept = evidence_BS.topk(min(LARGEST, starts), 1)
    place = torch.arange(rows, device=order_BS.device)[:, None], kept.indices
    exists_BJ = kept.values > -math.inf
    even_BJ = exists_BJ / exists_BJ.sum(1, keepdim=True)
    weights_BJ = (1 - EVEN) * kept.values.softmax(1) + EVEN * even_BJ
    errors = [ordered(error)[place] for error in hidden_errors(end.states, terms)]
    return weights_BJ.log(), roots_BSLL[place], *errors, latent_BSL[place]


def _repeated(latent_BSL: Tensor, roots_BSLL: Tensor) -> Tensor:
    """Return whether an earlier end of the row is the same mode (B, S)."""
    between_BSSL = latent_BSL[:, :, None] - latent_BSL[:, None]
    distance_BSS = (between_BSSL @ roots_BSLL).norm(dim=3)
    return (distance_BSS < APART).tril(-1).any(2)


def hidden_errors(states: list[Tensor], terms: list[Terms]) -> Layers:
    """Return the errors (B, D_l) of the layers between data and latent, from layer 1 upwards."""
    return [state - term.prediction_BD for state, term in zip(states[1:-1], terms[1:], strict=True)]
