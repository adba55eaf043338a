"""Classifiers: networks from pixels up to the logits of classes.

A dense classifier can also learn by predictive coding. Its weights are then those of a predictive
coding network whose latent is the image and whose data layer is the label (`Classifier.network`).
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.config import ClassifierTable, ModelTable, Recipe
from pcgen.device import generator
from pcgen.errors import CheckpointError, RecipeError
from pcgen.model.activations import activation
from pcgen.model.layers import Dense, Shape
from pcgen.model.network import Network, build
from pcgen.storage.checkpoint import Checkpoint, LoadedModel, rebuild, require_numbers

# Side of a convolution's kernel; padding keeps the map's size.
_KERNEL = 3


class Classifier:
    """A small convnet or a dense network.

    Attributes:
        table: the recipe's classifier table.
        shape: channels, height, width of the data.
        classes: number of classes, K.
        convolutions: weight (C, C_below, 3, 3) and bias (C,) of each.
        dense: weight (U, D) and bias (U,) of each layer, the last one's are the classes'.
    """

    def __init__(
        self,
        table: ClassifierTable,
        shape: Shape,
        convolutions: list[tuple[Tensor, Tensor]],
        dense: list[tuple[Tensor, Tensor]],
    ) -> None:
        self.table = table
        self.shape = shape
        self.convolutions = convolutions
        self.dense = dense
        self.activation = activation(table.activation).value

    @property
    def classes(self) -> int:
        return len(self.dense[-1][1])

    @property
    def sizes(self) -> list[int]:
        """Return the units of the data, of each map and of each dense layer."""
        _, height, width = self.shape
        sizes = [math.prod(self.shape)]
        for _, bias in self.convolutions:
            height, width = height // 2, width // 2
            sizes.append(len(bias) * height * width)
        return sizes + [len(bias) for _, bias in self.dense]

    @property
    def largest_product(self) -> int:
        """Return the multiply-adds of the largest layer, per image."""
        _, height, width = self.shape
        products = [weight.numel() for weight, _ in self.dense]
        for weight, _ in self.convolutions:
            products.append(weight.numel() * height * width)
            height, width = height // 2, width // 2
        return max(products)

    def features(self, data_BD: Tensor) -> Tensor:
        """Return the last hidden layer's responses (B, F)."""
        found = data_BD
        if self.convolutions:
            maps = data_BD.reshape(-1, *self.shape)
            for weight, bias in self.convolutions:
                maps = functional.conv2d(maps, weight, bias, padding=_KERNEL // 2)
                maps = functional.max_pool2d(self.activation(maps), 2)
            found = maps.flatten(1)
        for weight, bias in self.dense[:-1]:
            found = self.activation(functional.linear(found, weight, bias))
        return found

    def logits_of(self, features_BF: Tensor) -> Tensor:
        """Return the logits (B, K) of the last hidden layer's responses."""
        return functional.linear(features_BF, *self.dense[-1])

    def logits(self, data_BD: Tensor) -> Tensor:
        """Return the logits (B, K) of the classes."""
        return self.logits_of(self.features(data_BD))

    def network(self) -> Network:
        """Return the predictive coding network that shares these weights.

        Its latent is the image and its data layer the label. Without errors its states are the
        dense classifier's responses, since mu_l = f(W x_{l+1} + b).
        """
        assert not self.convolutions
        layers = [Dense(weight, bias) for weight, bias in reversed(self.dense)]
        table = ModelTable(
            layers=[layer.above[2] for layer in reversed(layers)],
            activation=self.table.activation,
            likelihood="categorical",
        )
        like = layers[0].weight
        nothing = build(table, self.classes, torch.Generator()).log_precisions
        return Network.of(table, layers, [p.to(like) for p in nothing])

    def weights(self) -> list[Tensor]:
        """Return all weights and biases, from the data upwards."""
        return [tensor for pair in [*self.convolutions, *self.dense] for tensor in pair]

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint, by name."""
        named = {}
        for kind, pairs in (("convolutions", self.convolutions), ("dense", self.dense)):
            for i, (weight, bias) in enumerate(pairs):
                named[f"{kind}.{i}.weight"], named[f"{kind}.{i}.bias"] = weight, bias
        return named

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the values of another classifier's `tensors()` into this one."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(tensors[name])

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Classifier:
        """Return a copy on a device."""

        def copied(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype, copy=True)

        kinds = (self.convolutions, self.dense)
        copies = ([(copied(w), copied(b)) for w, b in pairs] for pairs in kinds)
        return Classifier(self.table, self.shape, *copies)


def build_classifier(
    table: ClassifierTable, shape: Shape, classes: int, source: torch.Generator
) -> Classifier:
    """Return a new classifier with random weights, N(0, 2 / inputs), and biases of 0.

    Raises:
        RecipeError: more convolutions than the image can be halved; a rule that does not fit.
    """
    if table.rule == "pc" and table.kind != "mlp":
        raise RecipeError(
            f"classifier.rule: pc is for an mlp, not a {table.kind}",
            "Use --set classifier.kind=mlp",
        )
    convolutions, dense = _weight_shapes(table, shape, classes)
    return Classifier(
        table,
        shape,
        [_pair(weight, source) for weight in convolutions],
        [_pair(weight, source) for weight in dense],
    )


def tensor_size(table: ClassifierTable, shape: Shape, classes: int) -> int:
    """Return how many numbers the tensors of a classifier hold, without building it.

    Raises:
        RecipeError: as `build_classifier`.
    """
    convolutions, dense = _weight_shapes(table, shape, classes)
    return sum(math.prod(weight) + weight[0] for weight in convolutions + dense)


def _weight_shapes(
    table: ClassifierTable, shape: Shape, classes: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of the weights of the convolutions and of the dense layers."""
    channels, height, width = shape
    convolutions: list[tuple[int, ...]] = []
    for count in table.channels if table.kind == "convnet" else []:
        height, width = height // 2, width // 2
        if not (height and width):
            raise RecipeError(
                f"classifier.channels: {len(table.channels)} convolutions halve an image of "
                f"{shape[1]}x{shape[2]} to nothing"
            )
        convolutions.append((count, channels, _KERNEL, _KERNEL))
        channels = count
    sizes = [channels * height * width, *table.hidden, classes]
    return convolutions, [(above, below) for below, above in itertools.pairwise(sizes)]


def _pair(shape: tuple[int, ...], source: torch.Generator) -> tuple[Tensor, Tensor]:
    weight = torch.randn(shape, generator=source)
    return weight * math.sqrt(2 / math.prod(shape[1:])), torch.zeros(shape[0])


ClassifierModel = LoadedModel[Classifier]
"""A trained classifier."""


def classifier_of(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> ClassifierModel:
    """Return the classifier that a header and its tensors make.

    Raises:
        CheckpointError: no classifier, or tensors that do not fit the header's recipe.
    """

    def built(recipe: Recipe, shape: Shape) -> Classifier:
        if recipe.classifier is None:
            raise CheckpointError(
                f"{checkpoint.path}: is a predictive coding network, not a classifier",
                "Train a classifier: pcgen train mnist-classifier --out DIR",
            )
        count = int(checkpoint.header["sizes"][-1])
        require_numbers(checkpoint, tensor_size(recipe.classifier, shape, count))
        return build_classifier(recipe.classifier, shape, count, generator(recipe.seed))

    return rebuild(checkpoint, built, device)
