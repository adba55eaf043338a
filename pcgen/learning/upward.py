"""Learning the predictions upwards: from a batch's data to its latents and labels, both clamped.

The hidden units of the chain settle between the data below and the latent and label above, and each
weight learns from the error of its own layer. The downward chain finds the latents: predictions
upwards learn from its states, as in the wake phase of a Helmholtz machine (Dayan et al., 1995).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.config import Recipe
from pcgen.device import generator
from pcgen.inference.directions import Conjugate
from pcgen.inference.errors import ErrorInference
from pcgen.inference.solvers import Method
from pcgen.learning.gradients import weight_gradients
from pcgen.learning.optimiser import WeightSteps
from pcgen.learning.train import Batch
from pcgen.model.upward import Upward, visible_share

# At the default hidden precision, 100, the gradient after one step has a cosine of 1.0000 with that
# of the equilibrium (250 images, `mnist-both-ways`; 0.95 without a step).
_STEPS = 1
# How much the latent's errors count beside the label's in what the hidden units learn. At 1, the
# latents take most of these units: on 5,000 held-out training images of MNIST 96 % of the labels
# are then right, and 97 % at 0.02 to 0.1. The latents' errors are a fifth larger at 0.02.
_LATENT_SHARE = 0.03
# The share of the old value in the running mean of the latent's squared errors, after each batch.
_DECAY = 0.99
# The smallest variance of the latent's errors.
_LEAST_VARIANCE = 1e-6


class UpwardLearning:
    """Steps the weights of an upward chain, and the precisions of its errors of the latent."""

    def __init__(self, upward: Upward, recipe: Recipe) -> None:
        self.upward = upward
        self.recipe = recipe
        self.weights = WeightSteps(upward.weights(), recipe.learning, "upward_optimiser")

    def learn(
        self, batch: Batch, data_BD: Tensor, latent_BL: Tensor, update: int, total: int
    ) -> None:
        """Take one step by the batch's latents and labels.

        Args:
            data_BD: this process's rows, as `latent_BL`, the states of their latents.
            update: number of the last update of the weights, from 0; `total` of the whole run.
        """
        upward, own = self.upward, len(batch.own)
        labels_B = batch.rows.labels_B
        assert labels_B is not None
        labels_BK = functional.one_hot(labels_B, upward.classes).to(latent_BL)
        mask_BD = self._mask(data_BD, batch, update)
        inputs_BD = upward.input(data_BD, mask_BD)
        learner = self._learner()
        method = Method(learner, ErrorInference, lambda: Conjugate(self._scaled))
        top_BD = torch.cat([latent_BL, labels_BK], 1)
        inference = method.begin(top_BD, latent_BD=inputs_BD, clamp_latent=True)
        # Hidden units begin at their predictions.
        predicted_BL = inference.terms[0].prediction_BD[:, : upward.latents]
        for _ in range(_STEPS):
            inference.step()
        gradients = weight_gradients(learner, inference.states, inference.terms)
        squared_BL = (latent_BL - predicted_BL).square()
        if mask_BD is not None:
            squared_BL = squared_BL * visible_share(mask_BD)
        squared_L = squared_BL[:own].sum(0) / len(batch)
        share = own / len(batch)
        *gradients, squared_L = batch.sum([*(g * share for g in gradients), squared_L])
        self.weights.step(gradients, update, total)
        old_L = (-upward.log_precisions[0]).exp()
        mean_L = torch.lerp(squared_L, old_L, _DECAY).clamp_min(_LEAST_VARIANCE)
        upward.log_precisions[0].copy_(-mean_L.log())

    def _learner(self) -> Upward:
        """Return the chain, weights shared, with less precision of the latent's errors."""
        upward = self.upward
        scaled_L = upward.log_precisions[0] + math.log(_LATENT_SHARE)
        return upward.of(upward.table, upward.layers, [scaled_L, *upward.log_precisions[1:]])

    def tensors(self) -> dict[str, Tensor]:
        """Return what the optimiser remembers, by name."""
        return self.weights.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors()` returned."""
        self.weights.load(tensors)

    def _scaled(self, slopes: list[Tensor], _: object) -> list[Tensor]:
        """Return slopes divided by the precisions, which are most of the errors' curvature."""
        return [slope / self.recipe.model.precision.upward for slope in slopes]

    def _mask(self, data_BD: Tensor, batch: Batch, update: int) -> Tensor | None:
        """Return 1 for visible data, 0 for hidden; every other image has hidden ones on average."""
        largest = self.recipe.learning.hide
        if not largest:
            return None
        source = generator(self.recipe.seed, "hide", update)
        chosen_B1, share_B1 = torch.rand(2, len(batch), 1, generator=source)
        hidden_B1 = torch.where(chosen_B1 < 0.5, largest * share_B1, 0.0)
        mask_BD = torch.rand(len(batch), data_BD.shape[1], generator=source) >= hidden_B1
        own = batch.own
        mine = slice(own.start, own.stop) if own else slice(1)
        return mask_BD[mine].to(data_BD)
