"""The families of methods: each trains on the known images and returns a scorer.

A new family is one function and one row in `FAMILIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from pcgen.benchmarks.baselines import train_autoencoder
from pcgen.benchmarks.ood.baselines import AutoencoderScorer, PPCAScorer, TrivialScorer
from pcgen.benchmarks.ood.sets import Known
from pcgen.benchmarks.table import Tell
from pcgen.benchmarks.training import seeded, train_classifier, train_network
from pcgen.config import ClassifierTable, InferenceTable, Recipe, to_dict, units
from pcgen.ood.scores import ClassifierScorer
from pcgen.ood.scoring import Scorer

# The autoencoder's rate; its epochs for each epoch of the network, so that it never has less time.
_AUTOENCODER_RATE = 1e-3
_AUTOENCODER_EPOCHS = 4
# Inference steps of the discriminative network in training and in tests. It starts where all errors
# but the label's are 0.
_PC_STEPS, _PC_TEST_STEPS = 8, 50
# Of a classifier's scores, one of its logits and one of each kind of distance in its last hidden
# layer. No unusual image chose them.
_COMBINED = ("energy-lse", "mahalanobis", "knn")


@dataclass(frozen=True, slots=True)
class Recipes:
    """The recipes of the trained networks.

    Attributes:
        network: the predictive coding network's recipe.
        classifier: the convnet's recipe, whose learning table the dense classifiers share.
    """

    network: Recipe
    classifier: Recipe


Train = Callable[[Known, Recipes, torch.device, Tell], Scorer]


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of method.

    Attributes:
        train: returns its scorer.
        settings: everything that `train` depends on, except the known images and their seed.
        named: whether its methods have the family's name before the score's.
        parts: scores that are combined as `pc-fisher` is, if the scorer itself combines none.
    """

    train: Train
    settings: Callable[[Recipes, Known], Any]
    named: bool = False
    parts: tuple[str, ...] = ()


def pc(known: Known, recipes: Recipes, device: torch.device, tell: Tell) -> Scorer:
    """Return the scores of the predictive coding network."""
    from pcgen.ood import scores

    recipe = seeded(recipes.network, known.seed)
    network = train_network(recipe, known.kept, known.validation, device, tell)
    labels = known.kept.labels
    scorer: Scorer = scores.fit(
        network, known.kept, recipe.inference, labels=labels, device=str(device)
    )
    return scorer


def ppca(known: Known, recipes: Recipes, device: torch.device, tell: Tell) -> Scorer:
    """Return the likelihood of PPCA with as many components as the network has latent units."""
    return PPCAScorer.fit(known.kept, units(recipes.network.model.layers[0]))


def autoencoder(known: Known, recipes: Recipes, device: torch.device, tell: Tell) -> Scorer:
    """Return the error of a backprop autoencoder with the network's decoder."""
    recipe = seeded(recipes.network, known.seed)
    model = msgspec.structs.replace(recipe.model, labels=False, skips=[])
    recipe = msgspec.structs.replace(recipe, model=model)
    epochs = _AUTOENCODER_EPOCHS * recipe.learning.epochs
    count = len(known.kept)

    def on_epoch(epoch: int) -> None:
        tell(f"autoencoder, seed {known.seed}", epoch * count, epochs * count)

    trained, _ = train_autoencoder(
        recipe, known.kept, known.validation, epochs, device, _AUTOENCODER_RATE, on_epoch
    )
    return AutoencoderScorer(trained, device)


def trivial(known: Known, recipes: Recipes, device: torch.device, tell: Tell) -> Scorer:
    """Return scores that need no model, such as the size of the compressed image."""
    return TrivialScorer.fit(known.kept)


def dense_recipe(recipes: Recipes, known: Known, rule: str) -> Recipe:
    """Return the recipe of a dense classifier of the network's size.

    Its layers mirror the network's where those are dense; else two equal layers have as many
    weights as the network.
    """
    layers = recipes.network.model.layers
    if all(isinstance(entry, int) for entry in layers):
        hidden = [units(entry) for entry in reversed(layers)]
    else:
        from pcgen.device import generator
        from pcgen.model.network import build

        model = recipes.network.model
        network = build(model, known.kept.shape, generator(0), known.kept.class_count)
        count = sum(tensor.numel() for tensor in network.weights())
        inputs = math.prod(known.kept.shape)
        hidden = [max(1, round((math.sqrt(inputs**2 + 4 * count) - inputs) / 2))] * 2
    convnet, inference = recipes.classifier.classifier, recipes.classifier.inference
    assert convnet is not None
    table = ClassifierTable(
        kind="mlp",
        hidden=hidden,
        dropout=convnet.dropout if rule == "backprop" else 0.0,
        rule="pc" if rule == "pc" else "backprop",
    )
    if rule == "pc":
        inference = InferenceTable(steps=_PC_STEPS, test_steps=_PC_TEST_STEPS)
    return msgspec.structs.replace(recipes.classifier, classifier=table, inference=inference)


def classifier(recipe_of: Callable[[Recipes, Known], Recipe]) -> Family:
    """Return the family of the scores of a classifier that a recipe trains."""

    def train(known: Known, recipes: Recipes, device: torch.device, tell: Tell) -> Scorer:
        recipe = seeded(recipe_of(recipes, known), known.seed)
        table = recipe.classifier
        assert table is not None
        stage = f"{table.kind} by {table.rule}"
        network = train_classifier(recipe, known.kept, known.validation, device, stage, tell)
        return ClassifierScorer.fit(network, known.kept, recipe.inference)

    def settings(recipes: Recipes, known: Known) -> Any:
        return to_dict(recipe_of(recipes, known))

    return Family(train, settings, named=True, parts=_COMBINED)


def _network(recipes: Recipes, known: Known) -> Any:
    return to_dict(recipes.network)


FAMILIES = {
    "pc": Family(pc, _network),
    "convnet": classifier(lambda recipes, known: recipes.classifier),
    "mlp": classifier(lambda recipes, known: dense_recipe(recipes, known, "backprop")),
    "discriminative-pcn": classifier(lambda recipes, known: dense_recipe(recipes, known, "pc")),
    "autoencoder": Family(autoencoder, _network),
    "ppca": Family(ppca, lambda recipes, known: units(recipes.network.model.layers[0])),
    "trivial": Family(trivial, lambda recipes, known: None),
}
