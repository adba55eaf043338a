"""The loop of inference: states move until their energy is least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.inference.solvers import Method
from pcgen.inference.states import Inference

# Once no more of the images than this share still move, only they are carried on.
_SHRINK = 0.8


@dataclass(slots=True)
class Equilibrium:
    """Where inference ended.

    Attributes:
        states: of every layer, data first (B, D_l).
        energy_B: nats per image, prior and log-det included.
        converged_B: which images met the tolerance.
        steps_B: gradient evaluations that each image took.
    """

    states: list[Tensor]
    energy_B: Tensor
    converged_B: Tensor
    steps_B: Tensor


def infer(
    method: Method,
    data_BD: Tensor,
    *,
    steps: int,
    tolerance: float = 0.0,
    mask_BD: Tensor | None = None,
    latent_BD: Tensor | None = None,
    clamp_latent: bool = False,
    labels_BK: Tensor | None = None,
    all_steps: bool = False,
) -> Equilibrium:
    """Return the states of least energy with the data clamped.

    Every image takes its own path: it stops when one step changed its energy by less than the
    tolerance (relative) *and* the slope promises less than that, whatever the images beside it do.

    Args:
        method: from `solvers.prepare`.
        data_BD: the data layer; values under a 0 of the mask are never looked at.
        steps: gradient evaluations at most.
        tolerance: of the stop; 0 takes all steps.
        mask_BD: 1 visible, 0 hidden. Hidden data is dropped from the energy, which is exact: at the
            minimum a free unit equals its prediction.
        latent_BD: where the latent starts, if not where the model's own start says.
        clamp_latent: keep the latent where it starts.
        labels_BK: one-hot classes, which stay; of a network with a label layer. Free if not given.
        all_steps: every image takes all steps, and the tolerance only says which are at rest then.
            Rounding, which depends on the batch, moves the step at which an image stops; where
            that shows in what is asked of the states, nothing may depend on it.
    """
    network = method.network
    still = clamp_latent and network.depth == 1
    at_once = 0 if tolerance or still else steps
    inference = method.begin(data_BD, mask_BD, latent_BD, clamp_latent, at_once, labels_BK)
    count = len(data_BD)
    steps_B = torch.zeros(count, dtype=torch.long, device=data_BD.device)
    converged_B = torch.zeros(count, dtype=torch.bool, device=data_BD.device)
    states = inference.states
    energy_B = inference.energy_B
    index = torch.arange(count, device=data_BD.device)
    if not tolerance:
        steps_B += at_once
        energy_B = inference.energy_B + network.log_det(mask_BD)
        return Equilibrium(inference.states, energy_B, converged_B, steps_B)
    for step in range(1, 1 if still else steps + 1):
        before_B = inference.energy_B
        expected_B = inference.step()
        steps_B[index[~inference.frozen_B]] = step
        if step == steps and not all_steps:
            continue
        allowed_B = tolerance * inference.energy_B.abs()
        change_B = before_B - inference.energy_B
        finite_B = inference.energy_B.isfinite()
        done_B = finite_B & (change_B.abs() <= allowed_B) & (expected_B <= allowed_B)
        if all_steps:
            converged_B = done_B
            continue
        inference.frozen_B |= done_B
        left = int((~inference.frozen_B).sum())
        if left <= _SHRINK * len(index):
            states, energy_B = _gather(states, energy_B, inference, index)
            converged_B[index] = inference.frozen_B
            if left == 0:
                return Equilibrium(
                    states, energy_B + network.log_det(mask_BD), converged_B, steps_B
                )
            moving = (~inference.frozen_B).nonzero().squeeze(1)
            index = index[moving]
            inference.select(moving)
    states, energy_B = _gather(states, energy_B, inference, index)
    converged_B[index] |= inference.frozen_B
    return Equilibrium(states, energy_B + network.log_det(mask_BD), converged_B, steps_B)


def _gather(
    states: list[Tensor], energy_B: Tensor, inference: Inference, index: Tensor
) -> tuple[list[Tensor], Tensor]:
    """Put the states of the images still in hand back among the batch's."""
    if len(index) == len(energy_B):
        return inference.states, inference.energy_B
    gathered = [
        whole.index_copy(0, index, part)
        for whole, part in zip(states, inference.states, strict=True)
    ]
    return gathered, energy_B.index_copy(0, index, inference.energy_B)
