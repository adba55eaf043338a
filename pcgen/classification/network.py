"""Classifiers: networks from pixels up to the logits of classes.

A classifier can also learn by predictive coding. Its weights are then those of a predictive coding
network whose latent is the image and whose data layer is the label (`Classifier.network`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.config import ClassifierTable, ModelTable, Recipe
from pcgen.device import generator
from pcgen.errors import CheckpointError, RecipeError
from pcgen.model.activations import activation
from pcgen.model.layers import Convolution, Dense, Layer, Shape
from pcgen.model.network import Network, Skip
from pcgen.storage.checkpoint import Checkpoint, LoadedModel, rebuild, require_numbers

# Side of a convolution's kernel.
_KERNEL = 3


class Classifier:
    """A small convnet or a dense network.

    Attributes:
        table: the recipe's classifier table.
        shape: channels, height, width of the data.
        classes: number of classes, K.
        convolutions: weight (C, C_below, 3, 3) and bias (C,) of each.
        dense: weight (U, D) and bias (U,) of each layer, the last one's are the classes'.
        skips: weight of each skip connection: (C, C_above, 1, 1) to a convolution, (K, D) to the
            classes.
    """

    def __init__(
        self,
        table: ClassifierTable,
        shape: Shape,
        convolutions: list[tuple[Tensor, Tensor]],
        dense: list[tuple[Tensor, Tensor]],
        skips: list[Tensor],
    ) -> None:
        self.table = table
        self.shape = shape
        self.convolutions = convolutions
        self.dense = dense
        self.skips = skips
        self.activation = activation(table.activation).value
        self.maps = _maps(table, shape)

    @property
    def classes(self) -> int:
        return len(self.dense[-1][1])

    @property
    def depth(self) -> int:
        """Return the number of layers above the data; the last one is the classes."""
        return len(self.maps) + len(self.dense)

    @property
    def sizes(self) -> list[int]:
        """Return the units of the data, of each map and of each dense layer."""
        sizes = [math.prod(self.shape)] + [math.prod(entry.below) for entry in self.maps]
        return sizes + [len(bias) for _, bias in self.dense]

    @property
    def largest_product(self) -> int:
        """Return the multiply-adds of the largest layer, per image."""
        products = [weight.numel() for weight, _ in self.dense]
        products += [math.prod(m.weight) * math.prod(m.drives[1:]) for m in self.maps]
        return max(products)

    def inputs(self, data_BD: Tensor) -> Tensor:
        """Return what the first layer sees of the data (B, D)."""
        return 2 * data_BD - 1 if self.table.inputs == "centred" else data_BD

    def features(self, data_BD: Tensor) -> Tensor:
        """Return what the classes are linear in (B, F): the last hidden layer's responses.

        The maps that skip connections lead to the classes are beside them.
        """
        found = self.inputs(data_BD)
        beside = []
        if self.convolutions:
            states = [found.reshape(-1, *self.shape)]
            for (weight, bias), entry in zip(self.convolutions, self.maps, strict=True):
                drive = functional.conv2d(states[-1], weight, bias, entry.stride, entry.padding)
                for skip, (source, target) in zip(self.skips, self.table.skips, strict=True):
                    if target == len(states):
                        stride = states[source].shape[-1] // drive.shape[-1]
                        drive = drive + functional.conv2d(states[source], skip, None, stride)
                states.append(functional.max_pool2d(self.activation(drive), entry.pool))
            found = states[-1].flatten(1)
            sources = [source for source, target in self.table.skips if target == self.depth]
            beside = [self._flat(states[source], source) for source in sources]
        for weight, bias in self.dense[:-1]:
            found = self.activation(functional.linear(found, weight, bias))
        return torch.cat([found, *beside], 1) if beside else found

    def logits_of(self, features_BF: Tensor) -> Tensor:
        """Return the logits (B, K) of `features`."""
        weight, bias = self.dense[-1]
        if beside := [skip for skip in self.skips if skip.ndim == 2]:
            weight = torch.cat([weight, *beside], 1)
        return functional.linear(features_BF, weight, bias)

    def logits(self, data_BD: Tensor) -> Tensor:
        """Return the logits (B, K) of the classes."""
        return self.logits_of(self.features(data_BD))

    def energies(self, logits_BK: Tensor) -> Tensor:
        """Return the energy (B, K) of the label layer for every label, in nats.

        It is -log of the softmax, or half the squared distance to the one-hot label.
        """
        if self.table.likelihood == "categorical":
            return -logits_BK.log_softmax(1)
        return 0.5 * (logits_BK.square().sum(1, keepdim=True) + 1) - logits_BK

    def network(self) -> Network:
        """Return the predictive coding network that shares these weights.

        Its latent is `inputs(image)` and its data layer the label. Without errors its states are
        the classifier's responses, since mu_l = f(W x_{l+1} + b), pooled above a convolution.
        """
        layers: list[Layer] = [
            Convolution(
                weight,
                bias,
                entry.above,
                stride=entry.stride,
                padding=entry.padding,
                pool=entry.pool,
                # The image's channels come first, and those of the map that becomes a vector.
                channels_first=(entry is self.maps[0], entry is self.maps[-1]),
            )
            for (weight, bias), entry in zip(self.convolutions, self.maps, strict=True)
        ]
        layers += [Dense(weight, bias) for weight, bias in self.dense]
        table = ModelTable(
            layers=[math.prod(layer.above) for layer in layers],
            activation=self.table.activation,
            likelihood=self.table.likelihood,
        )
        skips = [
            self._skip(weight, source, target)
            for weight, (source, target) in zip(self.skips, self.table.skips, strict=True)
        ]
        like = self.dense[-1][0]
        hidden = like.new_tensor(self.table.precision).log()
        precisions = [like.new_zeros(()), *[hidden] * (len(layers) - 1)]
        precisions.append(like.new_full((), -math.inf))
        return Network.of(table, layers[::-1], precisions, skips)

    def _skip(self, weight: Tensor, source: int, target: int) -> Skip:
        """Return a skip connection of the predictive coding network."""
        layer: Layer
        if target == self.depth:
            layer = Dense(weight, None)
        else:
            above = self.maps[source].above
            layer = Convolution(
                weight,
                None,
                above,
                stride=above[1] // self.maps[target - 1].drives[1],
                padding=0,
                channels_first=(self._channels_first(source), self._channels_first(target)),
            )
        return Skip(self.depth - source, self.depth - target, layer)

    def _flat(self, state: Tensor, i: int) -> Tensor:
        """Return map i (B, C, H, W) as the states (B, D) of the predictive coding network."""
        return (state if self._channels_first(i) else state.permute(0, 2, 3, 1)).flatten(1)

    def _channels_first(self, i: int) -> bool:
        """Return whether the states of map i have their channels first: the image's, the last's."""
        return i in (0, len(self.maps))

    def weights(self) -> list[Tensor]:
        """Return all weights and biases, from the data upwards, skip connections last."""
        pairs = [*self.convolutions, *self.dense]
        return [tensor for pair in pairs for tensor in pair] + self.skips

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint, by name."""
        named = {}
        for kind, pairs in (("convolutions", self.convolutions), ("dense", self.dense)):
            for i, (weight, bias) in enumerate(pairs):
                named[f"{kind}.{i}.weight"], named[f"{kind}.{i}.bias"] = weight, bias
        named |= {f"skips.{i}.weight": weight for i, weight in enumerate(self.skips)}
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

        convolutions, dense = (
            [(copied(weight), copied(bias)) for weight, bias in pairs]
            for pairs in (self.convolutions, self.dense)
        )
        skips = [copied(weight) for weight in self.skips]
        return Classifier(self.table, self.shape, convolutions, dense, skips)


@dataclass(frozen=True, slots=True)
class _Map:
    """A convolution: its shapes, from the image upwards.

    Attributes:
        weight: the shape of its weight.
        above: the shape of its input.
        drives: the shape of the convolved map, before pooling.
        below: the shape after pooling.
    """

    weight: tuple[int, int, int, int]
    above: Shape
    drives: Shape
    below: Shape
    stride: int
    padding: int
    pool: int


def build_classifier(
    table: ClassifierTable, shape: Shape, classes: int, source: torch.Generator
) -> Classifier:
    """Return a new classifier with the random weights that the table names.

    Raises:
        RecipeError: an image too small for the convolutions; lists of different lengths; skip
            connections between maps that do not fit.
    """
    convolutions, dense, skips = _weight_shapes(table, shape, classes)
    return Classifier(
        table,
        shape,
        [_pair(weight, table.weights, source) for weight in convolutions],
        [_pair(weight, table.weights, source) for weight in dense],
        [_skip_weight(weight, table.weights, source) for weight in skips],
    )


def tensor_size(table: ClassifierTable, shape: Shape, classes: int) -> int:
    """Return how many numbers the tensors of a classifier hold, without building it.

    Raises:
        RecipeError: as `build_classifier`.
    """
    convolutions, dense, skips = _weight_shapes(table, shape, classes)
    pairs = sum(math.prod(weight) + weight[0] for weight in convolutions + dense)
    return pairs + sum(math.prod(weight) for weight in skips)


def _weight_shapes(
    table: ClassifierTable, shape: Shape, classes: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of the weights of the convolutions, the dense layers and the skips."""
    maps = _maps(table, shape)
    inputs = math.prod(maps[-1].below if maps else shape)
    sizes = [inputs, *table.hidden, classes]
    dense: list[tuple[int, ...]] = [(above, below) for below, above in itertools.pairwise(sizes)]
    skips = [_skip_shape(pair, maps, dense) for pair in table.skips]
    return [entry.weight for entry in maps], dense, skips


def _skip_shape(pair: list[int], maps: list[_Map], dense: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of a skip connection's weight.

    Raises:
        RecipeError: there are no such maps, or the sizes do not fit.
    """
    source, target = pair
    last, classes = len(maps), len(maps) + len(dense)
    to_classes = bool(maps) and target == classes
    if not source < target - 1 or source > last or not (target <= last or to_classes):
        raise RecipeError(
            f"classifier.skips: {pair} must lead from a map to one at least two convolutions "
            f"above it, or to the classes; 0 is the image, {last} the last map and {classes} the "
            "classes"
        )
    if to_classes:
        units = math.prod(maps[source - 1].below if source else maps[0].above)
        return (dense[-1][0], units)
    above, below = maps[source].above, maps[target - 1].drives
    stride = above[1] // below[1]
    if [(side - 1) // max(stride, 1) + 1 for side in above[1:]] != [*below[1:]]:
        raise RecipeError(
            f"classifier.skips: {pair} leads from {above[1]}x{above[2]} to {below[1]}x{below[2]}, "
            "which must be equal or differ by a whole factor"
        )
    return (below[0], above[0], 1, 1)


def _skip_weight(shape: tuple[int, ...], kind: str, source: torch.Generator) -> Tensor:
    """Return the weight of a new skip connection."""
    weight, _ = _pair(shape, kind, source)
    is_residual = len(shape) == 4 and shape[0] == shape[1]
    return torch.eye(shape[0])[:, :, None, None] if is_residual else weight


def _maps(table: ClassifierTable, shape: Shape) -> list[_Map]:
    """Return the convolutions of a classifier of images of this shape; none of an mlp."""
    if table.kind == "mlp":
        return []
    maps: list[_Map] = []
    strides, paddings, pools = (_each(table, key) for key in ("stride", "padding", "pool"))
    above = shape
    for count, stride, padding, pool in zip(table.channels, strides, paddings, pools, strict=True):
        height, width = ((side + 2 * padding - _KERNEL) // stride + 1 for side in above[1:])
        below = (count, height // pool, width // pool)
        if min(height, width, *below) < 1:
            raise RecipeError(
                f"classifier.channels: convolution {len(maps) + 1} of {len(table.channels)} leaves "
                f"nothing of an image of {shape[1]}x{shape[2]}",
                "Use fewer, or less pooling: --set classifier.pool=1",
            )
        weight = (count, above[0], _KERNEL, _KERNEL)
        maps.append(_Map(weight, above, (count, height, width), below, stride, padding, pool))
        above = below
    return maps


def _each(table: ClassifierTable, key: str) -> list[int]:
    """Return the values of a key for each convolution."""
    value, count = getattr(table, key), len(table.channels)
    values = value if isinstance(value, list) else [value] * count
    if len(values) != count:
        raise RecipeError(f"classifier.{key}: {len(values)} values for {count} convolutions")
    return values


def _pair(shape: tuple[int, ...], kind: str, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a new layer."""
    inputs = math.prod(shape[1:])
    if kind == "normal":
        weight = torch.randn(shape, generator=source)
        return weight * math.sqrt(2 / inputs), torch.zeros(shape[0])
    weight, bias = (2 * torch.rand(size, generator=source) - 1 for size in (shape, shape[:1]))
    return weight / math.sqrt(inputs), bias / math.sqrt(inputs)


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
