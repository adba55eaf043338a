"""The loop of inference: the states move until their energy is least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.inference.solvers import Method
from pcgen.inference.states import Inference

# When at most this share of the images still moves, the others are taken out of the batch. Taking
# them out copies all states, so it is not done after every step.
SHRINK_AT = 0.8


@dataclass(slots=True)
class Equilibrium:
    """The states at which inference ended.

    Attributes:
        states: (B, D_l) of every layer, data first.
        energy_B: nats per image, with the prior and the term of learned precisions.
        converged_B: whether each image met the tolerance.
        steps_B: the gradient evaluations that each image took.
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

    Each image stops on its own: when one step changed its energy by less than the tolerance
    (relative to the energy) and the gradient promises no larger change.

    Args:
        method: the solver, from `solvers.prepare`.
        data_BD: the data layer. Values where the mask is 0 are not used.
        steps: the most gradient evaluations.
        tolerance: when an image stops; 0 takes all steps.
        mask_BD: 1 visible, 0 hidden. Hidden data are dropped from the energy, which is exact: at
            the minimum a free unit equals its prediction.
        latent_BD: where the latent starts; where the model's own start says, if not given.
        clamp_latent: keep the latent where it starts.
        labels_BK: one-hot classes to clamp, for a network with a label layer; free if not given.
        all_steps: take all steps with every image, and use the tolerance only to say which images
            have converged. The step at which an image stops depends on rounding, and rounding on
            the batch; scores that must not depend on the batch use this.
    """
    cannot_move = clamp_latent and method.network.depth == 1
    at_once = 0 if tolerance or cannot_move else steps
    inference = method.begin(data_BD, mask_BD, latent_BD, clamp_latent, at_once, labels_BK)
    batch = _Batch(inference)
    if at_once:
        batch.steps_B += at_once
    elif tolerance and not cannot_move:
        for step in range(1, steps + 1):
            resting_B = batch.step(step, tolerance)
            if all_steps:
                batch.converged_B = resting_B
            elif step < steps and batch.stop(resting_B):
                break
    return batch.equilibrium(method.network.log_det(mask_BD))


class _Batch:
    """A batch whose images stop one by one. Only the moving ones stay in the inference.

    Attributes:
        index: the numbers of the images that are still in the inference.
        converged_B: whether each image has stopped.
        steps_B: the gradient evaluations of each image.
    """

    def __init__(self, inference: Inference) -> None:
        """Begin with all images."""
        self.inference = inference
        self.states = inference.states
        self.energy_B = inference.energy_B
        self.index = torch.arange(len(self.energy_B), device=self.energy_B.device)
        self.converged_B = torch.zeros_like(self.index, dtype=torch.bool)
        self.steps_B = torch.zeros_like(self.index)

    def step(self, number: int, tolerance: float) -> Tensor:
        """Take one step; return which of the images in the inference are at rest by now."""
        inference = self.inference
        before_B = inference.energy_B
        expected_B = inference.step()
        self.steps_B[self.index[~inference.frozen_B]] = number
        allowed_B = tolerance * inference.energy_B.abs()
        change_B = before_B - inference.energy_B
        finite_B = inference.energy_B.isfinite()
        return finite_B & (change_B.abs() <= allowed_B) & (expected_B <= allowed_B)

    def stop(self, resting_B: Tensor) -> bool:
        """Stop these images; return whether all images have stopped."""
        inference = self.inference
        inference.frozen_B |= resting_B
        moving = (~inference.frozen_B).nonzero().squeeze(1)
        if len(moving) > SHRINK_AT * len(self.index):
            return False
        self._put_back()
        self.index = self.index[moving]
        if len(moving):
            inference.select(moving)
        return not len(moving)

    def equilibrium(self, log_det: Tensor) -> Equilibrium:
        """Return where the images are, with the energy's term of learned precisions added."""
        if len(self.index):
            self._put_back()
        return Equilibrium(self.states, self.energy_B + log_det, self.converged_B, self.steps_B)

    def _put_back(self) -> None:
        """Copy the images of the inference to their places in the whole batch."""
        inference, index = self.inference, self.index
        self.converged_B[index] |= inference.frozen_B
        if len(index) == len(self.energy_B):
            self.states, self.energy_B = inference.states, inference.energy_B
            return
        self.states = [
            whole.index_copy(0, index, moved)
            for whole, moved in zip(self.states, inference.states, strict=True)
        ]
        self.energy_B = self.energy_B.index_copy(0, index, inference.energy_B)
