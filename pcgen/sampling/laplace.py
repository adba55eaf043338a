"""The modes of the states given data, by Newton steps in each component of the prior.

    A_j = J' C J + the precision of component k_j,   log w_j = -E_k(u_j) - 1/2 log det A_j

J is the slope of the data's drive in the latent, C the curvature of the data's energy in the drive.
Where data are hidden, C is 0.

Source: Laplace's approximation (Tierney and Kadane, 1986), at several modes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcgen.inference.coordinates import determined_states, error_slopes
from pcgen.inference.solvers import Method
from pcgen.model.energy import Terms
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.langevin import Layers
from pcgen.sampling.modes import Modes, component_terms, components
from pcgen.sampling.noise import SampleNoise

# Latents drawn from a prior without a mixture; steps begin at those that predict a row's data best.
CANDIDATES = 2048
STARTS = 16
# Newton steps to a mode. The curvature is computed again after so many of them.
STEPS = 20
REFINE_EVERY = 4
# Modes of one component nearer than this many standard deviations of the latent are one mode.
APART = 1.0
# Rows of which all starts take their steps at once.
_ROWS = 10


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


def laplace_modes(
    method: Method,
    data_BD: Tensor,
    mask_BD: Tensor | None,
    seed: int,
    starts_BSL: Tensor | None = None,
) -> Modes | None:
    """Return the Gaussians around the modes; None if C is not known.

    Newton steps begin at the mean of each component of the prior; if it has only one, at draws that
    predict the data.

    Args:
        method: the solver, prepared for the network.
        mask_BD: 1 visible, 0 hidden.
        starts_BSL: more latents where steps begin.
    """
    network, prior = method.network, components(method.network)
    count, parts = len(prior.means_KL), []
    for rows in torch.split(torch.arange(len(data_BD), device=data_BD.device), _ROWS):
        mask = None if mask_BD is None else mask_BD[rows]
        if count > 1:
            starts = prior.means_KL.expand(len(rows), -1, -1)
            component_BS = torch.arange(count, device=rows.device).expand(len(rows), -1)
        else:
            starts = prior_starts(network, data_BD[rows], mask, seed)
            component_BS = torch.zeros_like(starts[:, :, 0], dtype=torch.long)
        if starts_BSL is not None:
            more_BSL = starts_BSL[rows]
            nearest_BS = prior.log_joint(more_BSL.flatten(0, 1)).argmax(1).view(len(rows), -1)
            starts = torch.cat([starts, more_BSL], 1)
            component_BS = torch.cat([component_BS, nearest_BS], 1)
        part = _ends(method, data_BD[rows], mask, starts, component_BS)
        if part is None:
            return None
        parts.append(part)
    weights, component, roots, *centres = (torch.cat(t) for t in zip(*parts, strict=True))
    precisions = [precision.exp() for precision in network.log_precisions[1 : network.depth]]
    return Modes(weights, component, centres, roots, precisions)


def _ends(
    method: Method,
    data_BD: Tensor,
    mask_BD: Tensor | None,
    starts_BSL: Tensor,
    component_BS: Tensor,
) -> tuple[Tensor, ...] | None:
    """Return the weights, components, roots and centres of the modes that the starts lead to.

    They are (B, J), (B, J), (B, J, L, L) and (B, J, D_l).
    """
    rows, starts = component_BS.shape
    end = _descend(
        method,
        data_BD.repeat_interleave(starts, 0),
        None if mask_BD is None else mask_BD.repeat_interleave(starts, 0),
        starts_BSL.flatten(0, 1),
        component_BS.flatten(),
    )
    if end is None:
        return None
    errors, energy_N, roots_NLL = end
    log_det_N = roots_NLL.diagonal(dim1=1, dim2=2).log().sum(1)
    evidence_BS, order_BS = (-energy_N - log_det_N).view(rows, starts).sort(1, descending=True)
    picked = torch.arange(rows, device=order_BS.device)[:, None]

    def ordered(tensor_N: Tensor) -> Tensor:
        return tensor_N.view(rows, starts, *tensor_N.shape[1:])[picked, order_BS]

    roots_BSLL, latent_BSL = ordered(roots_NLL), ordered(errors[-1])
    component_BS = component_BS.gather(1, order_BS)
    repeated_BS = _repeated(latent_BSL, roots_BSLL, component_BS)
    kept_BS, place_BS = evidence_BS.masked_fill(repeated_BS, -math.inf).sort(1, descending=True)
    hidden = [ordered(error)[picked, place_BS] for error in errors[:-1]]
    return (
        kept_BS,
        component_BS.gather(1, place_BS),
        roots_BSLL[picked, place_BS],
        *hidden,
        latent_BSL[picked, place_BS],
    )


def _descend(
    method: Method,
    data_BD: Tensor,
    mask_BD: Tensor | None,
    latent_BL: Tensor,
    component_B: Tensor,
) -> tuple[Layers, Tensor, Tensor] | None:
    """Return where each row's E_k is least: errors and latent (B, D_l), energy (B,), root of A.

    Every step is Newton's in the latent, and one of length 1 / pi in the hidden errors. A row whose
    energy would rise stays, and its next step is half as long.
    """
    network, prior = method.network, components(method.network)
    precision_BLL = prior.roots_KLL[component_B] @ prior.roots_KLL[component_B].mT
    precisions = [precision.exp() for precision in network.log_precisions[1 : network.depth]]
    sizes = network.sizes[1 : network.depth]
    here = [*(latent_BL.new_zeros(len(latent_BL), size) for size in sizes), latent_BL]

    def evaluate(errors: Layers) -> tuple[Tensor, Layers, list[Terms]]:
        _, terms = determined_states(network, data_BD, errors[-1], errors[:-1], mask_BD)
        energy_B, pull_BL = component_terms(prior, errors[-1], component_B)
        for term in terms:
            energy_B = energy_B + term.energy_B
        return energy_B, error_slopes(network, terms, pull_BL, network.depth), terms

    energy_B, slopes, _ = evaluate(here)
    length_B = torch.ones_like(energy_B)
    for step in range(STEPS + 1):
        if step % REFINE_EVERY == 0:
            curvature = method.certificate.latent_curvature(evaluate(here)[2], mask_BD)
            if curvature is None:
                return None
            roots_BLL = torch.linalg.cholesky(curvature.own_BLL + precision_BLL)
        if step == STEPS:
            break
        moves = [slope / precision for slope, precision in zip(slopes, precisions, strict=False)]
        moves.append(torch.cholesky_solve(slopes[-1][:, :, None], roots_BLL)[:, :, 0])
        there = [x - length_B[:, None] * move for x, move in zip(here, moves, strict=True)]
        new_B, new_slopes, _ = evaluate(there)
        falls_B = new_B < energy_B
        here, slopes = (
            [torch.where(falls_B[:, None], a, b) for a, b in zip(new, old, strict=True)]
            for new, old in ((there, here), (new_slopes, slopes))
        )
        energy_B = torch.where(falls_B, new_B, energy_B)
        length_B = torch.where(falls_B, (2 * length_B).clamp_max(1), 0.5 * length_B)
    return here, energy_B, roots_BLL


def _repeated(latent_BSL: Tensor, roots_BSLL: Tensor, component_BS: Tensor) -> Tensor:
    """Return whether an earlier end of the row is the same mode of the same component (B, S)."""
    between_BSSL = latent_BSL[:, :, None] - latent_BSL[:, None]
    distance_BSS = (between_BSSL @ roots_BSLL).norm(dim=3)
    same_BSS = component_BS[:, :, None] == component_BS[:, None]
    return (same_BSS & (distance_BSS < APART)).tril(-1).any(2)
