"""Training a classifier: a baseline, by backpropagation or by local errors."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from pcgen.inference.solvers import prepare
from pcgen.inference.states import Inference
from pcgen.learning.gradients import weight_gradients
from pcgen.learning.optimiser import WeightSteps
from pcgen.learning.train import Batch, Learner
from pcgen.learning.validate import BATCH, Accuracy

# The standard deviation of a `normal` start of the states, as in Pinchetti et al. (2025).
_SPREAD = 0.1


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

    A few thousand held-out images hold too few errors to choose an epoch by; their label energy
    varies less. So it marks the best epoch. The units that drop out and the random states depend
    on the seed and the number of updates alone.

    Attributes:
        states: the predictive coding network that shares the classifier's weights.
    """

    criterion = "energy"
    network: Classifier

    def __init__(self, network: Classifier, recipe: Recipe) -> None:
        assert recipe.classifier is not None
        super().__init__(network, recipe)
        self.table = recipe.classifier
        self.weights = WeightSteps(network.weights(), recipe.learning)
        self.labels = torch.empty(0, dtype=torch.int64)
        self.states = network.network()

    def begin(self, images: Images, validation: Images | None) -> None:
        self.labels = labels_of(images)

    def learn(self, batch: Batch) -> tuple[float, float]:
        energy = right = math.nan
        for gradients, sums in self.gradients(batch):
            *gradients, sums = batch.sum([*gradients, sums])
            energy, right = sums.tolist()
            if not math.isfinite(energy):
                break
            self.weights.step(gradients, self.updates, self.updates_of_run(batch))
            if self.recipe.learning.max_norm:
                self.states.limit_norms(self.recipe.learning.max_norm)
            self.updates += 1
        return energy, right

    def gradients(self, batch: Batch) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield this process's part of the batch's mean gradients, and of two sums (2,).

        There is one for each update of the weights. The sums are the label energy in nats and the
        number of images whose label is the likeliest, both before the first update.
        """
        data_BD = batch.rows.pixels_BD[: len(batch.own)].to(self.weights.weights[0])
        labels_B = self.labels[batch.rows.index_B[: len(batch.own)]].to(data_BD.device)
        step = self._local if self.table.rule == "pc" else self._backprop
        for gradients, logits_BK in step(data_BD, labels_B, batch):
            energy = self.network.energies(logits_BK).gather(1, labels_B[:, None]).sum()
            right = (logits_BK.argmax(1) == labels_B).sum()
            yield gradients, torch.stack([energy.double(), right.double()])

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
            next(self.gradients(Batch(rows, index_B)))
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
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield the part of the batch's mean gradients, and the logits (B, K)."""
        weights = self.weights.weights
        with torch.enable_grad():
            for tensor in weights:
                tensor.requires_grad_()
            features_BF = self.network.features(data_BD)
            logits_BK = self.network.logits_of(features_BF * self._dropout(features_BF, batch))
            energy = self.network.energies(logits_BK).gather(1, labels_B[:, None]).sum()
            gradients = torch.autograd.grad(energy / len(batch), weights)
        for tensor in weights:
            tensor.requires_grad_(False)
        yield list(gradients), logits_BK.detach()

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
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield the part of the batch's mean local gradients, and the logits (B, K).

        The states are those of inference between the image and its label, or the nudged label. Of
        incremental predictive coding, each step's states are yielded; else the last step's.

        Source: Whittington and Bogacz (2017); nudging as in Pinchetti et al. (2025), where weights
        learn from the gradient divided by the strength, and a strength that has grown to 1 keeps
        its sign.
        """
        network, steps = self.states, self.recipe.steps_in(batch.epoch + 1)
        incremental = self.recipe.learning.incremental
        if not len(data_BD):
            nothing = [torch.zeros_like(tensor) for tensor in self.weights.weights]
            for _ in range(steps if incremental else 1):
                yield nothing, self.network.logits(data_BD)
            return
        states = network.states_from(self.network.inputs(data_BD))
        logits_BK = network.drive(0, states)
        label_BK = functional.one_hot(labels_B, self.network.classes).to(data_BD)
        strength = self.strength(batch.epoch)
        states[0] = torch.lerp(states[0], label_BK, strength)
        states[1:-1] = [self._started(i, x, batch) for i, x in enumerate(states[1:-1])]
        network.typical_latents[: len(data_BD)] = states[-1][: len(network.typical_latents)]
        method = prepare(network, self.recipe.inference, reduced=not incremental)
        inference = method.at(states, None, clamp_latent=True)
        share = len(data_BD) / len(batch) / strength
        for step in range(1, steps + 1):
            # States and weights move down the slopes of the same energy.
            upwards = self._upwards(inference, share) if incremental else []
            inference.step()
            if incremental:
                yield upwards, logits_BK
                if step < steps:
                    inference.refresh()
        if not incremental:
            yield self._upwards(inference, share), logits_BK

    def strength(self, epoch: int) -> float:
        """Return the strength of the nudging in an epoch, counted from 0; 1 without nudging."""
        table = self.table
        if table.nudging == "none":
            return 1.0
        away = table.nudging == "negative" or (table.nudging == "centred" and epoch % 2 == 1)
        return min(1.0, table.strength + table.growth * epoch) * (-1 if away else 1)

    def _started(self, layer: int, forward_BD: Tensor, batch: Batch) -> Tensor:
        """Return where a hidden layer's states start (B, D)."""
        if self.table.start == "forward":
            return forward_BD
        if self.table.start == "zero":
            return torch.zeros_like(forward_BD)
        source = generator(self.recipe.seed, "states", self.updates, layer)
        normal_BD = torch.randn(len(batch), forward_BD.shape[1], generator=source)
        return _SPREAD * normal_BD[batch.own.start : batch.own.stop].to(forward_BD)

    def _upwards(self, inference: Inference, share: float) -> list[Tensor]:
        """Return the local gradients times a factor, from the image upwards."""
        gradients = weight_gradients(inference.network, inference.states, inference.terms)
        # A layer's weight and bias stay together; the network's layers come from the label upwards.
        # Skip connections come last in both.
        paired = 2 * len(inference.network.layers)
        starts = [*reversed(range(0, paired, 2)), *range(paired, len(gradients), 2)]
        return [share * gradient for i in starts for gradient in gradients[i : i + 2]]


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
            energy = network.energies(logits_BK).gather(1, labels_B[:, None]).sum()
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
