"""Gaussians that are fitted to short chains around the modes.

Where a density is far from a Gaussian, a Gaussian around its mode is too narrow and in the wrong
place. Short chains show where the density is. With u their states and g the slopes of E_k there,

    A = mean of (J' C J) + the precision of component k
    centre = mean z - A^-1 mean g_z,   mean eps - mean g_eps / pi

The mean of g is 0 in equilibrium. Subtracting it makes the centre exact for a Gaussian, whatever
the states, and less noisy for others. This is the fixed point of a variational Gaussian (Opper and
Archambeau, 2009), with means over the density instead of over the Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcgen.inference.solvers import Method
from pcgen.sampling.langevin import Layers
from pcgen.sampling.laplace import laplace_modes
from pcgen.sampling.mode_chains import FIRST_STEP, ModeChains, adapted, square
from pcgen.sampling.modes import Modes, components
from pcgen.sampling.noise import SampleNoise

# The modes of a row that are fitted to chains, and the chains of each. They take so many steps; in
# the later half, every so many steps give a state.
SETTLED = 4
CHAINS = 2
STEPS = 120
THIN = 10
# Rows whose chains move at once.
_ROWS = 25
# Precisions are multiplied by this, because a density falls more slowly than a Gaussian far from
# its mode: around the modes that Newton steps found, and around those that chains moved.
WIDER = 0.6
SETTLED_WIDER = 0.8
# All modes together get an equal share of this much weight, because weights by a Gaussian can be
# far too small.
EVEN = 0.1
# For jumps: the modes that are fitted to chains, and those between which chains jump.
_SETTLED_FOR_JUMPS = 12
_LARGEST = 24


def find_modes(
    method: Method,
    data_BD: Tensor,
    mask_BD: Tensor | None,
    seed: int,
    *,
    starts_BSL: Tensor | None = None,
    held: bool = False,
    settled: int = SETTLED,
) -> Modes | None:
    """Return the Gaussians around the modes of each row; None if the curvature is not known.

    Args:
        method: a solver, prepared for the network.
        mask_BD: 1 visible, 0 hidden.
        starts_BSL: latents where the search begins, beside its own.
        held: the network is a plain decoder: hidden layers are their predictions, without noise.
        settled: modes of a row that are fitted to chains, those of the largest weights.
    """
    modes = laplace_modes(method, data_BD, mask_BD, seed, starts_BSL)
    if modes is None:
        return None
    modes = modes.of_latents() if held else modes
    modes = replace(modes, roots_BJLL=math.sqrt(WIDER) * modes.roots_BJLL)
    for rows in torch.split(torch.arange(len(data_BD), device=data_BD.device), _ROWS):
        _settle(method, data_BD, mask_BD, modes, rows, settled, seed)
    evidence_BJ = modes.log_weights_BJ
    exists_BJ = evidence_BJ > -math.inf
    even_BJ = exists_BJ / exists_BJ.sum(1, keepdim=True)
    weights_BJ = (1 - EVEN) * evidence_BJ.softmax(1) + EVEN * even_BJ
    order_BJ = weights_BJ.argsort(dim=1, descending=True)
    return replace(modes, log_weights_BJ=weights_BJ.log()).ordered(order_BJ)


def modes_for_jumps(
    method: Method,
    data_BD: Tensor,
    mask_BD: Tensor | None,
    seed: int,
    chains: int,
    starts_BSL: Tensor | None = None,
) -> Modes | None:
    """Return the modes between which each of `chains` chains a row jumps (`Chains.jump`)."""
    modes = find_modes(
        method, data_BD, mask_BD, seed, starts_BSL=starts_BSL, settled=_SETTLED_FOR_JUMPS
    )
    every = torch.arange(len(data_BD), device=data_BD.device).repeat_interleave(chains)
    return None if modes is None else modes.largest(_LARGEST).of(every)


@dataclass(frozen=True, slots=True)
class _States:
    """States of chains after they have settled, S for each chain of a mode (N modes).

    Attributes:
        errors: (N, S, D_l) of layer 1 upwards, then the latent.
        slopes: of the energy there, (N, S, D_l).
        curvature_NLL: mean J' C J.
        energy_NS: E_k(u) - log r_j(z).
    """

    errors: Layers
    slopes: Layers
    curvature_NLL: Tensor
    energy_NS: Tensor


def _settle(
    method: Method,
    data_BD: Tensor,
    mask_BD: Tensor | None,
    modes: Modes,
    rows_R: Tensor,
    settled: int,
    seed: int,
) -> None:
    """Fit the Gaussians of the largest weights of these rows to chains, in place."""
    exists_RJ = modes.log_weights_BJ[rows_R, :settled] > -math.inf
    place_N, number_N = exists_RJ.nonzero(as_tuple=True)
    row_N = rows_R[place_N]
    streams_NC = (row_N * settled + number_N)[:, None] * CHAINS + torch.arange(CHAINS).to(row_N)
    like = [centre.new_empty(0, centre.shape[2]) for centre in modes.centres]
    noise = SampleNoise(seed, "settling", streams_NC.flatten(), like)
    states = _states(method, data_BD, mask_BD, modes, row_N, number_N, noise)
    prior_NLL = components(method.network).roots_KLL[modes.components_BJ[row_N, number_N]]
    roots_NLL = torch.linalg.cholesky(states.curvature_NLL + prior_NLL @ prior_NLL.mT)
    wider_NLL = math.sqrt(SETTLED_WIDER) * roots_NLL
    modes.roots_BJLL[row_N, number_N] = wider_NLL
    *hidden, latent_NL = (slope_NSX.mean(1) for slope_NSX in states.slopes)
    moves = [slope / precision for slope, precision in zip(hidden, modes.precisions, strict=True)]
    moves.append(torch.cholesky_solve(latent_NL[..., None], roots_NLL)[..., 0])
    for centre_BJX, error_NSX, move_NX in zip(modes.centres, states.errors, moves, strict=True):
        centre_BJX[row_N, number_N] = error_NSX.mean(1) - move_NX
    around = modes.around(number_N, row_N)
    evidence_NS = torch.stack(
        [
            square(torch.cat(around.whitened([error[:, i] for error in states.errors]), 1))
            for i in range(states.energy_NS.shape[1])
        ],
        1,
    )
    evidence_NS -= states.energy_NS
    log_det_N = wider_NLL.diagonal(dim1=1, dim2=2).log().sum(1)
    modes.log_weights_BJ[row_N, number_N] = evidence_NS.mean(1) - log_det_N


def _states(
    method: Method,
    data_BD: Tensor,
    mask_BD: Tensor | None,
    modes: Modes,
    row_N: Tensor,
    number_N: Tensor,
    noise: SampleNoise,
) -> _States:
    """Return states of chains that begin at draws from the Gaussians of these rows' modes."""
    row_C, number_C = (numbers.repeat_interleave(CHAINS) for numbers in (row_N, number_N))
    own, numbers_CW = modes.within(row_C, modes.components_BJ[row_C, number_C])
    mode_C = (numbers_CW == number_C[:, None]).byte().argmax(1)
    mask = None if mask_BD is None else mask_BD[row_C]
    chains = ModeChains(method.network, data_BD[row_C], mask, own, mode_C, noise.draw(), noise)
    step_C1 = torch.full_like(chains.energy_B, FIRST_STEP)[:, None]
    errors, slopes, curvatures, energies = [], [], [], []
    for number in range(1, STEPS + 1):
        chains.move(1.0, step_C1)
        chains.refresh(step_C1)
        step_C1 = adapted(step_C1, chains.probable_B[:, None])
        if number > STEPS // 2 and number % THIN == 0:
            errors.append(chains.point())
            slopes.append(chains.slopes())
            curvature = method.certificate.latent_curvature(chains.terms(errors[-1])[1], mask)
            assert curvature is not None
            curvatures.append(curvature.own_BLL)
            energies.append(chains.energy_B)

    def by_mode(tensors: Sequence[Tensor]) -> Tensor:
        """Return (N, S, ..) from one tensor (C, ..) for each time."""
        return torch.stack(list(tensors), 1).reshape(len(row_N), -1, *tensors[0].shape[1:])

    return _States(
        [by_mode(layer) for layer in zip(*errors, strict=True)],
        [by_mode(layer) for layer in zip(*slopes, strict=True)],
        by_mode(curvatures).mean(1),
        by_mode(energies),
    )
