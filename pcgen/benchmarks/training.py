"""How the benchmarks train: every choice of an epoch or a rate is made on the validation split."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import torch
from torch import Tensor, nn

from pcgen.benchmarks.table import Tell
from pcgen.classification.network import Classifier
from pcgen.classification.training import ClassifierLearner, initial_classifier
from pcgen.config import Recipe
from pcgen.data.images import Images, order
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.optimiser import rate_at
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.model.network import Network

Model = TypeVar("Model")
Module = TypeVar("Module", bound=nn.Module)


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe with another seed."""
    return msgspec.structs.replace(recipe, seed=seed)


def train_network(
    recipe: Recipe,
    images: Images,
    validation: Images,
    device: torch.device,
    tell: Tell = lambda stage, done, total: None,
) -> Network:
    """Return the network of the best epoch; of the last epoch if the recipe trains by sampling."""
    return train_by(PredictiveCoding, recipe, images, validation, device, tell)[0]


def train_by(
    learner: type[PredictiveCoding],
    recipe: Recipe,
    images: Images,
    validation: Images,
    device: torch.device,
    tell: Tell,
) -> tuple[Network, float]:
    """Return the network of a learner's best epoch, and its error on the validation split.

    It is the network of the last epoch if the recipe trains by sampling.
    """
    sample_BD = sample(images, recipe.seed, recipe.model.weights)
    network = initial_network(recipe, sample_BD, images.shape, images.class_count).to(device)
    best, least = network.to(device), math.inf
    for progress in Training(learner(network, recipe, sample_BD)).run(images, validation):
        done = (progress.epoch - 1) * len(images) + progress.images
        tell(f"training, seed {recipe.seed}", done, progress.epochs * len(images))
        metrics = progress.validation
        if metrics is not None and (metrics.mse < least or recipe.inference.draws):
            best, least = network.to(device), metrics.mse
    return best, least


def train_classifier(
    recipe: Recipe,
    images: Images,
    validation: Images | None,
    device: torch.device,
    stage: str,
    tell: Tell,
) -> Classifier:
    """Return the classifier of the epoch that is best on the validation split, if there is one.

    Without one it is that of the last epoch.

    Raises:
        DivergenceError: an energy that is not finite.
    """
    network = initial_classifier(recipe, images, validation).to(device)
    best, least = network, math.inf
    for progress in Training(ClassifierLearner(network, recipe)).run(images, validation):
        done = (progress.epoch - 1) * len(images) + progress.images
        tell(f"{stage}, seed {recipe.seed}", done, progress.epochs * len(images))
        if progress.labelled is not None and progress.labelled.energy < least:
            best, least = network.to(device), progress.labelled.energy
    return best


def best_rate(
    rates: Sequence[float],
    train: Callable[[float, Callable[[int], None]], tuple[Model, float]],
    stage: str,
    epochs: int,
    tell: Tell,
) -> tuple[Model, float, float]:
    """Return the model of the rate with the least validation loss, its seconds, and the rate.

    Args:
        train: returns the model of a rate and its loss; calls its second argument at each epoch.
    """
    trained = []
    for rate in rates:

        def on_epoch(epoch: int, rate: float = rate) -> None:
            tell(f"{stage}, rate {rate:g}", epoch, epochs)

        began = time.monotonic()
        model, loss = train(rate, on_epoch)
        trained.append((loss, model, time.monotonic() - began, rate))
    _, model, seconds, rate = min(trained, key=lambda entry: entry[0])
    return model, seconds, rate


def train_by_backprop(
    model: Module,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    images: Images,
    epochs: int,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], float],
    on_epoch: Callable[[int], None],
) -> tuple[Module, float]:
    """Return a copy of the model at its best epoch, and the validation loss of that epoch.

    Args:
        model: is trained in place.
        optimiser: of the model's parameters; its rate is the largest of the recipe's schedule.
        recipe: gives the batch size, the order of the images and the schedule of the rate.
        loss: of a batch (B, D), on the model's device.
        validate: gives the validation loss of the model as it is.
        on_epoch: called with the number of finished epochs.
    """
    table, group = recipe.learning, optimiser.param_groups[0]
    device, rate = next(model.parameters()).device, group["lr"]
    updates, total = 0, epochs * math.ceil(len(images) / table.batch_size)
    best, least = copy.deepcopy(model), math.inf
    for epoch in range(epochs):
        for indices in torch.split(order(len(images), recipe.seed, epoch), table.batch_size):
            data_BD = images.rows(indices).pixels_BD.to(device)
            group["lr"] = rate * rate_at(table, updates, total) / table.rate
            updates += 1
            optimiser.zero_grad()
            with torch.enable_grad():
                loss(data_BD).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            error = validate()
        if error < least:
            best, least = copy.deepcopy(model), error
        on_epoch(epoch + 1)
    return best, least
