"""Training a classifier: a baseline, by backpropagation or by local errors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.classification.network import Classifier, build_classifier, tensor_size
from pcgen.config import Recipe
from pcgen.data.images import Images, Rows
from pcgen.device import generator, require_memory
from pcgen.distributed import Group
from pcgen.errors import DataError, is_out_of_memory
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.gradients import weight_gradients
from pcgen.learning.optimiser import WeightSteps
from pcgen.learning.train import Batch, Learner
from pcgen.learning.validate import BATCH, Accuracy


def initial_classifier(recipe: Recipe, images: Images, validation: Images | None) -> Classifier:
    """Return a new classifier of the classes of the images and of those held out.

    Raises:
        DataError: images without labels, or of a single class.
        RecipeError: a classifier that these images do not fit.
    """
    labels = torch.cat([labels_of(part) for part in (images, validation) if part is not None])
    classes = max(len(images.classes or ()), int(labels.max()) + 1)
    if classes < 2:
        raise DataError(
            f"{images.source}: images of a single class, and one class cannot be told apart"
        )
    assert recipe.classifier is not None
    require_memory(tensor_size(recipe.classifier, images.shape, classes))
    weights = generator(recipe.seed, "weights")
    return build_classifier(recipe.classifier, images.shape, classes, weights)


class ClassifierLearner(Learner):
    """Learns classes, by backpropagation or by the local errors of predictive coding.

    A few thousand held-out images hold too few errors to choose an epoch by; their cross entropy,
    the energy, varies less. So it marks the best epoch. The units that drop out depend on the seed
    and the number of updates alone.
    """

    criterion = "energy"
    network: Classifier

    def __init__(self, network: Classifier, recipe: Recipe) -> None:
        assert recipe.classifier is not None
        super().__init__(network, recipe)
        self.table = recipe.classifier
        self.weights = WeightSteps(network.weights(), recipe.learning)
        self.labels = torch.empty(0, dtype=torch.int64)

    def begin(self, images: Images, validation: Images | None) -> None:
        self.labels = labels_of(images)

    def learn(self, batch: Batch) -> tuple[float, float]:
        gradients, sums = self.gradients(batch)
        *gradients, sums = batch.sum([*gradients, sums])
        energy, right = sums.tolist()
        if math.isfinite(energy):
            self.weights.step(gradients, self.updates, batch.batches)
            self.updates += 1
        return energy, right

    def gradients(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Return this process's part of the batch's mean gradients, and of two sums (2,).

        The sums are the energy in nats and the number of images whose label is the likeliest.
        """
        data_BD = batch.rows.pixels_BD[: len(batch.own)].to(self.weights.weights[0])
        labels_B = self.labels[batch.rows.index_B[: len(batch.own)]].to(data_BD.device)
        step = self._local if self.table.rule == "pc" else self._backprop
        gradients, logits_BK = step(data_BD, labels_B, batch)
        energy = functional.cross_entropy(logits_BK, labels_B, reduction="sum").double()
        right = (logits_BK.argmax(1) == labels_B).sum()
        return gradients, torch.stack([energy, right.double()])

    def described(
        self, second: float, images: Images | None, group: Group | None
    ) -> dict[str, Any]:
        if images is None:
            return {"accuracy": second}
        return {"accuracy": second, "labelled": accuracy(self.network, images, group)}

    def fits(self, data_BD: Tensor) -> bool:
        self.weights.release()
        index_B = torch.zeros(len(data_BD), dtype=torch.int64)
        rows = Rows(data_BD, ["ok"] * len(data_BD), [""] * len(data_BD), index_B)
        try:
            self.gradients(Batch(rows, index_B))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), **self.weights.tensors()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        self.weights.load(tensors)

    def _backprop(
        self, data_BD: Tensor, labels_B: Tensor, batch: Batch
    ) -> tuple[list[Tensor], Tensor]:
        """Return the part of the batch's mean gradients, and the logits (B, K)."""
        weights = self.weights.weights
        with torch.enable_grad():
            for tensor in weights:
                tensor.requires_grad_()
            features_BF = self.network.features(data_BD)
            logits_BK = self.network.logits_of(features_BF * self._dropout(features_BF, batch))
            energy = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
            gradients = torch.autograd.grad(energy / len(batch), weights)
        for tensor in weights:
            tensor.requires_grad_(False)
        return list(gradients), logits_BK.detach()

    def _dropout(self, features_BF: Tensor, batch: Batch) -> Tensor:
        """Return 0 for units that drop out, else the factor that keeps the mean."""
        share = self.table.dropout
        if not share:
            return features_BF.new_ones(())
        source = generator(self.recipe.seed, "dropout", self.updates)
        random_BF = torch.rand(len(batch), features_BF.shape[1], generator=source)
        kept_BF = (random_BF >= share) / (1 - share)
        return kept_BF[batch.own.start : batch.own.stop].to(features_BF)

    def _local(
        self, data_BD: Tensor, labels_B: Tensor, batch: Batch
    ) -> tuple[list[Tensor], Tensor]:
        """Return the part of the batch's mean local gradients, and the logits (B, K).

        The states are at the equilibrium between the image and its label.

        Source: Whittington and Bogacz (2017), with a categorical label layer, and inference by the
        recipe's solver from the feedforward states.
        """
        logits_BK = self.network.logits(data_BD)
        if not len(data_BD):
            return [torch.zeros_like(tensor) for tensor in self.weights.weights], logits_BK
        network = self.network.network()
        network.typical_latents[: len(data_BD)] = data_BD[: len(network.typical_latents)]
        method = prepare(network, self.recipe.inference)
        label_BK = functional.one_hot(labels_B, self.network.classes).to(data_BD)
        steps = self.recipe.steps_in(batch.epoch + 1)
        equilibrium = infer(method, label_BK, steps=steps, latent_BD=data_BD, clamp_latent=True)
        terms = network.terms(equilibrium.states)
        pairs = weight_gradients(network, equilibrium.states, terms)
        # A layer's weight and bias stay together; the network's layers come from the label upwards.
        upwards = [
            gradient * (len(data_BD) / len(batch))
            for first in reversed(range(0, len(pairs), 2))
            for gradient in pairs[first : first + 2]
        ]
        return upwards, logits_BK


def accuracy(network: Classifier, images: Images, group: Group | None = None) -> Accuracy:
    """Return the means over all readable images; the processes of a group share the work."""
    labels = labels_of(images)
    device = network.weights()[0].device
    sums = torch.zeros(3, dtype=torch.float64)
    mine = range(len(images)) if group is None else group.share(len(images))
    with torch.no_grad():
        for first in range(mine.start, mine.stop, BATCH):
            rows = images.rows(range(first, min(first + BATCH, mine.stop)))
            logits_BK = network.logits(rows.pixels_BD[rows.ok].to(device)).cpu()
            labels_B = labels[rows.index_B[rows.ok]]
            energy = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
            right = (logits_BK.argmax(1) == labels_B).sum()
            sums += torch.tensor([energy.item(), right.item(), len(labels_B)], dtype=torch.float64)
    if group is not None:
        (sums,) = group.sum([sums])
    energy_sum, right_sum, count = sums.tolist()
    share = right_sum / count if count else math.nan
    return Accuracy(int(count), energy_sum / count if count else math.nan, share, 1 - share)


def labels_of(images: Images) -> Tensor:
    if images.labels is None:
        raise DataError(
            f"{images.source}: has no labels, which a classifier learns from",
            "Sort the pictures into a folder for each class, use labelled IDX or .npz, or name a "
            "table's column of labels: --set data.labels=NAME",
        )
    return images.labels
