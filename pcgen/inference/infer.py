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
        excess_bound_B: nats that each image's energy can still lose on its way to a stationary
            point; infinite where no bound is known, and without a tolerance.
        converged_B: whether that is at most the tolerance times the energy.
        steps_B: the gradient evaluations that each image took.
        start_energy_B: as `energy_B`, where the states started.

    Example:
        >>> import pcgen, torch
        >>> equilibrium = pcgen.infer(pcgen.Network([4, 16, 64]), torch.rand(10, 64))
        >>> [tuple(x_BD.shape) for x_BD in equilibrium.states]
        [(10, 64), (10, 16), (10, 4)]
    """

    states: list[Tensor]
    energy_B: Tensor
    excess_bound_B: Tensor
    converged_B: Tensor
    steps_B: Tensor
    start_energy_B: Tensor


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

    Each image stops on its own: when its energy is certainly within the tolerance (relative to the
    energy) of a stationary point's. `certificate` explains the bound.

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
    at_once = 0 if tolerance else steps
    inference = method.begin(data_BD, mask_BD, latent_BD, clamp_latent, labels_BK=labels_BK)
    batch = _Batch(inference, tolerance)
    for _ in range(at_once):
        inference.step()
    batch.steps_B += at_once
    for step in range(1, steps + 1 - at_once):
        batch.step(step)
        if not all_steps and step < steps and batch.stop():
            break
    if tolerance:
        batch.end()
    return batch.equilibrium(method.network.log_det(mask_BD))


class _Batch:
    """A batch whose images stop one by one. Only the moving ones stay in the inference.

    Attributes:
        index: the numbers of the images that are still in the inference.
        excess_B: the bound of each image's excess energy when it was last known.
        known_B: the energy of each image at which that was.
        converged_B: whether each image has converged.
        steps_B: the gradient evaluations of each image.
        start_energy_B: the energy of each image at the start.
        slack_B: how much larger an image's bound was than the energy that a step promised.
    """

    def __init__(self, inference: Inference, tolerance: float) -> None:
        """Begin with all images."""
        self.inference = inference
        self.tolerance = tolerance
        self.states = inference.states
        self.start_energy_B = self.energy_B = inference.energy_B
        self.index = torch.arange(len(self.energy_B), device=self.energy_B.device)
        self.excess_B = torch.full_like(self.energy_B, torch.inf)
        self.known_B = self.energy_B.clone()
        self.converged_B = torch.zeros_like(self.index, dtype=torch.bool)
        self.steps_B = torch.zeros_like(self.index)
        self.slack_B = torch.ones_like(self.energy_B)

    def step(self, number: int) -> None:
        """Take one step, and learn which of the images in the inference have converged by it."""
        inference = self.inference
        expected_B = inference.step()
        self.steps_B[self.index[~inference.frozen_B]] = number
        open_B = ~self.converged_B[self.index]
        refines = inference.refines_at(number)
        if not refines:
            promised_B = expected_B * self.slack_B[self.index]
            open_B &= promised_B <= self.tolerance * inference.energy_B.abs()
        self._check(open_B.nonzero()[:, 0], expected_B, refines)

    def stop(self) -> bool:
        """Stop the converged images; return whether all images have stopped."""
        inference = self.inference
        inference.frozen_B |= self.converged_B[self.index]
        moving = (~inference.frozen_B).nonzero()[:, 0]
        if len(moving) > SHRINK_AT * len(self.index):
            return False
        self._put_back()
        self.index = self.index[moving]
        if len(moving):
            inference.select(moving)
        return not len(moving)

    def end(self) -> None:
        """Find the bounds of the images that have not converged."""
        if len(self.index):
            moving = (~self.converged_B[self.index]).nonzero()[:, 0]
            self._check(moving, self.inference.energy_B, True)

    def equilibrium(self, log_det: Tensor) -> Equilibrium:
        """Return where the images are, with the energy's term of learned precisions added."""
        if len(self.index):
            self._put_back()
        excess_B = self.excess_B + (self.energy_B - self.known_B).clamp_min(0)
        converged_B = excess_B <= self.tolerance * self.energy_B.abs()
        return Equilibrium(
            self.states,
            self.energy_B + log_det,
            excess_B,
            converged_B & bool(self.tolerance),
            self.steps_B,
            self.start_energy_B + log_det,
        )

    def _check(self, images: Tensor, expected_B: Tensor, sharp: bool) -> None:
        """Find the bounds of these images of the inference."""
        if not len(images):
            return
        inference, index = self.inference, self.index[images]
        excess_B = inference.excess_bound(images, sharp)
        energy_B = inference.energy_B[images]
        self.excess_B[index], self.known_B[index] = excess_B, energy_B
        self.converged_B[index] = excess_B <= self.tolerance * energy_B.abs()
        slack_B = (excess_B / expected_B[images]).nan_to_num(1.0, torch.inf).clamp_min(1.0)
        self.slack_B[index] = slack_B

    def _put_back(self) -> None:
        """Copy the images of the inference to their places in the whole batch."""
        inference, index = self.inference, self.index
        if len(index) == len(self.energy_B):
            self.states, self.energy_B = inference.states, inference.energy_B
            return
        self.states = [
            self.states[0],
            *(
                whole.index_copy(0, index, moved)
                for whole, moved in zip(self.states[1:], inference.states[1:], strict=True)
            ),
        ]
        self.energy_B = self.energy_B.index_copy(0, index, inference.energy_B)
