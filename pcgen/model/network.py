"""The predictive coding network: layers, precisions and the energy of its states.

Notation, the same in every file:

    x_l      states of layer l; x_0 is the data, x_L the latent       shapes (B, D_l)
    a_l      drive of layer l = W_{l+1} x_{l+1} + b_{l+1}             (B, D_l), l < L
    mu_l     prediction f_l(a_l)                                      (B, D_l)
    eps_l    error x_l - mu_l
    pi_l     precision of eps_l, () or (D_l,)
    E        energy, nats per image                                   (B,)
    B images, D units of a layer, U units of the layer above
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from pcgen.config import ModelTable, from_dict
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.model import products
from pcgen.model.activations import activation
from pcgen.model.energy import Gaussian, LayerEnergy, Pooled, Terms
from pcgen.model.layers import Convolution, Dense, Layer, Shape, TransposedConvolution
from pcgen.model.prior import Mixture, components_of_class
from pcgen.registry import LIKELIHOODS

if TYPE_CHECKING:
    from pcgen.model.upward import Guide, Upward

# The number of typical latents: enough for the mean slopes of a layer, and cheap beside a batch.
TYPICAL = 64


@dataclass(frozen=True, slots=True)
class Skip:
    """A connection that skips layers: `layer` adds to the drive of `target` from `source`."""

    source: int
    target: int
    layer: Layer


class Network:
    """A predictive coding network: every layer predicts the layer below, down to the data.

    Example:
        >>> import pcgen, torch
        >>> network = pcgen.Network([4, 16, 64], activation="gelu", output="sigmoid")
        >>> network.sizes  # data first
        [64, 16, 4]
        >>> network.decode(torch.zeros(2, 4)).shape
        torch.Size([2, 64])

    Attributes:
        table: the recipe's model table.
        layers: the linear maps; layers[l] leads from layer l + 1 to layer l.
        skips: connections from further above, in the recipe's order.
        log_precisions: the logarithms of the precisions of each layer's errors, () or (D_l,), data
            first. The last one is that of the uppermost layer's prior, -inf if there is none.
        sizes: units per layer, data first.
        latent: the number of the latent layer: the uppermost one, or the one below the labels.
        typical_latents: (R, D_latent), where the preconditioners evaluate the curvature.
        mixture: the latent's prior if it is a mixture; None if it is N(0, 1 / pi_L).
        upward: the chain of predictions from the data up to the latent and the label, if any.
        start: (D_0 + 1, D_latent), the linear regression that gives the latent's start, with the
            bias in its last row; None if the latent starts at 0.
    """

    def __init__(
        self,
        layers: Sequence[int | Sequence[int] | Layer],
        *,
        activation: str = "tanh",
        output: str = "linear",
        likelihood: str = "gaussian",
        kernel: int | list[int] = 4,
        data_precision: float = 1.0,
        hidden_precision: float | list[float] = 1.0,
        latent_precision: float = 0.0,
        seed: int = 0,
    ) -> None:
        """Build a network from the list of its layers, with random weights.

        Args:
            layers: from the latent down to the data: a number of units, or
                (channels, height, width) of a map. Between two maps is a transposed convolution,
                between others a dense map. An own `Layer` between two entries takes its place.
            activation: of the hidden layers' predictions: linear, tanh, relu, gelu ...
            output: the activation of the data layer's prediction.
            likelihood: gaussian, bernoulli (data of 0 and 1) or categorical (one-hot data).
            kernel: the side of the transposed convolutions' kernels; a list from the latent down.
            data_precision: the weight of the data layer's squared errors in the energy.
            hidden_precision: the same of the hidden layers; a list from the data upwards.
            latent_precision: of the latent's prior N(0, 1 / precision); 0 is no prior.
            seed: of the weights.

        Raises:
            RecipeError: a name, a size or a precision that does not fit.
        """
        sizes, own = _entries(layers)
        model = {
            "layers": sizes[:-1],
            "kernel": kernel,
            "activation": activation,
            "output": output,
            "likelihood": likelihood,
            "precision": {
                "data": data_precision,
                "hidden": hidden_precision,
                "latent": latent_precision,
            },
        }
        table = from_dict({"model": model}, "pcgen.Network").model
        built = build(table, _data_shape(sizes[-1]), generator(seed, "weights"), own=own)
        self._assemble(table, built.layers, built.log_precisions, built.skips)

    @classmethod
    def of(
        cls,
        table: ModelTable,
        layers: Sequence[Layer],
        log_precisions: Sequence[Tensor],
        skips: Sequence[Skip] = (),
    ) -> Self:
        """Return the network that these maps and precisions make, data first."""
        network = cls.__new__(cls)
        network._assemble(table, layers, log_precisions, skips)
        return network

    def _assemble(
        self,
        table: ModelTable,
        layers: Sequence[Layer],
        log_precisions: Sequence[Tensor],
        skips: Sequence[Skip],
    ) -> None:
        self.table = table
        self.layers = list(layers)
        self.skips = list(skips)
        self.log_precisions = list(log_precisions)
        shapes = [layer.below for layer in self.layers] + [self.layers[-1].above]
        self.sizes = [math.prod(shape) for shape in shapes]
        # The maps into and out of each layer, with the number of the layer at the other end.
        self.inputs = [[(i + 1, layer)] for i, layer in enumerate(self.layers)]
        self.outputs = [[], *([(i, layer)] for i, layer in enumerate(self.layers))]
        for skip in self.skips:
            self.inputs[skip.target].append((skip.source, skip.layer))
            self.outputs[skip.source].append((skip.target, skip.layer))
        self.latent = len(self.layers) - table.labels
        weight, latents = self.layers[0].weight, self.sizes[self.latent]
        self.typical_latents = weight.new_zeros(TYPICAL, latents)
        self.start: Tensor | None = None
        self.mixture: Mixture | None = None
        self.upward: Upward | None = None
        if table.start == "linear":
            self.start = weight.new_zeros(self.sizes[0] + 1, latents)

    @property
    def depth(self) -> int:
        """Return L, the number of layers above the data."""
        return len(self.layers)

    @property
    def largest_product(self) -> int:
        """Return the multiplications per image of the layer that has most of them."""
        return max(layer.multiply_adds for layer in self.layers)

    def drive(self, i: int, states: Sequence[Tensor]) -> Tensor:
        """Return the drive (B, D_i) of layer i, given the states of all layers, data first."""
        drive = self.layers[i].drive(states[i + 1])
        for source, layer in self.inputs[i][1:]:
            drive = drive + layer.drive_move(states[source])
        return drive

    def drive_move(self, i: int, moves: Sequence[Tensor]) -> Tensor:
        """Return the change (B, D_i) of the drive of layer i for moves of the layers from 1 up."""
        move = self.layers[i].drive_move(moves[i])
        for source, layer in self.inputs[i][1:]:
            if source <= len(moves):
                move = move + layer.drive_move(moves[source - 1])
        return move

    def adjoint(self, i: int, signals: Sequence[Tensor]) -> Tensor:
        """Return the sum (B, D_i) of the signals that arrive at layer i from the layers below."""
        (target, layer), *skips = self.outputs[i]
        arrived = layer.adjoint(signals[target])
        for target, layer in skips:
            arrived = arrived + layer.adjoint(signals[target])
        return arrived

    def slope(self, i: int, pull_BD: Tensor, signals: Sequence[Tensor]) -> Tensor:
        """Return the energy's slope (B, D_i) in the states of layer i."""
        for target, layer in self.outputs[i]:
            pull_BD = layer.pull_above(pull_BD, signals[target])
        return pull_BD

    def through(self, i: int, arrived_BD: Tensor, slope_BD: Tensor) -> Tensor:
        """Return what a signal at the states of layer i is at its drive, given the slopes there."""
        layer = self.layers[i]
        if isinstance(layer, Convolution) and layer.pool > 1:
            arrived_BD = layer.spread(arrived_BD)
        return arrived_BD * slope_BD

    def hidden_energies(self) -> list[Gaussian]:
        """Return the energies of layers 1 to L - 1, at the present precisions."""
        names = [self.table.activation] * (self.latent - 1) + ["linear"] * self.table.labels
        parts = zip(names, self.log_precisions[1:-1], self.layers[1:], strict=True)
        return [
            Pooled(activation(name), p.exp(), layer)
            if isinstance(layer, Convolution) and layer.pool > 1
            else Gaussian(activation(name), p.exp())
            for name, p, layer in parts
        ]

    def energies(self) -> list[LayerEnergy]:
        """Return the energy of each layer below the latent, at the present precisions."""
        table = self.table
        data: LayerEnergy
        if table.likelihood == "gaussian":
            data = Gaussian(activation(table.output), self.log_precisions[0].exp())
        else:
            data = LIKELIHOODS.get(table.likelihood)()
        return [data, *self.hidden_energies()]

    def latent_precision(self) -> Tensor:
        """Return the precision () of the uppermost layer's prior."""
        return self.log_precisions[-1].exp()

    def least_prior_precision(self) -> Tensor:
        """Return the least precision () of the uppermost layer's prior in any direction.

        A mixture has that of its widest component. That components take the place of each other
        is left out.
        """
        if self.mixture is None:
            return self.latent_precision()
        return torch.linalg.svdvals(self.mixture.roots_KLL).min().square()

    def guide(self, data_BD: Tensor, mask_BD: Tensor | None = None) -> Guide | None:
        """Return what the upward chain predicts from the data; None without such a chain."""
        return None if self.upward is None else self.upward.meeting(self.mixture, data_BD, mask_BD)

    def start_latent(self, data_BD: Tensor, mask_BD: Tensor | None = None) -> Tensor:
        """Return where inference starts the latent (B, D_latent).

        With an upward chain it is that of this chain. Otherwise hidden data are replaced by the
        prediction of a latent of 0.
        """
        if self.upward is not None:
            return self.upward.predictions(data_BD, mask_BD)[0]
        if self.start is None:
            return data_BD.new_zeros(len(data_BD), self.sizes[self.latent])
        if mask_BD is not None:
            expected = self.decode(data_BD.new_zeros(1, self.sizes[self.latent]))
            data_BD = torch.where(mask_BD > 0, data_BD, expected)
        return products.linear(data_BD, self.start[:-1].T, self.start[-1])

    def decode(self, latent_BD: Tensor) -> Tensor:
        """Return the data (B, D_0) that a latent predicts, with no errors in the layers between."""
        return self.states_from(latent_BD)[0]

    def states_from(
        self,
        latent_BD: Tensor,
        data_BD: Tensor | None = None,
        labels_BK: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the states of all layers, data first, with predictions below the latent.

        Args:
            data_BD: the data layer; predicted like the others if not given.
            labels_BK: the label layer, if there is one; equal shares of all classes if not given.
        """
        states = [latent_BD] * (self.depth + 1)
        if self.table.labels:
            count = self.sizes[-1]
            equal_BK = latent_BD.new_full((len(latent_BD), count), 1 / count)
            states[-1] = equal_BK if labels_BK is None else labels_BK
        for i, energy in reversed(list(enumerate(self.energies()[: self.latent]))):
            if i > 0 or data_BD is None:
                states[i] = energy.predict(self.drive(i, states))
        if data_BD is not None:
            states[0] = data_BD
        return states

    def terms(self, states: Sequence[Tensor], mask_BD: Tensor | None = None) -> list[Terms]:
        """Return the energy and slopes of every layer, data first, without those of the prior."""
        return [
            energy.terms(states[i], self.drive(i, states), mask_BD if i == 0 else None)
            for i, energy in enumerate(self.energies())
        ]

    def energy(
        self, states: Sequence[Tensor], mask_BD: Tensor | None = None, *, guided: bool = True
    ) -> Tensor:
        """Return the total energy (B,) of the states with the prior, in nats per image.

        Args:
            guided: with the energy of the upward chain, if there is one.
        """
        guide = self.guide(states[0], mask_BD) if guided else None
        energy = self.prior_terms(states[-1], guide)[0] + self.log_det(mask_BD)
        for terms in self.terms(states, mask_BD):
            energy = energy + terms.energy_B
        return energy

    def prior_energy(self, latent_BD: Tensor) -> Tensor:
        """Return the energy (B,) of the latent's prior."""
        if self.mixture is not None:
            return self.mixture.energy(latent_BD)
        return 0.5 * self.latent_precision() * latent_BD.square().sum(1)

    def prior_terms(self, latent_BD: Tensor, guide: Guide | None = None) -> tuple[Tensor, Tensor]:
        """Return the energy (B,) of the latent's prior and its slope (B, D_L).

        Args:
            guide: what the upward chain predicts; its error's energy is then added, and the prior's
                label is summed out under its prediction.
        """
        if self.mixture is not None:
            more = None if guide is None else guide.log_causes_BJ
            energy_B, pull_BD = self.mixture.terms(latent_BD, more)
        else:
            energy_B, pull_BD = self.prior_energy(latent_BD), self.latent_precision() * latent_BD
        if guide is None:
            return energy_B, pull_BD
        error_BD = latent_BD - guide.latent_BL
        weighted_BD = guide.precision_BL * error_BD
        return energy_B + 0.5 * torch.linalg.vecdot(error_BD, weighted_BD), pull_BD + weighted_BD

    def prior_curvature(
        self, latent_BD: Tensor, move_BD: Tensor, guide: Guide | None = None
    ) -> Tensor:
        """Return the second derivative (B,) of `prior_terms`'s energy along a move."""
        if self.mixture is not None:
            more = None if guide is None else guide.log_causes_BJ
            own_B = self.mixture.curvature(latent_BD, move_BD, more)
        else:
            own_B = torch.linalg.vecdot(move_BD, move_BD * self.latent_precision())
        if guide is None:
            return own_B
        return own_B + torch.linalg.vecdot(move_BD, move_BD * guide.precision_BL)

    def prior_precision(self, latent_BD: Tensor) -> Tensor:
        """Return the second derivatives (B, D_L, D_L) of the prior's energy."""
        if self.mixture is not None:
            return self.mixture.precision(latent_BD)
        units = latent_BD.shape[1]
        eye = torch.eye(units, dtype=latent_BD.dtype, device=latent_BD.device)
        return (self.latent_precision() * eye).expand(len(latent_BD), -1, -1)

    def log_det(self, mask_BD: Tensor | None = None) -> Tensor:
        """Return -1/2 log det of learned precisions, () or (B,); 0 if precisions are fixed.

        It does not depend on the states, so inference does not need it.
        """
        if not self.table.precision.learned:
            return torch.zeros((), device=self.layers[0].weight.device)
        first = 0 if self.table.likelihood == "gaussian" else 1
        total = torch.zeros((), device=self.layers[0].weight.device)
        for i, log_precision in enumerate(self.log_precisions[first:-1], start=first):
            per_unit = log_precision.expand(self.sizes[i])
            seen = per_unit if mask_BD is None or i > 0 else mask_BD * per_unit
            total = total - 0.5 * seen.sum(-1)
        return total

    def weights(self) -> list[Tensor]:
        """Return all weights and biases: those of `downward_weights`, then of the upward chain."""
        return self.downward_weights() + ([] if self.upward is None else self.upward.weights())

    def downward_weights(self) -> list[Tensor]:
        """Return the weights and biases downwards, data layer first, skip connections last."""
        maps = [*self.layers, *(skip.layer for skip in self.skips)]
        return [t for layer in maps for t in (layer.weight, layer.bias) if t is not None]

    def limit_norms(self, times: float) -> None:
        """Scale down each unit's weights downwards where their norm is too large.

        Args:
            times: the largest norm, as a multiple of the expected norm of random starting weights.
        """
        for layer in [*self.layers, *(skip.layer for skip in self.skips)]:
            layer.limit_norms(times)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors that a checkpoint stores, by name."""
        named = {}
        for i, layer in enumerate(self.layers):
            assert layer.bias is not None
            named[f"layers.{i}.weight"] = layer.weight
            named[f"layers.{i}.bias"] = layer.bias
        for i, skip in enumerate(self.skips):
            named[f"skips.{i}.weight"] = skip.layer.weight
        for i, log_precision in enumerate(self.log_precisions):
            named[f"log_precisions.{i}"] = log_precision
        named["typical_latents"] = self.typical_latents
        if self.start is not None:
            named["start"] = self.start
        if self.mixture is not None:
            named |= self.mixture.tensors()
        if self.upward is not None:
            named |= self.upward.tensors()
        return named

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the values of `tensors()` of a network of the same shape into this one."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Network:
        """Return a copy on a device."""
        copy = Network.of(
            self.table,
            [layer.to(device, dtype) for layer in self.layers],
            [p.to(device, dtype, copy=True) for p in self.log_precisions],
            [Skip(skip.source, skip.target, skip.layer.to(device, dtype)) for skip in self.skips],
        )
        if self.mixture is not None:
            copy.mixture = self.mixture.to(device, dtype)
        if self.upward is not None:
            copy.upward = self.upward.to(device, dtype)
        copy.load(self.tensors())
        return copy


def _entries(
    layers: Sequence[int | Sequence[int] | Layer],
) -> tuple[list[int | list[int]], dict[int, Layer]]:
    """Return the sizes in a list of layers, and its own maps by the number of the layer below."""
    sizes: list[int | list[int]] = []
    after: dict[int, Layer] = {}
    for entry in layers:
        if isinstance(entry, int):
            sizes.append(entry)
        elif isinstance(entry, Sequence):
            sizes.append([*entry])
        else:
            after[len(sizes)] = entry
    if len(sizes) < 2 or not all(0 < place < len(sizes) for place in after):
        raise RecipeError(
            "pcgen.Network: needs a latent and the data, and own maps only between two layers",
            "Example: pcgen.Network([16, 64, 784])",
        )
    return sizes, {len(sizes) - 1 - place: layer for place, layer in after.items()}


def _data_shape(entry: int | list[int]) -> int | Shape:
    if isinstance(entry, int) and entry > 0:
        return entry
    if isinstance(entry, list) and len(entry) == 3 and min(entry) > 0:
        return entry[0], entry[1], entry[2]
    raise RecipeError(f"pcgen.Network: data of {entry}: give units, or (channels, height, width)")


def _shapes(table: ModelTable, data: int | Shape, classes: int) -> tuple[list[Shape], list[bool]]:
    """Return the shape of each layer, data first, and whether it is a map."""
    shapes: list[Shape] = [(1, 1, data) if isinstance(data, int) else data]
    for entry in reversed(table.layers):
        shapes.append((1, 1, entry) if isinstance(entry, int) else (entry[0], entry[1], entry[2]))
    # A convolution needs neighbours, which a row of units does not have.
    is_map = [shape[1:] != (1, shape[2]) for shape in shapes[:1]]
    is_map += [not isinstance(entry, int) for entry in reversed(table.layers)]
    if table.labels:
        _require_labels(table, classes)
        shapes.append((1, 1, classes))
        is_map.append(False)
    return shapes, is_map


def _kernels_of(table: ModelTable, is_map: Sequence[bool]) -> dict[int, int]:
    """Return the kernel of each layer that is a convolution."""
    convolutions = [i for i, pair in enumerate(itertools.pairwise(is_map)) if all(pair)]
    kernels = _kernels(table, len(convolutions))
    return dict(zip(reversed(convolutions), kernels, strict=True))


def tensor_size(
    table: ModelTable, data: int | Shape, classes: int = 0, of_classes: bool = True
) -> int:
    """Return how many numbers the tensors of `build`'s network hold, without building it.

    Args:
        of_classes: count the mixtures of single classes, which files of version 0.1.0 lack.

    Raises:
        RecipeError: as `build`.
    """
    shapes, is_map = _shapes(table, data, classes)
    kernels = _kernels_of(table, is_map)
    sizes = [math.prod(shape) for shape in shapes]
    total = 0
    for i, (below, above) in enumerate(itertools.pairwise(shapes)):
        if i in kernels:
            total += (above[0] * kernels[i] ** 2 + 1) * below[0]
        else:
            total += (sizes[i + 1] + 1) * sizes[i]
    for pair in table.skips:
        source, target = _ends(pair, table)
        above, below = shapes[source], shapes[target]
        if is_map[source] and is_map[target]:
            total += above[0] * below[0] * _skip_stride(below, above) ** 2
        else:
            total += sizes[source] * sizes[target]
    latents = sizes[len(table.layers)]
    total += TYPICAL * latents + len(shapes)
    if table.precision.diagonal:
        total += sum(sizes[:-1]) - len(sizes) + 1
    if table.start == "linear":
        total += (sizes[0] + 1) * latents
    if table.causes > 1:
        rows = max(1, classes)
        total += rows * (table.causes + 1) + table.causes * latents * (latents + 1)
        if classes and of_classes:
            own = components_of_class(table.causes, classes)
            total += classes * (own + 1 + own * latents * (latents + 1))
    if table.upward:
        from pcgen.model.upward import upward_size

        total += upward_size(table, sizes[0], classes)
    return total


def build(
    table: ModelTable,
    data: int | Shape,
    generator: torch.Generator,
    classes: int = 0,
    own: Mapping[int, Layer] | None = None,
) -> Network:
    """Return a new network with random weights.

    Args:
        data: the shape of the data layer, or its number of units for a table.
        classes: the number of classes, if the data have labels.
        own: maps to use instead of new ones, by the number of the layer below.

    Raises:
        RecipeError: layers, kernels, skips, labels or precisions that do not fit together.
    """
    shapes, is_map = _shapes(table, data, classes)
    kernels = _kernels_of(table, is_map)
    layers: list[Layer] = []
    for i, (below, above) in enumerate(itertools.pairwise(shapes)):
        if own and i in own:
            layers.append(_fitting(own[i], below, above))
        elif i in kernels:
            layers.append(
                TransposedConvolution.initial(below, above, kernels[i], generator, is_data=i == 0)
            )
        else:
            layers.append(Dense.initial(below, above, generator))
    skips = [_skip(pair, table, shapes, is_map, generator) for pair in table.skips]
    sizes = [math.prod(shape) for shape in shapes]
    network = Network.of(table, layers, _log_precisions(table, sizes), skips)
    if table.causes > 1:
        if table.labels or table.precision.latent != 1.0:
            raise RecipeError(
                "model.causes: a mixture prior needs model.precision.latent = 1, and does not "
                "work with model.labels"
            )
        weight = layers[0].weight
        network.mixture = Mixture.standard(table.causes, sizes[-1], classes, weight)
    if table.upward:
        # That module builds its chains with this one.
        from pcgen.model.upward import Upward

        _require_upward(table, classes)
        network.upward = Upward.begin(table, sizes[0], classes, generator)
    return network


def _fitting(layer: Layer, below: Shape, above: Shape) -> Layer:
    """Return an own map, if it leads from the layer above to the layer below."""
    sizes = math.prod(layer.above), math.prod(layer.below)
    wanted = math.prod(above), math.prod(below)
    if sizes != wanted:
        raise RecipeError(
            f"pcgen.Network: the map {type(layer).__name__} leads from {sizes[0]} to {sizes[1]} "
            f"units, and stands between {wanted[0]} and {wanted[1]}"
        )
    return layer


def _require_labels(table: ModelTable, classes: int) -> None:
    if classes < 2:
        raise RecipeError("model.labels: the data have no labels, or a single class")
    if table.precision.latent == 0:
        raise RecipeError(
            "model.labels: the latent is predicted by its class, and so needs a precision",
            "Use --set model.precision.latent=1",
        )


def _require_upward(table: ModelTable, classes: int) -> None:
    if classes < 2:
        raise RecipeError(
            "model.upward: predicts labels, and the data have none, or a single class",
            "Use data with labels, or --set model.upward=[]",
        )
    if table.labels or table.start == "linear" or table.precision.latent == 0:
        raise RecipeError(
            "model.upward: gives the latent its start and meets its prior, so it goes with "
            "model.precision.latent above 0, without model.labels and model.start=linear",
            "Use --set model.precision.latent=1 --set model.labels=false --set model.start=zero",
        )


def _kernels(table: ModelTable, count: int) -> list[int]:
    """Return the kernels of `count` convolutions, from the latent downwards."""
    kernel = table.kernel
    kernels = kernel if isinstance(kernel, list) else [kernel] * count
    if len(kernels) != count:
        raise RecipeError(f"model.kernel: {len(kernels)} values for {count} convolutions")
    return kernels


def _skip(
    pair: list[int],
    table: ModelTable,
    shapes: list[Shape],
    is_map: list[bool],
    generator: torch.Generator,
) -> Skip:
    """Return the skip connection for a recipe's pair [from, to]; `shapes` begin with the data's."""
    source, target = _ends(pair, table)
    above, below = shapes[source], shapes[target]
    if not (is_map[source] and is_map[target]):
        return Skip(source, target, Dense.initial(below, above, generator, bias=False))
    layer = TransposedConvolution.initial(
        below, above, _skip_stride(below, above), generator, is_data=target == 0, bias=False
    )
    return Skip(source, target, layer)


def _ends(pair: list[int], table: ModelTable) -> tuple[int, int]:
    """Return the layers, counted from the data, that a recipe's skip leads from and to."""
    depth = len(table.layers)
    source, target = depth - pair[0], depth - pair[1]
    if not 0 <= target < source - 1 or source > depth:
        raise RecipeError(
            f"model.skips: {pair} must lead from a layer to one at least two layers below it; "
            f"0 is the latent and {depth} the data"
        )
    return source, target


def _skip_stride(below: Shape, above: Shape) -> int:
    return max(1, below[1] // above[1])


# The precision of free labels (labels that are not clamped): they then stay about as large as the
# one-hot labels of training.
LABEL_PRECISION = 1.0


def _log_precisions(table: ModelTable, sizes: list[int]) -> list[Tensor]:
    precision, hidden_count = table.precision, len(sizes) - 2 - table.labels
    hidden = precision.hidden
    values = hidden if isinstance(hidden, list) else [hidden] * hidden_count
    if len(values) != hidden_count:
        raise RecipeError(
            f"model.precision.hidden: {len(values)} values for {hidden_count} hidden layers"
        )
    if table.likelihood != "gaussian" and precision.data != 1.0:
        raise RecipeError(f"model.precision.data: a {table.likelihood} data layer has no precision")
    labels = [LABEL_PRECISION] if table.labels else []
    every = (precision.data, *values, precision.latent, *labels)
    per_layer = [torch.tensor(float(value)).log() for value in every]
    if not precision.diagonal:
        return per_layer
    diagonal = [p.repeat(size) for p, size in zip(per_layer[:-1], sizes, strict=False)]
    return [*diagonal, per_layer[-1]]
