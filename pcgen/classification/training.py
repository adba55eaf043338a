"""Training a classifier: a baseline, by backpropagation or by local errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.classification.network import Classifier, build_classifier
from pcgen.config import Recipe
from pcgen.data.images import Images, Rows, epoch_batches
from pcgen.device import generator
from pcgen.distributed import Group
from pcgen.errors import DataError, DivergenceError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import Method, prepare
from pcgen.learning.gradients import (
    load_optimiser,
    optimiser_for,
    optimiser_tensors,
    weight_gradients,
)
from pcgen.learning.train import Progress, rate_at
from pcgen.learning.validate import BATCH, Accuracy


def initial_classifier(recipe: Recipe, images: Images, validation: Images | None) -> Classifier:
    """Return a new classifier of the classes of the images and of those held out.

    Raises:
        DataError: images without labels, or of a single class.
        RecipeError: a classifier that these images do not fit.
    """
    labels = torch.cat([_labels(part) for part in (images, validation) if part is not None])
    classes = max(len(images.classes or ()), int(labels.max()) + 1)
    if int(labels.min()) < 0 or classes < 2:
        raise DataError(f"{images.source}: {classes} classes cannot be told apart")
    assert recipe.classifier is not None
    weights = generator(recipe.seed, "weights")
    return build_classifier(recipe.classifier, images.shape, classes, weights)


class ClassifierTraining:
    """A run in progress, as `Training` is one.

    The order of the images and which units drop out depend on the seed and the counters alone.

    Attributes:
        criterion: the validation metric whose least value is best. A few thousand held-out images
            hold too few errors to choose an epoch by; their cross entropy is smoother.
    """

    criterion = "energy"

    def __init__(self, network: Classifier, recipe: Recipe, group: Group | None = None) -> None:
        assert recipe.classifier is not None
        self.network = network
        self.recipe = recipe
        self.table = recipe.classifier
        self.group = group
        learning = recipe.learning
        self.weights = network.weights()
        self.optimiser = optimiser_for(
            self.weights,
            learning.optimiser,
            learning.rate,
            learning.momentum,
            learning.weight_decay,
        )
        self.method: Method | None = None
        self.counters = {"epoch": 0, "batch": 0, "updates": 0}
        self.sums = torch.zeros(3, dtype=torch.float64)

    def run(self, images: Images, validation: Images | None) -> Iterator[Progress]:
        """Yield the progress after every batch, from wherever the counters stand.

        Raises:
            DataError: images without labels, or one that cannot be read.
            DivergenceError: a cross entropy that is not finite.
        """
        labels = _labels(images)
        learning = self.recipe.learning
        batches = math.ceil(len(images) / learning.batch_size)
        while self.counters["epoch"] < learning.epochs:
            present = (self.counters["epoch"], self.counters["batch"])
            size, seed = learning.batch_size, self.recipe.seed
            for rows, whole_B in epoch_batches(images, size, seed, *present, self._own):
                labels_B = labels[self._own(whole_B)]
                self._learn(rows, labels_B, len(whole_B), batches * learning.epochs)
                self.counters["batch"] += 1
                ends_epoch = self.counters["batch"] == batches
                metrics = None
                if ends_epoch and validation is not None:
                    metrics = accuracy(self.network, validation, self.group)
                progress = self._progress(batches, metrics)
                if ends_epoch:
                    self.counters.update(epoch=self.counters["epoch"] + 1, batch=0)
                    self.sums.zero_()
                yield progress

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a resumed run needs beside the counters, by name."""
        remembered = optimiser_tensors(self.optimiser, "optimiser")
        return {**self.network.tensors(), "sums": self.sums, **remembered}

    def model_tensors(self) -> dict[str, Tensor]:
        """Return what the finished classifier is made of, by name."""
        return self.network.tensors()

    def load(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Go on from what `tensors()` and `counters` were."""
        self.network.load(tensors)
        self.sums.copy_(tensors["sums"])
        self.counters.update(counters)
        load_optimiser(self.optimiser, "optimiser", tensors)

    def _own(self, indices: Tensor) -> Tensor:
        """Return this process's rows of a batch; there may be none."""
        if self.group is None:
            return indices
        mine = self.group.share(len(indices))
        return indices[mine.start : mine.stop]

    def _learn(self, rows: Rows, labels_B: Tensor, whole: int, total_updates: int) -> None:
        data_BD = rows.pixels_BD.to(self.weights[0])
        labels_B = labels_B.to(data_BD.device)
        step = self._local if self.table.rule == "pc" else self._backprop
        gradients, energy, right = step(data_BD, labels_B, whole)
        sums = torch.tensor([energy, right], dtype=torch.float64)
        if self.group is not None:
            asked = torch.tensor([float(self.group.asked())], dtype=torch.float64)
            *gradients, sums, asked = self.group.sum([*gradients, sums, asked])
            self.group.stopping = bool(asked > 0)
        if not math.isfinite(sums[0]):
            epoch, batch = self.counters["epoch"] + 1, self.counters["batch"] + 1
            raise DivergenceError(
                f"epoch {epoch}, batch {batch}: the energy is not finite",
                "Lower it: --set learning.rate=...",
            )
        for tensor, gradient in zip(self.weights, gradients, strict=True):
            tensor.grad = gradient
        rate = rate_at(self.recipe.learning, self.counters["updates"], total_updates)
        self.optimiser.param_groups[0]["lr"] = rate
        self.counters["updates"] += 1
        self.optimiser.step()
        self.sums += torch.tensor([sums[0], sums[1], whole], dtype=torch.float64)

    def _backprop(
        self, data_BD: Tensor, labels_B: Tensor, whole: int
    ) -> tuple[list[Tensor], float, float]:
        """Return the gradients, this process's part of the batch mean, and two sums."""
        with torch.enable_grad():
            for tensor in self.weights:
                tensor.requires_grad_()
            features_BF = self.network.features(data_BD)
            logits_BK = self.network.logits_of(features_BF * self._kept(features_BF, whole))
            energy = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
            gradients = torch.autograd.grad(energy / whole, self.weights)
        for tensor in self.weights:
            tensor.requires_grad_(False)
        right = (logits_BK.argmax(1) == labels_B).sum()
        return list(gradients), energy.item(), right.item()

    def _kept(self, features_BF: Tensor, whole: int) -> Tensor:
        """Return 0 for units that drop out, else what keeps the mean, for this process's rows."""
        share = self.table.dropout
        if not share:
            return features_BF.new_ones(())
        source = generator(self.recipe.seed, "dropout", self.counters["updates"])
        kept = (torch.rand(whole, features_BF.shape[1], generator=source) >= share) / (1 - share)
        mine = range(whole) if self.group is None else self.group.share(whole)
        return kept[mine.start : mine.stop].to(features_BF)

    def _local(
        self, data_BD: Tensor, labels_B: Tensor, whole: int
    ) -> tuple[list[Tensor], float, float]:
        """Return the local gradients at the equilibrium between image and label, and two sums.

        Source: Whittington and Bogacz (2017), with a categorical label layer, and inference by the
        recipe's solver from the feedforward states.
        """
        if not len(data_BD):
            return [torch.zeros_like(tensor) for tensor in self.weights], 0.0, 0.0
        network = self.network.network()
        network.typical_latents[: len(data_BD)] = data_BD[: len(network.typical_latents)]
        self.method = prepare(network, self.recipe.inference)
        label_BK = functional.one_hot(labels_B, self.network.classes).to(data_BD)
        steps = self.recipe.inference.steps
        found = infer(self.method, label_BK, steps=steps, latent_BD=data_BD, clamp_latent=True)
        terms = network.terms(found.states)
        share = len(data_BD) / whole
        pairs = weight_gradients(network, found.states, terms)
        # A layer's weight and bias stay together; the network's layers come from the label upwards.
        upwards = [
            gradient * share
            for first in reversed(range(0, len(pairs), 2))
            for gradient in pairs[first : first + 2]
        ]
        logits_BK = self.network.logits(data_BD)
        energy = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
        return upwards, energy.item(), (logits_BK.argmax(1) == labels_B).sum().item()

    def _progress(self, batches: int, validation: Accuracy | None) -> Progress:
        energy, right, count = self.sums.tolist()
        return Progress(
            self.counters["epoch"] + 1,
            self.recipe.learning.epochs,
            self.counters["batch"],
            batches,
            int(count),
            energy / count,
            None,
            accuracy=right / count,
            labelled=validation,
        )


def accuracy(network: Classifier, images: Images, group: Group | None = None) -> Accuracy:
    """Return the means over all readable images; of a group, each process judges its share."""
    labels = _labels(images)
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


def _labels(images: Images) -> Tensor:
    if images.labels is None:
        raise DataError(
            f"{images.source}: has no labels, which a classifier learns from",
            "Sort the pictures into a folder for each class, or use labelled IDX or .npz",
        )
    return images.labels
